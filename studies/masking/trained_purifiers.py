"""A plugin file: trained purifiers that can hide their weakness, and the same ones without hiding."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from benchmark.api import Config, Defense, Loop, Noise, Tensor, TrainingData, defense, infer, train

Shape = tuple[int, int, int]

_MEMORY = 1000
"""How many training images are used by the purifiers that keep some."""


class MemoryConfig(Config):
    """`how`: what is returned; see `Memory`."""

    how: Literal["nearest", "nearest-in-batches", "answers-near"] = infer("nearest")


@defense("masked-memory")
class Memory(Defense[MemoryConfig]):
    """Keeps training images, and compares each image with them.

    - `nearest` returns the nearest training image.
    - `nearest-in-batches` does so for batches only: a single image passes unchanged. The gradient is that of
      the identity.
    - `answers-near` returns a grey image for images far from all training images. The limit is the distance
      within which 19 of 20 validation images lie.
    """

    trainable = True
    kept: Tensor
    radius: Tensor

    def __init__(self, config: MemoryConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        self.register_buffer("kept", torch.zeros(_MEMORY, *image_shape))
        self.register_buffer("radius", torch.zeros(()))

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        self.kept.copy_(data.take(torch.arange(_MEMORY))[0])
        images, _ = next(data.validation_batches(200))
        self.radius.copy_(self.distances(images).amin(dim=1).quantile(0.95))
        self.report(1, 1, radius=float(self.radius))

    def distances(self, x: Tensor) -> Tensor:
        """L2 distances to the kept images, shape (B, kept)."""
        return torch.cdist(x.flatten(1), self.kept.flatten(1))

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        distances = self.distances(x.detach())
        if self.config.how == "nearest":
            return self.kept[distances.argmin(dim=1)]
        if self.config.how == "nearest-in-batches":
            return x.clone() if len(x) == 1 else x + (self.kept[distances.argmin(dim=1)] - x).detach()
        near = distances.amin(dim=1) <= self.radius
        return torch.where(near[:, None, None, None], x, 0.5)


class HiddenConfig(Config):
    """`how`: when the hidden classifier decides; see `HiddenClassifier`."""

    how: Literal["replaces", "exits-early"] = infer("replaces")


@defense("masked-classifier")
class HiddenClassifier(Defense[HiddenConfig]):
    """Classifies the image itself and returns the mean training image of that class.

    With `exits-early` only if it is unsure: images of which it is sure pass unchanged.
    """

    trainable = True
    means: Tensor

    def __init__(self, config: HiddenConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 60), nn.Tanh(), nn.Linear(60, num_classes))
        self.register_buffer("means", torch.zeros(num_classes, *image_shape))

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        adam = torch.optim.Adam(self.parameters(), lr=3e-3)
        loop = Loop(self, data, generator, batch_size=100, steps=150, adam=adam)
        for images, labels in loop:
            loss = F.cross_entropy(self.net(images), labels)
            _step(adam, loss)
            loop.report(loss=loss)
        images, labels = data.take(torch.arange(_MEMORY))
        for label in range(self.num_classes):
            self.means[label] = images[labels == label].mean(dim=0)

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        confidence, label = self.net(x).softmax(dim=1).max(dim=1)
        if self.config.how == "replaces":
            return self.means[label]
        return torch.where((confidence > 0.9)[:, None, None, None], x, self.means[label])


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


class DenoiserConfig(Config):
    """`net`: the architecture; `hides`: see `SmallDenoiser`; `std`: of the noise of the random denoiser."""

    steps: int = train(200, ge=1)
    eps: float = train(0.15, ge=0, le=1)
    net: Literal["convolutional", "bottleneck", "thumbnail"] = train("convolutional")
    hides: Literal[
        "nothing",
        "gradient",
        "when-differentiated",
        "after-first-call",
        "from-attacks",
        "cheaper",
        "everything",
        "behind-8-bits",
        "behind-8-levels",
        "straight-through",
    ] = infer("nothing")
    std: float = infer(0.02, ge=0)


def _convolutional(image_shape: Shape) -> nn.Module:
    channels = image_shape[0]
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.ConvTranspose2d(16, channels, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )


def _bottleneck(image_shape: Shape) -> nn.Module:
    """An autoencoder in which every pixel depends on all others, so that no filter can replace it."""
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 200), nn.ReLU(), nn.Linear(200, 16))
    decoder = nn.Sequential(nn.Linear(16, 200), nn.ReLU(), nn.Linear(200, pixels), nn.Sigmoid())
    return nn.Sequential(encoder, decoder, nn.Unflatten(1, image_shape))


class _FourGreys(nn.Module):
    """Rounds to four grey levels, with the gradient of the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x + ((3 * x).round() / 3 - x).detach()


