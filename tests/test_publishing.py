"""Publishing: what may stand on the leaderboard, nothing lost, nothing that cannot be checked."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import benchmark
from benchmark.cli import app
from benchmark.errors import UserError
from benchmark.publishing import publish as publishing
from benchmark.publishing.boards import COLUMNS, read_board, write_board
from benchmark.publishing.contests import controls
from benchmark.publishing.entries import entries
from benchmark.publishing.reproduce import reproduce
from benchmark.publishing.run import Run
from benchmark.registry import Registry, default_registry
from benchmark.stats import wilson
from tests.conftest import REPOSITORY

FILE = "digits-black-box-linf-0.1.csv"
COMMIT = "0" * 40
CONSTRUCTED = REPOSITORY / "tests" / "constructed.py"

NONE_WRONG = {"error": "0.0", "error_low": "0.0", "error_high": repr(wilson(0, 60)[1]), "clean_error": "0.0"}
"""A row whose every image is right."""

Edit = Callable[[list[dict[str, str]]], Any]


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def publish(run: Path, board: Path, *more: object) -> Result:
    """With the plugin file that the run was made with."""
    return bench("publish", run, "--board", board, "--plugin", CONSTRUCTED, *more)


def whole(result: Result) -> str:
    return result.output + str(result.exception or "")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, constructed: Path) -> Path:
    """A run with every control and one defense, as a clean tree would have made it."""
    folder = tmp_path_factory.mktemp("finished")
    grid = {
        "name": "small",
        "datasets": [{"name": "digits", "n": 60}],
        "targets": ["nearest-mean"],
        "source": "target",
        "defenses": [*controls(default_registry()), {"name": "bit-depth", "bits": 1}],
        "attacks": [{"name": "pgd", "eps": 0.1, "steps": 20}],
        "threats": ["black-box"],
    }
    benchmark.run(grid, out=folder / "run", store=str(folder / "store"), plugins=[constructed])
    about = json.loads((folder / "run" / "run.json").read_text())
    about["git"] = {"commit": COMMIT, "dirty": False}
    (folder / "run" / "run.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def a_run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))


@pytest.fixture
def board(a_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "board"
    assert publish(a_run, folder, "--apply").exit_code == 0
    return folder


def edited(path: Path, edit: Edit) -> None:
    """The CSV with its rows changed, as with a text editor."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), list(reader.fieldnames or [])
    edit(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def renamed(run: Path, out: Path, name: str) -> Path:
    """A copy of the run whose one defense that is no control has another name."""
    shutil.copytree(run, out)
    for file in ("records.csv", "leaderboard.csv"):

        def rename(rows: list[dict[str, str]]) -> None:
            rows[:] = [row | {"defense": row["defense"].replace("bit-depth", name)} for row in rows]

        edited(out / file, rename)
    return out


def test_it_shows_before_it_writes(a_run: Path, tmp_path: Path) -> None:
    board = tmp_path / "board"
    shown = publish(a_run, board)
    assert shown.exit_code == 0
    assert FILE in shown.output
    assert "bit-depth" in shown.output
    assert "fewer than 3 combinations of seeds" in shown.output
    assert "nothing is written yet" in shown.output
    assert not board.exists()


def test_what_is_published_verifies_and_names_the_controls(board: Path) -> None:
    checked = bench("verify", board)
    assert checked.exit_code == 0, checked.output
    rows = read_board(board / FILE)
    assert {row["defense"] for row in rows} == {*controls(default_registry()), "bit-depth"}
    assert {row["commit"] for row in rows} == {COMMIT}
    errors = [row["error"] for row in rows if row["rank"]]
    assert errors == sorted(errors)
    assert len(errors) > 1


def test_publishing_twice_changes_nothing(board: Path, a_run: Path) -> None:
    before = standing(board)
    again = publish(a_run, board, "--apply")
    assert f"{FILE}: no change" in again.output
    assert standing(board) == before


def standing(board: Path, pattern: str = "*") -> dict[Path, bytes]:
    """The files of a board, without those in its trash."""
    files = (path for path in board.rglob(pattern) if path.is_file() and ".trash" not in path.parts)
    return {path: path.read_bytes() for path in files}


def dirty(run: Path) -> None:
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"git": {"commit": COMMIT, "dirty": True}}))


