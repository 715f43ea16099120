"""Per-image measures: norms of a change, PSNR, SSIM. All take NCHW float32 in [0, 1]."""

from __future__ import annotations

from torch import Tensor

PSNR_CAP = 100.0
"""Decibels given to identical images, whose PSNR is infinite."""

_WINDOW = 11
"""Side of the SSIM window in pixels."""


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
    """Structural similarity (Wang et al. 2004: Gaussian window 11, σ 1.5), data range 1, one per image.

    The mean is over windows that lie within the image, as in the paper and in scikit-image.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    # torchmetrics averages over reflected borders too, so the mean is taken here
    _, similarity = structural_similarity_index_measure(
        x,
        reference,
        gaussian_kernel=True,
        sigma=1.5,
        kernel_size=_WINDOW,
        reduction="none",
        data_range=1.0,
        return_full_image=True,
    )
    border = _WINDOW // 2
    inside = similarity.reshape(x.shape)[..., border:-border, border:-border]
    return inside.flatten(1).double().mean(dim=1)
