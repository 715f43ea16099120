"""The commands in CONTRIBUTING.md put a defense onto a leaderboard."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmark.cli.main import app
from studies import REPOSITORY

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def bench(line: str, *more: str) -> str:
    done = CliRunner().invoke(app, [*shlex.split(line)[1:], *more])
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    return done.output


def test_a_new_defense_reaches_the_leaderboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_STORE", str(tmp_path / "store"))
    (tmp_path / "half-on-digits.yaml").write_text(blocks("yaml")[0])
    bench("bench new defense half")
    commands = [line for block in blocks("sh")[1:] for line in block.splitlines()]
    assert len(commands) == 6
    for line in commands:
        bench(line, "--plugin", "half.py")  # which is here and not in defenses/
        if line.startswith("bench run"):
            about = tmp_path / "results" / "runs" / "half-on-digits" / "run.json"
            clean = json.loads(about.read_text()) | {"git": {"commit": "0" * 40, "dirty": False}}
            about.write_text(json.dumps(clean))
    boards = sorted(path.name for path in (tmp_path / "results" / "leaderboard").glob("*.csv"))
    assert boards == ["digits-black-box-linf-0.1.csv", "digits-white-box-linf-0.1.csv"]
    assert "half" in (tmp_path / "results" / "leaderboard" / boards[1]).read_text()


def test_the_first_commands_are_make_targets() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for line in blocks("sh")[0].splitlines():
        assert re.search(rf"^{line.removeprefix('make ')}:", makefile, flags=re.MULTILINE)
