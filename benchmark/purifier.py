"""A purifier as the harness uses it: a plain module with its noise, whose every output is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import PluginError, told
from benchmark.noise import Noise
from benchmark.opened_files import watching
from defenses.contract import Defense

_SLACK = 1e-5
"""How far rounding may carry a purified pixel out of [0, 1]."""


class PurifierModule(nn.Module):
    """Images through one defense, or several in sequence. `noise`, set before each use, is all randomness.

    Raises:
        PluginError: A defense raised, or gave back another shape or dtype, values that are not
            finite or not in [0, 1], or changed its input in place.
    """

    def __init__(self, defenses: Sequence[Defense[Any]]) -> None:
        super().__init__()
        self.parts: Sequence[Defense[Any]] = nn.ModuleList(defenses)  # type: ignore[assignment]
        self.noise: Noise = Noise(0, [])
        self.eval().requires_grad_(False)

    @property
    def stochastic(self) -> bool:
        """Whether two calls may differ."""
        return any(part.stochastic for part in self.parts)

    def forget(self) -> None:
        """Drop what earlier calls left behind."""
        for part in self.parts:
            part.forget()

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = self._purify(part, x, decide=False)[0]
        return x

    def purify_and_decide(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Purified images, and the last part's own labels (B,) where it decides any."""
        *earlier, last = self.parts  # what attacks run decides nothing: nor may what is not asked
        for part in earlier:
            x, _ = self._purify(part, x, decide=False)
        return self._purify(last, x, decide=last.decides_label)

    def _purify(self, part: Defense[Any], x: Tensor, *, decide: bool) -> tuple[Tensor, Tensor | None]:
        if not torch.isfinite(x).all():
            raise PluginError(f"images given to defense {part.name} are not finite: the attack made them")
        given = x.clone()  # what a plugin does to its input reaches nobody else
        version = given._version
        decision = None
        try:
            with watching("defense", part):
                if decide:
                    purified, decision = part.purify_and_decide(given, self.noise)
                else:
                    purified = part.purify(given, self.noise)
        except (Exception, SystemExit) as error:  # whatever it raises, it fails its own cells and no others
            raise PluginError(f"defense {part.name} raised {told(error)}") from error
        _check(part.name, x, purified, changed=given._version != version)
        if decide and not (
            isinstance(decision, Tensor) and decision.shape == x.shape[:1] and decision.dtype == torch.int64
        ):
            raise PluginError(f"defense {part.name} decided no label (int64) for each image")
        return purified, decision


def _check(name: str, x: Tensor, purified: Any, *, changed: bool) -> None:
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
