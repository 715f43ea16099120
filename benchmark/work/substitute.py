"""Training classifiers on the labels that a pipeline gives away when it is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attacks.contract import Surface
from benchmark.datasets.contract import TensorSplit, TrainingData
from benchmark.noise import Noise
from benchmark.opened_files import watching
from benchmark.plugin import NoCheckpoints
from benchmark.tasks import TrainSubstitute
from benchmark.work.seeding import seeded
from benchmark.work.surface import make_surface
from benchmark.work.workshop import Stopwatch, Workshop

_FIRST_IMAGES = 150
_ROUNDS = 5
_STRIDE = 0.1
_BATCH = 100


def train_substitute(task: TrainSubstitute, workshop: Workshop) -> None:
    """Train a substitute and store its weights, with how many labels were asked for and its error.

    The attacker's images are the validation images: the target has not learned from them.
    """
    data = workshop.training_data(task.dataset)
    surface = make_surface(task.oracle, task.dataset, workshop, task.seed_for("oracle"))
    with seeded(task.seed_for("init")), Stopwatch(workshop.device) as watch:
        model: Any = workshop.new_target(task).to(workshop.device)
        model.checkpoints = NoCheckpoints()  # what it learns from next follows from its weights now
        model.reporter = lambda done, total, figures: workshop.on_training(task, done, total, figures)
        student = _Student(model, data, surface, torch.Generator().manual_seed(task.seed_for("fit")))
        images = data.validation.take(torch.arange(len(data.validation))).to(workshop.device)
        if task.how == "jacobian":
            student.explore(images[:_FIRST_IMAGES])
        elif task.start is None:
            student.learn(images)
        else:
            student.go_on(task, workshop, images)
    model.eval()
    meta = {
        "seconds": watch.seconds,
        "curve": [],
        "queries": student.queries,
        "validation_error": _error(model, data),
    }
    workshop.put_tensors(task, model.state_dict(), meta)


@dataclass
class _Student:
    """A classifier that learns from what it is told."""

    model: Any
    data: TrainingData
    oracle: Surface
    generator: torch.Generator
    queries: int = 0

    def learn(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Fit the classifier to images and the labels that the oracle gives them."""
        labels = self.ask(images) if labels is None else labels
        told = TensorSplit(images.cpu(), labels.cpu())
        with watching("target", self.model):
            self.model.train().fit(replace(self.data, train=told), self.generator)
        self.model.eval()

    def ask(self, images: Tensor) -> Tensor:
        """The oracle's labels (B,)."""
        self.queries += len(images)
        with torch.no_grad():
            return torch.cat([self.oracle(part).argmax(dim=1) for part in self._parts(images)])

    @staticmethod
    def _parts(images: Tensor) -> tuple[Tensor, ...]:
        return images.split(_BATCH)  # type: ignore[no-untyped-call,no-any-return]

    def explore(self, images: Tensor) -> None:
        """Papernot et al. 2017 ("Practical Black-Box Attacks", algorithm 1): double the images at each round.

        New ones lie a stride along the sign of the gradient of the score of their label.
        """
        labels = self.ask(images)
        for _ in range(_ROUNDS - 1):
            self.learn(images, labels)
            x = images.clone().requires_grad_()
            with torch.enable_grad():
                scores = self.model(x).gather(1, labels[:, None]).sum()
            (gradient,) = torch.autograd.grad(scores, x)
            new = (images + _STRIDE * gradient.sign()).clamp(0, 1)
            images, labels = torch.cat([images, new]), torch.cat([labels, self.ask(new)])
        self.learn(images, labels)

    def go_on(self, task: TrainSubstitute, workshop: Workshop, images: Tensor) -> None:
        """Learn also from what a generator makes that was trained against the classifier as it was."""
        assert task.start is not None
        assert task.generator is not None
        self.model.load_state_dict(workshop.target(task.start).state_dict())
        attack = workshop.trained_attack(task.generator)
        truth = self.data.validation.labels.to(images.device)
        made = []
        for start in range(0, len(images), _BATCH):
            part = slice(start, start + _BATCH)
            noise = Noise(0, range(start, start + len(images[part])))
            with watching("attack", attack):
                made.append(attack.craft(self.oracle, images[part], truth[part], noise))
        self.learn(torch.cat([images, *made]))


def _error(model: nn.Module, data: TrainingData) -> float:
    wrong = 0
    with torch.no_grad():
        for images, labels in data.validation_batches(_BATCH):
            wrong += int((model(images).argmax(dim=1) != labels).sum())
    return wrong / max(1, len(data.validation))
