"""What each result was made with, and how it differs from what is here now.

Keys hold neither code nor libraries, so a result stays when these change. It notes what made it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from benchmark.environment import Environment
from benchmark.registry import Registry
from benchmark.tasks import Task

Reuse = Literal["any", "same-code", "same-environment"]
"""Which stored results a run takes: all, those made by the same code, or with the same libraries too."""

_SHOWN = 6
_LENGTH = 16


@dataclass(frozen=True)
class Difference:
    """How the making of a result differs from now: plugins and tasks by name, parts of the environment."""

    code: tuple[str, ...]
    environment: tuple[str, ...]

    def allows(self, reuse: Reuse) -> bool:
        """Whether the result may be taken."""
        if reuse == "any":
            return True
        return not self.code and (reuse == "same-code" or not self.environment)


@dataclass(frozen=True)
class Provenance:
    """Knows the code and the environment of this process.

    Args:
        registry: Where the plugins are.
        code_of: Gives the fingerprint of the code that does a task.
        environment: Libraries, device, threads and processor.
    """

    registry: Registry
    code_of: Callable[[Task], str]
    environment: Environment

    def of(self, task: Task) -> dict[str, Any]:
        """What a result made now is made with, as JSON."""
        return {"code": self._code(task), "environment": dict(self.environment)}

    def _code(self, task: Task) -> dict[str, str]:
        names = {f"task {task.kind}": self._task_code(task)}
        for ref in task.runs:
            names[f"{ref.kind} {ref.name}"] = self._plugin_code(ref.kind, ref.name)
        return names

    def _task_code(self, task: Task) -> str:
        known = self._known
        if task.kind not in known:
            known[task.kind] = self.code_of(task)[:_LENGTH]
        return known[task.kind]

    def _plugin_code(self, kind: str, name: str) -> str:
        known, title = self._known, f"{kind} {name}"
        if title not in known:
            known[title] = self.registry.get(kind, name).fingerprint()[:_LENGTH]
        return known[title]

    @cached_property
    def _known(self) -> dict[str, str]:
        return {}

    def difference(self, task: Task, made: Mapping[str, Any]) -> Difference:
        """How what a stored result notes differs from now."""
        code, environment = (dict(made.get(name) or {}) for name in ("code", "environment"))
        now = self._code(task)
        return Difference(
            tuple(name for name in now if code.get(name) != now[name]),
            tuple(
                f"{name} {environment.get(name)}"
                for name, value in self.environment.items()
                if environment.get(name) != value
            ),
        )


def describe(differences: Iterable[Difference]) -> str | None:
    """One sentence on results that are taken although they were made otherwise; None if there are none."""
    code: Counter[str] = Counter()
    environment: Counter[str] = Counter()
    by_code = by_environment = 0
    for difference in differences:
        by_code += bool(difference.code)
        by_environment += bool(difference.environment)
        code.update(name.removeprefix("task ") for name in difference.code)
        environment.update(difference.environment)
    parts = []
    if by_code:
        parts.append(f"{_results(by_code)} made by other code ({_most(code)})")
    if by_environment:
        parts.append(f"{_results(by_environment)} made with {_most(environment)}")
    if not parts:
        return None
    return f"from the store: {'; '.join(parts)} (--reuse says which results to take)"


def summarise(made: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What several results were made with: for each plugin and task its code, and all environments."""
    code: dict[str, set[str]] = {}
    environments: list[Any] = []
    for one in made:
        for name, fingerprint in (one.get("code") or {}).items():
            code.setdefault(name, set()).add(fingerprint)
        if one.get("environment") not in environments:
            environments.append(one.get("environment"))
    return {"code": {name: sorted(code[name]) for name in sorted(code)}, "environments": environments}


def _results(count: int) -> str:
    return f"{count} result{'' if count == 1 else 's'}"


def _most(names: Counter[str]) -> str:
    shown = [name for name, _ in names.most_common(_SHOWN)]
    return ", ".join(shown) + (", …" if len(names) > _SHOWN else "")
