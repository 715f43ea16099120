"""Training substitute classifiers on labels that an attacker queries from a pipeline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmark.api.attack import Surface
from benchmark.api.dataset import TensorSplit, TrainingData
from benchmark.api.noise import Noise
from benchmark.execution.context import ExecutionContext
from benchmark.execution.seeding import seeded
from benchmark.execution.stopwatch import Stopwatch
from benchmark.execution.surfaces import make_surface
from benchmark.execution.train import validation_error
from benchmark.plan.tasks import TrainSubstitute
from benchmark.plugins.opened_files import watching

_FIRST_IMAGES = 150
_ROUNDS = 5
_STRIDE = 0.1
_BATCH = 100


def train_substitute(task: TrainSubstitute, context: ExecutionContext) -> None:
    """Train a substitute and store its weights, its validation error and the number of queries.

    The attacker's images are the validation images, because the target was not trained on them.
    """
    data = context.training_data(task.dataset)
    surface = make_surface(task.oracle, task.dataset, context, task.seed_for("oracle"))
    with seeded(task.seed_for("init")), Stopwatch(context.device) as watch:
        model: Any = context.new_target(task).to(context.device)
        generator = torch.Generator().manual_seed(task.seed_for("fit"))
        trainer = _SubstituteTrainer(model, data, surface, generator)
        images = data.validation.take(torch.arange(len(data.validation))).to(context.device)
        # no checkpoints: later training images depend on the weights
        with model.training_with(partial(context.on_training, task)):
            if task.how == "jacobian":
                trainer.fit_with_jacobian_augmentation(images[:_FIRST_IMAGES])
            elif task.start is None:
                trainer.fit(images)
            else:
                trainer.fit_with_generator(task, context, images)
    model.eval()
    meta = {"seconds": watch.seconds, "curve": [], "queries": trainer.queries}
    meta["validation_error"] = validation_error(model, data) or 0.0
    context.put_tensors(task, model.state_dict(), meta)


@dataclass
class _SubstituteTrainer:
    """Trains a classifier on the labels of an oracle, and counts the queries."""

    model: Any
    data: TrainingData
    oracle: Surface
    generator: torch.Generator
    queries: int = 0

    def fit(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Fit the classifier to images, with labels from the oracle if none are given."""
        train = TensorSplit(images.cpu(), (self.query(images) if labels is None else labels).cpu())
        with watching("target", self.model):
            self.model.train().fit(replace(self.data, train=train), self.generator)
        self.model.eval()

    def query(self, images: Tensor) -> Tensor:
        self.queries += len(images)
        batches: tuple[Tensor, ...] = images.split(_BATCH)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            return torch.cat([self.oracle(batch).argmax(dim=1) for batch in batches])

    def fit_with_jacobian_augmentation(self, images: Tensor) -> None:
        """Double the images in each round: Papernot et al. 2017, "Practical Black-Box Attacks", algorithm 1.

        Each new image lies one stride along the sign of the gradient of the score of its label.
        """
        labels = self.query(images)
        for _ in range(_ROUNDS - 1):
            self.fit(images, labels)
            x = images.clone().requires_grad_()
            with torch.enable_grad():
                scores = self.model(x).gather(1, labels[:, None]).sum()
            (gradient,) = torch.autograd.grad(scores, x)
            new = (images + _STRIDE * gradient.sign()).clamp(0, 1)
            images, labels = torch.cat([images, new]), torch.cat([labels, self.query(new)])
        self.fit(images, labels)

    def fit_with_generator(self, task: TrainSubstitute, context: ExecutionContext, images: Tensor) -> None:
        """Train the earlier substitute further, also on the images of a generator trained against it."""
        assert task.start is not None
        assert task.generator is not None
        self.model.load_state_dict(context.target(task.start).state_dict())
        attack = context.trained_attack(task.generator)
        labels = self.data.validation.labels.to(images.device)
        generated = []
        for start in range(0, len(images), _BATCH):
            batch = slice(start, start + _BATCH)
            noise = Noise(0, range(start, start + len(images[batch])))
            with watching("attack", attack):
                generated.append(attack.craft(self.oracle, images[batch], labels[batch], noise))
        self.fit(torch.cat([images, *generated]))
