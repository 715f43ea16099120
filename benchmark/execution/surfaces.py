"""The surfaces that attacks run on, as modules with a meter inside.

Meters count images, not calls: a forward pass of 100 images counts as 100.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api.attack import Surface
from benchmark.api.defense import Defense
from benchmark.api.noise import StreamNoise
from benchmark.errors import BudgetError, PluginError
from benchmark.execution.bpda_network import BpdaNetwork
from benchmark.execution.context import ExecutionContext
from benchmark.execution.purifier import PurifierModule
from benchmark.execution.score_scale import ScaledTarget
from benchmark.plan.specs import DatasetSpec
from benchmark.plan.tasks import SurfaceSpec, surface_forms
from benchmark.plugins.opened_files import watching


@dataclass
class Meter:
    """Numbers of images: in forward and backward passes of the surface, and purified."""

    forwards: int = 0
    backwards: int = 0
    purifies: int = 0
    blind: int = 0
    """Images whose gradient was not finite and was replaced by zero."""


@dataclass(frozen=True)
class SurfaceInputs:
    """The models that surfaces are built from, and purified training images with their labels."""

    target: nn.Module
    purifier: PurifierModule | None
    purified_set: tuple[Tensor, Tensor] | None
    bpda_network: nn.Module | None
    num_classes: int
    image_shape: tuple[int, int, int]


class MeteredSurface(Surface):
    """A surface that counts its forward and backward passes.

    The hooks are on tensors inside `forward`, so that wrapping the module cannot bypass them. Surfaces may
    share one meter.
    """

    def __init__(self, target: nn.Module, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__(num_classes, image_shape)
        self.target = target
        self.meter = Meter()
        self._limit = float("inf")

    @contextmanager
    def limited(self, passes: float) -> Iterator[None]:
        """Within the block, a call beyond this number of forward and backward passes raises `BudgetError`."""
        self._limit = passes
        try:
            yield
        finally:
            self._limit = float("inf")

    def forward(self, x: Tensor) -> Tensor:
        self.meter.forwards += len(x)
        if self.meter.forwards + self.meter.backwards > self._limit:
            raise BudgetError("more passes than the budget of the grid")
        differentiable = torch.is_grad_enabled() and x.requires_grad
        if differentiable:
            x = x.view_as(x)
            x.register_hook(self._zero_if_not_finite)  # type: ignore[no-untyped-call]
        logits = self.scores(x)
        sum_is_finite = torch.isfinite(logits.detach().sum())
        if not sum_is_finite and torch.isfinite(x).all() and not torch.isfinite(logits).all():
            raise PluginError("the attacked model returned scores that are not finite")
        if not differentiable:
            return logits
        if not logits.requires_grad:
            # A missing gradient is treated as zero: attacks run on, and the gradient probe detects it.
            logits = logits + 0 * x.flatten(1).sum(dim=1, keepdim=True)
        images = len(x)

        def count(_: Tensor) -> None:
            self.meter.backwards += images

        logits.register_hook(count)  # type: ignore[no-untyped-call]
        return logits

    def _zero_if_not_finite(self, gradient: Tensor) -> Tensor | None:
        """Replace values that are not finite by zero: attacks would silently follow them."""
        if torch.isfinite(gradient.sum()):
            return None
        finite = torch.isfinite(gradient)
        self.meter.blind += int((~finite.flatten(1).all(dim=1)).sum())
        return torch.where(finite, gradient, 0.0)

    def scores(self, x: Tensor) -> Tensor:
        return self.target(x)  # type: ignore[no-any-return]


class PipelineSurface(MeteredSurface):
    """The pipeline with its exact gradient; averages the logits over draws (EOT, Athalye et al. 2018)."""

    def __init__(self, inputs: SurfaceInputs, draws: int) -> None:
        super().__init__(inputs.target, inputs.num_classes, inputs.image_shape)
        assert inputs.purifier is not None
        self.purifier = inputs.purifier
        self.draws = draws if self.purifier.stochastic else 1

    def purify(self, x: Tensor) -> Tensor:
        self.meter.purifies += len(x)
        return self.purifier(x)  # type: ignore[no-any-return]

    def scores(self, x: Tensor) -> Tensor:
        return self.average_draws(self.scores_of_one_draw(self.repeat_draws(x)))

    def repeat_draws(self, x: Tensor) -> Tensor:
        """Each image once per draw."""
        return x if self.draws == 1 else x.repeat_interleave(self.draws, dim=0)

    def average_draws(self, logits: Tensor) -> Tensor:
        return logits if self.draws == 1 else logits.reshape(-1, self.draws, logits.shape[1]).mean(dim=1)

    def scores_of_one_draw(self, x: Tensor) -> Tensor:
        return self.target(self.purify(x))  # type: ignore[no-any-return]


class BpdaSurface(PipelineSurface):
    """The pipeline in the forward pass, with a replacement of the purifier in the backward pass (BPDA).

    BPDA: Athalye et al. 2018. The identity as the replacement ignores the effect of the purifier on the
    gradient. A network that approximates the purifier includes it, even if a step without a gradient, such
    as a coarse quantiser, comes first.
    """

    def __init__(self, backward_model: nn.Module, inputs: SurfaceInputs, draws: int) -> None:
        super().__init__(inputs, draws)
        self._backward_model = backward_model

    def scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            purified = self.purify(self.repeat_draws(x.detach()))
        if torch.is_grad_enabled() and x.requires_grad:
            # one pass of the replacement serves all draws
            purified = _StraightThrough.apply(self.repeat_draws(self._backward_model(x)), purified)
        return self.average_draws(self.target(purified))


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, approximation: Tensor, purified: Tensor) -> Tensor:
        return purified.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class QuerySurface(PipelineSurface):
    """The pipeline for a query-based attacker: one draw per call, and no gradient."""

    def scores(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.scores_of_one_draw(x)


class SurrogateSurface(PipelineSurface):
    """A differentiable surrogate that a defense offers. The harness judges on the pipeline itself.

    In a chain, the defenses before and after the one with the surrogate run unchanged.
    """

    def __init__(self, name: str, inputs: SurfaceInputs, draws: int) -> None:
        super().__init__(inputs, draws)
        parts = self.purifier.parts
        index = next(i for i, part in enumerate(parts) if name in (*part.surrogates, part.latents))
        self._before, self._defense, after = parts[:index], parts[index], parts[index + 1 :]

        def scorer(x: Tensor) -> Tensor:
            return self.target(self._run(after, x))  # type: ignore[no-any-return]

        with watching("defense", self._defense):
            self._surrogate = self._defense.surrogate(name, scorer, self.purifier.noise)

    def _run(self, defenses: Sequence[Defense[Any]], x: Tensor) -> Tensor:
        for defense in defenses:
            with watching("defense", defense):
                x = defense.purify(x, self.purifier.noise)
        return x

    def scores_of_one_draw(self, x: Tensor) -> Tensor:
        self.meter.purifies += len(x)
        x = self._run(self._before, x)
        with watching("defense", self._defense):
            return self._surrogate.scores(x)

    @property
    def has_latents(self) -> bool:
        return self._surrogate.encode is not None and self._surrogate.decode is not None

    def encode(self, x: Tensor) -> Tensor:
        if self._surrogate.encode is None:
            return super().encode(x)
        with watching("defense", self._defense):
            return self._surrogate.encode(x)

    def decode(self, latents: Tensor) -> Tensor:
        if self._surrogate.decode is None:
            return super().decode(latents)
        with watching("defense", self._defense):
            return self._surrogate.decode(latents)


class PurifiedSetSurface(MeteredSurface):
    """Scores each class by minus the squared distance to its nearest purified training image.

    It leads to the purifier's outputs for another class if gradients do not: through projections, and
    through purifiers that return one of a few images.
    """

    def __init__(self, inputs: SurfaceInputs) -> None:
        super().__init__(inputs.target, inputs.num_classes, inputs.image_shape)
        assert inputs.purified_set is not None
        images, labels = inputs.purified_set
        self._images = images.flatten(1)
        self._of_class = labels[None, :] == torch.arange(self.num_classes, device=labels.device)[:, None]

    def scores(self, x: Tensor) -> Tensor:
        x, images = x.flatten(1), self._images
        distances = x.square().sum(dim=1, keepdim=True) - 2 * x @ images.T + images.square().sum(dim=1)
        far = distances.detach().max() + 1  # a class without purified images is never the nearest
        return -torch.where(self._of_class, distances[:, None, :], far).amin(dim=2)


def build_surface(form: str, inputs: SurfaceInputs, draws: int | None) -> MeteredSurface:
    """The surface of this form; a `ValueError` if it is unknown or `inputs` lacks something it needs."""
    if form == surface_forms.TARGET:
        return MeteredSurface(inputs.target, inputs.num_classes, inputs.image_shape)
    if form == surface_forms.PURIFIED_SET and inputs.purified_set is not None:
        return PurifiedSetSurface(inputs)
    if inputs.purifier is not None:
        draws = draws or 1
        if form == surface_forms.PIPELINE:
            return PipelineSurface(inputs, draws)
        if form == surface_forms.QUERY:
            return QuerySurface(inputs, draws)
        if form == surface_forms.BPDA_IDENTITY:
            return BpdaSurface(nn.Identity(), inputs, draws)
        if form == surface_forms.BPDA_NETWORK and inputs.bpda_network is not None:
            return BpdaSurface(inputs.bpda_network, inputs, draws)
        if (name := surface_forms.surrogate_name(form)) is not None:
            return SurrogateSurface(name, inputs, draws)
    raise ValueError(f"no surface of form {form!r} (purifier: {inputs.purifier is not None})")


def make_surface(
    spec: SurfaceSpec, data: DatasetSpec, context: ExecutionContext, seed: int, times: int = 1
) -> MeteredSurface:
    """The surface as a module in evaluation mode, with its meter at zero.

    If the scores of the target are too small or too large for gradient attacks, all surfaces of the target
    multiply them by the same factor. `seed` is for the noise of a random purifier. Of its draws, `times` as
    many are averaged as the threat asks for.
    """
    dataset = context.dataset(data)
    purified_set = None
    if spec.purified_set is not None:
        stored = context.tensors(spec.purified_set)
        purified_set = stored["images"].to(context.device), stored["labels"].to(context.device)
    bpda_network = None
    if spec.bpda_network is not None:
        bpda_network = BpdaNetwork(dataset.image_shape[0])
        bpda_network.load_state_dict(context.tensors(spec.bpda_network))
        bpda_network.to(context.device).requires_grad_(False)
    target, scale = context.target(spec.target), context.score_scale(spec.target)
    purifier = None
    if spec.purifier is not None:  # last, because recomputing a lost result above uses the same module
        purifier = context.purifier(spec.purifier, data)
        purifier.reset(StreamNoise(seed))
    scaled = target if scale == 1 else ScaledTarget(target, scale)
    classes, shape = len(dataset.class_names), dataset.image_shape
    inputs = SurfaceInputs(scaled, purifier, purified_set, bpda_network, classes, shape)
    draws = None if spec.draws is None else spec.draws * times
    return build_surface(spec.form, inputs, draws).eval()
