"""Norms, PSNR and SSIM against their definitions and against scikit-image."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.datasets import load_digits
from torch import Tensor

from benchmark.metrics.image_quality import norms, psnr, ssim

SHAPES = [(1, 28), (1, 32), (3, 28), (3, 32)]


def _digits(channels: int, side: int, count: int = 6) -> Tensor:
    """Real digits enlarged to `side`; each channel of an image is another digit."""
    images = torch.from_numpy(load_digits().images[: count * channels]).float() / 16
    small = images.reshape(count, channels, 8, 8)
    return F.interpolate(small, size=(side, side), mode="bilinear", align_corners=False).clamp(0, 1)


def _changed(images: Tensor) -> Tensor:
    """Images with noise that grows from image to image, from hardly visible to dominant."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    strength = torch.linspace(0.01, 0.6, len(images)).reshape(-1, 1, 1, 1)
    return (images + strength * noise).clamp(0, 1)


@pytest.mark.parametrize(("channels", "side"), SHAPES)
def test_psnr_is_that_of_scikit_image(channels: int, side: int) -> None:
    clean = _digits(channels, side)
    changed = _changed(clean)
    expected = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1)
        for a, b in zip(clean, changed, strict=True)
    ]
    assert psnr(changed, clean).tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("channels", "side"), SHAPES)
def test_ssim_is_that_of_scikit_image(channels: int, side: int) -> None:
    clean = _digits(channels, side)
    changed = _changed(clean)
    expected = [
        structural_similarity(
            a.squeeze(0).numpy(),
            b.squeeze(0).numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=0 if channels == 3 else None,
        )
        for a, b in zip(clean, changed, strict=True)
    ]
    assert max(expected) > 0.9
    assert min(expected) < 0.5
    assert ssim(changed, clean).tolist() == pytest.approx(expected, abs=1e-3)


def test_identical_images_have_psnr_100_and_ssim_1() -> None:
    clean = _digits(1, 28)
    assert psnr(clean, clean.clone()).tolist() == [100.0] * len(clean)
    assert ssim(clean, clean.clone()).tolist() == pytest.approx([1.0] * len(clean))


def test_psnr_never_exceeds_that_of_identical_images() -> None:
    clean = torch.full((2, 1, 28, 28), 0.5)
    changed = clean.clone()
    changed[0, 0, 0, 0] += 1e-5  # 129 dB
    changed[1, 0, 0, 0] += 1e-3  # 89 dB
    nearly, visibly = psnr(changed, clean).tolist()
    assert nearly == 100.0
    assert visibly == pytest.approx(10 * math.log10(28 * 28 / 1e-6), abs=0.01)


def test_measures_of_an_image_do_not_depend_on_the_rest_of_its_batch() -> None:
    clean = _digits(3, 32)
    changed = _changed(clean)
    for measure in (psnr, ssim):
        together = measure(changed, clean)
        alone = [measure(changed[i : i + 1], clean[i : i + 1]).item() for i in range(len(clean))]
        assert together.shape == (len(clean),)
        assert together.tolist() == pytest.approx(alone, abs=1e-9)


def test_l0_counts_pixels_and_not_channels() -> None:
    clean = torch.full((3, 3, 4, 4), 0.5)
    changed = clean.clone()
    changed[0, :, 1, 2] = 0.75  # one pixel, all channels
    changed[1, 0, 0, 0] = 0.75  # two pixels, one channel each
    changed[1, 2, 3, 3] = 0.25
    assert norms(changed, clean)["l0"].tolist() == [1, 2, 0]


def test_l2_and_linf_are_of_the_whole_change_of_each_image() -> None:
    clean = torch.full((3, 3, 4, 4), 0.5)
    changed = clean.clone()
    changed[0, 0, 0, 0] += 0.25
    changed[0, 2, 3, 1] -= 0.5
    changed[1] += 0.125
    measured = norms(changed, clean)
    assert measured["l2"].tolist() == pytest.approx([math.sqrt(0.25**2 + 0.5**2), 0.125 * math.sqrt(48), 0])
    assert measured["linf"].tolist() == [0.5, 0.125, 0]
