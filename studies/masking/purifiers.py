"""A plugin file: purifiers without training that hide their weakness, and two honest ones.

Each masks its weakness in another way. Most are mistakes that a careful author has made by accident.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmark.api import Config, Defense, Noise, Tensor, defense, infer

_MOST_CACHED = 1000


def shattered(x: Tensor) -> Tensor:
    """Adds a wave of amplitude 0.02 and 10,000 radians per unit: gradients point in random directions."""
    return (x + 0.02 * (1e4 * x).sin()).clamp(0, 1)


def detached(x: Tensor) -> Tensor:
    """Returns the image detached from its graph."""
    return x.detach().clone()


def clipped(x: Tensor) -> Tensor:
    """Clips pixels to [0.1, 0.9]: there is no gradient outside of it."""
    return x.clamp(0.1, 0.9)


def rounded(x: Tensor) -> Tensor:
    """Lowers the contrast and rounds to 16 levels."""
    return ((0.8 * x + 0.1) * 15).round() / 15


def batch_statistics(x: Tensor) -> Tensor:
    """Batch normalisation in training mode: the output depends on the other images of the batch."""
    return (0.5 + 0.25 * F.batch_norm(x, None, None, training=True)).clamp(0, 1)


def constant(x: Tensor) -> Tensor:
    """Returns the same grey image for every input."""
    return torch.full_like(x, 0.5) + 0 * x


def hidden_noise(x: Tensor) -> Tensor:
    """Adds undeclared noise of standard deviation 0.3 from torch's global generator."""
    return (x + 0.3 * torch.randn_like(x)).clamp(0, 1)


def noise_by_hash(x: Tensor) -> Tensor:
    """Adds noise seeded by the content of the image: equal for equal images, different for similar ones."""
    drawn = []
    for image in x.detach().cpu():
        seed = int.from_bytes(hashlib.sha256(image.numpy().tobytes()).digest()[:7], "little")
        drawn.append(torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)))
    return (x + 0.3 * torch.stack(drawn).to(x.device)).clamp(0, 1)


def dropout_left_on(x: Tensor) -> Tensor:
    """Undeclared dropout of a tenth of the pixels, also in evaluation mode."""
    return F.dropout(x, 0.1, training=True).clamp(0, 1)


def median_detached(x: Tensor) -> Tensor:
    """A median filter on detached images: no gradient comes back."""
    windows = F.pad(x.detach(), (1, 1, 1, 1), mode="reflect").unfold(2, 3, 1).unfold(3, 3, 1)
    return windows.flatten(4).median(dim=4).values


def deep_stack(x: Tensor) -> Tensor:
    """Eighteen layers that scale down and one that scales up: gradients overflow in the backward pass."""
    small = x
    for _ in range(18):
        small = small * 1e-2
    largest = small.detach().flatten(1).amax(dim=1)[:, None, None, None]
    return (small / largest.clamp_min(1e-38)).clamp(0, 1)


def half_precision(x: Tensor) -> Tensor:
    """Converts to float16 and back, as on a phone."""
    return x.half().to(x.dtype)


def soft_rounding(x: Tensor) -> Tensor:
    """Nearly the identity, but flat at the 256 levels of 8-bit images."""
    return (x - (2 * torch.pi * 255 * x).sin() / (2 * torch.pi * 255)).clamp(0, 1)


def tanh_space(x: Tensor) -> Tensor:
    """Maps to tanh space and back: near black and white float32 is saturated and has no gradient."""
    squashed = torch.tanh(8 * (2 * x - 1)).clamp(-1 + 1e-6, 1 - 1e-6)
    return (0.5 + torch.atanh(squashed) / 16).clamp(0, 1)


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def reversed_gradient(x: Tensor) -> Tensor:
    """A gradient reversal layer from domain adaptation: the identity forward, the negative backward."""
    reversed_x: Tensor = _Reversal.apply(x)
    return reversed_x


def smoothed_without_gradient(x: Tensor) -> Tensor:
    """Ten steps towards the mean of the neighbours, under no_grad."""
    with torch.no_grad():
        for _ in range(10):
            x = 0.8 * x + 0.2 * F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return x


STATELESS: dict[str, Callable[[Tensor], Tensor]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        shattered,
        detached,
        clipped,
        rounded,
        batch_statistics,
        constant,
        hidden_noise,
        noise_by_hash,
        dropout_left_on,
        median_detached,
        deep_stack,
        half_precision,
        soft_rounding,
        tanh_space,
        reversed_gradient,
        smoothed_without_gradient,
    )
}


class MaskedConfig(Config):
    """`how`: a name in `STATELESS`."""

    how: str = infer("detached")


@defense("masked")
class Masked(Defense[MaskedConfig]):
    """Purifies by the map in `STATELESS` that `how` names."""

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return STATELESS[self.config.how](x)


@defense("masked-random-resize")
class RandomResize(Defense[Config]):
    """Shrinks by up to a tenth and pads at random (Xie et al. 2018). The randomness is declared."""

    stochastic = True

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        size, right, down = noise.uniform_like(x.detach()[:, 0, 0, :3]).unbind(dim=1)
        size = 1 - 0.1 * size
        theta = torch.zeros(len(x), 2, 3, device=x.device)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 / size
        theta[:, 0, 2] = (2 * right - 1) * (1 - size) / size
        theta[:, 1, 2] = (2 * down - 1) * (1 - size) / size
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


class CacheConfig(Config):
    """`within`: the largest L∞ distance at which two images count as the same."""

    within: float = infer(0.35, ge=0, le=1)


@defense("masked-cache")
class ImageCache(Defense[CacheConfig]):
    """Returns an earlier output for an image that is similar to an earlier one."""

    def __init__(self, config: CacheConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        self.seen = torch.zeros(0, *image_shape)

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        images = x.detach().cpu()
        purified = images.clone()
        if len(self.seen):
            distances = torch.cdist(images.flatten(1), self.seen.flatten(1), p=float("inf"))
            least, which = distances.min(dim=1)
            known = least <= self.config.within
            purified[known] = self.seen[which[known]]
            images = images[~known]
        self.seen = torch.cat([self.seen, images])[:_MOST_CACHED]
        return purified.to(x.device)


@defense("contrast")
class Contrast(Defense[Config]):
    """Lowers the contrast by a fifth: honest, and useless."""

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return 0.8 * x + 0.1


@defense("low-pass")
class LowPass(Defense[Config]):
    """Removes the high frequencies of 8×8 blocks, as JPEG does; linear."""

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
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
