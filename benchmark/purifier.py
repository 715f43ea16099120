"""A defense as the harness uses it: a plain module with its noise, whose every output is checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import PluginError
from benchmark.noise import Noise
from defenses.contract import Defense

_SLACK = 1e-5
"""How far rounding may carry a purified pixel out of [0, 1]."""


class PurifierModule(nn.Module):
    """Images to purified images. Set `noise` before each use; it is the only randomness.

    Raises:
        PluginError: The defense raised, or gave back another shape or dtype, values that are not
            finite or not in [0, 1], or changed its input in place.
    """

    def __init__(self, defense: Defense[Any]) -> None:
        super().__init__()
        self.defense = defense.eval()
        self.noise: Noise = Noise(0, [])
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        version = x._version
        try:
            purified = self.defense.purify(x, self.noise)
        except Exception as error:  # whatever a plugin raises, it fails its own cells and no others
            raise PluginError(
                f"defense {self.defense.name} raised {type(error).__name__}: {error}"
            ) from error
        self._check(x, purified, changed=x._version != version)
        return purified

    def _check(self, x: Tensor, purified: Any, *, changed: bool) -> None:
        name = self.defense.name
        if changed:
            raise PluginError(f"defense {name} changed its input in place")
        if not isinstance(purified, Tensor):
            raise PluginError(f"defense {name} returned {type(purified).__name__}, not a tensor")
        if purified.shape != x.shape:
            raise PluginError(f"defense {name} returned shape {tuple(purified.shape)} for {tuple(x.shape)}")
        if purified.dtype != x.dtype:
            raise PluginError(f"defense {name} returned {purified.dtype} for {x.dtype}")
        low, high = (bound.item() for bound in torch.aminmax(purified.detach()))
        if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN fails both
            raise PluginError(f"defense {name} returned values outside [0, 1]: from {low:.6g} to {high:.6g}")
