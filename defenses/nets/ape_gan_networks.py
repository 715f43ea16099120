"""The networks of APE-GAN (Shen et al. 2017, Table 6), which the isomorphic-loss GAN shares."""

from __future__ import annotations

from torch import nn


def check_size(name: str, image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError for images whose size the generator would change."""
    _, height, width = image_shape
    if not _is_small(image_shape) and (min(height, width) < 64 or height % 8 or width % 8):
        raise ValueError(
            f"{name} takes 28×28 or 32×32 images, or larger ones from 64×64 whose sides are multiples of 8; "
            f"got {height}×{width}"
        )


def build_generator(image_shape: tuple[int, int, int]) -> nn.Sequential:
    """The generator for images of that shape, with 149,377 parameters at 28×28×1, 151,683 at 32×32×3."""
    channels = image_shape[0]
    if not _is_small(image_shape):
        return _build_large_generator(channels)
    return nn.Sequential(
        nn.Conv2d(channels, 64, 3, stride=2, padding=1),
        *_normalised(64),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        *_normalised(128),
        nn.ConvTranspose2d(128, 64, 3, stride=2, padding=1, output_padding=1),
        *_normalised(64),
        nn.ConvTranspose2d(64, channels, 3, stride=2, padding=1, output_padding=1),
        nn.Sigmoid(),
    )


def build_discriminator(image_shape: tuple[int, int, int]) -> nn.Sequential:
    """The discriminator of Table 6 without its final sigmoid, which is part of the losses."""
    channels, height, width = image_shape
    if not _is_small(image_shape):
        return _build_large_discriminator(image_shape)
    features = 256 * (-(-height // 8)) * (-(-width // 8))
    return nn.Sequential(
        nn.Conv2d(channels, 64, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        *_normalised(128),
        nn.Conv2d(128, 256, 3, stride=2, padding=1),
        *_normalised(256),
        nn.Flatten(),
        nn.Linear(features, 1),
    )


def _build_large_generator(channels: int) -> nn.Sequential:
    """The ImageNet generator of Table 6: three strided convolutions and three transposed ones."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), *_normalised(outputs)]
    for inputs, outputs in ((256, 256), (256, 128)):
        layers += [_doubling(inputs, outputs), *_normalised(outputs)]
    return nn.Sequential(*layers, _doubling(128, channels), nn.Sigmoid())


def _build_large_discriminator(image_shape: tuple[int, int, int]) -> nn.Sequential:
    """The ImageNet discriminator of Table 6 without its final sigmoid."""
    channels, height, width = image_shape
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 64), (64, 128), (128, 256), (256, 256)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), *_normalised(outputs)]
    features = 256 * (-(-height // 16)) * (-(-width // 16))
    dense = [nn.Flatten(), nn.Linear(features, 1024), nn.BatchNorm1d(1024), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, *dense, nn.Linear(1024, 1))


def _is_small(image_shape: tuple[int, int, int]) -> bool:
    return image_shape[1:] in ((28, 28), (32, 32))


def _normalised(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.LeakyReLU(0.2)


def _doubling(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
