"""Per-image measures: norms of a change, PSNR, SSIM. All take NCHW float32 in [0, 1]."""

from __future__ import annotations

from torch import Tensor

PSNR_CAP = 100.0
"""Decibels given to identical images, whose PSNR is infinite."""


def norms(x: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """L0 (changed pixels, a pixel being one position over all channels), L2 and L∞ of x − reference."""
    change = (x - reference).double()
    return {
        "l0": (change != 0).any(dim=1).flatten(1).sum(dim=1).double(),
        "l2": change.flatten(1).norm(dim=1),
        "linf": change.abs().flatten(1).amax(dim=1),
    }


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for data range 1, one per image, capped at 100 dB."""
    error = (x.double() - reference.double()).square().flatten(1).mean(dim=1)
    return (-10 * error.log10()).clamp(max=PSNR_CAP)


def ssim(x: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004: Gaussian window 11, σ 1.5), data range 1, one per image."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    similarity = structural_similarity_index_measure(
        x.double(),
        reference.double(),
        gaussian_kernel=True,
        sigma=1.5,
        kernel_size=11,
        reduction="none",
        data_range=1.0,
    )
    assert isinstance(similarity, Tensor)  # a tuple only when the full image is asked for
    return similarity.reshape(len(x))
