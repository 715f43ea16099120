"""A hook for `mkdocs build`: adds pages from other folders, and a page with all parameters.

The README, the flags, the results and every linked file become part of the site. In the repository the
same links point to the files themselves.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

from benchmark.cli.catalogue import describe_plugin, show
from benchmark.plan.threats import THREATS
from benchmark.plugins.registry import KINDS, default_registry

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
    """Add the linked pages and files of the repository, and the page with all parameters."""
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
            waiting += [link for link, _ in map(_resolver(path), _LINK.finditer(text)) if link is not None]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    origins = {place: path for path, place in _PLACES.items()}
    uri = page.file.src_uri
    path = origins.get(uri) or (uri.removeprefix("repository/") if "repository/" in uri else f"docs/{uri}")
    resolve = _resolver(path)

    def relink(match: re.Match[str]) -> str:
        target, anchor = resolve(match)
        if target is None:
            return match.group()
        up = "../" * (len(PurePosixPath(uri).parts) - 1)
        return f"]({up}{_place(target)}{anchor})"

    return _LINK.sub(relink, markdown)


def _place(path: str) -> str:
    if path in _PLACES:
        return _PLACES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def _resolver(path: str) -> Any:
    """A function from a link in a file to the linked file of the repository, or None, and the anchor."""

    def target(match: re.Match[str]) -> tuple[str | None, str]:
        file = ((_ROOT / path).parent / match.group(1)).resolve()
        inside = file.is_file() and file.is_relative_to(_ROOT)
        return (file.relative_to(_ROOT).as_posix() if inside else None), match.group(2) or ""

    return target


def _parameters() -> str:
    """All plugins with their parameters, as `bench show` prints them."""
    parts = ["# Every parameter", "The output of `bench show NAME`, made from the plugins themselves."]
    registry = default_registry()
    for kind in KINDS:
        parts.append(f"## {kind.capitalize()}s")
        for entry in registry.entries(kind):
            text = describe_plugin(entry).replace(f"{_ROOT}/", "")
            parts += [f"### {entry.name} ({kind})", f"```text\n{text}\n```"]
    parts.append("## Threats")
    for name in THREATS:
        parts += [f"### {name} (threat)", f"```text\n{show(name, [])}\n```"]
    return "\n\n".join(parts) + "\n"
