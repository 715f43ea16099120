"""ImageNet classifiers of the APE-GAN paper (Shen et al. 2017, section 4.1), from torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from benchmark.targets.loading.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessed
from torch import Tensor, nn

from benchmark.api import (
    Config,
    ConfigT,
    PluginError,
    PretrainedTarget,
    Trust,
    digest_of_file,
    param,
    target,
    unwatched,
)

_CLASSES = 1000


class _TorchvisionNet(PretrainedTarget[ConfigT]):
    """A network of torchvision with its weights, which are read from torchvision's own folder.

    Attributes:
        builder: Name of the function in torchvision.models.
        enumeration: Name of the enumeration of its weights there.
        size: Height and width to which images are resized.
        arguments: Arguments of the function.
    """

    builder: ClassVar[str]
    enumeration: ClassVar[str]
    size: ClassVar[int]
    arguments: ClassVar[Mapping[str, Any]] = {}
    network: nn.Module

    def __init__(self, config: ConfigT, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        if image_shape[0] != 3:
            raise ValueError(f"{self.name} takes RGB images, got {image_shape[0]} channel(s)")
        if num_classes != _CLASSES:
            raise ValueError(f"the classes of {self.name} are the 1,000 of ImageNet, got {num_classes}")

    @classmethod
    def _weights(cls, config: Any) -> Any:
        from torchvision import models

        return getattr(models, cls.enumeration)[config.weights]

    @classmethod
    def rests_on(cls, config: Any, trusted: Trust) -> Mapping[str, str]:
        return {"weights": _file_name(cls._weights(config))}

    def load(self, trusted: Trust) -> None:
        from torchvision import models

        weights = self._weights(self.config)
        network = getattr(models, self.builder)(weights=None, **self.arguments)
        with unwatched():  # the key contains the file name, which contains the checksum
            network.load_state_dict(_downloaded(self.name, weights))
        self.network = Preprocessed(network, size=self.size, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


class ResNet50Config(Config):
    """`weights`: their name in torchvision. V1 (23.9 % top-1 and 7.1 % top-5 error according to torchvision)
    corresponds to the paper's ResNet50 (24.4 and 7.2 %), V2 is a later training (19.1 and 4.6 %).
    """

    weights: Literal["IMAGENET1K_V1", "IMAGENET1K_V2"] = param("IMAGENET1K_V1")


class InceptionV3Config(Config):
    """`weights`: their name in torchvision; 22.7 % top-1 and 6.6 % top-5 error according to torchvision (the
    paper: 22.9 and 6.1 %).
    """

    weights: Literal["IMAGENET1K_V1"] = param("IMAGENET1K_V1")


@target("resnet50")
class ResNet50(_TorchvisionNet[ResNet50Config]):
    """ResNet50 for the 1,000 classes of ImageNet, with torchvision's weights, at 224×224 pixels.

    Images of another size are resized. The weights are downloaded once, by torchvision's loader, and their
    checksum is compared at every use.
    """

    builder = "resnet50"
    enumeration = "ResNet50_Weights"
    size = 224


@target("inception-v3")
class InceptionV3(_TorchvisionNet[InceptionV3Config]):
    """Inception-v3 for the 1,000 classes of ImageNet, with torchvision's weights, at 299×299 pixels.

    Images of another size are resized. The weights are downloaded once, by torchvision's loader, and their
    checksum is compared at every use.
    """

    builder = "inception_v3"
    enumeration = "Inception_V3_Weights"
    size = 299
    arguments: ClassVar[Mapping[str, Any]] = {"transform_input": True, "init_weights": False}


def _file_name(weights: Any) -> str:
    """The file name in torchvision, which ends (before the suffix) with the first digits of the SHA-256."""
    return str(weights.url).rpartition("/")[2]


def _downloaded(name: str, weights: Any) -> Mapping[str, Tensor]:
    """The weights, from the file if it exists, or else downloaded.

    Raises:
        PluginError: They are not available, or the checksum differs; names the file and its folder.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / _file_name(weights)
    advice = f"put {weights.url} into {path.parent}"
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except Exception as error:  # no network, a broken download, a full disk, a damaged file
        raise PluginError(f"target {name}: no weights ({type(error).__name__}: {error}); {advice}") from error
    digest = path.stem.rpartition("-")[2]
    if not digest_of_file(path).startswith(digest):  # torchvision checks only downloads
        raise PluginError(f"target {name}: the SHA-256 of {path} does not begin with {digest}; {advice}")
    return state
