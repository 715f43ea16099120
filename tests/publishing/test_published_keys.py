"""Publishing and keys: boards with earlier keys stay readable, and one version of the code makes a row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmark.cli.main import app
from benchmark.errors import UserError
from benchmark.plugins.registry import default_registry
from benchmark.publishing.published_run import Run
from benchmark.publishing.submission import publishable_rows
from studies import REPOSITORY


def test_the_published_boards_are_sound_and_name_the_schema_of_their_keys() -> None:
    done = CliRunner().invoke(app, ["verify", str(REPOSITORY / "results" / "leaderboard")])
    assert done.exit_code == 0, done.output
    assert all(line.startswith("ok") for line in done.output.splitlines())
    assert "keys of schema 1" in done.output


@pytest.fixture
def run_with(small_run: Callable[..., pd.DataFrame], tmp_path: Path) -> Callable[[dict[str, Any]], Run]:
    """Returns a run of a clean working tree with other entries in its run.json."""
    small_run(out=tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    metadata = json.loads(path.read_text()) | {"git": {"commit": "0" * 40, "dirty": False}}

    def changed(entries: dict[str, Any]) -> Run:
        path.write_text(json.dumps(metadata | entries))
        return Run(tmp_path / "run")

    return changed


def refusal(run: Run) -> str:
    with pytest.raises(UserError) as caught:
        publishable_rows(run, {}, [], default_registry())
    return str(caught.value)


def test_results_of_two_versions_of_the_code_are_not_published(run_with: Callable[..., Run]) -> None:
    made = run_with({}).metadata["made"]
    assert "different code" not in refusal(run_with({}))
    assert {"task craft", "task score", "attack fgsm"} <= set(made["code"])
    made["code"]["attack fgsm"].append("0" * 16)
    message = refusal(run_with({"made": made}))
    assert "made by different code of attack fgsm" in message
    assert "--reuse same-code" in message


def test_a_run_without_a_key_schema_has_schema_1(
    run_with: Callable[..., Run],
) -> None:
    assert run_with({}).schema == 2
    assert run_with({"schema": None}).schema == 1
