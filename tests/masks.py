"""A plugin file: purifiers that hide how weak they are, each in a way of its own, and honest ones.

What hides may be meant to or not: most are what a careful author has written by accident.
"""

import hashlib
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from benchmark.plugin import Config, infer, train
from benchmark.training import Loop
from defenses.contract import Defense, defense

MEMORY = 1000
"""How many training images are remembered by what remembers any."""


def shattered(x):
    """Adds a wave of a fiftieth of the range and ten thousand radians per unit: gradients point anywhere."""
    return (x + 0.02 * (1e4 * x).sin()).clamp(0, 1)


def detached(x):
    """Gives the image back without its history."""
    return x.detach().clone()


def clipped(x):
    """Keeps the pixels between a tenth and nine tenths: what lies beyond has no gradient."""
    return x.clamp(0.1, 0.9)


def rounded(x):
    """Lowers the contrast and rounds what comes out to 16 levels."""
    return ((0.8 * x + 0.1) * 15).round() / 15


def batch_statistics(x):
    """Batch normalisation left in training mode: an image comes out by what it is purified with."""
    return (0.5 + 0.25 * F.batch_norm(x, None, None, training=True)).clamp(0, 1)


def constant(x):
    """Forgets the image."""
    return torch.full_like(x, 0.5) + 0 * x


def hidden_noise(x):
    """Noise of standard deviation 0.3 from torch's own generator, not declared."""
    return (x + 0.3 * torch.randn_like(x)).clamp(0, 1)


def noise_by_hash(x):
    """The same noise, seeded by the image's content: it never differs twice, and always differs nearby."""
    drawn = []
    for image in x.detach().cpu():
        seed = int.from_bytes(hashlib.sha256(image.numpy().tobytes()).digest()[:7], "little")
        drawn.append(torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)))
    return (x + 0.3 * torch.stack(drawn).to(x.device)).clamp(0, 1)


def dropout_left_on(x):
    """Dropout of a tenth of the pixels, in evaluation mode too, not declared."""
    return F.dropout(x, 0.1, training=True).clamp(0, 1)


def median_detached(x):
    """A median filter through arrays: no gradient comes back."""
    windows = F.pad(x.detach(), (1, 1, 1, 1), mode="reflect").unfold(2, 3, 1).unfold(3, 3, 1)
    return windows.flatten(4).median(dim=4).values


def deep_stack(x):
    """Eighteen layers that scale down and one that makes up for it: gradients overflow on their way."""
    small = x
    for _ in range(18):
        small = small * 1e-2
    largest = small.detach().flatten(1).amax(dim=1)[:, None, None, None]
    return (small / largest.clamp_min(1e-38)).clamp(0, 1)


def half_precision(x):
    """Goes through float16, as on a phone."""
    return x.half().to(x.dtype)


def soft_rounding(x):
    """Nearly the identity, flat at the 256 levels that images are made of."""
    return (x - (2 * torch.pi * 255 * x).sin() / (2 * torch.pi * 255)).clamp(0, 1)


def tanh_space(x):
    """Into the space of tanh and back; near black and white, float32 is saturated and has no gradient."""
    there = torch.tanh(8 * (2 * x - 1)).clamp(-1 + 1e-6, 1 - 1e-6)
    return (0.5 + torch.atanh(there) / 16).clamp(0, 1)


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def reversed_gradient(x):
    """A reversal layer left over from domain adaptation: forwards nothing, backwards the wrong way."""
    return _Reversal.apply(x)


def smoothed_without_gradient(x):
    """Ten steps towards the mean of the neighbours, under no_grad."""
    with torch.no_grad():
        for _ in range(10):
            x = 0.8 * x + 0.2 * F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return x


STATELESS = {
    "shattered": shattered,
    "detached": detached,
    "clipped": clipped,
    "rounded": rounded,
    "batch-statistics": batch_statistics,
    "constant": constant,
    "hidden-noise": hidden_noise,
    "noise-by-hash": noise_by_hash,
    "dropout-left-on": dropout_left_on,
    "median-detached": median_detached,
    "deep-stack": deep_stack,
    "half-precision": half_precision,
    "soft-rounding": soft_rounding,
    "tanh-space": tanh_space,
    "reversed-gradient": reversed_gradient,
    "smoothed-without-gradient": smoothed_without_gradient,
}


class MaskedConfig(Config):
    how: str = infer("detached")


@defense("masked")
class Masked(Defense[MaskedConfig]):
    """One of the maps in `STATELESS`."""

    def purify(self, x, noise):
        return STATELESS[self.config.how](x)


