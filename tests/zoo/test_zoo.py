"""The zoo as layers of the store: weights are found by key and checked; if they are bad, training is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

from benchmark.cli.main import app
from benchmark.execution.executor import split_by_store
from benchmark.execution.observer import Silent
from benchmark.plugins.registry import default_registry
from benchmark.runs import plan_run
from benchmark.storage import zoo_index, zoo_layers
from benchmark.storage.zoo_layers import find_layers
from benchmark.zoo.verify import verify_zoo
from tests.zoo.zoos import GRID, bench, export, metrics, missing_trainings, run, swap_weights


@pytest.fixture(scope="module")
def finished(constructed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in `out`, its store, and its trainings exported into `zoo`."""
    folder = tmp_path_factory.mktemp("finished")
    run(GRID, folder, [constructed])
    export(folder, constructed, folder / "zoo")
    return folder


@pytest.fixture
def zoo(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the zoo, to which `BENCH_ZOO` points."""
    shutil.copytree(finished / "zoo", tmp_path / "zoo")
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


def edit_records(zoo: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    index = json.loads((zoo / "index.json").read_text())
    change(index["trainings"])
    (zoo / "index.json").write_text(json.dumps(index))


def payload(zoo: Path, label: str) -> Path:
    (path,) = zoo.glob(f"{label}-*.safetensors")
    return path


def test_trainings_in_the_zoo_are_not_done(zoo: Path, constructed: Path, tmp_path: Path) -> None:
    missing, log = missing_trainings(GRID, tmp_path / "store", [constructed])
    assert (missing, log.warnings) == (0, [])
    assert missing_trainings(GRID, tmp_path / "store", [constructed], zoo=False)[0] == 2


def test_a_dry_run_and_a_run_name_the_zoo_of_their_trainings(
    zoo: Path, constructed: Path, tmp_path: Path
) -> None:
    (tmp_path / "zoo.yaml").write_text(json.dumps(GRID))
    command = ["run", "--grid", tmp_path / "zoo.yaml", "--store", tmp_path / "store", "--plugin", constructed]
    arguments = [str(part) for part in [*command, "--out", tmp_path / "out"]]
    line = f"2 trainings from the zoo at {zoo}"
    for done in (
        CliRunner().invoke(app, [*arguments, "--dry-run"]),
        CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}),
    ):
        assert done.exit_code == 0, done.output
        assert line in [text.strip() for text in done.output.splitlines()]
    assert not list((tmp_path / "store").glob("train-*"))  # weights of a layer are not copied
    assert "nothing to train" in CliRunner().invoke(app, [*arguments, "--dry-run"]).output
    dry = CliRunner().invoke(app, [*arguments, "--store", str(tmp_path / "other"), "--no-zoo", "--dry-run"])
    assert "from the zoo" not in dry.output
    assert "training nearest-mean" in dry.output


def test_weights_of_the_zoo_give_the_same_results(
    zoo: Path, finished: Path, constructed: Path, tmp_path: Path
) -> None:
    log = run(GRID, tmp_path, [constructed])
    assert log.warnings == []
    assert metrics(tmp_path / "out").equals(metrics(finished / "out"))


def test_weights_are_used_only_under_their_own_key(zoo: Path, constructed: Path, tmp_path: Path) -> None:
    other = GRID | {"defenses": [{"name": "shift", "strength": 0.02}]}
    assert missing_trainings(other, tmp_path / "store", [constructed])[0] == 1


@pytest.mark.parametrize("damage", ["flipped", "short", "missing", "other weights", "pickled"])
def test_a_damaged_file_is_named_and_the_training_is_done(
    damage: str, zoo: Path, constructed: Path, tmp_path: Path
) -> None:
    path = payload(zoo, "shift")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(content[:-1])
    elif damage == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "pickled":
        path.write_bytes(b"\x80\x04" + content[2:])
    else:
        path.write_bytes(payload(zoo, "nearest-mean").read_bytes()[: len(content)])
    log = run(GRID, tmp_path, [constructed])
    assert len(log.warnings) == 1
    assert "shift" in log.warnings[0]
    assert len(list((tmp_path / "store" / "train-defense" / "shift").glob("*.json"))) == 1
    assert not (tmp_path / "store" / "train-target").exists()


def test_swapped_weights_of_two_records_are_refused(zoo: Path, constructed: Path, tmp_path: Path) -> None:
    edit_records(zoo, swap_weights)
    log = run(GRID, tmp_path, [constructed])
    assert [warning for warning in log.warnings if "has the weights of another training" in warning]
    assert len(list((tmp_path / "store").glob("train-*/*/*.json"))) == 2


@pytest.mark.parametrize("url", ["memory://nowhere/zoo", "hf://org/zoo", "nosuch://zoo", "no/folder"])
def test_an_unreachable_zoo_gives_one_warning(
    url: str, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_ZOO", url)
    missing, log = missing_trainings(GRID, tmp_path / "store", [constructed])
    assert missing == 2
    (warning,) = log.warnings
    assert url in warning
    assert "\n" not in warning


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2, "trainings": []}', "[" * 100_000, "\x80"])
def test_an_invalid_index_gives_one_warning(text: str, zoo: Path, constructed: Path, tmp_path: Path) -> None:
    (zoo / "index.json").write_bytes(text.encode("latin-1"))
    missing, log = missing_trainings(GRID, tmp_path / "store", [constructed])
    assert (missing, len(log.warnings)) == (2, 1)


def test_the_index_of_a_remote_zoo_is_read_once(
    finished: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{tmp_path.name}/zoo"
    files, root = fsspec.core.url_to_fs(url)
    for path in (finished / "zoo").glob("*.*"):
        files.pipe_file(f"{root}/{path.name}", path.read_bytes())
    monkeypatch.setenv("BENCH_ZOO", url)
    assert missing_trainings(GRID, tmp_path / "store", [constructed])[0] == 0
    files.rm_file(f"{root}/index.json")
    assert run(GRID, tmp_path, [constructed]).warnings == []
    assert url in zoo_layers._remote


def test_the_reuse_policy_applies_to_the_zoo(zoo: Path, constructed: Path, tmp_path: Path) -> None:
    assert missing_trainings(GRID, tmp_path / "store", [constructed], reuse="same-environment")[0] == 0
    edit_records(zoo, lambda records: [r["made"]["environment"].update(torch="1.0") for r in records])
    assert missing_trainings(GRID, tmp_path / "store", [constructed], reuse="same-code")[0] == 0
    assert missing_trainings(GRID, tmp_path / "store", [constructed], reuse="same-environment")[0] == 2


def test_export_is_idempotent_and_keeps_trainings_of_other_runs(
    zoo: Path, finished: Path, constructed: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in zoo.iterdir()}
    export(finished, constructed, zoo)
    assert {path.name: path.read_bytes() for path in zoo.iterdir()} == before
    other = GRID | {"defenses": [{"name": "shift", "strength": 0.02}]}
    run(other, tmp_path, [constructed])
    export(tmp_path, constructed, zoo)
    after = {path.name: path.read_bytes() for path in zoo.iterdir()}
    assert len(json.loads(after.pop("index.json"))["trainings"]) == 3
    assert after.items() >= {k: v for k, v in before.items() if k != "index.json"}.items()


def test_export_repairs_a_damaged_file(zoo: Path, finished: Path, constructed: Path) -> None:
    path = payload(zoo, "shift")
    content = path.read_bytes()
    path.write_bytes(b"")
    export(finished, constructed, zoo)
    assert path.read_bytes() == content


def test_trainings_of_attacks_are_exported_on_request_only(constructed: Path, tmp_path: Path) -> None:
    grid = GRID | {"threats": ["gray-box"], "defenses": [{"name": "shift", "strength": 0.01}]}
    run(grid, tmp_path, [constructed])
    for options, roles in (([], {"target", "defense"}), (["--attacks"], {"target", "defense", "copy-1"})):
        export(tmp_path, constructed, tmp_path / "zoo", *options)
        index = json.loads((tmp_path / "zoo" / "index.json").read_text())
        assert {record["role"] for record in index["trainings"]} >= roles
        assert ("copy-1" in {record["role"] for record in index["trainings"]}) is bool(options)


def test_large_weights_are_split_into_files(
    finished: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo_index, "FILE_BYTES", 10_000)
    export(finished, constructed, tmp_path / "zoo")
    parts = sorted(path.name for path in (tmp_path / "zoo").glob("nearest-mean-*"))
    assert [name[-3:] for name in parts] == [".01", ".02", ".03", ".04"]
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "zoo"))
    log = run(GRID, tmp_path, [constructed])
    assert log.warnings == []
    assert not list((tmp_path / "store").glob("train-*"))


def test_weights_over_the_limit_are_listed_and_trained(
    finished: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(finished, constructed, tmp_path / "zoo", "--at-most", 0.01)
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "zoo"))
    assert missing_trainings(GRID, tmp_path / "store", [constructed])[0] == 1
    assert "skip target nearest-mean" in bench("verify", "--layer", tmp_path / "zoo").output
    export(finished, constructed, tmp_path / "zoo")
    assert missing_trainings(GRID, tmp_path / "store", [constructed])[0] == 0


def test_fetch_copies_the_trainings_of_a_grid_into_the_store(
    zoo: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo.yaml").write_text(json.dumps(GRID))
    options = ["--store", tmp_path / "store", "--plugin", constructed]
    done = bench("fetch", "--grid", tmp_path / "zoo.yaml", *options)
    assert done.exit_code == 0, done.output
    monkeypatch.delenv("BENCH_ZOO")
    assert missing_trainings(GRID, tmp_path / "store", [constructed])[0] == 0


def test_fetch_takes_keys_or_a_grid(zoo: Path, tmp_path: Path) -> None:
    key = json.loads((zoo / "index.json").read_text())["trainings"][0]["key"]
    assert bench("fetch", key[:12], "--store", tmp_path / "store").exit_code == 0
    assert len(list((tmp_path / "store").glob("*/*/*.json"))) == 1
    for wrong in ([], [key, "--grid", "quick"], ["f" * 64]):
        assert isinstance(bench("fetch", *wrong, "--store", tmp_path / "store").exception, Exception)


def test_ls_lists_trainings_with_their_metrics(zoo: Path) -> None:
    done = bench("ls", "--layer", "BENCH_ZOO")
    assert done.exit_code == 0
    assert f"2 trainings at {zoo}" in done.output
    assert (
        "shift, trained on digits, seed 0, strength=0.01, with nearest-mean (target, seed 0)" in done.output
    )
    assert "validation error" in done.output


def test_verify_reproduces_metrics_and_names_faults(zoo: Path, constructed: Path, tmp_path: Path) -> None:
    good = bench("verify", "--layer", zoo, "--plugin", constructed)
    assert good.exit_code == 0, good.output
    assert "clean error added" in good.output
    assert "validation error" in good.output
    edit_records(
        zoo, lambda records: [r["figures"].update(validation_error=0.5) for r in records if r["gate"] is None]
    )
    payload(zoo, "shift").write_bytes(b"")
    (zoo / "stray.safetensors").write_bytes(b"")
    bad = bench("verify", "--layer", zoo, "--plugin", constructed)
    assert bad.exit_code == 1
    assert bad.output.count("BAD ") == 3
    assert "stated 50.00 %" in bad.output


def test_verify_names_a_gate_that_is_not_reached(constructed: Path, tmp_path: Path) -> None:
    grid = GRID | {"defenses": ["constant"]}
    run(grid, tmp_path, [constructed])
    assert "does not reach its gate" in export(tmp_path, constructed, tmp_path / "zoo")
    done = bench("verify", "--layer", tmp_path / "zoo", "--plugin", constructed)
    assert done.exit_code == 1
    assert "more than the 5 points of its gate" in done.output


def test_planning_reads_no_weights(zoo: Path, constructed: Path, tmp_path: Path) -> None:
    """Planning checks only file sizes."""
    for path in zoo.glob("*.safetensors"):
        path.write_bytes(bytes(path.stat().st_size))
    planned = plan_run(GRID, Silent(), store=str(tmp_path / "store"), plugins=[constructed], device="cpu")
    missing, _ = split_by_store(planned.plan, planned.context)
    assert not [task for task in missing if task.kind.startswith("train")]


@pytest.mark.parametrize("name", ["package", "checkout"])
def test_the_weights_of_this_repository_pass_verification(name: str, tmp_path: Path) -> None:
    """Checksums, sizes, and metrics on data sets that need no files."""
    layers = [layer for layer in find_layers(None) if layer.name == name]
    for layer in layers:
        wrong = [f for f in verify_zoo(layer, default_registry(), tmp_path) if f.ok is False]
        assert wrong == []
        files = [path for path in Path(layer.folder.url).iterdir() if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= (4 if name == "package" else 250) * 10**6
        assert all(path.stat().st_size <= zoo_index.FILE_BYTES for path in files)
        assert not [path for path in files if path.suffix in (".pt", ".pth", ".pkl", ".bin")]
        if name == "package":
            assert {record.trained_on.name for record in layer.records()} <= {"digits"}


@pytest.mark.data
def test_the_metrics_of_the_zoo_are_reproduced_on_real_images(real_data: Path) -> None:
    for layer in find_layers(None):
        wrong = [f for f in verify_zoo(layer, default_registry(), real_data) if f.ok is False]
        assert wrong == []
