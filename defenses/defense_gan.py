"""Defense-GAN: projects an image onto the range of a generator.

Samangouei et al. 2018, "Defense-GAN: Protecting Classifiers Against Adversarial Attacks Using Generative
Models", arXiv 1805.06605.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from benchmark.defenses.nets.defense_gan_networks import build_convolutions, build_generator, initialise
from benchmark.defenses.nets.training_steps import StopCriterion, update
from torch import Tensor, nn

from benchmark.api import (
    Config,
    Defense,
    Loop,
    Noise,
    Scorer,
    Surrogate,
    TrainingData,
    defense,
    infer,
    require_small_images,
    train,
)

_PLATEAU_WINDOW = 20

_INVERSION_ITERATIONS = 100
"""Iterations that find the latents of an image for an attack in the latent space."""

_MAX_STEP = 0.7
"""Largest pixel difference at which two images count as the same one, a step of an attack apart.

Two images of one ball differ by less in every pixel, and different images differ by more in some pixel.
"""


class DefenseGanConfig(Config):
    """`preset: paper` is the published schedule (200,000 generator steps); `cpu` is for two CPU cores; `long`
    has a tenth of the published steps, at twice the rate and without a stop criterion.

    Training: `steps` updates of the generator, with `critic_steps` of the critic before each. `average` is
    the decay of a running mean of the generator's weights, which is used for purifying (0: the last weights,
    as published). `bfloat16` computes the passes of both networks in bfloat16 (autocast); weights, losses and
    optimizers stay in float32. Every `check_every` generator steps 100 validation images are purified,
    clean and with FGSM of 0.3 against the source. Training ends when this adds at most `stop_clean` to the
    source's error and the FGSM error is at most `stop_fgsm`. The clean error alone would end it far too
    early: a generator after a few steps can produce any image, perturbations included. Then the encoder,
    which only the short-cuts use, is trained on `encoder_steps` batches.

    Projection: `restarts` × `iterations` of gradient descent with `rate` (a tenth of it for the last fifth)
    and `momentum`, from latents of standard deviation `start_std` (null: sqrt(1 / latent) as in the official
    code; the paper's prior is 1).

    Short-cuts, all off by default: `encoder_start` begins one restart at the encoder's latent. `drop_after`
    continues only the best `keep` restarts of each image after so many iterations. `plateau` ends a restart
    whose loss fell by less than this share in 20 iterations. Measured on 100 validation images of MNIST,
    clean and with FGSM of 0.3, with the weights of `cpu` (`python -m studies.speed shortcuts`):
    `encoder_start: true, drop_after: 10, keep: 2` took 473 and 440 ms per image instead of 2,916 and 2,405
    (6.2 and 5.5 times faster), with 10 % less and 0.8 % more squared error. `drop_after: 20` alone was 8
    times faster with 7 and 3 % more, `plateau: 0.01` alone 1.8 and 3.3 times with 14 and 17 % more.

    Attacks use `attack_restarts` restarts. Each call after the first continues from the last latents with
    `attack_iterations` iterations (`warm_iterations`).
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"steps": 200_000, "critic_steps": 5, "batch_size": 50, "lr": 1e-4, "average": 0.0}
        | {"check_every": 0, "encoder_steps": 20_000},
        "long": {"steps": 20_000, "critic_steps": 5, "average": 0.999, "bfloat16": True}
        | {"check_every": 1000, "stop_clean": 0.0, "stop_fgsm": 0.0, "encoder_steps": 2000},
    }

    preset: Literal["cpu", "paper", "long"] = train("cpu")
    generator: Literal["paper", "dcgan"] = train("paper")
    latent: int = train(128, ge=1)
    steps: int = train(3000, ge=1)
    critic_steps: int = train(2, ge=1)
    batch_size: int = train(50, ge=2)
    lr: float = train(2e-4, gt=0)
    average: float = train(0.99, ge=0, lt=1)
    bfloat16: bool = train(False)
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
    """Replaces the image by the nearest image in the range of a generator trained on clean images.

    The networks are those of the paper and the projection is that of its code (kabkabm/defensegan): the loss
    is the mean over pixels, all restarts of a batch run in one forward pass, and each call draws new latents.
    Interpretations and differences:

    * the gradient penalty uses the norm of a whole image (Gulrajani et al. 2017); the official code sums over
      rows only;
    * 32×32 images, which the paper does not have, use the generator of the same group's InvGAN with a
      sigmoid, and the paper's critic and loss instead of InvGAN's spectral norm and hinge loss;
    * the target is trained on original images ("Orig"); the paper's other kind, trained on reconstructions,
      is not available;
    * the code returns the image before the last step on the latent, this class the one after it;
    * `generator: dcgan` is the generator of the report that compares AdvGAN with purifiers. It has transposed
      4×4 convolutions with batch normalisation and ReLU, read as 64, 32, 16 and 8 channels from 4×4 up, and a
      last convolution to the image's channels, cropped to the size of the image.

    The output is no differentiable function of the image: its gradient is zero. Attacks run a short
    projection that continues from the last latents, with the identity as backward pass (BPDA).
    """

    version = 2
    trainable = True
    stochastic = True
    inner_optimisation = True
    surrogates = ("encoder",)
    latents = "generator"
    gate = 0.10
    gates: ClassVar[Mapping[str, float]] = {"fashion-mnist": 0.15}

    def __init__(self, config: DefenseGanConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        require_small_images(self.name, image_shape)
        self.generator = build_generator(config.generator, config.latent, image_shape)
        self.encoder = build_convolutions(image_shape[0], config.latent)
        self.generator.apply(initialise)
        self.to(memory_format=torch.channels_last)  # a third faster on CPUs
        self._std = config.start_std or math.sqrt(1 / config.latent)
        self._last_call: _LastCall | None = None

    @classmethod
    def in_attack(cls, config: DefenseGanConfig) -> DefenseGanConfig:
        cheaper = {"restarts": config.attack_restarts, "warm_iterations": config.attack_iterations}
        return config.model_copy(update=cheaper)

    def forget(self) -> None:
        self._last_call = None

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        config = self.config
        starts = torch.zeros(len(x), config.restarts, config.latent)
        starts = noise.normal_like(starts).mul_(self._std).to(x.device)
        x = x.detach()
        if config.encoder_start:
            with torch.no_grad():
                starts[:, 0] = self.encoder(x)
        iterations = config.iterations
        if config.warm_iterations and self._last_call is not None and self._last_call.matches(x):
            starts[:, 0] = self._last_call.latents
            iterations = config.warm_iterations
        latents = _Projection(self.generator, config, x, starts, iterations).run()
        if config.warm_iterations:
            self._last_call = _LastCall(x, latents)
        with torch.no_grad():
            return self.generator(latents)  # type: ignore[no-any-return]

    def surrogate(self, name: str, target: Scorer, noise: Noise) -> Surrogate:
        """`encoder`: the image of the encoder's latent replaces that of the projected latent.

        `generator`: the target alone, with the latents of the projection as latent space. The projection
        leaves an image of the generator unchanged, so only the target decides on it.
        """
        if name == "encoder":
            return Surrogate(lambda x: target(self.generator(self.encoder(x))))
        return Surrogate(target, encode=self._invert, decode=self.generator)

    def _invert(self, x: Tensor) -> Tensor:
        """The latents (B, latent) that a short projection finds, starting at those of the encoder."""
        with torch.no_grad():
            starts = self.encoder(x)[:, None]
        return _Projection(self.generator, self.config, x, starts, _INVERSION_ITERATIONS).run()

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        self._fit_generator(data, source, generator)
        self._fit_encoder(data, generator)

    def _fit_generator(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        """WGAN-GP: D minimises D(fake) − D(real) + penalty · (|∇D| − 1)², and G minimises −D(fake)."""
        config = self.config
        live = copy.deepcopy(self.generator)
        critic = build_convolutions(data.image_shape[0], 1).apply(initialise)
        critic = critic.to(data.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        adam_g, adam_d = (
            torch.optim.Adam(network.parameters(), lr=config.lr, betas=(0.5, 0.9), fused=True)
            for network in (live, critic)
        )
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
        criterion = StopCriterion(config.stop_clean, config.stop_fgsm, images=100)
        for real, _ in loop:
            with torch.autocast(data.device.type, torch.bfloat16, enabled=config.bfloat16):
                latents = torch.randn(len(real), config.latent, device=data.device)
                with torch.no_grad():
                    fake = live(latents).float()
                scores = critic(torch.cat([real, fake])).float()
                distance = scores[: len(real)].mean() - scores[len(real) :].mean()
                penalty = _gradient_penalty(critic, real, fake)
            update(adam_d, config.penalty * penalty - distance)
            if loop.every(config.critic_steps):
                critic.requires_grad_(False)
                with torch.autocast(data.device.type, torch.bfloat16, enabled=config.bfloat16):
                    score = critic(live(torch.randn_like(latents))).float().mean()
                update(adam_g, -score)
                critic.requires_grad_(True)
                _average(self.generator, live, config.average, loop.step // config.critic_steps)
            loop.report(distance=distance)
            if config.check_every and loop.step % (config.check_every * config.critic_steps) == 0:
                criterion.check(loop, self, self._purify_briefly, data, source)

    def _purify_briefly(self, x: Tensor) -> Tensor:
        """Purify with two restarts of 100 iterations."""
        starts = self._std * torch.randn(len(x), 2, self.config.latent)
        latents = _Projection(self.generator, self.config, x, starts.to(x.device), 100).run()
        with torch.no_grad():
            return self.generator(latents)  # type: ignore[no-any-return]

    def _fit_encoder(self, data: TrainingData, generator: torch.Generator) -> None:
        """Minimise the mean squared error of G(E(x)), with a penalty that keeps latents near the prior."""
        config = self.config
        if not config.encoder_steps:
            return
        self.generator.eval().requires_grad_(False)
        adam = torch.optim.Adam(self.encoder.parameters(), lr=1e-3)
        loop = Loop(self, data, generator, batch_size=64, steps=config.encoder_steps, adam=adam)
        for images, _ in loop:
            latents = self.encoder(images)
            error = F.mse_loss(self.generator(latents), images)
            update(adam, error + 1e-4 * latents.square().mean())
            loop.report(encoder_error=error)
        self.generator.train().requires_grad_(True)


@dataclass(frozen=True)
class _LastCall:
    """The images of the last call and the latents that were found for them."""

    images: Tensor
    latents: Tensor

    def matches(self, x: Tensor) -> bool:
        """Whether `x` can be the same images after a step of an attack, and not other images."""
        return x.shape == self.images.shape and bool((x - self.images).abs().max() <= _MAX_STEP)


class _Projection:
    """Gradient descent on the latents of a batch; each restart of each image is one row.

    Args:
        generator: Maps latents (rows, latent) to images.
        config: The configuration; only the fields of the projection are used.
        x: Images (B, C, H, W).
        starts: Initial latents (B, restarts, latent).
        iterations: Number of steps.
    """

    def __init__(
        self, generator: nn.Module, config: DefenseGanConfig, x: Tensor, starts: Tensor, iterations: int
    ) -> None:
        self._generator, self._config, self._x, self._iterations = generator, config, x, iterations
        batch, self._restarts, _ = starts.shape
        self._latents = starts.flatten(0, 1).clone()
        self._losses = torch.full((len(self._latents),), float("inf"), device=x.device)
        self._active = torch.arange(len(self._latents), device=x.device)
        self._image_index = torch.arange(batch, device=x.device).repeat_interleave(self._restarts)

    def run(self) -> Tensor:
        """Return the best latent of each image, shape (B, latent)."""
        config = self._config
        z = self._latents.clone()
        velocity = torch.zeros_like(z)
        decay_step = math.ceil(0.8 * self._iterations)
        earlier_losses = self._losses.clone()
        for step in range(self._iterations):
            losses, gradient = self._losses_and_gradient(z)
            self._losses[self._active] = losses
            kept = None
            if step == config.drop_after and config.keep < self._restarts:
                kept = self._ranks()[self._active] < config.keep
                self._losses[self._active[~kept]] = float("inf")
            elif config.plateau and step and step % _PLATEAU_WINDOW == 0:
                kept = losses < (1 - config.plateau) * earlier_losses[self._active]
                earlier_losses[self._active] = losses
                self._latents[self._active] = z
            if kept is not None:
                self._active, z, velocity, gradient = (
                    values[kept] for values in (self._active, z, velocity, gradient)
                )
                if not len(z):
                    break
            rate = config.rate if step < decay_step else 0.1 * config.rate
            velocity = config.momentum * velocity + gradient
            z = z - rate * velocity
        if len(z):
            self._latents[self._active] = z
            with torch.no_grad():
                self._losses[self._active] = self._squared_error(z)
        best = self._losses.reshape(len(self._x), self._restarts).argmin(dim=1)
        return self._latents.reshape(len(self._x), self._restarts, -1)[torch.arange(len(self._x)), best]

    def _losses_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            losses = self._squared_error(z)
            (gradient,) = torch.autograd.grad(losses.sum(), z)
        return losses.detach(), gradient

    def _squared_error(self, z: Tensor) -> Tensor:
        """The squared error of each active row, a mean over pixels; the rate of 10 assumes this scale."""
        images: Tensor = self._generator(z)
        return (images - self._x[self._image_index[self._active]]).square().flatten(1).mean(dim=1)

    def _ranks(self) -> Tensor:
        """The rank of each row by loss among the restarts of its image; 0 is the lowest loss."""
        losses = self._losses.reshape(len(self._x), self._restarts)
        return losses.argsort(dim=1).argsort(dim=1).flatten()


def _gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    mix = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    between = torch.lerp(real, fake, mix).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return (norms - 1).square().mean()


@torch.no_grad()
def _average(mean: nn.Module, live: nn.Module, decay: float, step: int) -> None:
    """Move the running mean towards the live weights; the decay is smaller in early steps."""
    weight = 1 - min(decay, step / (step + 10))
    for averaged, current in zip(mean.state_dict().values(), live.state_dict().values(), strict=True):
        if averaged.is_floating_point():
            averaged.lerp_(current, weight)
        else:
            averaged.copy_(current)
