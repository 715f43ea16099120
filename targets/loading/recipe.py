"""The training recipe of the built-in classifiers: schedule, augmentation, adversarial training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from benchmark.api import Config, Loop, Target, TrainingData, frozen_batchnorm, perturb, steps_of, train

_PGD_STEPS = 10
_MOMENTUM = 0.9
_PAD = 4
"""Pixels by which an augmented image may be shifted, as is usual for CIFAR-10 (He et al. 2016)."""


class Adversarial(BaseModel):
    """Adversarial training: a share of every batch is replaced by adversarial examples.

    Every step makes them against the current weights and from the true labels, by FGSM (Goodfellow et al.
    2015) or by PGD from a random start (Madry et al. 2018; `steps` steps of 2.5 · eps / steps). `share` is
    0.5 in Goodfellow et al. and 1 in Madry et al. Over the first share `warmup` of the training eps grows
    from 0: with the full eps from the start, a network may learn to predict one class for all images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    attack: Literal["fgsm", "pgd"]
    eps: float = Field(gt=0, le=1)
    steps: int = Field(_PGD_STEPS, ge=1)
    share: float = Field(0.5, gt=0, le=1)
    warmup: float = Field(0.25, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _set_default_steps(cls, values: Any) -> Any:
        """One step for FGSM, so that equal trainings have equal configurations."""
        if isinstance(values, Mapping) and values.get("attack") == "fgsm":
            return {"steps": 1, **values}
        return values

    @model_validator(mode="after")
    def _refuse_fgsm_steps(self) -> Self:
        if self.attack == "fgsm" and self.steps != 1:
            raise ValueError("fgsm takes one step; for more there is pgd")
        return self


class RecipeConfig(Config):
    """`epochs` passes, but at least `min_steps` batches; the learning rate `lr` falls to 0 along a cosine.

    `optimizer` is `adam`, or `sgd` with Nesterov `momentum` (0.9). `augment`: random shifts by up to four
    pixels and horizontal flips; null means for colour images of 32×32 pixels only. `adversarial` trains on
    adversarial examples as well: `{attack: fgsm or pgd, eps, steps, share, warmup}`.
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
    def _set_default_momentum(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        optimizer = values.get("optimizer", cls.model_fields["optimizer"].default)
        return {"momentum": _MOMENTUM, **values} if optimizer == "sgd" else values

    @model_validator(mode="after")
    def _refuse_adam_momentum(self) -> Self:
        if self.optimizer == "adam" and self.momentum is not None:
            raise ValueError("momentum is sgd's; adam has its own averages")
        return self


RecipeT = TypeVar("RecipeT", bound=RecipeConfig)


class TrainedTarget(Target[RecipeT]):
    """Base class of classifiers that are trained by this recipe; subclasses set `layers`.

    On a GPU the training uses the channels-last memory format, and bfloat16 if the GPU supports it.

    Attributes:
        layers: The network; its input is the images minus `centre`.
        centre: Constant that is subtracted from the pixels.
        channels_last: Use channels last on CPUs too, for networks that were measured to be faster with it.
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
        use_bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        for images, labels in loop:
            loop.cosine(optimizer, config.lr)
            if augment:
                images = shift_and_flip(images, generator)
            measurements = {}
            with torch.autocast(data.device.type, dtype=torch.bfloat16, enabled=use_bfloat16):
                if recipe is not None:
                    images, count = self._with_adversarial(images, labels, recipe, loop, generator)
                logits = self(images)
                loss = F.cross_entropy(logits, labels)
            if recipe is not None:
                wrong = logits[:count].argmax(dim=1) != labels[:count]
                measurements["adversarial_error"] = wrong.float().mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loop.report(loss=loss, **measurements)

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
        """The batch with its first images replaced by adversarial examples, and their number."""
        count = max(1, round(recipe.share * len(images)))
        clean, labels = images[:count], labels[:count]
        eps = recipe.eps * min(1.0, loop.progress / recipe.warmup) if recipe.warmup else recipe.eps
        start = None
        if recipe.attack == "pgd":
            uniform = 2 * torch.rand(clean.shape, generator=generator) - 1
            start = clean + eps * uniform.to(clean.device)
        with frozen_batchnorm(self):
            adversarial = perturb(self, clean, labels, eps=eps, steps=recipe.steps, start=start)
        return torch.cat([adversarial, images[count:]]), count


def shift_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to four pixels in each direction, padded with 0, and flip it with probability ½.

    Args:
        images: Shape (B, C, H, W).
        generator: Random generator on the CPU.
    """
    count, channels, height, width = images.shape
    down, right = torch.randint(0, 2 * _PAD + 1, (2, count), generator=generator).to(images.device)
    flipped = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    rows = torch.arange(height, device=images.device) + down[:, None]
    columns = torch.arange(width, device=images.device)
    columns = torch.where(flipped[:, None], width - 1 - columns, columns) + right[:, None]
    padded = F.pad(images, [_PAD] * 4)
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


class DeepConfig(RecipeConfig):
    __doc__ = RecipeConfig.__doc__

    epochs: int = train(30, ge=1)
    lr: float = train(0.1, gt=0)
    optimizer: Literal["adam", "sgd"] = train("sgd")
    weight_decay: float = train(5e-4, ge=0)


def initialise(module: nn.Module) -> None:
    """Initialise convolutions for ReLU as in He et al. 2015; for `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
