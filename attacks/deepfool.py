"""DeepFool (Moosavi-Dezfooli et al. 2016) through Foolbox."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from attacks.contract import Attack, Surface, attack
from benchmark.noise import Noise
from benchmark.plugin import Config, Norm, param


class DeepFoolConfig(Config):
    """`distance`: the norm to minimise; `candidates`: classes considered at each step."""

    distance: Literal["l2", "linf"] = "l2"
    steps: int = param(50, ge=1)
    overshoot: float = param(0.02, ge=0, le=1)
    candidates: int = param(10, ge=2)
    backend: Literal["foolbox"] = "foolbox"


@attack("deepfool")
class DeepFool(Attack[DeepFoolConfig]):
    """Walks to the nearest linearised class boundary; a minimal-norm attack with next to no margin."""

    @property
    def norm(self) -> Norm:
        return self.config.distance

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        from foolbox.attacks import L2DeepFoolAttack, LinfDeepFoolAttack

        from attacks.foolbox_adapter import run_foolbox

        config = self.config
        kind = L2DeepFoolAttack if config.distance == "l2" else LinfDeepFoolAttack
        candidates = min(config.candidates, surface.num_classes)
        library = kind(steps=config.steps, candidates=candidates, overshoot=config.overshoot)
        return run_foolbox(library, surface, x, labels, eps=None)