def homeless(run: Path) -> None:
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"git": None}))


def a_failed_cell(run: Path) -> None:
    edited(run / "records.csv", lambda rows: rows[1].update(status="failed", reason="RuntimeError: no"))


def a_doubt(run: Path) -> None:
    edited(run / "leaderboard.csv", lambda rows: rows[0].update(flags="zero-gradient", bound="≥", rank=""))


def no_control(run: Path) -> None:
    edited(run / "leaderboard.csv", lambda rows: rows.remove(next(r for r in rows if r["defense"] == "jpeg")))


def other_control(run: Path) -> None:
    def edit(rows: list[dict[str, str]]) -> None:
        next(r for r in rows if r["defense"] == "jpeg")["defense_config"] = '{"quality":1}'

    for file in ("leaderboard.csv", "records.csv"):
        edited(run / file, edit)


def no_judge(run: Path) -> None:
    edited(run / "leaderboard.csv", lambda rows: [row.update(judge="") for row in rows])


def old_columns(run: Path) -> None:
    path = run / "leaderboard.csv"
    path.write_text(path.read_text().replace("judge,", "", 1))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (dirty, "changes that are in no commit"),
        (homeless, "names no commit"),
        (a_failed_cell, "is failed: RuntimeError: no"),
        (a_doubt, "zero-gradient"),
        (no_control, "no control jpeg"),
        (other_control, "no control jpeg"),
        (no_judge, "judge is empty"),
        (old_columns, "no column judge"),
    ],
)
def test_it_refuses_and_says_why(
    spoil: Callable[[Path], None], why: str, a_run: Path, tmp_path: Path
) -> None:
    spoil(a_run)
    refused = publish(a_run, tmp_path / "board", "--apply")
    assert refused.exit_code != 0
    assert why in whole(refused)
    assert not (tmp_path / "board").exists()


def test_a_doubt_is_published_with_its_explanation_and_without_a_rank(a_run: Path, tmp_path: Path) -> None:
    a_doubt(a_run)
    because = "zero-gradient=the quantiser has none, BPDA was used"
    done = publish(a_run, tmp_path / "board", "--explain", because, "--apply")
    assert done.exit_code == 0, whole(done)
    doubted = [row for row in read_board(tmp_path / "board" / FILE) if row["explained"]]
    assert [json.loads(row["explained"])["zero-gradient"] for row in doubted] == [because.partition("=")[2]]
    assert doubted[0]["rank"] is None
    assert bench("verify", tmp_path / "board").exit_code == 0


@pytest.mark.parametrize("flag", ["zero-gradient", "no-such-flag"])
def test_an_explanation_of_nothing_is_refused(flag: str, a_run: Path, tmp_path: Path) -> None:
    refused = publish(a_run, tmp_path / "board", "--explain", f"{flag}=so")
    assert f"--explain {flag}: no row has that doubt" in whole(refused)


