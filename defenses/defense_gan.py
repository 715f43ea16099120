"""Defense-GAN (Samangouei et al. 2018, "Defense-GAN: Protecting Classifiers Against Adversarial Attacks Using
Generative Models", arXiv 1805.06605)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData
from benchmark.noise import Noise
from benchmark.plugin import Config, infer, train
from benchmark.training import Loop
from defenses.contract import Defense, Scorer, Surrogate, defense
from defenses.learning import Goal, check_small, update

_PLATEAU_WINDOW = 20

_INVERSION = 100
"""Iterations by which latents are found for an attack that searches among them."""

_STEP_APART = 0.7
"""More than two images of one ball differ anywhere, less than images of different things do."""


class DefenseGanConfig(Config):
    """`preset: paper` is the published schedule (200,000 generator steps); `cpu` fits two cores.

    Training: `steps` generator updates, each after `critic_steps` of the critic; `average` is the decay of
    a running mean of the generator's weights, which then is what purifies (0: the last weights, as
    published); every `check_every` generator steps 100 validation images are reconstructed, clean and with
    FGSM of 0.3 against the source, and training ends once that adds no more than `stop_clean` to the source's
    error and leaves no more than `stop_fgsm`. Clean error alone would end it far too early: a generator that
    has hardly begun to make digits can make any image, perturbations included. `encoder_steps` batches then
    train the encoder, which only the short-cuts use.

    Projection: `restarts` × `iterations` of gradient descent with `rate` (a tenth of it for the last fifth)
    and `momentum`, from latents of standard deviation `start_std` (None: sqrt(1 / latent) as in the
    official code; the paper's prior is 1).

    Short-cuts, all off by default: `encoder_start` puts one restart at the encoder's latent; after
    `drop_after` iterations only the best `keep` restarts of each image go on; `plateau` ends a restart
    whose loss fell by less than this share in 20 iterations. On 100 validation images of MNIST, clean and
    with FGSM of 0.3, with the weights of `cpu`, `encoder_start: true, drop_after: 10, keep: 2` took 473 and
    440 ms per image in place of 2,916 and 2,405 (6.2 and 5.5 times faster), with 10 % less and 0.8 % more
    squared error; `drop_after: 20` alone is 8 times faster with 7 and 3 % more; `plateau: 0.01` alone is 1.8
    and 3.3 times faster with 14 and 17 % more (`python -m tests.speed shortcuts`).

    In attacks: `attack_restarts`, and `attack_iterations` for each call after the first, which begin where
    the last one ended (`warm_iterations`).
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"steps": 200_000, "critic_steps": 5, "batch_size": 50, "lr": 1e-4, "average": 0.0}
        | {"check_every": 0, "encoder_steps": 20_000}
    }

    preset: Literal["cpu", "paper"] = train("cpu")
    generator: Literal["paper", "dcgan"] = train("paper")
    latent: int = train(128, ge=1)
    steps: int = train(3000, ge=1)
    critic_steps: int = train(2, ge=1)
    batch_size: int = train(50, ge=2)
    lr: float = train(2e-4, gt=0)
    average: float = train(0.99, ge=0, lt=1)
    penalty: float = train(10.0, ge=0)
    check_every: int = train(500, ge=0)
    stop_clean: float = train(0.05, ge=0)
    stop_fgsm: float = train(0.15, ge=0)
    encoder_steps: int = train(400, ge=0)
    restarts: int = infer(10, ge=1)
    iterations: int = infer(200, ge=1)
    rate: float = infer(10.0, gt=0)
    momentum: float = infer(0.7, ge=0, lt=1)
    start_std: float | None = infer(None, gt=0)
    encoder_start: bool = infer(False)
    drop_after: int | None = infer(None, ge=1)
    keep: int = infer(1, ge=1)
    plateau: float = infer(0.0, ge=0, lt=1)
    warm_iterations: int | None = infer(None, ge=1)
    attack_restarts: int = infer(1, ge=1)
    attack_iterations: int = infer(25, ge=1)


