"""Publishing and keys: boards of earlier keys stay readable, and one code makes what stands in one row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.errors import UserError
from benchmark.publishing.entries import entries
from benchmark.publishing.run import Run
from benchmark.registry import default_registry
from tests.conftest import REPOSITORY


def test_the_published_boards_are_sound_and_name_the_schema_of_their_keys() -> None:
    done = CliRunner().invoke(app, ["verify", str(REPOSITORY / "results" / "leaderboard")])
    assert done.exit_code == 0, done.output
    assert all(line.startswith("ok") for line in done.output.splitlines())
    assert "keys of schema 1" in done.output


@pytest.fixture
def about(small_run: Callable[..., pd.DataFrame], tmp_path: Path) -> Callable[[dict[str, Any]], Run]:
    """A run by a clean tree, whose run.json has some other entries."""
    small_run(out=tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    first = json.loads(path.read_text()) | {"git": {"commit": "0" * 40, "dirty": False}}

    def changed(entries: dict[str, Any]) -> Run:
        path.write_text(json.dumps(first | entries))
        return Run(tmp_path / "run")

    return changed


def refusal(run: Run) -> str:
    with pytest.raises(UserError) as caught:
        entries(run, {}, [], default_registry())
    return str(caught.value)


def test_attacks_and_verdicts_of_two_codes_are_not_published(about: Callable[..., Run]) -> None:
    made = about({}).about["made"]
    assert "different code" not in refusal(about({}))
    assert {"task craft", "task score", "attack fgsm"} <= set(made["code"])
    made["code"]["attack fgsm"].append("0" * 16)
    message = refusal(about({"made": made}))
    assert "made by different code of attack fgsm" in message
    assert "--reuse same-code" in message


def test_a_run_names_the_schema_of_its_keys_and_one_without_is_of_the_first(
    about: Callable[..., Run],
) -> None:
    assert about({}).schema == 2
    assert about({"schema": None}).schema == 1
