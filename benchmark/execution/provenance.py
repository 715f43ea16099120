"""The code and environment that each result was made with, and how they differ from the current ones.

Keys contain neither code nor libraries, so a stored result stays valid when these change. Its metadata
record them instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from benchmark.plan.tasks import Task
from benchmark.plugins.registry import Registry
from benchmark.storage.environment import Environment

Reuse = Literal["any", "same-code", "same-environment"]
"""Which stored results a run uses: all, those of the same code, or those of the same code and libraries."""

_SHOWN = 6
_LENGTH = 16


@dataclass(frozen=True)
class Difference:
    """The code and the parts of the environment that have changed since a result was made, by name."""

    code: tuple[str, ...]
    environment: tuple[str, ...]

    def allows(self, reuse: Reuse) -> bool:
        """Whether a run with the setting `reuse` may use a stored result that has these differences."""
        return reuse == "any" or not (self.code or (reuse == "same-environment" and self.environment))


@dataclass(frozen=True)
class Provenance:
    """The code and the environment (libraries, device, threads, processor) of this process.

    `code_of` returns the fingerprint of the code that runs a kind of task.
    """

    registry: Registry
    code_of: Callable[[type[Task]], str]
    environment: Environment
    _fingerprints: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of(self, task: Task) -> dict[str, Any]:
        """The code and environment of a result made now, as JSON."""
        return {"code": self._code(task), "environment": dict(self.environment)}

    def _code(self, task: Task) -> dict[str, str]:
        """Fingerprints of the code that a task runs, by name; each is computed once."""
        code: dict[str, Callable[[], str]] = {f"task {task.kind}": lambda: self.code_of(type(task))}
        for plugin in task.runs:
            code[f"{plugin.kind} {plugin.name}"] = self.registry.get(plugin.kind, plugin.name).fingerprint
        for name, fingerprint in code.items():
            if name not in self._fingerprints:
                self._fingerprints[name] = fingerprint()[:_LENGTH]
        return {name: self._fingerprints[name] for name in code}

    def difference(self, task: Task, made: Mapping[str, Any]) -> Difference:
        """How the provenance that a stored result records differs from the current one."""
        code, environment = (dict(made.get(name) or {}) for name in ("code", "environment"))
        other_code = [name for name, current in self._code(task).items() if code.get(name) != current]
        other = [name for name, current in self.environment.items() if environment.get(name) != current]
        return Difference(tuple(other_code), tuple(f"{name} {environment.get(name)}" for name in other))


def describe(differences: Iterable[Difference]) -> str | None:
    """One sentence on the reused results whose provenance differs; None if there are none."""
    changed = [(difference.code, difference.environment) for difference in differences]
    parts = []
    if code := [[name.removeprefix("task ") for name in names] for names, _ in changed if names]:
        parts.append(f"{_results(code)} made by other code ({_most_common(code)})")
    if environment := [names for _, names in changed if names]:
        parts.append(f"{_results(environment)} made with {_most_common(environment)}")
    if not parts:
        return None
    return f"from the store: {'; '.join(parts)} (--reuse says which results to take)"


def summarise(made: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The provenance of several results: all fingerprints of each plugin and task, and all environments."""
    code: dict[str, set[str]] = {}
    environments: list[Any] = []
    for provenance in made:
        for name, fingerprint in (provenance.get("code") or {}).items():
            code.setdefault(name, set()).add(fingerprint)
        if provenance.get("environment") not in environments:
            environments.append(provenance.get("environment"))
    return {"code": {name: sorted(code[name]) for name in sorted(code)}, "environments": environments}


def _results(changed: Sequence[Sequence[str]]) -> str:
    return f"{len(changed)} result{'' if len(changed) == 1 else 's'}"


def _most_common(changed: Sequence[Sequence[str]]) -> str:
    names = Counter(chain.from_iterable(changed))
    shown = [name for name, _ in names.most_common(_SHOWN)]
    return ", ".join(shown) + (", …" if len(names) > _SHOWN else "")
