"""Gaussian blur through torchvision."""

from __future__ import annotations

import math

from torch import Tensor

from benchmark.api import Config, Defense, Noise, defense, infer


class GaussianBlurConfig(Config):
    """`sigma`: standard deviation in pixels; the window reaches three standard deviations to each side."""

    sigma: float = infer(1.0, gt=0, le=10)


@defense("gaussian-blur")
class GaussianBlur(Defense[GaussianBlurConfig]):
    """Averages each pixel with its neighbours, weighted by a Gaussian; borders are reflected."""

    control = True

    def __init__(
        self, config: GaussianBlurConfig, image_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        super().__init__(config, image_shape, num_classes)
        self.window = 2 * math.ceil(3 * config.sigma) + 1
        if self.window // 2 >= min(image_shape[1:]):
            raise ValueError(f"gaussian-blur: sigma {config.sigma:g} reaches beyond {image_shape[1:]} images")
        # The import takes seconds. Planning needs no instance, and the purification time must not include it.
        from torchvision.transforms.functional import gaussian_blur

        self._blur = gaussian_blur

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        blurred: Tensor = self._blur(x, [self.window, self.window], [self.config.sigma, self.config.sigma])
        return blurred.clamp(0, 1)  # by rounding, the weights may add up to more than 1
