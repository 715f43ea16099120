"""JPEG compression through torchvision's codec."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.api import Config, Defense, Noise, defense, infer


class JpegConfig(Config):
    """`quality`: the quality setting of libjpeg, 1 to 100."""

    quality: int = infer(75, ge=1, le=100)


@defense("jpeg")
class Jpeg(Defense[JpegConfig]):
    """Encodes and decodes each image as JPEG, as studied by Guo et al. 2018."""

    control = True

    def __init__(self, config: JpegConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        if image_shape[0] not in (1, 3):
            raise ValueError(f"jpeg takes 1 or 3 channels, got {image_shape[0]}")
        # The import takes seconds. Planning needs no instance, and the purification time must not include it.
        from torchvision.io import decode_jpeg, encode_jpeg

        self._encode, self._decode = encode_jpeg, decode_jpeg

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        levels = (x.detach() * 255).round().to(torch.uint8).cpu()
        decoded = [self._decode(self._encode(image, quality=self.config.quality)) for image in levels]
        return torch.stack(decoded).to(device=x.device, dtype=x.dtype).div_(255)