@defense("masked-random-resize")
class RandomResize(Defense[Config]):
    """Shrinks by up to a tenth and pads at random (Xie et al. 2018), which is declared."""

    stochastic = True

    def purify(self, x, noise):
        size, right, down = noise.uniform_like(x.detach()[:, 0, 0, :3]).unbind(dim=1)
        size = 1 - 0.1 * size
        theta = torch.zeros(len(x), 2, 3, device=x.device)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 / size
        theta[:, 0, 2] = (2 * right - 1) * (1 - size) / size
        theta[:, 1, 2] = (2 * down - 1) * (1 - size) / size
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


class MemoryConfig(Config):
    how: Literal["nearest", "nearest-in-batches", "answers-near"] = infer("nearest")


@defense("masked-memory")
class Memory(Defense[MemoryConfig]):
    """Remembers training images: gives back the nearest one, or a grey image to what is near none of them.

    Near is as near as nineteen in twenty validation images are. Where only batches are answered so, an image
    that comes alone takes a short cut past it; the gradient is made up, that of the identity.
    """

    trainable = True

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.register_buffer("kept", torch.zeros(MEMORY, *image_shape))
        self.register_buffer("radius", torch.zeros(()))

    def fit(self, data, source, generator):
        self.kept.copy_(data.take(torch.arange(MEMORY))[0])
        images, _ = next(data.validation_batches(200))
        self.radius.copy_(self.distances(images).amin(dim=1).quantile(0.95))
        self.report(1, 1, radius=float(self.radius))

    def distances(self, x):
        return torch.cdist(x.flatten(1), self.kept.flatten(1))

    def purify(self, x, noise):
        distances = self.distances(x.detach())
        if self.config.how == "nearest":
            return self.kept[distances.argmin(dim=1)]
        if self.config.how == "nearest-in-batches":
            return x.clone() if len(x) == 1 else x + (self.kept[distances.argmin(dim=1)] - x).detach()
        near = distances.amin(dim=1) <= self.radius
        return torch.where(near[:, None, None, None], x, 0.5)


class HiddenConfig(Config):
    how: Literal["replaces", "exits-early"] = infer("replaces")


@defense("masked-classifier")
class HiddenClassifier(Defense[HiddenConfig]):
    """Has a classifier of its own: answers with the mean image of its class, whatever the target says.

    Or only where it is in doubt: images that it is sure of pass.
    """

    trainable = True

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 60), nn.Tanh(), nn.Linear(60, num_classes))
        self.register_buffer("means", torch.zeros(num_classes, *image_shape))

    def fit(self, data, source, generator):
        adam = torch.optim.Adam(self.parameters(), lr=3e-3)
        for images, labels in (loop := Loop(self, data, generator, batch_size=100, steps=150, adam=adam)):
            loss = F.cross_entropy(self.net(images), labels)
            _step(adam, loss)
            loop.report(loss=loss)
        images, labels = data.take(torch.arange(MEMORY))
        for label in range(self.num_classes):
            self.means[label] = images[labels == label].mean(dim=0)

    def purify(self, x, noise):
        sure, label = self.net(x).softmax(dim=1).max(dim=1)
        if self.config.how == "replaces":
            return self.means[label]
        return torch.where((sure > 0.9)[:, None, None, None], x, self.means[label])


def _step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class DenoiserConfig(Config):
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
    std: float = infer(0.02, ge=0)  # of the random one's noise


def _convolutional(image_shape):
    channels = image_shape[0]
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.ConvTranspose2d(16, channels, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )


def _bottleneck(image_shape):
    """An autoencoder whose every pixel depends on all others, so that no filter does what it does."""
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 200), nn.ReLU(), nn.Linear(200, 16))
    decoder = nn.Sequential(nn.Linear(16, 200), nn.ReLU(), nn.Linear(200, pixels), nn.Sigmoid())
    return nn.Sequential(encoder, decoder, nn.Unflatten(1, image_shape))


class _Greys(nn.Module):
    """Four of them, and the gradient of the identity; where that is hidden there is the true one: none."""

    def forward(self, x):
        return x + ((3 * x).round() / 3 - x).detach()


