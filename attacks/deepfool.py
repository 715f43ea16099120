"""DeepFool (Moosavi-Dezfooli et al. 2016): native, through Foolbox and through ART."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks.backends import Backed, LibraryConfig
from attacks.ball import per_image
from attacks.contract import Surface, attack
from attacks.goal import Goal
from attacks.gradients import margin
from benchmark.noise import Noise
from benchmark.plugin import Norm, param

_BEYOND = 1e-4
_FOLLOWED = 4
_LOOK_AROUND = 10


class DeepFoolConfig(LibraryConfig):
    """`distance`: the norm to minimise; `candidates`: classes considered, best first.

    Ours considers them all at every tenth step, and in between the four with the nearest boundaries then.
    `overshoot`: how far beyond the boundary to end, as a share of the way.
    """

    # ART's own limit is on the classes of a whole batch, not on those of each image
    lacks: ClassVar = {"art": frozenset({"distance", "candidates"})}

    distance: Literal["l2", "linf"] = "l2"
    steps: int = param(50, ge=1)
    overshoot: float = param(0.02, ge=0, le=1)
    candidates: int = param(10, ge=2)
    backend: Literal["native", "foolbox", "art"] = "native"


@attack("deepfool")
class DeepFool(Backed[DeepFoolConfig]):
    """Walks to the nearest linearised class boundary; a minimal-norm attack with next to no margin."""

    @property
    def norm(self) -> Norm:
        return self.config.distance

    def native(self, surface: Surface, x: Tensor, goal: Goal, noise: Noise, start: Tensor | None) -> Tensor:
        """Images leave the batch as soon as they are wrong, so what is easy costs little."""
        labels, found = goal.labels, x.clone()
        index = torch.arange(len(x), device=x.device)
        current, total = x, torch.zeros_like(x)
        with torch.no_grad():
            logits = surface(x)
        others = logits.scatter(1, labels[:, None], float("-inf")).argsort(dim=1, descending=True)
        others = others[:, : min(self.config.candidates, surface.num_classes) - 1]
        followed = others
        for number in range(self.config.steps):
            left = margin(logits, labels[index]) <= 0
            index, current, total = index[left], current[left], total[left]
            others, followed = others[left], followed[left]
            if len(index) == 0:
                return found
            asked = followed if number % _LOOK_AROUND else others
            step, distances = self._step(surface, current, labels[index], asked)
            followed = asked.gather(1, distances.argsort(dim=1)[:, :_FOLLOWED])
            total = total + step
            current = (x[index] + (1 + self.config.overshoot) * total).clamp_(0, 1)
            found[index] = current
            with torch.no_grad():
                logits = surface(current)
        lost = index[margin(logits, labels[index]) <= 0]
        found[lost] = x[lost]
        return found

    def _step(
        self, surface: Surface, current: Tensor, labels: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The way to the nearest of the linearised boundaries and a trifle beyond, and how far each is."""
        current = current.detach().requires_grad_()
        with torch.enable_grad():
            logits = surface(current)
            gaps = logits.gather(1, labels[:, None]) - logits.gather(1, others)
        dual = 2 if self.config.distance == "l2" else 1
        nearest = torch.full((len(current),), float("inf"), device=current.device)
        slopes, gradient = torch.ones_like(nearest), torch.zeros_like(current)
        distances = torch.empty_like(gaps)
        for k in range(others.shape[1]):
            (down,) = torch.autograd.grad(-gaps[:, k].sum(), current, retain_graph=k + 1 < others.shape[1])
            steepest = down.flatten(1).abs().amax(dim=1)
            steepest = torch.where(steepest > 0, steepest, float("inf"))  # no way leads there
            down = down / per_image(steepest)
            slope = torch.linalg.vector_norm(down.flatten(1), ord=dual, dim=1)
            distances[:, k] = distance = gaps[:, k].detach().abs() / steepest / slope
            nearer = distance < nearest
            nearest, slopes = torch.where(nearer, distance, nearest), torch.where(nearer, slope, slopes)
            gradient = torch.where(per_image(nearer), down, gradient)
        length = per_image(torch.where(nearest.isfinite(), nearest + _BEYOND, 0.0))
        return length * (gradient / per_image(slopes) if dual == 2 else gradient.sign()), distances

    def foolbox(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from foolbox.attacks import L2DeepFoolAttack, LinfDeepFoolAttack

        from attacks.foolbox_adapter import run_foolbox

        config = self.config
        kind = L2DeepFoolAttack if config.distance == "l2" else LinfDeepFoolAttack
        candidates = min(config.candidates, surface.num_classes)
        library = kind(steps=config.steps, candidates=candidates, overshoot=config.overshoot)
        return run_foolbox(library, surface, x, goal, eps=None)

    def art(self, surface: Surface, x: Tensor, goal: Goal) -> Tensor:
        from art.attacks.evasion import DeepFool as ArtDeepFool

        from attacks.art_adapter import run_art

        config = self.config
        return run_art(
            lambda classifier: ArtDeepFool(
                classifier,
                max_iter=config.steps,
                epsilon=config.overshoot,
                nb_grads=surface.num_classes,
                batch_size=len(x),
                verbose=False,
            ),
            surface,
            x,
            goal,
        )