@defense("defense-gan")
class DefenseGan(Defense[DefenseGanConfig]):
    """Replaces the image by the nearest one that a generator trained on clean images can make.

    Follows the paper's networks and its code's projection (kabkabm/defensegan): the loss is the mean
    over pixels, all restarts of a batch run in one forward, latents are drawn anew for each call.
    Readings and departures:

    * the gradient penalty takes the norm over a whole image (Gulrajani et al. 2017); the official code
      sums over rows only;
    * 32×32 images, which the paper does not have, use the generator of the same group's InvGAN with a
      sigmoid, and the paper's critic and loss in place of that code's spectral norm and hinge;
    * the target is the one trained on original images ("Orig"); the paper's other kind, trained on
      reconstructions, is not offered;
    * the code returns the image before the last step on the latent, this the one after it;
    * `generator: dcgan` is the one of the report that compares AdvGAN with purifiers: transposed 4×4
      convolutions with batch normalisation and ReLU, taken as 64, 32, 16 and 8 channels from 4×4 up, a
      last convolution to the image's channels, cropped to the size of the image.

    The output does not depend on the image differentiably: an attack along its gradient finds zero. What
    attacks run is a short warm-started projection, which the identity (BPDA) carries the gradient through.
    """

    trainable = True
    stochastic = True
    inner_optimisation = True
    surrogates = ("encoder",)
    latents = "generator"
    gate = 0.10
    gates: ClassVar[Mapping[str, float]] = {"fashion-mnist": 0.15}

    def __init__(self, config: DefenseGanConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        check_small(self.name, image_shape)
        self.generator = build_generator(config, image_shape)
        self.encoder = _convolutions(image_shape[0], config.latent)
        self.generator.apply(_initialise)
        self.to(memory_format=torch.channels_last)  # a third faster on CPUs
        self._std = config.start_std or math.sqrt(1 / config.latent)
        self._memory: _Memory | None = None

    @classmethod
    def in_attack(cls, config: DefenseGanConfig) -> DefenseGanConfig:
        cheap = {"restarts": config.attack_restarts, "warm_iterations": config.attack_iterations}
        return config.model_copy(update=cheap)

    def forget(self) -> None:
        self._memory = None

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        config = self.config
        like = torch.zeros(len(x), config.restarts, config.latent)
        starts = noise.normal_like(like).mul_(self._std).to(x.device)
        x = x.detach()
        if config.encoder_start:
            with torch.no_grad():
                starts[:, 0] = self.encoder(x)
        iterations = config.iterations
        if config.warm_iterations and self._memory is not None and self._memory.is_of(x):
            starts[:, 0] = self._memory.latents
            iterations = config.warm_iterations
        latents = _Projection(self.generator, config, x, starts, iterations).run()
        if config.warm_iterations:
            self._memory = _Memory(x, latents)
        with torch.no_grad():
            return self.generator(latents)  # type: ignore[no-any-return]

    def surrogate(self, name: str, target: Scorer, noise: Noise) -> Surrogate:
        """`encoder`: what the generator makes of the encoder's latent, in place of the projection's.

        `generator`: the target alone, with latents that the projection finds: what the generator made itself
        the projection leaves as it is, so there the target decides.
        """
        if name == "encoder":
            return Surrogate(lambda x: target(self.generator(self.encoder(x))))
        return Surrogate(target, encode=self._invert, decode=self.generator)

    def _invert(self, x: Tensor) -> Tensor:
        """The latent (B, latent) of the nearest image that a short projection from the encoder's finds."""
        with torch.no_grad():
            starts = self.encoder(x)[:, None]
        return _Projection(self.generator, self.config, x, starts, _INVERSION).run()

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        self._fit_generator(data, source, generator)
        self._fit_encoder(data, generator)

    def _fit_generator(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        """WGAN-GP: D minimises D(fake) − D(real) + penalty · (|∇D| − 1)², G minimises −D(fake)."""
        config = self.config
        live = copy.deepcopy(self.generator)
        critic = _convolutions(data.image_shape[0], 1).apply(_initialise)
        critic = critic.to(data.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        adam_g = torch.optim.Adam(live.parameters(), lr=config.lr, betas=(0.5, 0.9))
        adam_d = torch.optim.Adam(critic.parameters(), lr=config.lr, betas=(0.5, 0.9))
        loop = Loop(
            self,
            data,
            generator,
            batch_size=config.batch_size,
            steps=config.steps * config.critic_steps,
            live=live,
            critic=critic,
            adam_g=adam_g,
            adam_d=adam_d,
        )
        goal = Goal(config.stop_clean, config.stop_fgsm, images=100)
        for real, _ in loop:
            latents = torch.randn(len(real), config.latent, device=data.device)
            with torch.no_grad():
                fake = live(latents)
            scores = critic(torch.cat([real, fake]))
            distance = scores[: len(real)].mean() - scores[len(real) :].mean()
            update(adam_d, config.penalty * _gradient_penalty(critic, real, fake) - distance)
            if loop.every(config.critic_steps):
                update(adam_g, -critic(live(torch.randn_like(latents))).mean())
                _average(self.generator, live, config.average, loop.step // config.critic_steps)
            loop.report(distance=distance)
            if config.check_every and loop.step % (config.check_every * config.critic_steps) == 0:
                goal.look(loop, self, self._briefly, data, source)

    def _briefly(self, x: Tensor) -> Tensor:
        """A short projection: two restarts of 100 iterations."""
        starts = self._std * torch.randn(len(x), 2, self.config.latent)
        latents = _Projection(self.generator, self.config, x, starts.to(x.device), 100).run()
        with torch.no_grad():
            return self.generator(latents)  # type: ignore[no-any-return]

    def _fit_encoder(self, data: TrainingData, generator: torch.Generator) -> None:
        """The mean squared error of G(E(x)), with the latents held near the prior."""
        config = self.config
        if not config.encoder_steps:
            return
        self.generator.eval().requires_grad_(False)
        adam = torch.optim.Adam(self.encoder.parameters(), lr=1e-3)
        loop = Loop(
            self,
            data,
            generator,
            batch_size=64,
            steps=config.encoder_steps,
            adam=adam,
        )
        for images, _ in loop:
            latents = self.encoder(images)
            error = F.mse_loss(self.generator(latents), images)
            update(adam, error + 1e-4 * latents.square().mean())
            loop.report(encoder_error=error)
        self.generator.train().requires_grad_(True)


@dataclass(frozen=True)
class _Memory:
    """Images of the last call, and the latents that were found for them."""

    images: Tensor
    latents: Tensor

    def is_of(self, x: Tensor) -> bool:
        """Whether `x` may be the same images a step later: others in their place would be too far off."""
        return x.shape == self.images.shape and bool((x - self.images).abs().max() <= _STEP_APART)


class _Projection:
    """Gradient descent on the latents of a batch; every restart of every image is one row.

    Args:
        generator: Latents (rows, latent) to images.
        config: Its projection fields.
        x: Images (B, C, H, W).
        starts: Latents (B, restarts, latent).
        iterations: How many steps.
    """

    def __init__(
        self, generator: nn.Module, config: DefenseGanConfig, x: Tensor, starts: Tensor, iterations: int
    ) -> None:
        self._iterations = iterations
        self._generator = generator
        self._config = config
        self._x = x
        batch, self._restarts, _ = starts.shape
        self._latents = starts.flatten(0, 1).clone()
        self._losses = torch.full((len(self._latents),), float("inf"), device=x.device)
        self._active = torch.arange(len(self._latents), device=x.device)
        self._images = torch.arange(batch, device=x.device).repeat_interleave(self._restarts)

    def run(self) -> Tensor:
        """The best latent of each image, shape (B, latent)."""
        config = self._config
        z = self._latents.clone()
        velocity = torch.zeros_like(z)
        slow_from = math.ceil(0.8 * self._iterations)
        before = self._losses.clone()
        for step in range(self._iterations):
            losses, gradient = self._gradient(z, self._active)
            self._losses[self._active] = losses
            going = None
            if step == config.drop_after and config.keep < self._restarts:
                going = self._rank()[self._active] < config.keep
                self._losses[self._active[~going]] = float("inf")
            elif config.plateau and step and step % _PLATEAU_WINDOW == 0:
                going = losses < (1 - config.plateau) * before[self._active]
                before[self._active] = losses
                self._latents[self._active] = z
            if going is not None:
                self._active, z, velocity, gradient = (
                    values[going] for values in (self._active, z, velocity, gradient)
                )
                if not len(z):
                    break
            rate = config.rate if step < slow_from else 0.1 * config.rate
            velocity = config.momentum * velocity + gradient
            z = z - rate * velocity
        if len(z):
            self._latents[self._active] = z
            with torch.no_grad():
                self._losses[self._active] = self._distance(z, self._active)
        best = self._losses.reshape(len(self._x), self._restarts).argmin(dim=1)
        return self._latents.reshape(len(self._x), self._restarts, -1)[torch.arange(len(self._x)), best]

    def _gradient(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            losses = self._distance(z, rows)
            (gradient,) = torch.autograd.grad(losses.sum(), z)
        return losses.detach(), gradient

    def _distance(self, z: Tensor, rows: Tensor) -> Tensor:
        """The squared error of each row, a mean over pixels: the rate of 10 belongs to it."""
        made: Tensor = self._generator(z)
        return (made - self._x[self._images[rows]]).square().flatten(1).mean(dim=1)

    def _rank(self) -> Tensor:
        """The place of each row among its image's, from 0."""
        losses = self._losses.reshape(len(self._x), self._restarts)
        return losses.argsort(dim=1).argsort(dim=1).flatten()


def build_generator(config: DefenseGanConfig, image_shape: tuple[int, int, int]) -> nn.Module:
    """The generator for images of that shape; the paper's has 1,554,177 parameters at 28×28×1."""
    if config.generator == "dcgan":
        return _Dcgan(config.latent, image_shape)
    if image_shape[1:] == (28, 28):
        return _PaperGenerator(config.latent, image_shape[0])
    return _InvGanGenerator(config.latent, image_shape[0])


class _PaperGenerator(nn.Module):
    """Dense layer to 256×4×4, then transposed 5×5 convolutions to 8 (cropped to 7), 14 and 28."""

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(latent, 256 * 4 * 4)
        self.to_8 = nn.ConvTranspose2d(256, 128, 5, stride=2, padding=2, output_padding=1)
        self.to_14 = nn.ConvTranspose2d(128, 64, 5, stride=2, padding=2, output_padding=1)
        self.to_28 = nn.ConvTranspose2d(64, channels, 5, stride=2, padding=2, output_padding=1)

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.dense(z).relu().reshape(-1, 256, 4, 4)
        hidden = self.to_8(hidden).relu()[:, :, :7, :7]
        return torch.sigmoid(self.to_28(self.to_14(hidden).relu()))


class _InvGanGenerator(nn.Sequential):
    """Dense layer to 512×4×4, transposed 4×4 convolutions to 32, a last 3×3 one; 3,828,739 parameters."""

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__(
            nn.Linear(latent, 512 * 4 * 4),
            nn.BatchNorm1d(512 * 4 * 4),
            nn.ReLU(),
            nn.Unflatten(1, (512, 4, 4)),
            *_upwards(512, 256),
            *_upwards(256, 128),
            *_upwards(128, 64),
            nn.Conv2d(64, channels, 3, padding=1),
            nn.Sigmoid(),
        )


class _Dcgan(nn.Module):
    """Four transposed 4×4 convolutions of 64, 32, 16 and 8 channels, a last 3×3 one, cropped."""

    def __init__(self, latent: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, self.height, self.width = image_shape
        self.layers = nn.Sequential(
            nn.Unflatten(1, (latent, 1, 1)),
            nn.ConvTranspose2d(latent, 64, 4),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            *_upwards(64, 32),
            *_upwards(32, 16),
            *_upwards(16, 8),
            nn.Conv2d(8, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        top, left = (32 - self.height) // 2, (32 - self.width) // 2
        return self.layers(z)[:, :, top : top + self.height, left : left + self.width]  # type: ignore[no-any-return]


def _initialise(module: nn.Module) -> None:
    """He's scale over the mean of inputs and outputs, as in the official code; torch's own is far smaller."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        area, strides = math.prod(module.kernel_size), math.prod(module.stride)
        inputs, outputs = module.in_channels * area, module.out_channels * area
        if isinstance(module, nn.ConvTranspose2d):
            inputs //= strides
        else:
            outputs //= strides
        bound = math.sqrt(12 / (inputs + outputs))
        nn.init.uniform_(module.weight, -bound, bound)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _upwards(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def _convolutions(channels: int, outputs: int) -> nn.Sequential:
    """The paper's critic; with `latent` outputs, the encoder."""
    return nn.Sequential(
        nn.Conv2d(channels, 64, 5, stride=2, padding=2),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 5, stride=2, padding=2),
        nn.LeakyReLU(0.2),
        nn.Conv2d(128, 256, 5, stride=2, padding=2),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(256 * 4 * 4, outputs),
    )


def _gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    mix = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = torch.lerp(real, fake, mix).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return (norms - 1).square().mean()


@torch.no_grad()
def _average(mean: nn.Module, live: nn.Module, decay: float, step: int) -> None:
    """Move the running mean towards the live weights; early steps count little."""
    weight = 1 - min(decay, step / (step + 10))
    for ours, theirs in zip(mean.state_dict().values(), live.state_dict().values(), strict=True):
        if ours.is_floating_point():
            ours.lerp_(theirs, weight)
        else:
            ours.copy_(theirs)
