"""AdvGAN (Xiao et al. 2018, "Generating Adversarial Examples with Adversarial Networks").

There is no official code. The networks (small versions of those of pix2pix) follow public reimplementations.
These disagree on the weights of the losses; `AdvGanConfig` states those of this attack.
"""

from __future__ import annotations

import math

import torch
from benchmark.attacks.steps.goal import Goal
from torch import Tensor, nn

from benchmark.api import (
    Attack,
    Config,
    Loop,
    Noise,
    Surface,
    TrainingData,
    attack,
    lengths,
    param,
    steps_of,
    sweep,
)


class AdvGanConfig(Config):
    """`eps`: radius of the L∞ ball; each radius has its own generator.

    The loss of the generator is `adv_weight` · max(κ − margin, 0) + `alpha` · the least-squares GAN loss +
    `beta` · max(|δ|₂ − c, 0), where δ is clipped to the ball first. `c`: by default half of the largest |δ|₂
    in the ball. `target_class`: the target class; null for any wrong class.
    """

    eps: float = sweep(ge=0, le=1)
    target_class: int | None = param(None, ge=0)
    kappa: float = param(0.0, ge=0)
    adv_weight: float = param(10.0, gt=0)
    alpha: float = param(1.0, ge=0)
    beta: float = param(1.0, ge=0)
    c: float | None = param(None, ge=0)
    epochs: int = param(4, ge=1)
    min_steps: int = param(250, ge=0)
    batch_size: int = param(128, ge=2)
    lr: float = param(1e-3, gt=0)


@attack("advgan")
class AdvGan(Attack[AdvGanConfig], nn.Module):
    """Trains a generator against the surface that maps an image to its perturbation in one pass.

    Under white-box the surface is the whole pipeline, so the defense is in the training loop.
    """

    norm = "linf"
    trainable = True

    @property
    def targeted(self) -> bool:
        return self.config.target_class is not None

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        channels, height, width = image_shape
        if height % 4 or width % 4 or min(height, width) < 24:
            raise ValueError(
                f"{self.name} takes images whose sides are multiples of 4 from 24 on, got {height}×{width}"
            )
        if self.config.target_class is not None and self.config.target_class >= num_classes:
            raise ValueError(f"target_class {self.config.target_class}: there are {num_classes} classes")
        self.generator = _generator(channels)
        # A clipped value has no gradient. In a small ball nearly all values would be clipped at the start.
        *_, last, _ = self.generator
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.mul_(self.config.eps)

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        with torch.no_grad():
            return (x + self._perturbation(x)).clamp_(0, 1)

    def _perturbation(self, x: Tensor) -> Tensor:
        perturbation: Tensor = self.generator(x)
        return perturbation.clamp(-self.config.eps, self.config.eps)

    def fit(self, data: TrainingData, surface: Surface, generator: torch.Generator) -> None:
        config = self.config
        discriminator = _discriminator(data.image_shape).to(data.device)
        adam_g = torch.optim.Adam(self.generator.parameters(), lr=config.lr)
        adam_d = torch.optim.Adam(discriminator.parameters(), lr=config.lr)
        steps = steps_of(data, epochs=config.epochs, batch_size=config.batch_size, at_least=config.min_steps)
        loop = Loop(
            self,
            data,
            generator,
            batch_size=config.batch_size,
            steps=steps,
            discriminator=discriminator,
            ours=adam_g,
            theirs=adam_d,
        )
        for images, labels in loop:
            for adam in (adam_g, adam_d):
                loop.cosine(adam, config.lr)
            perturbation = self._perturbation(images)
            fakes = (images + perturbation).clamp(0, 1)
            real_output, fake_output = discriminator(images), discriminator(fakes.detach())
            _step(adam_d, (real_output - 1).square().mean() + fake_output.square().mean())
            margins = self._goal(labels).margin(surface(fakes))
            adversarial = (config.kappa - margins).clamp_min(0).mean()
            gan = (discriminator(fakes) - 1).square().mean()
            hinge = (lengths(perturbation) - self._hinge_bound(images)).clamp_min(0).mean()
            loss = config.adv_weight * adversarial + config.alpha * gan + config.beta * hinge
            _step(adam_g, loss)
            loop.report(loss=loss, adversarial=adversarial, gan=gan, hinge=hinge)

    def _goal(self, labels: Tensor) -> Goal:
        target = self.config.target_class
        return Goal(labels, None if target is None else torch.full_like(labels, target))

    def _hinge_bound(self, images: Tensor) -> float:
        """The length c of a perturbation above which it is penalised."""
        if self.config.c is not None:
            return self.config.c
        return 0.5 * self.config.eps * math.sqrt(images[0].numel())


def _step(adam: torch.optim.Optimizer, loss: Tensor) -> None:
    adam.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    adam.step()


def _generator(channels: int) -> nn.Sequential:
    """Two strided convolutions, four residual blocks and two transposed convolutions; outputs in [−1, 1]."""

    def down(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        return [layer, nn.InstanceNorm2d(outputs), nn.ReLU()]

    def up(inputs: int, outputs: int) -> list[nn.Module]:
        layer = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        return [layer, nn.InstanceNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *down(channels, 8, 1),
        *down(8, 16, 2),
        *down(16, 32, 2),
        *(_Residual(32) for _ in range(4)),
        *up(32, 16),
        *up(16, 8),
        nn.Conv2d(8, channels, 3, padding=1),
        nn.Tanh(),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


def _discriminator(image_shape: tuple[int, int, int]) -> nn.Sequential:
    """Three unpadded 4×4 convolutions of stride 2 and a dense layer; 28×28 images end at 1×1.

    It uses batch normalisation, because instance normalisation is undefined for one pixel.
    """
    channels, height, width = image_shape
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(inputs, outputs, 4, stride=2)]
        layers += [nn.BatchNorm2d(outputs)] if inputs != channels else []
        layers += [nn.LeakyReLU(0.2)]
        height, width = (height - 4) // 2 + 1, (width - 4) // 2 + 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * height * width, 1), nn.Flatten(0))