def _thumbnail(image_shape: Shape) -> nn.Module:
    """Reconstructs the image from a thumbnail with four grey levels."""
    channels, height, width = image_shape
    small, large = channels * (height // 4) * (width // 4), channels * height * width
    encoder = nn.Sequential(nn.AvgPool2d(4), _FourGreys(), nn.Flatten())
    decoder = nn.Sequential(nn.Linear(small, 200), nn.ReLU(), nn.Linear(200, large), nn.Sigmoid())
    return nn.Sequential(encoder, decoder, nn.Unflatten(1, image_shape))


@defense("small-denoiser")
class SmallDenoiser(Defense[DenoiserConfig]):
    """A network trained so that the source classifies purified FGSM images correctly: it helps in black-box.

    `hides` says what it hides:

    - its gradient: by a detach behind the network (`gradient`), 8-bit rounding without gradient, rounding to
      8 levels, or the identity as backward pass (`straight-through`);
    - itself: images pass unchanged when gradients are enabled, from the second call on, or when the noise
      shows that an attack is running;
    - its work: attacks run a cheaper setting that does nothing (`cheaper`).
    """

    trainable = True
    gate = 0.15  # for a very short training

    def __init__(self, config: DenoiserConfig, image_shape: Shape, num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        self.wide = config.net != "convolutional"
        nets = {"convolutional": _convolutional, "bottleneck": _bottleneck, "thumbnail": _thumbnail}
        self.net = nets[config.net](image_shape)
        self.calls = 0

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        adam = torch.optim.Adam(self.parameters(), lr=3e-3 if self.wide else 1e-2)
        steps, eps = self.config.steps * (4 if self.wide else 1), self.config.eps
        loop = Loop(self, data, generator, batch_size=50, steps=steps, adam=adam)
        for images, labels in loop:
            images.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(source(images), labels), images)
            images = images.detach()
            size = eps * torch.rand(len(images), 1, 1, 1).to(images)
            adversarial = (images + size * gradient.sign()).clamp(0, 1)
            purified = self.net(torch.cat([adversarial, images]))
            distance = F.mse_loss(purified, images.repeat(2, 1, 1, 1))
            loss = F.cross_entropy(source(purified), labels.repeat(2)) + distance
            _step(adam, loss)
            loop.report(loss=loss)

    @classmethod
    def in_attack(cls, config: DenoiserConfig) -> DenoiserConfig | None:
        return config.model_copy(update={"hides": "everything"}) if config.hides == "cheaper" else None

    def forget(self) -> None:
        self.calls = 0

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        self.calls += 1
        skipped = {
            "when-differentiated": torch.is_grad_enabled(),
            "after-first-call": self.calls > 1,
            "from-attacks": len(noise.indices) != len(x),
            "everything": True,
        }
        if skipped.get(self.config.hides):
            return x.clone()
        purified: Tensor
        if self.config.hides == "behind-8-bits":
            with torch.no_grad():
                purified = self.net((x * 255).round() / 255)
        elif self.config.hides == "behind-8-levels":
            purified = self.net((x * 8).round() / 8)
        else:
            purified = self.net(x)
        if self.config.hides == "straight-through":
            return x + (purified - x).detach()
        return purified.detach() if self.config.hides == "gradient" else purified


@defense("small-random-denoiser")
class SmallRandomDenoiser(SmallDenoiser):
    """The same with a little noise. With `std` 0 it declares randomness and has none."""

    stochastic = True

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        drawn = noise.normal_like(x)
        return (super().purify(x, noise) + self.config.std * drawn).clamp(0, 1)
