"""Publishing a run, also one from another person, publishes no private file and no private path."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.plugins.registry import Registry
from benchmark.publishing.publication import _copy_run
from benchmark.publishing.published_run import Run, plugin_problems
from benchmark.publishing.submission import publishable_rows


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder with the files that are checked before its rows."""
    folder = tmp_path / "got"
    folder.mkdir()
    plugins = {"own.py": hashlib.sha256(b"secret").hexdigest()}
    (folder / "run.json").write_text(json.dumps({"name": "got", "grid": {}, "plugins": plugins}))
    for name in ("records.csv", "leaderboard.csv"):
        (folder / name).write_text("a\n")
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "id_rsa"
    path.write_text("secret")
    return path


def refusal(run: Path) -> str:
    with pytest.raises(UserError) as caught:
        publishable_rows(Run(run), {}, [], Registry())
    return str(caught.value)


@pytest.mark.parametrize("name", ["run.json", "records.csv", "outside.json", "leaderboard.csv"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_run_with_a_link_is_not_published(
    name: str, dangling: bool, run_folder: Path, secret: Path
) -> None:
    found = run_folder / name
    secret.write_bytes(found.read_bytes() if found.exists() else b"[]")
    found.unlink(missing_ok=True)
    found.symlink_to(secret.with_name("absent") if dangling else secret)
    assert f"{found} is a link or no regular file" in refusal(run_folder)


def test_copying_a_run_follows_no_link(run_folder: Path, tmp_path: Path, secret: Path) -> None:
    kept = tmp_path / "kept"
    (run_folder / "outside.json").symlink_to(secret)
    with pytest.raises(UserError, match=r"outside\.json is a link or no regular file"):
        _copy_run(kept, Run(run_folder), [])
    (run_folder / "outside.json").unlink()
    plugin = run_folder / "own.py"
    plugin.symlink_to(secret)
    with pytest.raises(UserError, match=r"own\.py is a link or no regular file"):
        _copy_run(kept, Run(run_folder), [plugin])
    (problem,) = plugin_problems(Run(run_folder), [plugin])
    assert "own.py is a link or no regular file" in problem.message
    assert not any(path.is_file() and path.read_text() == "secret" for path in kept.rglob("*"))


def test_a_link_under_the_name_of_a_published_file_is_replaced(
    run_folder: Path, tmp_path: Path, secret: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "records.csv").symlink_to(kept / "other")
    (kept / "other").write_text("other")
    _copy_run(kept, Run(run_folder), [])
    assert (kept / "other").read_text() == "other"
    assert (kept / "records.csv").read_text() == "a\n"


def test_an_invalid_outside_json_is_refused(run_folder: Path) -> None:
    (run_folder / "outside.json").write_text('{"anything": "private"}')
    assert "outside.json is damaged" in refusal(run_folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"files": ["target module: weights"], "grid_folder": "../../home"}, "(target module: weights)"),
        ({"files": ["target module: weights"]}, "(target module: weights)"),
        ({"files": "everything"}, "(everything)"),
        ({"grid_folder": "../../home"}, "run.json has `grid_folder`"),
    ],
)
def test_a_run_that_needs_private_files_is_not_published(
    entries: dict[str, Any], message: str, run_folder: Path
) -> None:
    metadata = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps(metadata | entries))
    assert message in refusal(run_folder)
