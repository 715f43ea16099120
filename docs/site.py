"""What `mkdocs build` adds to the pages of this folder: those that lie elsewhere, and the parameters.

The README, the flags, the results and whatever pages link to become part of the site, under the places that
links lead to there; on the file system the same links lead to the files themselves.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

from benchmark.catalogue import describe, explain
from benchmark.registry import KINDS, default_registry
from benchmark.threats import THREATS

_ROOT = Path(__file__).resolve().parent.parent
_PLACES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmark/FLAGS.md": "flags.md",
    "benchmark/papers/README.md": "published-figures.md",
    "results/README.md": "results.md",
}
_LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and files that are linked, from anywhere in the repository, and the parameters."""
    files.append(File.generated(config, "parameters.md", content=_parameters()))
    waiting = [f"docs/{file.src_uri}" for file in files if file.src_uri.endswith(".md")]
    waiting = [path for path in waiting if (_ROOT / path).is_file()] + list(_PLACES)
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.startswith("docs/"):
            files.append(File.generated(config, _place(path), abs_src_path=str(_ROOT / path)))
        if path.endswith(".md"):
            text = (_ROOT / path).read_text(encoding="utf-8")
            waiting += [link for link, _ in map(_led_to(path), _LINK.finditer(text)) if link is not None]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links between files of the repository into links between places of the site."""
    origins = {place: path for path, place in _PLACES.items()}
    uri = page.file.src_uri
    path = origins.get(uri) or (uri.removeprefix("repository/") if "repository/" in uri else f"docs/{uri}")
    led_to = _led_to(path)

    def relinked(match: re.Match[str]) -> str:
        target, anchor = led_to(match)
        if target is None:
            return match.group()
        up = "../" * (len(PurePosixPath(uri).parts) - 1)
        return f"]({up}{_place(target)}{anchor})"

    return _LINK.sub(relinked, markdown)


def _place(path: str) -> str:
    if path in _PLACES:
        return _PLACES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def _led_to(path: str) -> Any:
    """For the links of a file: the file of the repository that each leads to, or None, and the anchor."""

    def target(match: re.Match[str]) -> tuple[str | None, str]:
        file = ((_ROOT / path).parent / match.group(1)).resolve()
        inside = file.is_file() and file.is_relative_to(_ROOT)
        return (file.relative_to(_ROOT).as_posix() if inside else None), match.group(2) or ""

    return target


def _parameters() -> str:
    """Every plugin with its parameters, as `bench show` prints them."""
    parts = ["# Every parameter", "What `bench show NAME` prints, made from the plugins themselves."]
    registry = default_registry()
    for kind in KINDS:
        parts.append(f"## {kind.capitalize()}s")
        for entry in registry.entries(kind):
            text = describe(entry).replace(f"{_ROOT}/", "")
            parts += [f"### {entry.name} ({kind})", f"```text\n{text}\n```"]
    parts.append("## Threats")
    for name in THREATS:
        parts += [f"### {name} (threat)", f"```text\n{explain(name, [])}\n```"]
    return "\n\n".join(parts) + "\n"
