"""The zoo as layers below the store: trainings are taken under their keys, checked, or done instead."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from benchmark import zoo_index, zoo_layers
from benchmark.cli import app
from benchmark.display import Silent
from benchmark.executor import split_by_store
from benchmark.runs import prepare
from benchmark.zoo_layers import find_layers
from benchmark.zoo_verify import verify_zoo
from tests.zoos import GRID, bench, figures, run, to_train


@pytest.fixture(scope="module")
def finished(constructed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in `out`, its store, and its trainings exported into `zoo`."""
    folder = tmp_path_factory.mktemp("finished")
    run(GRID, folder / "store", folder / "out", [constructed])
    done = _export(folder, constructed, folder / "zoo")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def zoo(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the zoo, which `BENCH_ZOO` names."""
    shutil.copytree(finished / "zoo", tmp_path / "zoo")
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


def _export(finished: Path, plugin: Path, to: Path, *options: object):
    return bench(
        "export", finished / "out", "--store", finished / "store", "--plugin", plugin, "--to", to, *options
    )


def _payload(zoo: Path, label: str) -> Path:
    (path,) = zoo.glob(f"{label}-*.safetensors")
    return path


def test_a_grid_whose_trainings_are_in_the_zoo_has_nothing_to_train(
    zoo: Path, constructed: Path, tmp_path: Path
) -> None:
    missing, notes = to_train(GRID, tmp_path / "store", [constructed])
    assert (missing, notes.warnings) == (0, [])
    assert to_train(GRID, tmp_path / "store", [constructed], zoo=False)[0] == 2


def test_a_dry_run_and_a_run_say_what_comes_from_which_zoo(
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
    assert not list((tmp_path / "store").glob("train-*"))  # a layer's entry is read where it lies
    assert "nothing to train" in CliRunner().invoke(app, [*arguments, "--dry-run"]).output
    dry = CliRunner().invoke(app, [*arguments, "--store", str(tmp_path / "other"), "--no-zoo", "--dry-run"])
    assert "from the zoo" not in dry.output
    assert "needs training nearest-mean" in dry.output


def test_results_are_the_same_with_the_weights_of_the_zoo(
    zoo: Path, finished: Path, constructed: Path, tmp_path: Path
) -> None:
    notes = run(GRID, tmp_path / "store", tmp_path / "out", [constructed])
    assert notes.warnings == []
    assert figures(tmp_path / "out").equals(figures(finished / "out"))


def test_weights_count_under_the_very_key_alone(zoo: Path, constructed: Path, tmp_path: Path) -> None:
    other = GRID | {"defenses": [{"name": "shift", "strength": 0.02}]}
    assert to_train(other, tmp_path / "store", [constructed])[0] == 1


@pytest.mark.parametrize("damage", ["flipped", "short", "missing", "other weights", "pickled"])
def test_a_damaged_file_is_named_and_the_training_is_done_instead(
    damage: str, zoo: Path, constructed: Path, tmp_path: Path
) -> None:
    path = _payload(zoo, "shift")
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
        path.write_bytes(_payload(zoo, "nearest-mean").read_bytes()[: len(content)])
    notes = run(GRID, tmp_path / "store", tmp_path / "out", [constructed])
    assert len(notes.warnings) == 1
    assert "shift" in notes.warnings[0]
    assert len(list((tmp_path / "store" / "train-defense" / "shift").glob("*.json"))) == 1
    assert not (tmp_path / "store" / "train-target").exists()


def test_weights_exchanged_between_two_records_are_refused(
    zoo: Path, constructed: Path, tmp_path: Path
) -> None:
    index = json.loads((zoo / "index.json").read_text())
    first, second = index["trainings"]
    for name in ("files", "bytes", "sha256"):
        first[name], second[name] = second[name], first[name]
    (zoo / "index.json").write_text(json.dumps(index))
    notes = run(GRID, tmp_path / "store", tmp_path / "out", [constructed])
    assert [warning for warning in notes.warnings if "holds the weights of another training" in warning]
    assert len(list((tmp_path / "store").glob("train-*/*/*.json"))) == 2


@pytest.mark.parametrize("url", ["memory://nowhere/zoo", "hf://org/zoo", "nosuch://zoo", "no/folder"])
def test_a_zoo_that_cannot_be_reached_is_one_warning(
    url: str, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_ZOO", url)
    missing, notes = to_train(GRID, tmp_path / "store", [constructed])
    assert missing == 2
    (warning,) = notes.warnings
    assert url in warning
    assert "\n" not in warning


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2, "trainings": []}', "[" * 100_000, "\x80"])
def test_an_index_that_is_none_is_one_warning(
    text: str, zoo: Path, constructed: Path, tmp_path: Path
) -> None:
    (zoo / "index.json").write_bytes(text.encode("latin-1"))
    missing, notes = to_train(GRID, tmp_path / "store", [constructed])
    assert (missing, len(notes.warnings)) == (2, 1)


def test_a_remote_zoo_is_a_layer_whose_index_is_read_once(
    finished: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{tmp_path.name}/zoo"
    files, root = fsspec.core.url_to_fs(url)
    for path in (finished / "zoo").glob("*.*"):
        files.pipe_file(f"{root}/{path.name}", path.read_bytes())
    monkeypatch.setenv("BENCH_ZOO", url)
    assert to_train(GRID, tmp_path / "store", [constructed])[0] == 0
    files.rm_file(f"{root}/index.json")
    assert run(GRID, tmp_path / "store", tmp_path / "out", [constructed]).warnings == []
    assert url in zoo_layers._remote


def test_reuse_holds_for_the_zoo(zoo: Path, constructed: Path, tmp_path: Path) -> None:
    assert to_train(GRID, tmp_path / "store", [constructed], reuse="same-environment")[0] == 0
    index = json.loads((zoo / "index.json").read_text())
    for record in index["trainings"]:
        record["made"]["environment"]["torch"] = "1.0"
    (zoo / "index.json").write_text(json.dumps(index))
    assert to_train(GRID, tmp_path / "store", [constructed], reuse="same-code")[0] == 0
    assert to_train(GRID, tmp_path / "store", [constructed], reuse="same-environment")[0] == 2


def test_export_is_idempotent_and_keeps_what_other_runs_added(
    zoo: Path, finished: Path, constructed: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in zoo.iterdir()}
    assert _export(finished, constructed, zoo).exit_code == 0
    assert {path.name: path.read_bytes() for path in zoo.iterdir()} == before
    other = GRID | {"defenses": [{"name": "shift", "strength": 0.02}]}
    run(other, tmp_path / "store", tmp_path / "out", [constructed])
    assert _export(tmp_path, constructed, zoo).exit_code == 0
    after = {path.name: path.read_bytes() for path in zoo.iterdir()}
    assert len(json.loads(after.pop("index.json"))["trainings"]) == 3
    assert after.items() >= {k: v for k, v in before.items() if k != "index.json"}.items()


def test_export_repairs_a_damaged_file(zoo: Path, finished: Path, constructed: Path) -> None:
    path = _payload(zoo, "shift")
    content = path.read_bytes()
    path.write_bytes(b"")
    _export(finished, constructed, zoo)
    assert path.read_bytes() == content


def test_weights_of_attackers_are_exported_on_demand_only(constructed: Path, tmp_path: Path) -> None:
    grid = GRID | {"threats": ["gray-box"], "defenses": [{"name": "shift", "strength": 0.01}]}
    run(grid, tmp_path / "store", tmp_path / "out", [constructed])
    for options, roles in (([], {"target", "defense"}), (["--attacks"], {"target", "defense", "copy-1"})):
        done = _export(tmp_path, constructed, tmp_path / "zoo", *options)
        assert done.exit_code == 0, done.output
        index = json.loads((tmp_path / "zoo" / "index.json").read_text())
        assert {record["role"] for record in index["trainings"]} >= roles
        assert ("copy-1" in {record["role"] for record in index["trainings"]}) is bool(options)


def test_large_weights_are_split_and_joined_again(
    finished: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo_index, "FILE_BYTES", 10_000)
    assert _export(finished, constructed, tmp_path / "zoo").exit_code == 0
    parts = sorted(path.name for path in (tmp_path / "zoo").glob("nearest-mean-*"))
    assert [name[-3:] for name in parts] == [".01", ".02", ".03", ".04"]
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "zoo"))
    notes = run(GRID, tmp_path / "store", tmp_path / "out", [constructed])
    assert notes.warnings == []
    assert not list((tmp_path / "store").glob("train-*"))


def test_weights_that_are_too_large_are_listed_and_trained_where_they_are_not_at_hand(
    finished: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _export(finished, constructed, tmp_path / "zoo", "--at-most", 0.01).exit_code == 0
    monkeypatch.setenv("BENCH_ZOO", str(tmp_path / "zoo"))
    assert to_train(GRID, tmp_path / "store", [constructed])[0] == 1
    assert "skip target nearest-mean" in bench("verify", "--layer", tmp_path / "zoo").output
    assert _export(finished, constructed, tmp_path / "zoo").exit_code == 0
    assert to_train(GRID, tmp_path / "store", [constructed])[0] == 0


def test_fetch_copies_what_a_grid_needs_into_the_store(
    zoo: Path, constructed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo.yaml").write_text(json.dumps(GRID))
    options = ["--store", tmp_path / "store", "--plugin", constructed]
    done = bench("fetch", "--grid", tmp_path / "zoo.yaml", *options)
    assert done.exit_code == 0, done.output
    monkeypatch.delenv("BENCH_ZOO")
    assert to_train(GRID, tmp_path / "store", [constructed])[0] == 0


def test_fetch_takes_keys_or_a_grid(zoo: Path, tmp_path: Path) -> None:
    key = json.loads((zoo / "index.json").read_text())["trainings"][0]["key"]
    assert bench("fetch", key[:12], "--store", tmp_path / "store").exit_code == 0
    assert len(list((tmp_path / "store").glob("*/*/*.json"))) == 1
    for wrong in ([], [key, "--grid", "quick"], ["f" * 64]):
        assert isinstance(bench("fetch", *wrong, "--store", tmp_path / "store").exception, Exception)


def test_ls_says_what_there_is(zoo: Path) -> None:
    done = bench("ls", "--layer", "BENCH_ZOO")
    assert done.exit_code == 0
    assert f"2 trainings at {zoo}" in done.output
    assert (
        "shift, trained on digits, seed 0, strength=0.01, with nearest-mean (target, seed 0)" in done.output
    )
    assert "validation error" in done.output


def test_verify_reproduces_figures_and_names_what_does_not_hold(
    zoo: Path, constructed: Path, tmp_path: Path
) -> None:
    good = bench("verify", "--layer", zoo, "--plugin", constructed)
    assert good.exit_code == 0, good.output
    assert "clean error added" in good.output
    assert "validation error" in good.output
    index = json.loads((zoo / "index.json").read_text())
    for record in index["trainings"]:
        if record["kind"] == "train-target":
            record["figures"]["validation_error"] = 0.5
    (zoo / "index.json").write_text(json.dumps(index))
    _payload(zoo, "shift").write_bytes(b"")
    (zoo / "stray.safetensors").write_bytes(b"")
    bad = bench("verify", "--layer", zoo, "--plugin", constructed)
    assert bad.exit_code == 1
    assert bad.output.count("BAD ") == 3
    assert "stated 50.00 %" in bad.output


def test_verify_says_when_a_gate_is_not_reached(constructed: Path, tmp_path: Path) -> None:
    grid = GRID | {"defenses": ["constant"]}
    run(grid, tmp_path / "store", tmp_path / "out", [constructed])
    assert "does not reach its gate" in _export(tmp_path, constructed, tmp_path / "zoo").output
    done = bench("verify", "--layer", tmp_path / "zoo", "--plugin", constructed)
    assert done.exit_code == 1
    assert "more than the 5 points of its gate" in done.output


def test_the_speed_of_planning_does_not_depend_on_weights(
    zoo: Path, constructed: Path, tmp_path: Path
) -> None:
    """Sizes are enough until the weights are used."""
    for path in zoo.glob("*.safetensors"):
        path.write_bytes(bytes(path.stat().st_size))
    prepared = prepare(GRID, Silent(), store=str(tmp_path / "store"), plugins=[constructed], device="cpu")
    missing, _ = split_by_store(prepared.plan, prepared.workshop)
    assert not [task for task in missing if task.kind.startswith("train")]


@pytest.mark.parametrize("name", ["package", "checkout"])
def test_the_weights_of_this_repository_hold(name: str, tmp_path: Path) -> None:
    """Checksums, sizes, and figures on images that need no files."""
    from benchmark.registry import default_registry

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
def test_the_figures_of_the_zoo_come_out_on_real_images(real_data: Path) -> None:
    from benchmark.registry import default_registry

    for layer in find_layers(None):
        wrong = [f for f in verify_zoo(layer, default_registry(), real_data) if f.ok is False]
        assert wrong == []
