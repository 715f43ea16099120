"""External images: which of them are stored, which count, and which files are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmark.errors import UserError
from benchmark.plan.cells import Cell
from benchmark.plan.plan import Plan
from benchmark.plan.tasks import Shard
from benchmark.results.external_images import (
    ExternalEntry,
    add_external_entry,
    external_cells,
    external_entries,
    find_cell,
    store_external,
)
from tests.results.hand_made import CW, PGD, attack, cells, only

N = 5
CLEAN = torch.full((N, 1, 2, 2), 0.5)


class Context:
    """Stands for the context of a run: grey images, and what is stored."""

    def __init__(self) -> None:
        self.stored: list[Tensor] = []

    def clean(self, shard: Shard) -> tuple[Tensor, Tensor]:
        return CLEAN[shard.start : shard.stop].clone(), torch.zeros(shard.stop - shard.start)

    def dataset(self, spec: Any) -> Any:
        return SimpleNamespace(image_shape=(1, 2, 2))

    def put_tensors(self, task: Any, tensors: dict[str, Tensor], meta: Any) -> None:
        self.stored.append(tensors["images"])


def one(of: Any = None) -> Cell:
    """A cell of five images in shards of two and three."""
    (cell,) = only(of or attack("pgd", 0.25, mandatory=True), threat="black-box", n=N)
    (score,) = cell.scores
    shards = [replace(score.shard, stop=2), replace(score.shard, start=2)]
    return replace(cell, scores=tuple(replace(score, shard=shard) for shard in shards))


def stored(tmp_path: Path, images: Tensor, cell: Cell | None = None) -> tuple[Tensor, int, ExternalEntry]:
    context = Context()
    save_file({"images": images.contiguous()}, tmp_path / "x.safetensors")
    entry, outside = store_external(
        context,  # type: ignore[arg-type]
        cell or one(),
        tmp_path / "x.safetensors",
        "them",
    )
    assert [len(part) for part in context.stored] == [2, 3]
    return torch.cat(context.stored), outside, entry


def test_images_outside_of_the_ball_are_replaced_by_the_clean_ones(tmp_path: Path) -> None:
    made = CLEAN.clone()
    made[0, 0, 0, 0], made[1, 0, 0, 0] = 0.75, 0.76
    made[3], made[4] = 0.74, 0.1
    found, outside, entry = stored(tmp_path, made)
    expected = made.clone()
    expected[[1, 4]] = CLEAN[[1, 4]]
    assert torch.equal(found, expected)
    assert outside == 2
    assert (entry.cell, entry.origin) == (one().key, "them")
    assert stored(tmp_path, made, one(attack("pgd", 0.5, "l2")))[1] == 1  # the last one only
    assert stored(tmp_path, made, one(CW))[1] == 0


def test_fewer_images_than_the_cell_has_are_filled_with_clean_ones(tmp_path: Path) -> None:
    found, outside, _ = stored(tmp_path, CLEAN[:3] + 0.125)
    assert torch.equal(found, torch.cat([CLEAN[:3] + 0.125, CLEAN[3:]]))
    assert outside == 0


def test_images_are_clipped_to_the_box_before_they_are_measured(tmp_path: Path) -> None:
    made = CLEAN.clone()
    made[0], made[1] = 7.0, -7.0
    found, outside, _ = stored(tmp_path, made, one(attack("pgd", 0.5)))
    assert (found[0] == 1).all()
    assert (found[1] == 0).all()
    assert outside == 0


def test_the_images_that_count_identify_the_entry(tmp_path: Path) -> None:
    far = CLEAN + 0.4
    assert stored(tmp_path, far)[2] == stored(tmp_path, CLEAN)[2]
    assert stored(tmp_path, far)[2].images != stored(tmp_path, CLEAN + 0.1)[2].images
    assert stored(tmp_path, CLEAN.double())[2] == stored(tmp_path, CLEAN)[2]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (CLEAN[:0], "0 images, but the cell has 5"),
        (torch.cat([CLEAN, CLEAN]), "10 images, but the cell has 5"),
        (CLEAN[0], "must be floats"),
        (CLEAN[:, :, :1], "must be floats"),
        (CLEAN.long(), "must be floats"),
        (CLEAN / 0, "not finite"),
    ],
)
def test_a_file_that_holds_no_such_images_is_refused(tmp_path: Path, images: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stored(tmp_path, images)


def test_a_file_without_images_is_refused(tmp_path: Path) -> None:
    save_file({"pictures": CLEAN}, tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_text("nothing")
    for name, message in (("x", "has no tensor `images`"), ("y", "cannot be read"), ("z", "cannot be read")):
        with pytest.raises(UserError, match=message):
            store_external(Context(), one(), tmp_path / f"{name}.safetensors", "them")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="bounds no norm"):
        stored(tmp_path, CLEAN, one(attack("noise", None, None)))


def test_entries_are_listed_once(tmp_path: Path) -> None:
    assert external_entries(tmp_path) == []
    first, second = ExternalEntry("a", "1", "me"), ExternalEntry("b", "2", "you")
    for entry in (first, second, first):
        add_external_entry(tmp_path, entry)
    assert external_entries(tmp_path) == [second, first]


@pytest.mark.parametrize(
    "text", ["{", "[1]", '[{"cell": "a"}]', '[{"cell": "a", "images": 1, "origin": "b"}]']
)
def test_a_damaged_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "outside.json").write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        external_entries(tmp_path)


def plan(*members: Cell) -> Plan:
    return SimpleNamespace(cells=members)  # type: ignore[return-value]


def test_a_set_of_images_becomes_a_cell_without_an_eps() -> None:
    cell = one()
    entries = [ExternalEntry(cell.key, "1", "me"), ExternalEntry("unknown", "2", "you")]
    ((key, (found,)),) = external_cells(plan(cell), entries).items()
    assert key == cell.key
    assert (found.attack.name, found.attack.norm, found.attack.eps) == ("outside: me", "linf", None)
    assert (found.attack.uses, found.attack_seed, found.probes, found.checks) == ("nothing", None, (), None)
    assert [score.shard for score in found.scores] == [score.shard for score in cell.scores]
    for score in found.scores:
        (candidate,) = score.candidates
        assert candidate.route == "outside: me"
        assert candidate.craft is candidate.purify.images
        assert candidate.craft.shard is score.shard  # type: ignore[union-attr]


def test_a_cell_is_found_by_the_beginning_of_its_key() -> None:
    first, second, *_ = cells(PGD)
    assert find_cell(plan(first, second), second.key[:12]) is second
    assert find_cell(plan(first), first.key) is first
    for key, message in ((first.key + "x", "no cells"), ("", "no cells")):
        with pytest.raises(UserError, match=f"{message} of this run"):
            find_cell(plan(first, second), key)
    with pytest.raises(UserError, match="2 cells of this run"):
        find_cell(plan(first, first), first.key)
    with pytest.raises(UserError, match="was skipped: because"):
        find_cell(plan(replace(first, skipped="because")), first.key)
