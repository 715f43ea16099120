"""External images count, and a pipeline can be exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import benchmark
from benchmark.cli.main import app
from benchmark.errors import UserError
from benchmark.execution.observer import Silent
from benchmark.finished_runs import judge_external_images, reload_run
from studies import REPOSITORY, autoattack

PLUGIN = REPOSITORY / "tests" / "plugin_files" / "toy.py"
GRID = {
    "datasets": [{"name": "digits", "n": 40}],
    "targets": ["nearest-mean"],
    "defenses": ["identity", "median"],
    "attacks": ["gives-up"],
    "threats": ["white-box"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    benchmark.run(GRID, out=folder / "run", store=folder / "store", plugins=[PLUGIN])
    return folder / "run"


def cell(run: Path, defense: str) -> pd.Series:
    return pd.read_csv(run / "records.csv").set_index("defense").loc[defense]


def judge_output(run: Path, defense: str, images: Path, origin: str, key: str | None = None) -> str:
    key = key or cell(run, defense)["key"]
    arguments = ["judge", str(run), "--cell", key[:10], "--images", str(images)]
    arguments += ["--origin", origin, "--store", str(run.parent / "store"), "--plugin", str(PLUGIN)]
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_an_external_image_that_fools_the_pipeline_changes_the_rank(run: Path, tmp_path: Path) -> None:
    board = pd.read_csv(run / "leaderboard.csv").set_index("defense")
    best = board["error"].idxmin()
    before = cell(run, best)
    exported = benchmark.export(run, before["key"], store=run.parent / "store", plugins=[PLUGIN])
    with torch.no_grad():
        predicted = exported.pipeline(exported.images).argmax(dim=1)
    assert (predicted != exported.labels).float().mean() == pytest.approx(before["clean_error"])
    # the strongest attack on a linear classifier: towards each other class
    found = _all_classes(exported)
    save_file({"images": found}, tmp_path / "found.safetensors")
    output = judge_output(run, best, tmp_path / "found.safetensors", "all classes")
    after = cell(run, best)
    by = json.loads(after["routes"])
    assert by["outside: all classes"] > before["error"]
    assert after["error"] >= by["outside: all classes"]
    assert after["key"] == before["key"]
    assert f"{after['error']:.4f}" in output
    board_after = pd.read_csv(run / "leaderboard.csv").set_index("defense")
    assert board_after.loc[best, "error"] > board.loc[best, "error"]
    rerun = benchmark.run(GRID, out=run, store=run.parent / "store", plugins=[PLUGIN]).set_index("defense")
    assert rerun.loc[best, "error"] == after["error"]


def _all_classes(exported: benchmark.results.external_images.Export) -> torch.Tensor:
    x, y = exported.images, exported.labels
    best = x.clone()
    largest = torch.full((len(x),), float("-inf"))
    for other in range(10):
        moved = x.clone()
        for _ in range(20):
            moved.requires_grad_()
            scores = exported.pipeline(moved)
            aim = (scores[:, other] - scores.gather(1, y[:, None])[:, 0]).sum()
            (gradient,) = torch.autograd.grad(aim, moved)
            moved = torch.clamp(moved.detach() + 0.01 * gradient.sign(), x - 0.1, x + 0.1).clamp(0, 1)
        with torch.no_grad():
            scores = exported.pipeline(moved)
        margin = scores[:, other] - scores.gather(1, y[:, None])[:, 0]
        margin[y == other] = float("-inf")
        better = margin > largest
        best[better], largest[better] = moved[better], margin[better]
    return best


def test_images_outside_of_the_ball_do_not_count(run: Path, tmp_path: Path) -> None:
    before = cell(run, "identity")
    save_file({"images": torch.rand(40, 1, 28, 28)}, tmp_path / "far.safetensors")
    output = judge_output(run, "identity", tmp_path / "far.safetensors", "far away")
    assert "40 images outside the ball" in output
    after = cell(run, "identity")
    by = json.loads(after["routes"])
    assert by["outside: far away"] == by["clean"]
    assert after["error"] == before["error"]


def test_an_origin_may_submit_several_sets(run: Path, tmp_path: Path) -> None:
    clean = benchmark.export(run, cell(run, "identity")["key"], store=run.parent / "store", plugins=[PLUGIN])
    before = cell(run, "identity")
    for number, images in enumerate((clean.images, 0.99 * clean.images[:5])):
        save_file({"images": images.contiguous()}, tmp_path / f"{number}.safetensors")
        judge_output(run, "identity", tmp_path / f"{number}.safetensors", "me")
    after = cell(run, "identity")
    assert {"outside: me", "outside: me #2"} <= set(json.loads(after["routes"]))
    assert after["error"] == before["error"]


def test_each_ball_counts_the_images_of_a_file_that_lie_in_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    balls = [{"name": "pgd", "eps": eps, "steps": 1, "random_start": False} for eps in (0.1, 0.5)]
    grid = GRID | {"defenses": ["identity"], "attacks": balls}
    benchmark.run(grid, out=run, store=tmp_path / "store", plugins=[PLUGIN])
    keys = pd.read_csv(run / "records.csv").set_index("eps")["key"]
    exported = benchmark.export(run, keys[0.5], store=tmp_path / "store", plugins=[PLUGIN])
    images = exported.images.roll(1, dims=0)
    images = images.clamp(exported.images - 0.5, exported.images + 0.5)
    save_file({"images": images}, tmp_path / "found.safetensors")
    for eps in (0.1, 0.5):
        output = judge_output(run, "identity", tmp_path / "found.safetensors", "rolled", keys[eps])
        assert ("40 images outside the ball" in output) == (eps == 0.1)
    by = pd.read_csv(run / "records.csv").set_index("eps")
    route = {eps: json.loads(by.loc[eps, "routes"])["outside: rolled"] for eps in (0.1, 0.5)}
    assert route[0.1] == by.loc[0.1, "clean_error"]
    assert route[0.5] > route[0.1]


def test_external_images_do_not_remove_flags_of_the_attack(tmp_path: Path) -> None:
    stuck = {"name": "pgd", "eps": 0.2, "steps": 10, "alpha": 1e-6, "random_start": False}
    strong = {"name": "pgd", "eps": 0.2, "steps": 10}
    options = {"store": tmp_path / "store", "plugins": [PLUGIN]}
    grid = GRID | {
        "defenses": ["identity"],
        "threats": ["black-box"],
        "datasets": [{"name": "digits", "n": 60}],
    }
    benchmark.run(grid | {"attacks": [strong]}, out=tmp_path / "strong", **options)
    found = _images_of(tmp_path / "strong", tmp_path / "store")
    records = benchmark.run(grid | {"attacks": [stuck]}, out=tmp_path / "run", **options)
    assert "not-moved" in records.loc[0, "flags"].split()
    save_file({"images": found}, tmp_path / "found.safetensors")
    judge_output(tmp_path / "run", "identity", tmp_path / "found.safetensors", "strong")
    after = cell(tmp_path / "run", "identity")
    assert after["error"] > records.loc[0, "error"]
    assert "not-moved" in after["flags"].split()
    board = pd.read_csv(tmp_path / "run" / "leaderboard.csv").set_index("defense")
    assert board.loc["identity", "error"] == after["error"]
    assert pd.isna(board.loc["identity", "rank"])


def test_the_nearest_image_and_the_one_in_the_ball_both_count(tmp_path: Path) -> None:
    options = {"store": tmp_path / "store", "plugins": [PLUGIN]}
    grid = GRID | {"defenses": ["identity"], "threats": ["black-box"]}
    pgd = {"name": "pgd", "eps": 0.1, "steps": 10}
    benchmark.run(grid | {"attacks": [pgd]}, out=tmp_path / "strong", **options)
    found = _images_of(tmp_path / "strong", tmp_path / "store")
    weak = pgd | {"alpha": 1e-6, "random_start": False}
    benchmark.run(grid | {"attacks": [weak, "deepfool"]}, out=tmp_path / "run", **options)

    def error() -> float:
        return pd.read_csv(tmp_path / "run" / "leaderboard.csv").set_index("defense").loc["identity", "error"]

    before = error()
    records = pd.read_csv(tmp_path / "run" / "records.csv").set_index("attack")
    save_file({"images": found}, tmp_path / "found.safetensors")
    judge_output(
        tmp_path / "run", "identity", tmp_path / "found.safetensors", "pgd", records.loc["deepfool", "key"]
    )
    strong = pd.read_csv(tmp_path / "strong" / "leaderboard.csv").set_index("defense")
    assert error() >= max(before, strong.loc["identity", "error"])
    records_after = pd.read_csv(tmp_path / "run" / "records.csv").set_index("attack")
    assert records_after.loc["deepfool", "l2"] <= records.loc["deepfool", "l2"]


def _images_of(run: Path, store: Path) -> torch.Tensor:
    """The adversarial images of a run of one black-box cell."""
    prepared = reload_run(run, Silent(), data=None, store=store, plugins=[PLUGIN])
    (cell,) = prepared.plan.cells
    parts = [prepared.context.images(score.candidates[-1].craft, score.shard) for score in cell.scores]
    return torch.cat(parts).contiguous()


def test_images_that_the_pipeline_rejects_change_nothing(tmp_path: Path) -> None:
    grid = GRID | {"defenses": ["brittle"], "attacks": [{"name": "pgd", "eps": 0.1, "steps": 10}]}
    plugins = [PLUGIN, REPOSITORY / "tests" / "plugin_files" / "masking.py"]
    options = {"store": tmp_path / "store", "plugins": plugins}
    records = benchmark.run(grid | {"threats": ["black-box"]}, out=tmp_path / "run", **options)
    key = records.loc[0, "key"]
    exported = benchmark.export(tmp_path / "run", key, **options)
    bright = (exported.images + 0.1).clamp(0, 1)
    prepared = reload_run(tmp_path / "run", Silent(), data=None, **options)
    images = tmp_path / "bright.safetensors"
    save_file({"images": bright}, images)
    before = (tmp_path / "run" / "records.csv").read_text()
    with pytest.raises(UserError, match="too bright"):
        judge_external_images(prepared, Silent(), tmp_path / "run", key, images, "bright")
    assert (tmp_path / "run" / "records.csv").read_text() == before
    assert not (tmp_path / "run" / "outside.json").exists()


def test_a_cell_without_a_norm_is_refused(tmp_path: Path) -> None:
    options = {"store": tmp_path / "store", "plugins": [PLUGIN]}
    grid = GRID | {"defenses": ["identity"], "attacks": ["noise"], "threats": ["black-box"]}
    benchmark.run(grid, out=tmp_path / "run", **options)
    save_file({"images": torch.rand(40, 1, 28, 28)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="bounds no norm"):
        judge_output(tmp_path / "run", "identity", tmp_path / "other.safetensors", "other images")


def test_a_damaged_run_is_refused(run: Path, tmp_path: Path) -> None:
    damages = (
        ("run.json", "{}", "not the run.json"),
        ("run.json", "{", "not the run.json"),
        ("outside.json", "[{}]", "damaged"),
    )
    for number, (name, text, complaint) in enumerate(damages):
        damaged = tmp_path / str(number)
        shutil.copytree(run, damaged)
        (damaged / name).write_text(text)
        images = tmp_path / "x.safetensors"
        save_file({"images": torch.zeros(1, 1, 28, 28)}, images)
        with pytest.raises(UserError, match=complaint):
            judge_output(damaged, "identity", images, "nowhere")


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"pictures": torch.zeros(1, 1, 28, 28)}, "no tensor `images`"),
        ({"images": torch.zeros(1, 3, 28, 28)}, "must be floats"),
        ({"images": torch.zeros(41, 1, 28, 28)}, "41 images"),
        ({"images": torch.full((1, 1, 28, 28), float("nan"))}, "not finite"),
    ],
)
def test_a_file_without_valid_images_is_refused(
    run: Path, tmp_path: Path, tensors: dict[str, torch.Tensor], complaint: str
) -> None:
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError, match=complaint):
        judge_output(run, "identity", tmp_path / "wrong.safetensors", "nowhere")


def test_an_unknown_cell_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="no cells"):
        benchmark.export(run, "zzz", store=run.parent / "store", plugins=[PLUGIN])


def test_an_exported_cell_is_loaded_by_its_script(run: Path, tmp_path: Path) -> None:
    key = cell(run, "median")["key"]
    arguments = ["export", str(run), "--cell", key, "--out", str(tmp_path), "--plugin", str(PLUGIN)]
    result = CliRunner().invoke(app, [*arguments, "--store", str(run.parent / "store")])
    assert result.exit_code == 0, result.output
    names: dict[str, object] = {}
    exec((tmp_path / "pipeline.py").read_text(), names)
    images = load_file(tmp_path / "images.safetensors")["images"]
    assert torch.equal(images, names["images"])
    assert names["pipeline"](images).shape == (40, 10)


@pytest.mark.parametrize(("alpha", "accepted"), [(0.2, True), (0.001, False)])
def test_autoattack_distinguishes_a_strong_attack_from_a_weak_one(
    tmp_path: Path, alpha: float, accepted: bool
) -> None:
    weak_or_strong = {"name": "pgd", "eps": 0.6, "alpha": alpha, "steps": 5, "restarts": 1}
    grid = GRID | {"defenses": ["identity"], "attacks": [weak_or_strong]}
    benchmark.run(grid, out=tmp_path / "run", store=tmp_path / "store", plugins=[PLUGIN])
    arguments = [str(tmp_path / "run"), "--store", str(tmp_path / "store"), "--plugin", str(PLUGIN)]
    refused = autoattack.main([*arguments, "--out", str(tmp_path / "table.csv")])
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["autoattack"].tolist() == [1.0]  # over half of the pixels' range: no image is robust
    assert (refused, bool(table.loc[0, "more"] > 0.02)) == ((0, False) if accepted else (1, True))
