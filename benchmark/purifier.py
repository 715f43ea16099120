"""A defense as the harness uses it: a plain module with its noise, whose every output is checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import PluginError, told
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
        self.defense = defense
        self.noise: Noise = Noise(0, [])
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.isfinite(x).all():
            raise PluginError(
                f"images given to defense {self.defense.name} are not finite: the attack made them"
            )
        given = x.clone()  # what a plugin does to its input reaches nobody else
        version = given._version
        try:
            purified = self.defense.purify(given, self.noise)
        except (Exception, SystemExit) as error:  # whatever it raises, it fails its own cells and no others
            raise PluginError(f"defense {self.defense.name} raised {told(error)}") from error
        self._check(x, purified, changed=given._version != version)
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
