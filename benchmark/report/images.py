"""The images behind a cell, as the store has them: nothing is computed for a report."""

from __future__ import annotations

import base64
import io
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmark.cells import Cell
from benchmark.errors import PluginError, UserError
from benchmark.figures import grouped
from benchmark.records import Row
from benchmark.rerun import run_again
from benchmark.runs import Prepared, read_about
from benchmark.tasks import Score, Task
from benchmark.work.workshop import address

_SIDE = 48
"""Larger images are shown this small."""

_GAP = 2

_PICTURES = 3
_ALL_PICTURES = 900
"""Pictures in a report: some of each cell, fewer of each where there are very many cells."""

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """One image of a cell: four tiles side by side as a PNG in a `data:` URL, and a caption for each.

    Attributes:
        index: Of the image in the test order.
        url: Clean, adversarial, purified, and the amplified difference of the first two.
        captions: What is said about each.
        fooled: Whether the pipeline errs on the adversarial image.
    """

    index: int
    url: str
    captions: tuple[str, str, str, str]
    fooled: bool


@dataclass(frozen=True)
class Strip:
    """The pictures of one cell; `note` says why there are none, or what to know about them."""

    pictures: tuple[Picture, ...] = ()
    note: str = ""


class Images(ABC):
    """Where the images of a run's cells are.

    Attributes:
        left_out: Why the page is without any images; None if it may have some.
    """

    left_out: str | None = None

    @abstractmethod
    def strip(self, key: str, rows: Sequence[Row]) -> Strip:
        """The pictures of some images of a cell.

        Args:
            key: Of the cell.
            rows: What `outcomes.parquet` says about those images.
        """


class NoImages(Images):
    """There are none, for one and the same reason."""

    def __init__(self, reason: str) -> None:
        self.left_out = reason

    def strip(self, key: str, rows: Sequence[Row]) -> Strip:
        return Strip(note=self.left_out or "")


class StoredImages(Images):
    """What the store has of a grid that was planned."""

    def __init__(self, prepared: Prepared) -> None:
        self._workshop = prepared.workshop
        self._cells = {cell.key: cell for cell in prepared.plan.cells}
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def strip(self, key: str, rows: Sequence[Row]) -> Strip:
        cell = self._cells.get(key)
        if cell is None or not cell.scores:
            return Strip(note="No images: code or data have changed since, so this cell is another one now.")
        pictures = [self._picture(cell, row) for row in rows]
        there = tuple(picture for picture in pictures if picture is not None)
        if len(there) < len(pictures):
            return Strip(there, "The store does not hold the images of this cell.")
        random = "The purified images are of the draw to select by; the predictions are of a fresh one."
        return Strip(there, random if cell.purifier.stochastic else "")

    def _picture(self, cell: Cell, row: Row) -> Picture | None:
        score = next((s for s in cell.scores if row["index"] in s.shard.indices), None)
        route = (
            None if score is None else next((c for c in score.candidates if c.route == row["route"]), None)
        )
        if score is None or route is None:
            return None
        at = row["index"] - score.shard.start
        clean = self._clean(score)[at]
        adversarial = clean if route.craft is None else self._stored(route.craft, at)
        purified = self._stored(route.purify, at)
        if adversarial is None or purified is None:
            return None
        difference, factor = amplified(adversarial - clean)
        names = self._workshop.dataset(cell.dataset).class_names
        captions = _captions(row, names, factor)
        url = png_url([clean, adversarial, purified, difference])
        return Picture(int(row["index"]), url, captions, bool(row["adversarial"] != row["label"]))

    def _clean(self, score: Score) -> Tensor:
        key = f"{score.shard.dataset.title} {score.shard.start} {score.shard.stop}"
        return self._cached(key, lambda: self._workshop.clean(score.shard)[0].cpu())

    def _stored(self, task: Task, at: int) -> Tensor | None:
        """One image of a stored result; None where the store lacks it. Nothing is computed anew."""
        tensors = self._cached(task.key, lambda: self._workshop.store.get_tensors(address(task)))
        return None if tensors is None else tensors["images"][at]

    def _cached(self, key: str, load: Callable[[], T]) -> T:
        if key not in self._kept:
            self._kept[key] = load()
            while len(self._kept) > 64:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        found: T = self._kept[key]
        return found