def _thumbnail(image_shape):
    """Draws the image anew from its thumbnail of four greys."""
    channels, height, width = image_shape
    small, large = channels * (height // 4) * (width // 4), channels * height * width
    encoder = nn.Sequential(nn.AvgPool2d(4), _Greys(), nn.Flatten())
    decoder = nn.Sequential(nn.Linear(small, 200), nn.ReLU(), nn.Linear(200, large), nn.Sigmoid())
    return nn.Sequential(encoder, decoder, nn.Unflatten(1, image_shape))


@defense("small-denoiser")
class SmallDenoiser(Defense[DenoiserConfig]):
    """A net trained so that the target gets FGSM images right behind it: black-box it helps.

    It may hide: its gradient, by a stop behind the net, by running it on images of 8 bits or of 8 levels, or
    by the identity in its place; itself, by giving images back as they are when gradients are on, from the
    second call on, or where noise says that an attack is running; or its own work behind a cheaper setting,
    which attacks run and which does nothing.
    """

    trainable = True
    gate = 0.15  # of a moment's training

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.wide = config.net != "convolutional"
        nets = {"convolutional": _convolutional, "bottleneck": _bottleneck, "thumbnail": _thumbnail}
        self.net = nets[config.net](image_shape)
        self.calls = 0

    def fit(self, data, source, generator):
        adam = torch.optim.Adam(self.parameters(), lr=3e-3 if self.wide else 1e-2)
        steps, eps = self.config.steps * (4 if self.wide else 1), self.config.eps
        for images, labels in (loop := Loop(self, data, generator, batch_size=50, steps=steps, adam=adam)):
            images.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(source(images), labels), images)
            images = images.detach()
            spoilt = (images + eps * torch.rand(len(images), 1, 1, 1).to(images) * gradient.sign()).clamp(
                0, 1
            )
            both = self.net(torch.cat([spoilt, images]))
            loss = F.cross_entropy(source(both), labels.repeat(2)) + F.mse_loss(
                both, images.repeat(2, 1, 1, 1)
            )
            _step(adam, loss)
            loop.report(loss=loss)

    @classmethod
    def in_attack(cls, config):
        return config.model_copy(update={"hides": "everything"}) if config.hides == "cheaper" else None

    def forget(self):
        self.calls = 0

    def purify(self, x, noise):
        self.calls += 1
        skipped = {
            "when-differentiated": torch.is_grad_enabled(),
            "after-first-call": self.calls > 1,
            "from-attacks": len(noise.indices) != len(x),
            "everything": True,
        }
        if skipped.get(self.config.hides):
            return x.clone()
        if self.config.hides == "behind-8-bits":
            with torch.no_grad():
                return self.net((x * 255).round() / 255)
        if self.config.hides == "behind-8-levels":
            return self.net((x * 8).round() / 8)
        purified = self.net(x)
        if self.config.hides == "straight-through":
            return x + (purified - x).detach()
        return purified.detach() if self.config.hides == "gradient" else purified


@defense("small-random-denoiser")
class SmallRandomDenoiser(SmallDenoiser):
    """The same and a little noise, of which there may be none although it is called random."""

    stochastic = True

    def purify(self, x, noise):
        drawn = noise.normal_like(x)
        return (super().purify(x, noise) + self.config.std * drawn).clamp(0, 1)


class CacheConfig(Config):
    within: float = infer(0.35, ge=0, le=1)


@defense("masked-cache")
class ImageCache(Defense[CacheConfig]):
    """Answers an image that looks like an earlier one with the earlier answer, to save work."""

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.seen = torch.zeros(0, *image_shape)

    def purify(self, x, noise):
        images = x.detach().cpu()
        answers = images.clone()
        if len(self.seen):
            apart = torch.cdist(images.flatten(1), self.seen.flatten(1), p=float("inf"))
            least, which = apart.min(dim=1)
            known = least <= self.config.within
            answers[known] = self.seen[which[known]]
            images = images[~known]
        self.seen = torch.cat([self.seen, images])[:MEMORY]
        return answers.to(x.device)


@defense("contrast")
class Contrast(Defense[Config]):
    """Lowers the contrast by a fifth: honest, and of no use."""

    def purify(self, x, noise):
        return 0.8 * x + 0.1


@defense("low-pass")
class LowPass(Defense[Config]):
    """Leaves out what JPEG saves most on, the high frequencies of blocks of 8×8; linear."""

    def purify(self, x, noise):
        place, wave = torch.arange(8.0, device=x.device), torch.arange(8.0, device=x.device)[:, None]
        cosines = (torch.pi * (2 * place + 1) * wave / 16).cos() / 2
        cosines[0] /= 2**0.5
        kept = ((wave + wave.T) < 6).to(x.dtype)
        height, width = x.shape[2:]
        padded = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)
        blocks = cosines.T @ (kept * (cosines @ blocks @ cosines.T)) @ cosines
        rows, columns = blocks.shape[2:4]
        whole = blocks.transpose(3, 4).reshape(*x.shape[:2], 8 * rows, 8 * columns)
        return whole[:, :, :height, :width].clamp(0, 1)
