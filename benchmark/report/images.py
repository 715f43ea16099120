"""The pictures of a report. They come from stored results; nothing is computed for a report."""

from __future__ import annotations

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from benchmark.execution.context import ExecutionContext, address
from benchmark.execution.lru_cache import LRUCache
from benchmark.files.tables import Row
from benchmark.plan.cells import Cell
from benchmark.plan.tasks import Task
from benchmark.results.cell_outcomes import group_by

_SIDE = 48
"""Larger images are reduced to this size."""

_GAP = 2

_PICTURES = 3
_ALL_PICTURES = 900
"""Pictures in a report; with very many cells each has fewer of them."""


@dataclass(frozen=True)
class Picture:
    """One image of a cell: four tiles side by side as a PNG in a `data:` URL, and a caption for each.

    Attributes:
        index: Index of the image in the test set.
        url: Clean, adversarial, purified, and the amplified difference of the first two.
        misclassified: Whether the pipeline misclassifies the adversarial image.
    """

    index: int
    url: str
    captions: tuple[str, str, str, str]
    misclassified: bool


@dataclass(frozen=True)
class Strip:
    """The pictures of one cell; `note` explains them or says why there are none."""

    pictures: tuple[Picture, ...] = ()
    note: str = ""


class Images(ABC):
    """Source of the pictures of a run's cells.

    Attributes:
        left_out: Why the page has no images; None if it may have some.
    """

    left_out: str | None = None

    @abstractmethod
    def strip(self, key: str, outcomes: Sequence[Row]) -> Strip:
        """The pictures of some images of the cell with a key; one row of `outcomes.parquet` for each."""


class ImagesUnavailable(Images):
    """No images, for the same reason in all cells."""

    def __init__(self, reason: str) -> None:
        self.left_out = reason

    def strip(self, key: str, outcomes: Sequence[Row]) -> Strip:
        return Strip(note=self.left_out or "")


class StoredImages(Images):
    """The stored images of a planned grid."""

    def __init__(self, context: ExecutionContext, cells: Iterable[Cell]) -> None:
        self._context = context
        self._cells = {cell.key: cell for cell in cells}
        self._cache: LRUCache[Any] = LRUCache(64)

    def strip(self, key: str, outcomes: Sequence[Row]) -> Strip:
        cell = self._cells.get(key)
        if cell is None or not cell.scores:
            note = "No images: code or data have changed since the run, so the cell has another key now."
            return Strip(note=note)
        pictures = [self._picture(cell, outcome) for outcome in outcomes]
        stored = tuple(picture for picture in pictures if picture is not None)
        note = "The purified images are from the draw of the selection, the predictions from a fresh one."
        if len(stored) < len(pictures):
            note = "The store does not hold the images of this cell."
        elif not cell.purifier.stochastic:
            note = ""
        return Strip(stored, note)

    def _picture(self, cell: Cell, outcome: Row) -> Picture | None:
        score = next((s for s in cell.scores if outcome["index"] in s.shard.indices), None)
        candidates = () if score is None else score.candidates
        candidate = next((c for c in candidates if c.route == outcome["route"]), None)
        if score is None or candidate is None:
            return None
        shard = score.shard
        position = outcome["index"] - shard.start
        key = f"{shard.dataset.title} {shard.start} {shard.stop}"
        clean = self._cache.get(key, lambda: self._context.clean(shard)[0].cpu())[position]
        adversarial = clean if candidate.craft is None else self._stored(candidate.craft, position)
        purified = self._stored(candidate.purify, position)
        if adversarial is None or purified is None:
            return None
        difference, factor = amplified(adversarial - clean)
        url = png_url([clean, adversarial, purified, difference])
        classes = self._context.dataset(cell.dataset).class_names
        columns = ("label", "clean", "target_adversarial", "adversarial")
        label, on_clean, of_target, on_adversarial = (classes[int(outcome[name])] for name in columns)
        captions = (
            f"clean: {label}; pipeline predicts {on_clean}",
            f"adversarial: bare target predicts {of_target}",
            f"purified: pipeline predicts {on_adversarial}",
            f"difference ×{factor:.2g}",
        )
        misclassified = bool(outcome["adversarial"] != outcome["label"])
        return Picture(int(outcome["index"]), url, captions, misclassified)

    def _stored(self, task: Task, position: int) -> Tensor | None:
        """One image of a stored result; None if the store lacks it."""
        tensors = self._cache.get(task.key, lambda: self._context.store.get_tensors(address(task)))
        return None if tensors is None else tensors["images"][position]


def representative_outcomes(outcomes: pd.DataFrame) -> dict[str, list[Row]]:
    """Select a few outcomes of each cell by its key: first a misclassified image, then a robust one."""
    positions = outcomes.groupby("key", observed=True, sort=False).indices
    if not positions:
        return {}
    count = max(1, min(_PICTURES, _ALL_PICTURES // len(positions)))
    labels = outcomes["label"].to_numpy()
    clean_right, right = (outcomes[name].to_numpy() == labels for name in ("clean", "adversarial"))
    selected = []
    for cell in positions.values():
        misclassified, robust = cell[clean_right[cell] & ~right[cell]], cell[clean_right[cell] & right[cell]]
        rest = cell[~clean_right[cell]]  # misclassified even when clean
        order = [misclassified[:1], robust[:1], misclassified[1:], robust[1:], rest]
        selected.append(np.concatenate(order)[:count])
    # One frame with all selected rows: thousands of tiny frames would take seconds.
    return group_by(outcomes.iloc[np.concatenate(selected)].to_dict("records"), itemgetter("key"))


def amplified(difference: Tensor) -> tuple[Tensor, float]:
    """A difference of images around middle grey, amplified until the largest change is black or white."""
    largest = difference.abs().max().item()
    factor = 0.5 / largest if largest > 0 else 1.0
    return (0.5 + factor * difference).clamp(0, 1), factor


def png_url(tiles: Iterable[Tensor]) -> str:
    """Images of one shape (C, H, W) side by side as a PNG in a `data:` URL; large images are reduced."""
    pictures = [_image(tile) for tile in tiles]
    width, height = pictures[0].size
    sheet = Image.new(pictures[0].mode, (len(pictures) * (width + _GAP) - _GAP, height), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number * (width + _GAP), 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _image(tile: Tensor) -> Image.Image:
    values = (tile.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.squeeze(values, axis=2) if values.shape[2] == 1 else values)
    picture.thumbnail((_SIDE, _SIDE))
    return picture
