"""Adversarial images that were made elsewhere, and what they need to be made: a pipeline to attack."""

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

from benchmark.cells import Cell
from benchmark.errors import Problem, UserError
from benchmark.metrics import norms
from benchmark.noise import StreamNoise
from benchmark.output import open_out, write_json, write_text
from benchmark.plan import Plan
from benchmark.purifier import PurifierModule
from benchmark.refs import AttackRef
from benchmark.tasks import Candidate, Handed, Purify
from benchmark.work.score import TOLERANCE
from benchmark.work.workshop import Workshop
from benchmark.writing import replacing

_FILE = "outside.json"


@dataclass(frozen=True)
class HandedIn:
    """A set of images for a cell: its key, the hash of those that count, and where they come from."""

    cell: str
    images: str
    origin: str


def handed_in(out: Path) -> list[HandedIn]:
    """What was handed in for the run in a folder.

    Raises:
        UserError: The file that says so is damaged.
    """
    path = out / _FILE
    if not path.is_file():
        return []
    try:
        entries = [HandedIn(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
        if not all(isinstance(text, str) for entry in entries for text in vars(entry).values()):
            raise ValueError("an entry holds something else than text")
        return entries
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged: {error}", hint="without it nothing from outside counts"
        ) from error


def note(out: Path, entry: HandedIn) -> None:
    """Note in the folder of a run that images count."""
    earlier = [known for known in handed_in(out) if known != entry]
    write_json(out / _FILE, [vars(known) for known in (*earlier, entry)])


def outside_cells(plan: Plan, entries: Iterable[HandedIn]) -> dict[str, list[Cell]]:
    """By the key of a cell: for each set of images that was handed in for it a cell of its own.

    That meets them under the name of an attack in no ball, so that they count wherever they lie, as measured.
    """
    found: dict[str, list[Cell]] = {}
    of = {cell.key: cell for cell in plan.cells}
    for entry in entries:
        if entry.cell in of:
            found.setdefault(entry.cell, []).append(_meets(of[entry.cell], entry))
    return found


def _meets(cell: Cell, entry: HandedIn) -> Cell:
    route = f"outside: {entry.origin}"
    scores = []
    for score in cell.scores:
        handed = Handed(score.shard, entry.images, entry.origin)
        purify = Purify(score.purifier, score.shard, handed)
        scores.append(replace(score, candidates=(Candidate(route, handed, purify),)))
    attack = AttackRef(
        route, {"images": entry.images}, {"images": entry.images}, norm=cell.attack.norm, uses="nothing"
    )
    met = replace(cell, attack=attack, attack_seed=None, craft_on=None)
    return replace(met, scores=tuple(scores), probes=(), checks=None)


def find_cell(plan: Plan, key: str) -> Cell:
    """The cell whose key begins so.

    Raises:
        UserError: None does, several do, or it was skipped.
    """
    found = [cell for cell in plan.cells if cell.key.startswith(key)] if key else []
    if len(found) != 1:
        raise UserError(
            f"{len(found) or 'no'} cells of this run have a key that begins with {key!r}",
            hint="the column `key` of records.csv has them",
        )
    if found[0].skipped:
        raise UserError(f"that cell was skipped: {found[0].skipped}")
    return found[0]


def hand_in(workshop: Workshop, cell: Cell, path: Path, origin: str) -> tuple[HandedIn, int]:
    """Store images for a cell, clipped to [0, 1]; the clean image in place of each that left the ball.

    Args:
        workshop: Where results are kept.
        cell: The cell, as the grid plans it.
        path: A safetensors file with `images`, (n, C, H, W) float, for the first n images of the cell.
        origin: Where they come from, for the records.

    Returns:
        What was handed in, and how many images left the ball.

    Raises:
        UserError: The file does not hold such images, or nothing says how far they may go.
    """
    norm, eps, left = cell.attack.norm, cell.attack.eps, 0
    if norm is None:
        raise UserError(
            f"{cell.attack.name} bounds no norm, so that any image would count: name another cell"
        )
    images = _read(path, cell, workshop).clamp(0, 1)
    # Of what counts, not of the file: in a cell of another ball other images of it count.
    content, parts = hashlib.sha256(), []
    for score in cell.scores:
        part = images[score.shard.start : score.shard.stop]
        clean = workshop.clean(score.shard)[0].cpu()
        filled = torch.cat([part, clean[len(part) :]])
        if eps is not None:
            far = norms(filled, clean)[norm] > eps + TOLERANCE
            filled[far], left = clean[far], left + int(far.sum())
        content.update(filled.numpy().tobytes())
        parts.append(filled)
    entry = HandedIn(cell.key, content.hexdigest(), origin)
    for score, part in zip(cell.scores, parts, strict=True):
        task = Handed(score.shard, entry.images, origin)
        workshop.put_tensors(task, {"images": part}, {})
    return entry, left


def _read(path: Path, cell: Cell, workshop: Workshop) -> Tensor:
    def wrong(message: str) -> UserError:
        return UserError(Problem(message, file=str(path)))

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise wrong(f"cannot be read as safetensors: {error}") from error
    if "images" not in tensors:
        raise wrong(f"has no tensor `images`; it has: {', '.join(tensors) or 'none'}")
    images = tensors["images"]
    shape = workshop.dataset(cell.dataset).image_shape
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

    A random defense draws anew at each call.
    """

    def __init__(self, target: nn.Module, purifier: PurifierModule) -> None:
        super().__init__()
        self.target = target
        self.purifier = purifier
        self.purifier.noise = StreamNoise(0)

    def forward(self, x: Tensor) -> Tensor:
        self.purifier.forget()
        return self.target(self.purifier(x))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Export:
    """A cell for attacks from outside: what to attack, clean images, their labels, and norm and radius."""

    pipeline: Pipeline
    images: Tensor
    labels: Tensor
    norm: str | None
    eps: float | None


def export(workshop: Workshop, cell: Cell) -> Export:
    """The pipeline of a cell with its images."""
    shards = [workshop.clean(score.shard) for score in cell.scores]
    pipeline = Pipeline(workshop.target(cell.target), workshop.purifier(cell.purifier, cell.dataset))
    return Export(
        pipeline.eval(),
        torch.cat([images for images, _ in shards]),
        torch.cat([labels for _, labels in shards]),
        cell.attack.norm,
        cell.attack.eps,
    )


def write_export(exported: Export, cell: Cell, folder: Path, how: Mapping[str, Any]) -> None:
    """Write the images as safetensors, and a script that makes the pipeline again.

    Args:
        exported: What to write.
        cell: The cell.
        folder: Where to.
        how: Arguments of `benchmark.export`.
    """
    open_out(folder)
    tensors = {"images": exported.images.cpu(), "labels": exported.labels.cpu()}
    with replacing(folder / "images.safetensors") as file:
        file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    what = f"The pipeline of a cell, images to logits: {cell.target.label} behind {cell.purifier.name}."
    arguments = ", ".join(f"{name}={value!r}" for name, value in how.items())
    write_text(
        folder / "pipeline.py",
        f"{what!r}\n\n"  # as repr: a name cannot end the text and go on as code
        "import benchmark\n\n"
        f"exported = benchmark.export({arguments})\n"
        "pipeline, images, labels = exported.pipeline, exported.images, exported.labels\n",
    )
