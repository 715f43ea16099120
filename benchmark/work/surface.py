"""Building the surface that an attack is run on or trained against."""

from __future__ import annotations

import torch

from benchmark.errors import PluginError
from benchmark.noise import Noise, StreamNoise
from benchmark.refs import DatasetRef
from benchmark.tasks import Bank, SurfaceSpec
from benchmark.threats.mimic import MimicNet
from benchmark.threats.surfaces import Ingredients, MeteredSurface, build_surface
from benchmark.work.scale import ScaledTarget
from benchmark.work.workshop import Stopwatch, Workshop

_BATCH = 100


def make_surface(
    spec: SurfaceSpec, data: DatasetRef, workshop: Workshop, seed: int, times: int = 1
) -> MeteredSurface:
    """The surface as a module in evaluation mode, its meter at zero; `seed` is for random purifiers.

    `times` as many draws of a random purifier are averaged as the threat asked for. If the scores of the
    target are too small or too large to be followed, each surface gets them multiplied by one factor.
    """
    dataset = workshop.dataset(data)
    bank = None
    if spec.bank is not None:
        stored = workshop.tensors(spec.bank)
        bank = stored["images"].to(workshop.device), stored["labels"].to(workshop.device)
    mimic = None
    if spec.mimic is not None:
        mimic = MimicNet(dataset.image_shape[0])
        mimic.load_state_dict(workshop.tensors(spec.mimic))
        mimic.to(workshop.device).requires_grad_(False)
    target, factor = workshop.target(spec.target), workshop.score_factor(spec.target)
    purifier = None
    if spec.purifier is not None:  # last: to make anew what is lost takes the same module
        purifier = workshop.purifier(spec.purifier, data)
        purifier.noise = StreamNoise(seed)
        purifier.forget()
    ingredients = Ingredients(
        target if factor == 1 else ScaledTarget(target, factor),
        purifier,
        bank,
        mimic,
        len(dataset.class_names),
        dataset.image_shape,
    )
    draws = None if spec.draws is None else spec.draws * times
    return build_surface(spec.form, ingredients, draws).eval()


def fill_bank(task: Bank, workshop: Workshop) -> None:
    """Store purified training images of all classes."""
    purifier = workshop.purifier(task.purifier, task.dataset)
    data = workshop.training_data(task.dataset)
    chosen = balanced(data.train.labels, task.count)
    seed, made = task.seed_for("purify"), []
    with torch.no_grad(), Stopwatch(workshop.device) as watch:
        for part in chosen.split(_BATCH):  # type: ignore[no-untyped-call]
            purifier.noise = Noise(seed, part.tolist())
            purifier.forget()
            made.append(purifier(data.take(part)[0]).cpu())
    tensors = {"images": torch.cat(made), "labels": data.train.labels[chosen]}
    workshop.put_tensors(task, tensors, {"seconds": watch.seconds, "images": len(chosen)})


def balanced(labels: torch.Tensor, count: int) -> torch.Tensor:
    """The indices of the first images of each class, `count` in all or a few more.

    Raises:
        PluginError: There are no training images.
    """
    if not len(labels):
        raise PluginError("white-box makes surfaces of training images, and this data set has none")
    classes = labels.unique()  # type: ignore[no-untyped-call]
    each = max(1, -(-count // len(classes)))
    return torch.cat([(labels == label).nonzero().flatten()[:each] for label in classes])
