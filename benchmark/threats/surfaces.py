"""The surfaces as modules, and the meter inside them.

Counts are of images, not of calls: a forward of 100 images is 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attacks.contract import Surface
from benchmark.errors import BudgetError, PluginError
from benchmark.opened_files import watching
from benchmark.purifier import PurifierModule
from defenses.contract import Defense


@dataclass
class Meter:
    """Images that passed: forwards and backwards at the surface, runs of the purifier."""

    forwards: int = 0
    backwards: int = 0
    purifies: int = 0
    blind: int = 0
    """Images whose gradient was not a number, and so was taken for zero."""


class MeteredSurface(Surface):
    """A surface that counts what is asked of it; `meter` may be read at any time.

    The hooks are on tensors inside `forward`, so nothing that wraps the module can go round them.

    Attributes:
        meter: What was asked for so far.
        allowed: Forwards and backwards after which every call raises `BudgetError`.
    """

    def __init__(self, target: nn.Module, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(num_classes, image_shape)
        self.target = target
        self.meter = Meter()
        self.allowed = float("inf")

    def forward(self, x: Tensor) -> Tensor:
        self.meter.forwards += len(x)
        if self.meter.forwards + self.meter.backwards > self.allowed:
            raise BudgetError("more passes than the budget of the grid")
        followed = torch.is_grad_enabled() and x.requires_grad
        if followed:
            x = x.view_as(x)
            x.register_hook(self._finite)  # type: ignore[no-untyped-call]
        logits = self.scores(x)
        if not torch.isfinite(logits.detach().sum()):
            self._check(x, logits)
        if not followed:
            return logits
        if not logits.requires_grad:
            # No gradient at all is the extreme of a zero gradient: attacks run on, and the probe tells.
            logits = logits + 0 * x.flatten(1).sum(dim=1, keepdim=True)
        images = len(x)

        def count(_: Tensor) -> None:
            self.meter.backwards += images

        logits.register_hook(count)  # type: ignore[no-untyped-call]
        return logits

    @staticmethod
    def _check(x: Tensor, logits: Tensor) -> None:
        if torch.isfinite(x).all() and not torch.isfinite(logits).all():
            raise PluginError("what is attacked gave scores that are not finite")

    def _finite(self, gradient: Tensor) -> Tensor | None:
        """The gradient without what is not a number, which attacks would follow to nowhere in silence."""
        if torch.isfinite(gradient.sum()):
            return None
        numbers = torch.isfinite(gradient)
        self.meter.blind += int((~numbers.flatten(1).all(dim=1)).sum())
        return torch.where(numbers, gradient, 0.0)

    def scores(self, x: Tensor) -> Tensor:
        """The logits for `x`."""
        return self.target(self.prepare(x))  # type: ignore[no-any-return]

    def prepare(self, x: Tensor) -> Tensor:
        """What the target gets to see."""
        return x


class PipelineSurface(MeteredSurface):
    """The pipeline with the exact gradient."""

    def __init__(
        self,
        target: nn.Module,
        purifier: PurifierModule,
        draws: int,
        num_classes: int,
        image_shape: tuple[int, int, int],
    ) -> None:
        super().__init__(target, num_classes, image_shape)
        self.purifier = purifier
        self.draws = draws if purifier.stochastic else 1

    def prepare(self, x: Tensor) -> Tensor:
        self.meter.purifies += len(x)
        return self.purifier(x)  # type: ignore[no-any-return]

    def scores(self, x: Tensor) -> Tensor:
        return self.averaged(self.single(self.repeated(x)))

    def repeated(self, x: Tensor) -> Tensor:
        """Each image once for every draw."""
        return x if self.draws == 1 else x.repeat_interleave(self.draws, dim=0)

    def averaged(self, logits: Tensor) -> Tensor:
        """The mean logits over draws of a random purifier: EOT of Athalye et al. 2018."""
        return logits if self.draws == 1 else logits.reshape(-1, self.draws, logits.shape[1]).mean(dim=1)

    def single(self, x: Tensor) -> Tensor:
        """The logits of one draw for each image."""
        return super().scores(x)


class BpdaSurface(PipelineSurface):
    """The pipeline forwards, something else in the purifier's place backwards (Athalye et al. 2018).

    The identity leaves out what a purifier does to a gradient; a net that has learned to do as the purifier
    does tells of it even where a step without a gradient, such as a coarse quantiser, stands before the rest.

    Args:
        backwards: What is differentiated in place of the purifier.
    """

    def __init__(
        self,
        backwards: nn.Module,
        target: nn.Module,
        purifier: PurifierModule,
        draws: int,
        num_classes: int,
        image_shape: tuple[int, int, int],
    ) -> None:
        super().__init__(target, purifier, draws, num_classes, image_shape)
        self._backwards = backwards

    def scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            purified = self.prepare(self.repeated(x.detach()))
        if torch.is_grad_enabled() and x.requires_grad:
            # once for all draws
            purified = _StraightThrough.apply(self.repeated(self._backwards(x)), purified)
        return self.averaged(self.target(purified))


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, approximation: Tensor, purified: Tensor) -> Tensor:
        return purified.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class AnswersSurface(PipelineSurface):
    """The pipeline as somebody meets it who may only ask: one draw at each call, and no gradient."""

    def scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.target(self.prepare(x))  # type: ignore[no-any-return]


class SurrogateSurface(PipelineSurface):
    """A differentiable stand-in that the plugin offers; the images are judged by the pipeline itself.

    In a chain the purifiers before the one with the stand-in run as they are, and so do those after it.
    """

    def __init__(
        self,
        name: str,
        target: nn.Module,
        purifier: PurifierModule,
        draws: int,
        num_classes: int,
        image_shape: tuple[int, int, int],
    ) -> None:
        super().__init__(target, purifier, draws, num_classes, image_shape)
        place = next(i for i, part in enumerate(purifier.parts) if name in (*part.surrogates, part.latents))
        before, part, after = purifier.parts[:place], purifier.parts[place], purifier.parts[place + 1 :]

        def through(parts: Sequence[Defense[Any]], x: Tensor) -> Tensor:
            for one in parts:
                with watching("defense", one):
                    x = one.purify(x, purifier.noise)
            return x

        self._before = partial(through, before)

        def scorer(x: Tensor) -> Tensor:
            return target(through(after, x))  # type: ignore[no-any-return]

        self._part = part
        with watching("defense", part):
            self._stand_in = part.surrogate(name, scorer, purifier.noise)

    def single(self, x: Tensor) -> Tensor:
        self.meter.purifies += len(x)
        x = self._before(x)
        with watching("defense", self._part):
            return self._stand_in.scores(x)

    @property
    def has_latents(self) -> bool:
        return self._stand_in.encode is not None and self._stand_in.decode is not None

    def encode(self, x: Tensor) -> Tensor:
        if self._stand_in.encode is None:
            return super().encode(x)
        with watching("defense", self._part):
            return self._stand_in.encode(x)

    def decode(self, latents: Tensor) -> Tensor:
        if self._stand_in.decode is None:
            return super().decode(latents)
        with watching("defense", self._part):
            return self._stand_in.decode(latents)


class BankSurface(MeteredSurface):
    """Minus the squared distance to the nearest purified training image of each class.

    It leads to what the purifier makes of another class, where gradients say nothing: through projections,
    and through purifiers that answer with one of a few images.
    """

    def __init__(
        self,
        target: nn.Module,
        images: Tensor,
        labels: Tensor,
        num_classes: int,
        image_shape: tuple[int, int, int],
    ) -> None:
        super().__init__(target, num_classes, image_shape)
        self._bank = images.flatten(1)
        self._of_class = labels[None, :] == torch.arange(num_classes, device=labels.device)[:, None]

    def scores(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        apart = (
            flat.square().sum(dim=1, keepdim=True) - 2 * flat @ self._bank.T + self._bank.square().sum(dim=1)
        )
        far = apart.detach().max() + 1  # a class without an image in the bank is never the nearest
        return -torch.where(self._of_class, apart[:, None, :], far).amin(dim=2)


@dataclass(frozen=True)
class Ingredients:
    """What surfaces are built of.

    `bank` has purified training images and their labels; `mimic` has learned to do as the purifier does.
    """

    target: nn.Module
    purifier: PurifierModule | None
    bank: tuple[Tensor, Tensor] | None
    mimic: nn.Module | None
    num_classes: int
    image_shape: tuple[int, int, int]


def build_surface(form: str, of: Ingredients, draws: int | None) -> MeteredSurface:
    """The surface of a form that a threat asked for; `draws` of a random purifier are averaged.

    Raises:
        ValueError: No such form, or something that it needs is not there.
    """
    shape = (of.num_classes, of.image_shape)
    if form == "target":
        return MeteredSurface(of.target, *shape)
    if form == "purified-set" and of.bank is not None:
        return BankSurface(of.target, *of.bank, *shape)
    forms = {"pipeline": PipelineSurface, "pipeline-query": AnswersSurface}
    if of.purifier is not None and form in forms:
        return forms[form](of.target, of.purifier, draws or 1, *shape)
    backwards = {"pipeline-bpda-identity": nn.Identity(), "pipeline-bpda-network": of.mimic}.get(form)
    if of.purifier is not None and backwards is not None:
        return BpdaSurface(backwards, of.target, of.purifier, draws or 1, *shape)
    kind, _, name = form.partition(":")
    if of.purifier is not None and kind == "surrogate":
        return SurrogateSurface(name, of.target, of.purifier, draws or 1, *shape)
    raise ValueError(f"no surface of form {form!r} (purifier: {of.purifier is not None})")
