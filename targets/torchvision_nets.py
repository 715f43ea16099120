"""ImageNet classifiers of the APE-GAN paper (Shen et al. 2017, section 4.1), from torchvision."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from benchmark.errors import PluginError
from benchmark.files import digest_of_file
from benchmark.opened_files import unwatched
from benchmark.plugin import Config, ConfigT, param
from targets.contract import GivenTarget, target
from targets.preparation import IMAGENET_MEAN, IMAGENET_STD, Prepared

_CLASSES = 1000


class _TorchvisionNet(GivenTarget[ConfigT]):
    """torchvision's network and weights; its file is looked for where torchvision puts it.

    Attributes:
        builder: Name of the function in torchvision.models.
        enumeration: Name of its weights there.
        size: Height and width that images are resized to.
        arguments: What the function is called with.
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
    def rests_on(cls, config: Any, trusted: Collection[Path]) -> Mapping[str, str]:
        return {"weights": _file_name(cls._weights(config))}

    def load(self, trusted: Collection[Path]) -> None:
        from torchvision import models

        weights = self._weights(self.config)
        network = getattr(models, self.builder)(weights=None, **self.arguments)
        with unwatched():  # its checksum is in its name, which is in the key
            network.load_state_dict(_downloaded(self.name, weights))
        self.network = Prepared(network, size=self.size, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


class ResNet50Config(Config):
    """`weights` is the name that torchvision gives them; V1 (23.9 % top-1 error, 7.1 % top-5 by torchvision)
    is the paper's ResNet50 (24.4 and 7.2 %), V2 a later training (19.1 and 4.6 %).
    """

    weights: Literal["IMAGENET1K_V1", "IMAGENET1K_V2"] = param("IMAGENET1K_V1")


class InceptionV3Config(Config):
    """`weights` is the name that torchvision gives them: 22.7 % top-1 error, 6.6 % top-5 by torchvision (the
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
    """What torchvision calls the file: the part before the suffix ends in the beginning of its SHA-256."""
    return str(weights.url).rpartition("/")[2]


def _downloaded(name: str, weights: Any) -> Mapping[str, Tensor]:
    """The weights, from the file if it is there.

    Raises:
        PluginError: They cannot be had, or the file is another; says which file to put where.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / _file_name(weights)
    wanted = f"put {weights.url} into {path.parent}"
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except Exception as error:  # no network, a broken download, a full disk, a damaged file
        raise PluginError(f"target {name}: no weights ({type(error).__name__}: {error}); {wanted}") from error
    digest = path.stem.rpartition("-")[2]
    if not digest_of_file(path).startswith(digest):  # torchvision looks only at what it downloads
        raise PluginError(f"target {name}: the SHA-256 of {path} does not begin with {digest}; {wanted}")
    return state