def images_of(
    run: Path,
    *,
    data: Path | None,
    store: str | None,
    plugins: Sequence[Path],
    trust: Sequence[str | Path] = (),
) -> Images:
    """The images of a run that was made before, by planning its grid again.

    Only the code in `plugins` and `trust` runs, and nothing is downloaded. If the grid needs more, there are
    no images, and the reason says which option to add.
    """
    from benchmark.display import Silent

    if read_about(run).get("grid") is None:
        return NoImages("No images: there is no run.json with the grid.")
    options: dict[str, Any] = {"data": data, "store": store, "device": "cpu"}
    try:
        prepared = run_again(run, Silent(), plugins=plugins, trust=trust, look=True, **options)
    except (UserError, PluginError) as error:
        return NoImages(f"No images: the grid of the run cannot be planned here ({error}).")
    if prepared.absent:
        return NoImages(f"No images: the data sets {', '.join(prepared.absent)} are not here; see --data.")
    return StoredImages(prepared)


def telling_rows(outcomes: pd.DataFrame) -> dict[str, list[Row]]:
    """By key of a cell some images that show what happened: first one that was broken and one that was not.

    Args:
        outcomes: The rows of all cells, as `outcomes.parquet` has them.
    """
    places = outcomes.groupby("key", observed=True, sort=False).indices
    if not places:
        return {}
    count = max(1, min(_PICTURES, _ALL_PICTURES // len(places)))
    labels, clean = outcomes["label"].to_numpy(), outcomes["clean"].to_numpy()
    was_right, is_right = clean == labels, outcomes["adversarial"].to_numpy() == labels
    order = [at[_telling(was_right[at], is_right[at])[:count]] for at in places.values()]
    # One frame of what was chosen: thousands of tiny ones would take seconds.
    return grouped(outcomes.iloc[np.concatenate(order)].to_dict("records"), "key")


def _telling(was_right: NDArray[np.bool_], is_right: NDArray[np.bool_]) -> NDArray[np.intp]:
    """All images of a cell, those that tell most first."""
    broken, survived = np.flatnonzero(was_right & ~is_right), np.flatnonzero(was_right & is_right)
    rest = np.flatnonzero(~was_right)
    return np.concatenate([broken[:1], survived[:1], broken[1:], survived[1:], rest])


def amplified(difference: Tensor) -> tuple[Tensor, float]:
    """A difference of images around middle grey, so amplified that the largest change is black or white."""
    largest = difference.abs().max().item()
    factor = 0.5 / largest if largest > 0 else 1.0
    return (0.5 + factor * difference).clamp(0, 1), factor


def png_url(tiles: Iterable[Tensor]) -> str:
    """Images of one shape (C, H, W) side by side, as a PNG in a `data:` URL; larger ones made small."""
    pictures = [_image(tile) for tile in tiles]
    width, height = pictures[0].size
    sheet = Image.new(pictures[0].mode, (len(pictures) * (width + _GAP) - _GAP, height), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place * (width + _GAP), 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _image(tile: Tensor) -> Image.Image:
    values = (tile.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.squeeze(values, axis=2) if values.shape[2] == 1 else values)
    picture.thumbnail((_SIDE, _SIDE))
    return picture


def _captions(row: Row, names: Sequence[str], factor: float) -> tuple[str, str, str, str]:
    def name(column: str) -> str:
        return str(names[int(row[column])])

    return (
        f"clean: {name('label')}; pipeline says {name('clean')}",
        f"adversarial: bare target says {name('target_adversarial')}",
        f"purified: pipeline says {name('adversarial')}",
        f"difference ×{factor:.2g}",
    )
