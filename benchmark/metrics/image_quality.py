"""Image quality: norms of a perturbation, PSNR, SSIM.

All functions take images (N, C, H, W), float32 in [0, 1], and return one value per image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PSNR_CAP = 100.0
"""Largest PSNR in dB. Identical images get it, since their PSNR is infinite."""

_WINDOW = 11
"""Side of the SSIM window in pixels."""

_SIGMA = 1.5

_C1, _C2 = pow(0.01, 2), pow(0.03, 2)
"""Small constants of SSIM for data range 1."""


def norms(x: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """L0, L2 and L∞ norms of x − reference. For L0 a pixel with all its channels counts once."""
    change = (x - reference).double()
    return {
        "l0": (change != 0).any(dim=1).flatten(1).sum(dim=1).double(),
        "l2": change.flatten(1).norm(dim=1),
        "linf": change.abs().flatten(1).amax(dim=1),
    }


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for data range 1, at most 100 dB."""
    error = (x.double() - reference.double()).square().flatten(1).mean(dim=1)
    return (-10 * error.log10()).clamp(max=PSNR_CAP)


def ssim(x: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004: Gaussian window 11, σ 1.5) for data range 1.

    The mean is over windows that lie inside the image, as in the paper and in scikit-image.
    """
    # The operations and their order are those of torchmetrics, whose import takes seconds. It pads the
    # images, and the mean leaves out what the padding adds.
    channels = x.shape[1]
    border = _WINDOW // 2
    x, reference = (F.pad(images, (border,) * 4, mode="reflect") for images in (x, reference))
    batch = torch.cat((x, reference, x * x, reference * reference, x * reference))
    window = _gaussian_window(x).expand(channels, 1, _WINDOW, _WINDOW)
    mean_x, mean_reference, *products = F.conv2d(batch, window, groups=channels).chunk(5)
    squares, product = (mean_x.pow(2), mean_reference.pow(2)), mean_x * mean_reference
    variances = [(p - square).clamp(min=0.0) for p, square in zip(products[:2], squares, strict=True)]
    upper = 2 * (products[2] - product) + _C2
    lower = variances[0] + variances[1] + _C2
    similarity = ((2 * product + _C1) * upper) / ((squares[0] + squares[1] + _C1) * lower)
    inside = slice(border, -border)
    return similarity[..., inside, inside].flatten(1).double().mean(dim=1)


def _gaussian_window(like: Tensor) -> Tensor:
    """The window (11, 11) of SSIM, on the device of `like`."""
    offsets = torch.arange((1 - _WINDOW) / 2, (1 + _WINDOW) / 2, dtype=like.dtype, device=like.device)
    weights = torch.exp(-torch.pow(offsets / _SIGMA, 2) / 2)
    weights = (weights / weights.sum()).unsqueeze(dim=0)
    return torch.matmul(weights.t(), weights)