def test_defenses_that_met_other_attacks_are_not_ranked_together(
    board: Path, a_run: Path, tmp_path: Path
) -> None:
    other = renamed(a_run, tmp_path / "other", "weakly-attacked")

    def weaker(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["attack_config"] = row["attack_config"].replace('"steps":20', '"steps":1')

    edited(other / "records.csv", weaker)
    refused = publish(other, board, "--apply")
    assert "did not meet" in whole(refused)
    assert refused.exit_code != 0
    assert "weakly-attacked" not in (board / FILE).read_text()


def test_a_second_run_moves_ranks_and_undo_brings_the_files_back(
    board: Path, a_run: Path, tmp_path: Path
) -> None:
    before = standing(board)
    second = renamed(a_run, tmp_path / "second", "better")

    def stronger(rows: list[dict[str, str]]) -> None:
        for row in rows:
            if row["defense"] == "better":
                row.update(NONE_WRONG)

    for file in ("leaderboard.csv", "records.csv"):
        edited(second / file, stronger)
    shown = publish(second, board, "--apply")
    assert shown.exit_code == 0, whole(shown)
    assert "+  1 better" in shown.output
    assert "rank 1 → 2" in shown.output
    assert bench("verify", board).exit_code == 0
    assert "nothing is written yet" in bench("publish", "--undo", "--board", board).output
    undone = bench("publish", "--undo", "--apply", "--board", board)
    assert "better" in undone.output
    assert standing(board) == before
    assert bench("publish", "--undo", "--apply", "--board", board).exit_code == 0
    assert standing(board, "*.csv") == {}
    assert "nothing to undo" in whole(bench("publish", "--undo", "--apply", "--board", board))


def test_publishing_at_once_loses_no_row(
    a_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(path: Path, rows: Any) -> None:
        time.sleep(0.1)
        write_board(path, rows)

    monkeypatch.setattr(publishing, "write_board", slowly)
    names = [f"defense-{letter}" for letter in "abcd"]
    runs = [renamed(a_run, tmp_path / name, name) for name in names]
    board, registry = tmp_path / "board", default_registry()
    with ThreadPoolExecutor(len(runs)) as at_once:
        list(at_once.map(lambda run: publishing.publish(board, *published(Run(run), registry)), runs))
    assert {row["defense"] for row in read_board(board / FILE)} >= set(names)
    assert bench("verify", board).exit_code == 0
    for _ in names:
        assert bench("publish", "--undo", "--apply", "--board", board).exit_code == 0


def wilson_of(errors: int, n: int) -> dict[str, str]:
    low, high = wilson(errors, n)
    return {"error": repr(errors / n), "error_low": repr(low), "error_high": repr(high), "clean_error": "0.0"}


def published(run: Run, registry: Registry) -> tuple[Any, ...]:
    return run, entries(run, {}, [CONSTRUCTED], registry), [CONSTRUCTED], registry


def better_error(rows: list[dict[str, str]]) -> None:
    for row in rows:
        if row["defense"] == "identity":
            row.update(NONE_WRONG)
    rows.sort(key=lambda row: float(row["error"]))
    for row in rows:
        row["rank"] = str(1 + [other["error"] for other in rows].index(row["error"]))


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda rows: rows[-1].update(rank="1"), "ranks or the order"),
        (lambda rows: rows.reverse(), "ranks or the order"),
        (lambda rows: rows.append(dict(rows[0])), "two rows are of"),
        (lambda rows: rows[0].update(n="many"), "n cannot be 'many'"),
        (lambda rows: rows[0].update(error="1.5"), "a rate is between 0 and 1"),
        (lambda rows: rows[0].update(error="nan"), "error cannot be 'nan'"),
        (lambda rows: rows[0].update(error_high="0.0"), "is not Wilson's of 60"),
        (lambda rows: rows[0].update(flags="strong"), "flags strong"),
        (lambda rows: rows[0].update(flags="zero-gradient"), "bound is 'found'"),
        (lambda rows: rows[0].update(flags="not-moved", bound="≥", rank=""), "nothing explains"),
        (lambda rows: rows[0].update(key="f" * 64), "key is not the one"),
        (lambda rows: rows[0].update(defense="mine"), "key is not the one"),
        (lambda rows: rows[0].update(eps="0.2"), "belongs into digits-black-box-linf-0.2.csv"),
        (lambda rows: rows[0].update(run="small-12345678"), "is not in"),
        (lambda rows: rows[0].update(commit="1" * 40), "was made by"),
        (lambda rows: rows[0].update(protocol="1" * 16), "protocol is not the one"),
        (lambda rows: rows[0].update(judge=""), "judge is empty"),
        (lambda rows: rows.remove(next(r for r in rows if r["defense"] == "median")), "no control median"),
        (better_error, "but a cell of the run"),
        (lambda rows: [row.update(NONE_WRONG, n="1000") for row in rows], "is not Wilson's of 1000"),
        (lambda rows: rows[0].update(wilson_of(0, 1000), n="1000"), "but its cells have 60 images"),
        (lambda rows: rows[0].update(seeds="5"), "but its cells have 1 combinations"),
        (lambda rows: rows[0].update(NONE_WRONG, eligible="random"), "eligible is 'random'"),
        (lambda rows: rows[0].update(NONE_WRONG, judge="mean-100"), "judge is 'mean-100'"),
        (lambda rows: rows[0].update(n="3_0"), "n cannot be '3_0'"),
        (lambda rows: rows[0].update(error_low=""), "error_low is empty"),
        (lambda rows: rows[0].update(error=""), "error is empty"),
        (lambda rows: rows[0].update(control="True"), "is none of the controls"),
        (lambda rows: rows[0].update(run="../../x"), "is no name"),
        (lambda rows: rows.clear(), "has no rows"),
    ],
)
def test_verify_finds_what_was_tampered_with(board: Path, edit: Edit, why: str) -> None:
    edited(board / FILE, edit)
    checked = bench("verify", board / FILE)
    assert checked.exit_code == 1
    assert why in checked.output


