"""The training that the classifiers share: a schedule, augmentation, adversarial training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from benchmark.adversarial import perturbed, undisturbed
from benchmark.datasets.contract import TrainingData
from benchmark.plugin import Config, train
from benchmark.training import Loop, steps_of
from targets.contract import Target

_PGD_STEPS = 10
_MOMENTUM = 0.9
_PAD = 4
"""Pixels by which an augmented image may be shifted, as is usual for CIFAR-10 (He et al. 2016)."""


class Adversarial(BaseModel):
    """Adversarial training: a part of every batch is replaced by images made against the classifier.

    Made anew in every step from the true labels, by FGSM (Goodfellow et al. 2015) or by PGD from a random
    start (Madry et al. 2018; `steps` steps of 2.5 · eps / steps). `share` is that part of the batch: half
    as in Goodfellow et al., 1 as in Madry et al. Over the first `warmup` of the training eps grows from 0:
    at full size from the start, a net may settle on one class for everything.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    attack: Literal["fgsm", "pgd"]
    eps: float = Field(gt=0, le=1)
    steps: int = Field(_PGD_STEPS, ge=1)
    share: float = Field(0.5, gt=0, le=1)
    warmup: float = Field(0.25, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_steps(cls, given: Any) -> Any:
        """One of FGSM: so that equal trainings are written equally."""
        if isinstance(given, Mapping) and given.get("attack") == "fgsm":
            return {"steps": 1, **given}
        return given

    @model_validator(mode="after")
    def _refuse_steps_of_fgsm(self) -> Self:
        if self.attack == "fgsm" and self.steps != 1:
            raise ValueError("fgsm takes one step; for more there is pgd")
        return self


class RecipeConfig(Config):
    """`epochs` passes but never fewer than `min_steps` batches, the rate `lr` falling to 0 along a cosine.

    `optimizer` is `adam`, or `sgd` with Nesterov's `momentum` (0.9). `augment`: random shifts by up to four
    pixels and mirror images; None is where images have colours and 32×32 pixels. `adversarial` trains on
    adversarial images as well: `{attack: fgsm or pgd, eps, steps, share, warmup}`.
    """

    epochs: int = train(4, ge=1)
    min_steps: int = train(250, ge=0)
    batch_size: int = train(128, ge=2)
    lr: float = train(1e-3, gt=0)
    optimizer: Literal["adam", "sgd"] = train("adam")
    momentum: float | None = train(None, ge=0, lt=1)
    weight_decay: float = train(0.0, ge=0)
    augment: bool | None = train(None)
    adversarial: Adversarial | None = train(None)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_momentum(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        optimizer = given.get("optimizer", cls.model_fields["optimizer"].default)
        return {"momentum": _MOMENTUM, **given} if optimizer == "sgd" else given

    @model_validator(mode="after")
    def _refuse_momentum_of_adam(self) -> Self:
        if self.optimizer == "adam" and self.momentum is not None:
            raise ValueError("momentum is sgd's; adam has its own averages")
        return self


RecipeT = TypeVar("RecipeT", bound=RecipeConfig)


class TrainedTarget(Target[RecipeT]):
    """A classifier that is trained by the shared recipe: the subclasses give `layers`.

    On a GPU the training runs with channels last, and in bfloat16 where the GPU computes in it.

    Attributes:
        layers: What `forward` applies to the images, less `centre`.
        centre: What is subtracted from the pixels first.
        channels_last: Whether weights lie with channels last on a CPU too, where that was measured to help.
    """

    layers: nn.Module
    centre: ClassVar[float] = 0.0
    channels_last: ClassVar[bool] = False

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x - self.centre if self.centre else x)  # type: ignore[no-any-return]

    def fit(self, data: TrainingData, generator: torch.Generator) -> None:
        config, recipe = self.config, self.config.adversarial
        on_gpu = data.device.type == "cuda"
        if on_gpu or self.channels_last:
            self.to(memory_format=torch.channels_last)
        optimizer = self._optimizer()
        steps = steps_of(data, epochs=config.epochs, batch_size=config.batch_size, at_least=config.min_steps)
        loop = Loop(self, data, generator, batch_size=config.batch_size, steps=steps, optimizer=optimizer)
        augment = data.image_shape == (3, 32, 32) if config.augment is None else config.augment
        halved = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        for images, labels in loop:
            loop.cosine(optimizer, config.lr)
            if augment:
                images = shifted_and_mirrored(images, generator)
            with torch.autocast(data.device.type, dtype=torch.bfloat16, enabled=halved):
                figures = {}
                if recipe is not None:
                    images, attacked = self._with_adversarial(images, labels, recipe, loop, generator)
                scores = self(images)
                loss = F.cross_entropy(scores, labels)
            if recipe is not None:
                wrong = scores[:attacked].argmax(dim=1) != labels[:attacked]
                figures["adversarial_error"] = wrong.float().mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loop.report(loss=loss, **figures)

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        if config.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        momentum = config.momentum or 0.0
        return torch.optim.SGD(
            self.parameters(),
            lr=config.lr,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=config.weight_decay,
        )

    def _with_adversarial(
        self, images: Tensor, labels: Tensor, recipe: Adversarial, loop: Loop, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        """The batch with its first images attacked, and how many these are."""
        count = max(1, round(recipe.share * len(images)))
        clean, labels = images[:count], labels[:count]
        eps = recipe.eps * min(1.0, loop.progress / recipe.warmup) if recipe.warmup else recipe.eps
        start = None
        if recipe.attack == "pgd":
            drawn = 2 * torch.rand(clean.shape, generator=generator) - 1
            start = clean + eps * drawn.to(clean.device)
        with undisturbed(self):
            found = perturbed(self, clean, labels, eps=eps, steps=recipe.steps, start=start)
        return torch.cat([found, images[count:]]), count


def shifted_and_mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to four pixels either way, black coming in, and mirrored half of the time.

    Args:
        images: Shape (B, C, H, W).
        generator: On the CPU.
    """
    count, channels, height, width = images.shape
    down, right = torch.randint(0, 2 * _PAD + 1, (2, count), generator=generator).to(images.device)
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    rows = torch.arange(height, device=images.device) + down[:, None]
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + right[:, None]
    padded = F.pad(images, [_PAD] * 4)
    each = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[each, channel, rows[:, None, :, None], columns[:, None, None, :]]


def check_small(name: str, image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError for images that are neither 28×28 nor 32×32."""
    _, height, width = image_shape
    if (height, width) not in ((28, 28), (32, 32)):
        raise ValueError(f"{name} takes 28×28 or 32×32 images, got {height}×{width}")


class DeepConfig(RecipeConfig):
    __doc__ = RecipeConfig.__doc__

    epochs: int = train(30, ge=1)
    lr: float = train(0.1, gt=0)
    optimizer: Literal["adam", "sgd"] = train("sgd")
    weight_decay: float = train(5e-4, ge=0)


def initialise(module: nn.Module) -> None:
    """Weights of convolutions for ReLU, as in He et al. 2015; for `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
