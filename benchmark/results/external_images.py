"""Adversarial images made outside of this harness, and the export of a pipeline to make them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from benchmark.api.noise import StreamNoise
from benchmark.errors import Problem, UserError
from benchmark.execution.context import ExecutionContext
from benchmark.execution.dispatch import recompute_lost
from benchmark.execution.purifier import PurifierModule
from benchmark.files.writing import make_output_folder, replacing, write_json, write_text
from benchmark.metrics import TOLERANCE
from benchmark.metrics.image_quality import norms
from benchmark.plan.cells import Cell
from benchmark.plan.plan import Plan
from benchmark.plan.specs import AttackSpec
from benchmark.plan.tasks import Candidate, ExternalImages, Purify
from benchmark.results.cell_outcomes import group_by

_FILE = "outside.json"


@dataclass(frozen=True)
class ExternalEntry:
    """One set of external images for a cell.

    Attributes:
        cell: The key of the cell.
        images: Hash of the stored images: clipped to [0, 1], the clean image for one outside the ball.
        origin: Where the images come from, as text for the records.
    """

    cell: str
    images: str
    origin: str


def external_entries(out: Path) -> list[ExternalEntry]:
    """The external images of the run in a folder."""
    path = out / _FILE
    if not path.is_file():
        return []
    try:
        entries = [ExternalEntry(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
        if not all(isinstance(text, str) for entry in entries for text in vars(entry).values()):
            raise ValueError("an entry has a value that is not text")
        return entries
    except (ValueError, TypeError, RecursionError) as error:
        hint = "without this file no external images count"
        raise UserError(f"{path} is damaged: {error}", hint=hint) from error


def add_external_entry(out: Path, entry: ExternalEntry) -> None:
    """List external images in the folder of a run, so that they count from now on."""
    earlier = [other for other in external_entries(out) if other != entry]
    write_json(out / _FILE, [vars(member) for member in (*earlier, entry)])


def external_cells(plan: Plan, entries: Iterable[ExternalEntry]) -> dict[str, list[Cell]]:
    """For each set of external images a cell of its own, by the key of the planned cell.

    The attack of such a cell is named after the origin and has no eps, so the images count in every ball that
    they lie in by measurement.
    """
    planned = {cell.key: cell for cell in plan.cells}
    by_cell = group_by((entry for entry in entries if entry.cell in planned), lambda entry: entry.cell)
    return {key: [_external_cell(planned[key], e) for e in members] for key, members in by_cell.items()}


def _external_cell(cell: Cell, entry: ExternalEntry) -> Cell:
    route = f"outside: {entry.origin}"
    scores = []
    for score in cell.scores:
        images = ExternalImages(score.shard, entry.images, entry.origin)
        purify = Purify(score.purifier, score.shard, images)
        scores.append(replace(score, candidates=(Candidate(route, images, purify),)))
    config = {"images": entry.images}
    attack = AttackSpec(route, config, config, norm=cell.attack.norm, uses="nothing")
    external = replace(cell, attack=attack, attack_seed=None, craft_on=None)
    return replace(external, scores=tuple(scores), probes=(), checks=None)


def find_cell(plan: Plan, key: str) -> Cell:
    """The only cell whose key begins with `key`.

    Raises:
        UserError: There is none, there are several, or the cell was skipped.
    """
    cells = [cell for cell in plan.cells if cell.key.startswith(key)] if key else []
    if len(cells) != 1:
        fault = f"{len(cells) or 'no'} cells of this run have a key that begins with {key!r}"
        raise UserError(fault, hint="the column `key` of records.csv lists the keys")
    if cells[0].skipped:
        raise UserError(f"that cell was skipped: {cells[0].skipped}")
    return cells[0]


def store_external(
    context: ExecutionContext, cell: Cell, path: Path, origin: str
) -> tuple[ExternalEntry, int]:
    """Store images for a cell, clipped to [0, 1], with the clean image for each one that left the ball.

    The safetensors file at `path` holds `images`, (n, C, H, W) float, for the first n images of the cell.
    `origin` says in the records where they come from. The cell's attack needs a norm.

    Returns:
        The entry for the run's list, and the number of images that left the ball.
    """
    norm, eps, outside_ball = cell.attack.norm, cell.attack.eps, 0
    if norm is None:
        raise UserError(f"{cell.attack.name} bounds no norm, so any image would count: choose another cell")
    images = _read(path, cell, context).clamp(0, 1)
    # Hash the images that count, not the file: a cell with another ball counts other images of the same file.
    content, shards = hashlib.sha256(), []
    for score in cell.scores:
        shard = images[score.shard.start : score.shard.stop]
        clean = context.clean(score.shard)[0].cpu()
        filled = torch.cat([shard, clean[len(shard) :]])
        if eps is not None:
            far = norms(filled, clean)[norm] > eps + TOLERANCE
            filled[far] = clean[far]
            outside_ball += int(far.sum())
        content.update(filled.numpy().tobytes())
        shards.append(filled)
    entry = ExternalEntry(cell.key, content.hexdigest(), origin)
    for score, filled in zip(cell.scores, shards, strict=True):
        context.put_tensors(ExternalImages(score.shard, entry.images, origin), {"images": filled}, {})
    return entry, outside_ball


def _read(path: Path, cell: Cell, context: ExecutionContext) -> Tensor:
    def wrong(message: str) -> UserError:
        return UserError(Problem(message, file=str(path)))

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise wrong(f"cannot be read as safetensors: {error}") from error
    if "images" not in tensors:
        raise wrong(f"has no tensor `images`; it has: {', '.join(tensors) or 'none'}")
    images = tensors["images"]
    shape = context.dataset(cell.dataset).image_shape
    if images.ndim != 4 or tuple(images.shape[1:]) != shape or not images.is_floating_point():
        raise wrong(f"images are {tuple(images.shape)} {images.dtype}, but must be floats (n, {shape})")
    if not 0 < len(images) <= cell.n:
        raise wrong(f"{len(images)} images, but the cell has {cell.n}")
    if not torch.isfinite(images).all():
        raise wrong("images are not finite")
    floats: Tensor = images.float()
    return floats


class Pipeline(nn.Module):
    """A target behind a defense, as it is judged: images (B, C, H, W) in [0, 1] to logits.

    A random defense makes new draws at each call.
    """

    def __init__(self, target: nn.Module, purifier: PurifierModule) -> None:
        super().__init__()
        self.target = target
        self.purifier = purifier
        self.purifier.reset(StreamNoise(0))

    def forward(self, x: Tensor) -> Tensor:
        self.purifier.forget()
        return self.target(self.purifier(x))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Export:
    """A cell for attacks outside of the harness: pipeline, clean images, labels, norm and eps."""

    pipeline: Pipeline
    images: Tensor
    labels: Tensor
    norm: str | None
    eps: float | None


def export(context: ExecutionContext, cell: Cell) -> Export:
    """The pipeline of a cell with its images."""
    shards = [context.clean(score.shard) for score in cell.scores]
    images, labels = (torch.cat(tensors) for tensors in zip(*shards, strict=True))
    pipeline = recompute_lost(
        lambda: Pipeline(context.target(cell.target), context.purifier(cell.purifier, cell.dataset)), context
    )
    return Export(pipeline.eval(), images, labels, cell.attack.norm, cell.attack.eps)


def write_export(exported: Export, cell: Cell, folder: Path, arguments: Mapping[str, Any]) -> None:
    """Write the images as safetensors, and a script that calls `benchmark.export` with the arguments."""
    make_output_folder(folder)
    tensors = {"images": exported.images.cpu(), "labels": exported.labels.cpu()}
    with replacing(folder / "images.safetensors") as file:
        file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    title = f"The pipeline of a cell, images to logits: {cell.target.label} behind {cell.purifier.name}."
    call = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    write_text(
        folder / "pipeline.py",
        f"{title!r}\n\n"  # as repr: a name cannot end the text and continue as code
        "import benchmark\n\n"
        f"exported = benchmark.export({call})\n"
        "pipeline, images, labels = exported.pipeline, exported.images, exported.labels\n",
    )
