"""AdvGAN (Xiao et al. 2018, "Generating Adversarial Examples with Adversarial Networks", section 3).

The paper gives neither the weights of its losses nor code. The nets are those of the public ports
(pix2pix's, small); the weights are theirs too, see `AdvGanConfig`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attacks.ball import lengths
from attacks.contract import Attack, Surface, attack
from attacks.goal import Goal
from benchmark.datasets.contract import TrainingData
from benchmark.noise import Noise
from benchmark.plugin import Config, Norm, param, sweep
from benchmark.training import Loop, steps_of


class AdvGanConfig(Config):
    """`eps`: radius of the L∞ ball; the generator is trained for each one anew.

    The loss is `adv_weight` · max(κ − margin, 0) on the logits + `alpha` · the least-squares GAN's +
    `beta` · max(|δ|₂ − c, 0), with δ measured after it is clipped to the ball. `c`: by default half of the
    longest δ that the ball allows. `target_class`: the class to be taken for, or none for any wrong one.
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
    """A generator that maps an image to its perturbation in one pass, trained against the surface.

    Under white-box the surface is the pipeline, so it is trained with the defense in the loop.
    """

    trainable = True

    @property
    def norm(self) -> Norm:
        return "linf"

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
        # What is clipped has no gradient: in a small ball nearly all of it, if it did not begin inside.
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
        found: Tensor = self.generator(x)
        return found.clamp(-self.config.eps, self.config.eps)

    def fit(self, data: TrainingData, surface: Surface, generator: torch.Generator) -> None:
        config = self.config
        discriminator = _discriminator(data.image_shape).to(data.device)
        ours = torch.optim.Adam(self.generator.parameters(), lr=config.lr)
        theirs = torch.optim.Adam(discriminator.parameters(), lr=config.lr)
        steps = steps_of(data, epochs=config.epochs, batch_size=config.batch_size, at_least=config.min_steps)
        loop = Loop(
            self,
            data,
            generator,
            batch_size=config.batch_size,
            steps=steps,
            discriminator=discriminator,
            ours=ours,
            theirs=theirs,
        )
        for images, labels in loop:
            for adam in (ours, theirs):
                loop.cosine(adam, config.lr)
            perturbation = self._perturbation(images)
            fakes = (images + perturbation).clamp(0, 1)
            seen_real, seen_fake = discriminator(images), discriminator(fakes.detach())
            loss_of_discriminator = (seen_real - 1).square().mean() + seen_fake.square().mean()
            _step(theirs, loss_of_discriminator)
            margins = self._goal(labels).margin(surface(fakes))
            adversarial = (config.kappa - margins).clamp_min(0).mean()
            realism = (discriminator(fakes) - 1).square().mean()
            hinge = (lengths(perturbation) - self._allowed(images)).clamp_min(0).mean()
            loss = config.adv_weight * adversarial + config.alpha * realism + config.beta * hinge
            _step(ours, loss)
            loop.report(loss=loss, adversarial=adversarial, gan=realism, hinge=hinge)

    def _goal(self, labels: Tensor) -> Goal:
        target = self.config.target_class
        return Goal(labels, None if target is None else torch.full_like(labels, target))

    def _allowed(self, images: Tensor) -> float:
        if self.config.c is not None:
            return self.config.c
        return 0.5 * self.config.eps * math.sqrt(images[0].numel())


def _step(adam: torch.optim.Optimizer, loss: Tensor) -> None:
    adam.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    adam.step()


def _generator(channels: int) -> nn.Sequential:
    """Down to a quarter of the size, four residual blocks, and up again; in [−1, 1]."""

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
    """Three unpadded 4×4 convolutions of stride 2 and a dense layer; 28×28 ends at 1×1.

    Batch norm, as instance norm is undefined for one pixel.
    """
    channels, height, width = image_shape
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(inputs, outputs, 4, stride=2)]
        layers += [nn.BatchNorm2d(outputs)] if inputs != channels else []
        layers += [nn.LeakyReLU(0.2)]
        height, width = (height - 4) // 2 + 1, (width - 4) // 2 + 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * height * width, 1), nn.Flatten(0))
