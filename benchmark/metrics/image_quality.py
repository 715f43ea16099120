"""Image quality: norms of a perturbation, PSNR, SSIM.

All functions take images (N, C, H, W), float32 in [0, 1], and return one value per image.
"""

from __future__ import annotations

from torch import Tensor

PSNR_CAP = 100.0
"""Largest PSNR in dB. Identical images get it, since their PSNR is infinite."""

_WINDOW = 11
"""Side of the SSIM window in pixels."""


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
    from torchmetrics.functional.image import structural_similarity_index_measure

    # torchmetrics would also average over reflected borders
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
    inside = slice(_WINDOW // 2, -(_WINDOW // 2))
    return similarity.reshape(x.shape)[..., inside, inside].flatten(1).double().mean(dim=1)
