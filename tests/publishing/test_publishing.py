"""`bench publish` and `bench verify`: refusals, changes, undo, concurrent and interrupted publications."""

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
from benchmark.cli.main import app
from benchmark.errors import UserError
from benchmark.metrics.statistics import wilson
from benchmark.plugins.registry import Registry, default_registry
from benchmark.publishing import board_changes
from benchmark.publishing.board_files import BOARD_COLUMNS, read_board, write_board
from benchmark.publishing.comparability import control_configs
from benchmark.publishing.publication import publish_rows
from benchmark.publishing.published_run import Run
from benchmark.publishing.reproduce import reproduce
from benchmark.publishing.submission import publishable_rows
from studies import REPOSITORY

FILE = "digits-black-box-linf-0.1.csv"
COMMIT = "0" * 40
TABLES = ("leaderboard.csv", "records.csv")
TOY_PLUGINS = REPOSITORY / "tests" / "plugin_files" / "toy.py"

NO_ERROR = {"error": "0.0", "error_low": "0.0", "error_high": repr(wilson(0, 60)[1]), "clean_error": "0.0"}
"""A row on which no image is misclassified."""

Edit = Callable[[list[dict[str, str]]], Any]


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def publish(run: Path, board: Path, *more: object) -> Result:
    """Run `bench publish` with the plugin file of the run."""
    return bench("publish", run, "--board", board, "--plugin", TOY_PLUGINS, *more)


def message(result: Result) -> str:
    return result.output + str(result.exception or "")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, constructed: Path) -> Path:
    """A folder with a run of all controls and one defense, and its store; the commit in it is invented."""
    folder = tmp_path_factory.mktemp("finished")
    grid = {
        "name": "small",
        "datasets": [{"name": "digits", "n": 60}],
        "targets": ["nearest-mean"],
        "source": "target",
        "defenses": [*control_configs(default_registry()), {"name": "bit-depth", "bits": 1}],
        "attacks": [{"name": "pgd", "eps": 0.1, "steps": 20}],
        "threats": ["black-box"],
    }
    benchmark.run(grid, out=folder / "run", store=str(folder / "store"), plugins=[constructed])
    metadata = json.loads((folder / "run" / "run.json").read_text())
    metadata["git"] = {"commit": COMMIT, "dirty": False}
    (folder / "run" / "run.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture
def a_run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))