def test_verify_finds_a_run_that_was_changed_and_a_file_that_is_none(board: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    assert "its columns are others" in bench("verify", tmp_path / "empty.csv").output
    (records,) = board.glob("runs/*/records.csv")
    edited(records, lambda rows: rows[0].update(error="0.5"))
    assert "are not those that it was published with" in bench("verify", board).output


def test_reproducing_computes_a_row_again(board: Path, finished: Path, constructed: Path) -> None:
    def again() -> list[str]:
        options: dict[str, Any] = {"data": None, "device": "cpu", "plugins": [constructed]}
        store = str(finished / "store")
        return [r.verdict for r in reproduce(board / FILE, 2, 0, store=store, **options)]

    assert again() == ["same", "same"]
    edited(
        board / FILE,
        lambda rows: [row.update(error="0.0", error_low="0.0", error_high="0.0") for row in rows],
    )
    assert again() == ["OTHER", "OTHER"]
    many = bench("verify", board, "--reproduce", 99, "--plugin", constructed)
    assert many.exit_code != 0


def test_every_published_column_is_documented() -> None:
    text = (REPOSITORY / "results" / "README.md").read_text(encoding="utf-8")
    assert [name for name in COLUMNS if f"`{name}`" not in text] == []


def test_the_published_leaderboards_hold() -> None:
    files = sorted((REPOSITORY / "results" / "leaderboard").glob("*.csv"))
    if files:
        checked = bench("verify", *files)
        assert checked.exit_code == 0, checked.output


def test_a_doubt_of_its_cells_cannot_be_left_out(a_run: Path, tmp_path: Path) -> None:
    edited(a_run / "records.csv", lambda rows: rows[0].update(flags="hidden-randomness"))
    refused = publish(a_run, tmp_path / "board", "--apply")
    assert "its cells are in doubt, hidden-randomness, and the row does not say so" in whole(refused)


def test_a_row_that_met_fewer_attacks_than_its_controls_is_refused(a_run: Path, tmp_path: Path) -> None:
    def spared(rows: list[dict[str, str]]) -> None:
        for row in list(rows):
            if row["defense"] != "bit-depth":
                key = row["key"][::-1]
                rows.append(row | {"attack": "apgd-ce", "key": key})

    edited(a_run / "records.csv", spared)
    refused = publish(a_run, tmp_path / "board", "--apply")
    assert "bit-depth did not meet 1 of the attacks" in whole(refused)
    assert "apgd-ce" in whole(refused)


def test_a_control_may_have_met_fewer(a_run: Path, tmp_path: Path) -> None:
    def more(rows: list[dict[str, str]]) -> None:
        row = next(row for row in rows if row["defense"] == "bit-depth")
        rows.append(row | {"attack": "apgd-ce", "key": row["key"][::-1]})

    edited(a_run / "records.csv", more)
    assert publish(a_run, tmp_path / "board", "--apply").exit_code == 0
    assert bench("verify", tmp_path / "board").exit_code == 0


def test_what_was_interrupted_can_be_undone_or_done_again(
    board: Path, a_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = standing(board, "*.csv")
    edited(a_run / "records.csv", lambda rows: [row.update(reason="another") for row in rows])
    edited(a_run / "leaderboard.csv", lambda rows: [row.update(psnr="1.0") for row in rows])

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    for mend in ("undo", "again"):
        with monkeypatch.context() as patched:
            patched.setattr(publishing, "write_board", cut_off)
            assert publish(a_run, board, "--apply").exit_code != 0
        if mend == "undo":
            assert bench("publish", "--undo", "--apply", "--board", board).exit_code == 0
            assert standing(board, "*.csv") == before
    assert publish(a_run, board, "--apply").exit_code == 0
    assert bench("publish", "--undo", "--apply", "--board", board).exit_code == 0
    assert standing(board, "*.csv") == before


def test_undo_keeps_the_runs_that_rows_still_rest_on(board: Path, a_run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(a_run, tmp_path / "other"))
    edited(other / "leaderboard.csv", lambda rows: [row.update(psnr="1.0") for row in rows])
    edited(other / "records.csv", lambda rows: [row.update(reason="another") for row in rows])
    for run in (other, a_run):
        assert publish(run, board, "--apply").exit_code == 0
    for _ in range(2):
        assert bench("publish", "--undo", "--apply", "--board", board).exit_code == 0
    assert bench("verify", board).exit_code == 0


@pytest.mark.parametrize("text", ["a\u2028b", "=1+1", '"; x', "ja, è così"])
def test_any_words_may_explain(text: str, a_run: Path, tmp_path: Path) -> None:
    a_doubt(a_run)
    done = publish(a_run, tmp_path / "board", "--explain", f"zero-gradient={text}", "--apply")
    assert done.exit_code == 0, whole(done)
    assert bench("verify", tmp_path / "board").exit_code == 0
    assert bench("publish", "--undo", "--apply", "--board", tmp_path / "board").exit_code == 0


def test_a_history_from_elsewhere_reaches_no_file_elsewhere(board: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    text = (board / "history.jsonl").read_text()
    entry = json.loads(text) | {"run": "../../victim"}
    for content in (json.dumps(entry), "[]", "5", '{"run": 1}', "{"):
        (board / "history.jsonl").write_text(content + "\n")
        refused = bench("publish", "--undo", "--apply", "--board", board)
        assert "is not the history of a leaderboard" in whole(refused)
    assert (tmp_path / "victim").is_dir()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[]", "is not the run.json of a run"),
        ("{", "is not the run.json of a run"),
        ('{"name": "x", "grid": {}, "git": "abc"}', "names no commit"),
        ('{"name": "x", "grid": {}, "git": {"dirty": false, "commit": {"a": 1}}}', "is no commit"),
        ('{"name": "x", "grid": {}, "git": {"dirty": false, "commit": "HEAD"}}', "is no commit"),
        ('{"name": "x", "grid": {}, "resolved": []}', "names no cells"),
    ],
)
def test_a_run_json_that_is_none_is_named(content: str, why: str, a_run: Path, tmp_path: Path) -> None:
    (a_run / "run.json").write_text(content)
    refused = publish(a_run, tmp_path / "board", "--apply")
    assert isinstance(refused.exception, UserError)
    assert why in whole(refused)


def test_a_plugin_file_is_published_with_its_rows_or_they_are_not(a_run: Path, tmp_path: Path) -> None:
    refused = bench("publish", a_run, "--board", tmp_path / "board")
    assert "the run needed the plugin file constructed.py" in whole(refused)
    other = tmp_path / "constructed.py"
    other.write_text("# another one\n")
    refused = bench("publish", a_run, "--board", tmp_path / "board", "--plugin", other)
    assert "is not the plugin file that the run was made with" in whole(refused)
    publish(a_run, tmp_path / "board", "--apply")
    (kept,) = (tmp_path / "board").glob("runs/*/plugins/constructed.py")
    assert kept.read_bytes() == CONSTRUCTED.read_bytes()
    kept.write_text("# tampered with\n")
    assert "is not the plugin file" in bench("verify", tmp_path / "board").output


@pytest.mark.parametrize("name", ["null", "nan", "NA", "None"])
def test_a_defense_may_be_named_like_nothing(name: str, a_run: Path, tmp_path: Path) -> None:
    run = renamed(a_run, tmp_path / "named", name)
    assert publish(run, tmp_path / "board", "--apply").exit_code == 0
    assert bench("verify", tmp_path / "board").exit_code == 0
    assert name in set(benchmark.load(run)["defense"])
