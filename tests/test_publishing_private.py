"""Publishing a run, perhaps one from somebody else, publishes no private file and no private path."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.publishing import publish as publishing
from benchmark.publishing.entries import entries
from benchmark.publishing.run import Run, plugin_problems
from benchmark.registry import Registry


@pytest.fixture
def got(tmp_path: Path) -> Path:
    """A run folder as far as it is looked at before its rows are."""
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
        entries(Run(run), {}, [], Registry())
    return str(caught.value)


@pytest.mark.parametrize("name", ["run.json", "records.csv", "outside.json", "leaderboard.csv"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_run_with_a_link_is_not_published(name: str, dangling: bool, got: Path, secret: Path) -> None:
    found = got / name
    secret.write_bytes(found.read_bytes() if found.exists() else b"[]")
    found.unlink(missing_ok=True)
    found.symlink_to(secret.with_name("absent") if dangling else secret)
    assert f"{found} is a link or no regular file" in refusal(got)


def test_copying_what_rows_rest_on_follows_no_link(got: Path, tmp_path: Path, secret: Path) -> None:
    kept = tmp_path / "kept"
    (got / "outside.json").symlink_to(secret)
    with pytest.raises(UserError, match=r"outside\.json is a link or no regular file"):
        publishing._keep(kept, Run(got), [])
    (got / "outside.json").unlink()
    plugin = got / "own.py"
    plugin.symlink_to(secret)
    with pytest.raises(UserError, match=r"own\.py is a link or no regular file"):
        publishing._keep(kept, Run(got), [plugin])
    (problem,) = plugin_problems(Run(got), [plugin])
    assert "own.py is a link or no regular file" in problem.message
    assert not any(path.is_file() and path.read_text() == "secret" for path in kept.rglob("*"))


def test_a_link_under_the_name_of_a_published_file_is_replaced(
    got: Path, tmp_path: Path, secret: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "records.csv").symlink_to(kept / "other")
    (kept / "other").write_text("other")
    publishing._keep(kept, Run(got), [])
    assert (kept / "other").read_text() == "other"
    assert (kept / "records.csv").read_text() == "a\n"


def test_a_file_of_another_content_does_not_pass_for_images_from_outside(got: Path) -> None:
    (got / "outside.json").write_text('{"anything": "private"}')
    assert "outside.json is damaged" in refusal(got)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"files": ["target module: weights"], "grid_folder": "../../home"}, "(target module: weights)"),
        ({"files": ["target module: weights"]}, "(target module: weights)"),
        ({"files": "everything"}, "(everything)"),
        ({"grid_folder": "../../home"}, "run.json has `grid_folder`"),
    ],
)
def test_a_run_that_needs_files_of_ones_own_is_not_published(
    more: dict[str, Any], why: str, got: Path
) -> None:
    about = json.loads((got / "run.json").read_text())
    (got / "run.json").write_text(json.dumps(about | more))
    assert why in refusal(got)
