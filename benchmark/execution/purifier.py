"""A purifier as the harness uses it: a module with its noise, which checks every output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api.defense import Defense
from benchmark.api.noise import Noise
from benchmark.errors import PluginError, format_exception
from benchmark.plugins.opened_files import watching

_TOLERANCE = 1e-5
"""How far rounding may carry a purified pixel out of [0, 1]."""


class PurifierModule(nn.Module):
    """Runs images through one defense, or several in sequence. Call `reset` before each independent use.

    `noise` is its only source of randomness. A defense that breaks its contract raises `PluginError`.
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

    def reset(self, noise: Noise) -> None:
        """Set the noise of the next calls, and drop the state that earlier calls left in the defenses."""
        self.noise = noise
        self.forget()

    def forget(self) -> None:
        """Drop the state that earlier calls left in the defenses; the noise continues."""
        for part in self.parts:
            part.forget()

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = self._purify(part, x, decide=False)[0]
        return x

    def purify_and_decide(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Purified images, and the labels (B,) of the last part if it decides labels."""
        *earlier, last = self.parts  # attacks see only the images of these parts, so the judge does too
        for part in earlier:
            x, _ = self._purify(part, x, decide=False)
        return self._purify(last, x, decide=last.decides_label)

    def _purify(self, part: Defense[Any], x: Tensor, *, decide: bool) -> tuple[Tensor, Tensor | None]:
        if not torch.isfinite(x).all():
            raise PluginError(f"the images for defense {part.name} are not finite: the attack made them")
        name, decision = part.name, None
        copy = x.clone()  # a change in place by the plugin must not reach the caller
        version = copy._version
        try:
            with watching("defense", part):
                if decide:
                    purified, decision = part.purify_and_decide(copy, self.noise)
                else:
                    purified = part.purify(copy, self.noise)
        except (Exception, SystemExit) as error:  # whatever it raises fails only the cells of this defense
            raise PluginError(f"defense {name} raised {format_exception(error)}") from error
        if copy._version != version:
            raise PluginError(f"defense {name} changed its input in place")
        if not isinstance(purified, Tensor):
            raise PluginError(f"defense {name} returned {type(purified).__name__}, not a tensor")
        if purified.shape != x.shape:
            raise PluginError(f"defense {name} returned shape {tuple(purified.shape)} for {tuple(x.shape)}")
        if purified.dtype != x.dtype:
            raise PluginError(f"defense {name} returned {purified.dtype} for {x.dtype}")
        if type(part).is_identity:
            # The declaration leaves out attacks: it must hold for every image, and for the gradient too.
            if not torch.equal(purified, x):
                raise PluginError(f"defense {name} declares `is_identity = True` but changed an image")
            purified = copy
        low, high = (bound.item() for bound in torch.aminmax(purified.detach()))
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # also catches NaN
            raise PluginError(f"defense {name} returned values outside [0, 1]: from {low:.6g} to {high:.6g}")
        if decide and not (
            isinstance(decision, Tensor) and decision.shape == x.shape[:1] and decision.dtype == torch.int64
        ):
            raise PluginError(f"defense {name} did not return one int64 label per image")
        return purified, decision