@pytest.fixture
def board(a_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "board"
    assert publish(a_run, folder, "--apply").exit_code == 0
    return folder


def edit_csv(path: Path, change: Edit) -> None:
    """Change the rows of a CSV, as with a text editor."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), list(reader.fieldnames or [])
    change(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def one_defense(rows: list[dict[str, str]]) -> dict[str, str]:
    return next(row for row in rows if row["defense"] == "bit-depth")


def copy_renamed(run: Path, out: Path, name: str) -> Path:
    """Copy the run, with another name for its one defense that is not a control."""
    shutil.copytree(run, out)
    for file in TABLES:
        edit_csv(out / file, lambda rows: one_defense(rows).update(defense=name))
    return out


def test_without_apply_changes_are_shown_and_not_written(a_run: Path, tmp_path: Path) -> None:
    board = tmp_path / "board"
    shown = publish(a_run, board)
    assert shown.exit_code == 0
    assert FILE in shown.output
    assert "bit-depth" in shown.output
    assert "fewer than 3 combinations of seeds" in shown.output
    assert "nothing was written" in shown.output
    assert not board.exists()


def test_a_published_file_has_no_problems_and_all_controls(board: Path) -> None:
    checked = bench("verify", board)
    assert checked.exit_code == 0, checked.output
    rows = read_board(board / FILE)
    assert {row["defense"] for row in rows} == {*control_configs(default_registry()), "bit-depth"}
    assert {row["commit"] for row in rows} == {COMMIT}
    errors = [row["error"] for row in rows if row["rank"]]
    assert errors == sorted(errors)
    assert len(errors) > 1


def test_publishing_twice_changes_nothing(board: Path, a_run: Path) -> None:
    before = board_files(board)
    again = publish(a_run, board, "--apply")
    assert f"{FILE}: no change" in again.output
    assert board_files(board) == before


def board_files(board: Path, pattern: str = "*") -> dict[Path, bytes]:
    """The files of a board, without those in its trash."""
    files = (path for path in board.rglob(pattern) if path.is_file() and ".trash" not in path.parts)
    return {path: path.read_bytes() for path in files}


def set_git(run: Path, git: dict[str, Any] | None) -> None:
    metadata = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(metadata | {"git": git}))


def edit(change: Edit, *files: str) -> Callable[[Path], None]:
    """A change of the rows of some files of a run, by default of the leaderboard."""

    def apply(run: Path) -> None:
        for file in files or ("leaderboard.csv",):
            edit_csv(run / file, change)

    return apply


add_doubt = edit(lambda rows: rows[0].update(flags="zero-gradient", bound="≥", rank=""))


def control(rows: list[dict[str, str]]) -> dict[str, str]:
    return next(row for row in rows if row["defense"] == "jpeg")


def remove_column(run: Path) -> None:
    path = run / "leaderboard.csv"
    path.write_text(path.read_text().replace("judge,", "", 1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: set_git(run, {"commit": COMMIT, "dirty": True}), "uncommitted changes"),
        (lambda run: set_git(run, None), "names no commit"),
        (edit(lambda rows: rows[1].update(status="failed", reason="why"), "records.csv"), "is failed: why"),
        (add_doubt, "zero-gradient"),
        (edit(lambda rows: rows.remove(control(rows))), "no control jpeg"),
        (edit(lambda rows: control(rows).update(defense_config="{}"), *TABLES), "no control jpeg"),
        (edit(lambda rows: [row.update(judge="") for row in rows]), "judge is empty"),
        (remove_column, "no column judge"),
    ],
)
def test_a_run_with_a_problem_is_refused(
    change: Callable[[Path], None], reason: str, a_run: Path, tmp_path: Path
) -> None:
    change(a_run)
    refused = publish(a_run, tmp_path / "board", "--apply")
    assert refused.exit_code != 0
    assert reason in message(refused)
    assert not (tmp_path / "board").exists()


def test_a_doubt_is_published_with_its_explanation_and_without_a_rank(a_run: Path, tmp_path: Path) -> None:
    add_doubt(a_run)
    explanation = "zero-gradient=the quantiser has none, BPDA was used"
    done = publish(a_run, tmp_path / "board", "--explain", explanation, "--apply")
    assert done.exit_code == 0, message(done)
    doubted = [row for row in read_board(tmp_path / "board" / FILE) if row["explained"]]
    assert [json.loads(row["explained"])["zero-gradient"] for row in doubted] == [
        explanation.partition("=")[2]
    ]
    assert doubted[0]["rank"] is None
    assert bench("verify", tmp_path / "board").exit_code == 0


@pytest.mark.parametrize("flag", ["zero-gradient", "no-such-flag"])
def test_an_explanation_of_a_doubt_that_no_row_has_is_refused(flag: str, a_run: Path, tmp_path: Path) -> None:
    refused = publish(a_run, tmp_path / "board", "--explain", f"{flag}=so")
    assert f"--explain {flag}: no row has that doubt" in message(refused)


def test_defenses_under_other_attacks_are_not_ranked_together(
    board: Path, a_run: Path, tmp_path: Path
) -> None:
    other = copy_renamed(a_run, tmp_path / "other", "weakly-attacked")

    records = other / "records.csv"
    assert '""steps"":20' in records.read_text()
    records.write_text(records.read_text().replace('""steps"":20', '""steps"":1'))
    refused = publish(other, board, "--apply")
    assert "lacks" in message(refused)
    assert refused.exit_code != 0
    assert "weakly-attacked" not in (board / FILE).read_text()


def test_a_second_run_changes_ranks_and_undo_restores_the_files(
    board: Path, a_run: Path, tmp_path: Path
) -> None:
    before = board_files(board)
    second = copy_renamed(a_run, tmp_path / "second", "better")

    for file in TABLES:
        edit_csv(second / file, lambda rows: [r.update(NO_ERROR) for r in rows if r["defense"] == "better"])
    shown = publish(second, board, "--apply")
    assert shown.exit_code == 0, message(shown)
    assert "+  1 better" in shown.output
    assert "rank 1 → 2" in shown.output
    assert bench("verify", board).exit_code == 0
    assert "nothing was written" in bench("publish", "--undo", "--board", board).output
    undone = bench("publish", "--undo", "--apply", "--board", board)
    assert "better" in undone.output
    assert board_files(board) == before
    assert bench("publish", "--undo", "--apply", "--board", board).exit_code == 0
    assert board_files(board, "*.csv") == {}
    assert "nothing to undo" in message(bench("publish", "--undo", "--apply", "--board", board))


def test_concurrent_publications_lose_no_row(
    a_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(path: Path, rows: Any) -> None:
        time.sleep(0.1)
        write_board(path, rows)

    monkeypatch.setattr(board_changes, "write_board", slowly)
    names = [f"defense-{letter}" for letter in "abcd"]
    runs = [copy_renamed(a_run, tmp_path / name, name) for name in names]
    board, registry = tmp_path / "board", default_registry()
    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(lambda run: publish_rows(board, *publication(Run(run), registry)), runs))
    assert {row["defense"] for row in read_board(board / FILE)} >= set(names)
    assert bench("verify", board).exit_code == 0
    for _ in names:
        assert bench("publish", "--undo", "--apply", "--board", board).exit_code == 0


def wilson_of(errors: int, n: int) -> dict[str, str]:
    low, high = wilson(errors, n)
    return {"error": repr(errors / n), "error_low": repr(low), "error_high": repr(high), "clean_error": "0.0"}


def publication(run: Run, registry: Registry) -> tuple[Any, ...]:
    return run, publishable_rows(run, {}, [TOY_PLUGINS], registry), [TOY_PLUGINS], registry


def better_error(rows: list[dict[str, str]]) -> None:
    for row in rows:
        if row["defense"] == "identity":
            row.update(NO_ERROR)
    rows.sort(key=lambda row: float(row["error"]))
    for row in rows:
        row["rank"] = str(1 + [other["error"] for other in rows].index(row["error"]))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows[-1].update(rank="1"), "ranks or the order"),
        (lambda rows: rows.reverse(), "ranks or the order"),
        (lambda rows: rows.append(dict(rows[0])), "two rows for"),
        (lambda rows: rows[0].update(n="many"), "n cannot be 'many'"),
        (lambda rows: rows[0].update(error="1.5"), "a rate is between 0 and 1"),
        (lambda rows: rows[0].update(error="nan"), "error cannot be 'nan'"),
        (lambda rows: rows[0].update(error_high="0.0"), "is not Wilson's for 60"),
        (lambda rows: rows[0].update(flags="strong"), "unknown flags strong"),
        (lambda rows: rows[0].update(flags="zero-gradient"), "bound is 'found'"),
        (
            lambda rows: rows[0].update(flags="not-moved", bound="≥", rank=""),
            "no explanation of the doubts not-moved",
        ),
        (lambda rows: rows[0].update(key="f" * 64), "key is not the one"),
        (lambda rows: rows[0].update(defense="mine"), "key is not the one"),
        (lambda rows: rows[0].update(eps="0.2"), "belongs in digits-black-box-linf-0.2.csv"),
        (lambda rows: rows[0].update(run="small-12345678"), "is not in"),
        (lambda rows: rows[0].update(commit="1" * 40), "was made by"),
        (lambda rows: rows[0].update(protocol="1" * 16), "protocol is not the one"),
        (lambda rows: rows[0].update(judge=""), "judge is empty"),
        (lambda rows: rows.remove(next(r for r in rows if r["defense"] == "median")), "no control median"),
        (better_error, "but an attack alone, or the clean error"),
        (lambda rows: [row.update(NO_ERROR, n="1000") for row in rows], "is not Wilson's for 1000"),
        (lambda rows: rows[0].update(wilson_of(0, 1000), n="1000"), "but its cells have 60 images"),
        (lambda rows: rows[0].update(seeds="5"), "but its cells have 1 combinations"),
        (lambda rows: rows[0].update(NO_ERROR, eligible="random"), "eligible is 'random'"),
        (lambda rows: rows[0].update(NO_ERROR, judge="mean-100"), "judge is 'mean-100'"),
        (lambda rows: rows[0].update(n="3_0"), "n cannot be '3_0'"),
        (lambda rows: rows[0].update(error_low=""), "error_low is empty"),
        (lambda rows: rows[0].update(error=""), "error is empty"),
        (lambda rows: rows[0].update(control="True"), "is not one of the controls"),
        (lambda rows: rows[0].update(run="../../x"), "is not a valid name"),
        (lambda rows: rows.clear(), "has no rows"),
    ],
)
def test_verify_finds_a_changed_file(board: Path, change: Edit, problem: str) -> None:
    edit_csv(board / FILE, change)
    checked = bench("verify", board / FILE)
    assert checked.exit_code == 1
    assert problem in checked.output


def test_verify_finds_a_changed_run_and_an_empty_file(board: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    assert "wrong columns" in bench("verify", tmp_path / "empty.csv").output
    (records,) = board.glob("runs/*/records.csv")
    edit_csv(records, lambda rows: rows[0].update(error="0.5"))
    assert "were changed after publication" in bench("verify", board).output


def test_reproducing_computes_a_row_again(board: Path, finished: Path, constructed: Path) -> None:
    def verdicts() -> list[str]:
        options: dict[str, Any] = {"data": None, "device": "cpu", "plugins": [constructed]}
        store = str(finished / "store")
        return [r.verdict for r in reproduce(board / FILE, 2, 0, store=store, **options)]

    assert verdicts() == ["same", "same"]
    edit_csv(
        board / FILE,
        lambda rows: [row.update(error="0.0", error_low="0.0", error_high="0.0") for row in rows],
    )
    assert verdicts() == ["OTHER", "OTHER"]
    many = bench("verify", board, "--reproduce", 99, "--plugin", constructed)
    assert many.exit_code != 0


def test_every_published_column_is_documented() -> None:
    text = (REPOSITORY / "results" / "README.md").read_text(encoding="utf-8")
    assert [name for name in BOARD_COLUMNS if f"`{name}`" not in text] == []


def test_a_row_cannot_leave_out_a_doubt_of_its_cells(a_run: Path, tmp_path: Path) -> None:
    edit_csv(a_run / "records.csv", lambda rows: rows[0].update(flags="hidden-randomness"))
    refused = publish(a_run, tmp_path / "board", "--apply")
    assert "its cells have the doubts hidden-randomness, which the row leaves out" in message(refused)


def add_attack(rows: list[dict[str, str]], chosen: Callable[[dict[str, str]], bool]) -> None:
    rows += [row | {"attack": "apgd-ce", "key": row["key"][::-1]} for row in rows if chosen(row)]


def test_a_row_under_fewer_attacks_than_its_controls_is_refused(a_run: Path, tmp_path: Path) -> None:
    edit_csv(a_run / "records.csv", lambda rows: add_attack(rows, lambda row: row["defense"] != "bit-depth"))
    refused = publish(a_run, tmp_path / "board", "--apply")
    assert "bit-depth lacks 1 of the attacks" in message(refused)
    assert "apgd-ce" in message(refused)


def test_a_control_may_have_fewer_attacks(a_run: Path, tmp_path: Path) -> None:
    edit_csv(a_run / "records.csv", lambda rows: add_attack(rows, lambda row: row["defense"] == "bit-depth"))
    assert publish(a_run, tmp_path / "board", "--apply").exit_code == 0
    assert bench("verify", tmp_path / "board").exit_code == 0


def change_all_rows(run: Path) -> None:
    edit_csv(run / "leaderboard.csv", lambda rows: [row.update(psnr="1.0") for row in rows])
    edit_csv(run / "records.csv", lambda rows: [row.update(reason="another") for row in rows])


def test_an_interrupted_publication_can_be_undone_or_repeated(
    board: Path, a_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = board_files(board, "*.csv")
    change_all_rows(a_run)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for action in ("undo", "repeat"):
        with monkeypatch.context() as patched:
            patched.setattr(board_changes, "write_board", interrupt)
            assert publish(a_run, board, "--apply").exit_code != 0
        if action == "undo":
            assert bench("publish", "--undo", "--apply", "--board", board).exit_code == 0
            assert board_files(board, "*.csv") == before
    assert publish(a_run, board, "--apply").exit_code == 0
    assert bench("publish", "--undo", "--apply", "--board", board).exit_code == 0
    assert board_files(board, "*.csv") == before


def test_undo_keeps_the_runs_of_other_rows(board: Path, a_run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(a_run, tmp_path / "other"))
    change_all_rows(other)
    for run in (other, a_run):
        assert publish(run, board, "--apply").exit_code == 0
    for _ in range(2):
        assert bench("publish", "--undo", "--apply", "--board", board).exit_code == 0
    assert bench("verify", board).exit_code == 0


@pytest.mark.parametrize("text", ["a\u2028b", "=1+1", '"; x', "ja, è così"])
def test_an_explanation_may_be_any_text(text: str, a_run: Path, tmp_path: Path) -> None:
    add_doubt(a_run)
    done = publish(a_run, tmp_path / "board", "--explain", f"zero-gradient={text}", "--apply")
    assert done.exit_code == 0, message(done)
    assert bench("verify", tmp_path / "board").exit_code == 0
    assert bench("publish", "--undo", "--apply", "--board", tmp_path / "board").exit_code == 0


def test_a_manipulated_history_changes_no_file_outside_of_the_board(board: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    text = (board / "history.jsonl").read_text()
    entry = json.loads(text) | {"run": "../../victim"}
    for content in (json.dumps(entry), "[]", "5", '{"run": 1}', "{"):
        (board / "history.jsonl").write_text(content + "\n")
        refused = bench("publish", "--undo", "--apply", "--board", board)
        assert "is not the history of a leaderboard" in message(refused)
    assert (tmp_path / "victim").is_dir()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "is not the run.json of a run"),
        ("{", "is not the run.json of a run"),
        ('{"name": "x", "grid": {}, "git": "abc"}', "names no commit"),
        ('{"name": "x", "grid": {}, "git": {"dirty": false, "commit": {"a": 1}}}', "is not a commit"),
        ('{"name": "x", "grid": {}, "git": {"dirty": false, "commit": "HEAD"}}', "is not a commit"),
        ('{"name": "x", "grid": {}, "resolved": []}', "names no cells"),
    ],
)
def test_an_invalid_run_json_is_refused(content: str, problem: str, a_run: Path, tmp_path: Path) -> None:
    (a_run / "run.json").write_text(content)
    refused = publish(a_run, tmp_path / "board", "--apply")
    assert isinstance(refused.exception, UserError)
    assert problem in message(refused)


def test_rows_are_published_only_with_their_plugin_file(a_run: Path, tmp_path: Path) -> None:
    refused = bench("publish", a_run, "--board", tmp_path / "board")
    assert "the run needed the plugin file toy.py" in message(refused)
    other = tmp_path / "toy.py"
    other.write_text("# another one\n")
    refused = bench("publish", a_run, "--board", tmp_path / "board", "--plugin", other)
    assert "is not the plugin file that the run was made with" in message(refused)
    other.write_text("import layers\n")
    (tmp_path / "layers.py").touch()
    refused = bench("publish", a_run, "--board", tmp_path / "board", "--plugin", other)
    assert "imports layers.py, which would not be published with it" in message(refused)
    publish(a_run, tmp_path / "board", "--apply")
    (kept,) = (tmp_path / "board").glob("runs/*/plugins/toy.py")
    assert kept.read_bytes() == TOY_PLUGINS.read_bytes()
    kept.write_text("# tampered with\n")
    assert "is not the plugin file" in bench("verify", tmp_path / "board").output


@pytest.mark.parametrize("name", ["null", "nan", "NA", "None"])
def test_a_defense_may_have_a_name_that_csv_readers_take_for_missing(
    name: str, a_run: Path, tmp_path: Path
) -> None:
    run = copy_renamed(a_run, tmp_path / "named", name)
    assert publish(run, tmp_path / "board", "--apply").exit_code == 0
    assert bench("verify", tmp_path / "board").exit_code == 0
    assert name in set(benchmark.load(run)["defense"])
