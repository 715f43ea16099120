"""Planning the grid of a finished run again, from what its `run.json` says."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.cells import Sanity
from benchmark.errors import Problem, UserError
from benchmark.executor import Observer
from benchmark.runs import Prepared, prepare, read_about
from benchmark.trust import ask


@dataclass(frozen=True)
class Recorded:
    """What a `run.json` says of how the run was planned.

    `folder` is where relative paths in the grid are seen from, if the run says so; `plugins` are the names
    of the plugin files that it was made with.
    """

    grid: Mapping[str, Any]
    only: Mapping[str, Collection[str]]
    sanity: Sanity
    folder: Path | None
    plugins: Collection[str]


def read_recorded(run: Path) -> Recorded:
    """Read how a run was planned.

    Raises:
        UserError: The folder holds no run, or its `run.json` is not what a run writes.
    """
    path = run / "run.json"
    if not path.is_file():
        raise UserError(f"no run in {run}: there is no run.json", hint="make one with `bench run --out`")
    about = read_about(run)

    def wrong(why: str) -> UserError:
        return UserError(f"{path} is not the run.json of a run: {why}")

    grid, only, sanity = about.get("grid"), about.get("only", {}), about.get("sanity", "fast")
    if not isinstance(grid, dict) or not isinstance(only, dict):  # a text would be the name of a file
        raise wrong("it names no grid")
    if sanity not in ("fast", "full") or not all(map(_is_list_of_text, only.values())):
        raise wrong("its `only` or `sanity` is no setting")
    folder, plugins = about.get("grid_folder"), about.get("plugins")
    if folder is not None and not _is_path(folder):
        raise wrong(f"its `grid_folder`, {folder!r}, is no path")
    seen_from = None if folder is None else (run / folder).resolve()
    return Recorded(grid, only, sanity, seen_from, tuple(plugins) if isinstance(plugins, dict) else ())


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(member, str) for member in value)


def _is_path(value: object) -> bool:
    """Whether a value from a JSON file can be a path: JSON allows NUL and lone surrogates in text."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def run_again(
    run: Path | Recorded,
    observer: Observer,
    *,
    data: str | Path | None,
    store: str | Path | None,
    plugins: Sequence[Path],
    trust: Sequence[str | Path] = (),
    device: str = "auto",
    look: bool = False,
) -> Prepared:
    """The grid of a run that is over, planned as it was.

    What the `run.json` names is no consent: its plugins and factories run only if `plugins` and `trust` name
    them as well.

    Args:
        run: The folder of the run, or what was read from it, of which the caller may have replaced parts.
        observer: Gets the warnings.
        data: As in `prepare`, and so are all that follow.
        store: Where the results are.
        plugins: Plugin files.
        trust: Files and packages whose code may run.
        device: Where models run.
        look: Whether the plan is only looked at.

    Raises:
        UserError: The folder holds no run, its grid cannot be planned any more, or it needs code that is not
            given; names the options to add.
    """
    recorded = read_recorded(run) if isinstance(run, Path) else run
    try:
        return prepare(
            recorded.grid,
            observer,
            data=data,
            store=store,
            device=device,
            plugins=plugins,
            only=recorded.only,
            sanity=recorded.sanity,
            trust=trust,
            look=look,
            folder=recorded.folder,
        )
    except UserError as error:
        raise UserError([*error.problems, *_not_given(recorded.plugins, plugins)]) from error


def _not_given(needed: Collection[str], plugins: Sequence[Path]) -> Iterator[Problem]:
    """The plugin files that a run was made with and that are not among the given ones."""
    given = {path.name for path in plugins}
    for name in needed:
        if name not in given:
            text = f"the run was made with the plugin file {name!r}, and it is not given"
            yield Problem(text, hint=ask("--plugin", f"PATH/TO/{name}"))
