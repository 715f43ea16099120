"""What an attack owes the harness, and the surface that the harness gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from benchmark.datasets.contract import TrainingData
from benchmark.noise import Noise
from benchmark.plugin import ConfigT, Norm, Plugin, named

Knowledge = Literal["gradients", "scores", "labels", "nothing"]
"""What an attack takes from its surface."""


class Surface(nn.Module, ABC):
    """What the attacker optimises against: images (B, C, H, W) in [0, 1] to class scores (B, classes).

    A plain module, metered from inside by the harness; it may be called with any batch. Where `has_latents`,
    images can be looked for in a latent space as well: `encode` gives latents near an image, `decode` the
    images of latents, both differentiable.

    Args:
        num_classes: Number of classes.
        image_shape: (C, H, W) of the images.
    """

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.image_shape = image_shape

    @property
    def has_latents(self) -> bool:
        """Whether `encode` and `decode` may be called."""
        return False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Class scores (logits), shape (B, classes)."""

    def encode(self, x: Tensor) -> Tensor:
        """Latents (B, …) of images near `x`."""
        raise NotImplementedError("this surface has no latent space")

    def decode(self, latents: Tensor) -> Tensor:
        """The images (B, C, H, W) of latents, in [0, 1]."""
        raise NotImplementedError("this surface has no latent space")


class Attack(Plugin[ConfigT], ABC, Generic[ConfigT]):
    """An attack: makes adversarial images against a surface, knowing nothing of what is behind it.

    Facts:
        uses: What it takes from the surface.
        stochastic: It draws from `noise`.
        takes_start: `craft` can begin at images other than the clean ones, unless a library runs it.
        needs_determinism: A surface that answers differently when asked again breaks it.
        needs_latents: It looks for images in the latent space of a surface, and can do without none.
        grows: `harder` gives more of it, and more of it finds more.
        single_step: One step along one gradient, which more steps have to beat.
        shares_sweep: `craft_sweep` serves several values of a swept field at once.
        mandatory: A ball of this attack's norm is ranked only where such an attack was run in it, one
            that follows gradients where the threat gives any; where its settings make it weak it is False.
        trainable: `fit` has to run before `craft` is of use; the attack is an `nn.Module` as well.
        weak_backends: Backends that `make strength` found weaker than the best one.
    """

    uses: ClassVar[Knowledge] = "gradients"
    stochastic: ClassVar[bool] = False
    takes_start: ClassVar[bool] = False
    needs_determinism: ClassVar[bool] = False
    needs_latents: ClassVar[bool] = False
    grows: ClassVar[bool] = False
    single_step: ClassVar[bool] = False
    shares_sweep: ClassVar[bool] = False
    mandatory: ClassVar[bool] = False
    trainable: ClassVar[bool] = False
    weak_backends: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def norm(self) -> Norm | None:
        """The norm that the attack bounds or minimises; None for benign changes."""

    @property
    def eps(self) -> float | None:
        """The radius of the ball, on the [0, 1] scale; None for attacks that minimise the norm."""
        eps = getattr(self.config, "eps", None)
        return None if eps is None else float(eps)

    @property
    def backend(self) -> str:
        """The library that does the work."""
        return str(getattr(self.config, "backend", "native"))

    @property
    def weak_backend(self) -> bool:
        """Whether the backend chosen is known to be a weak one."""
        return self.backend in self.weak_backends

    @property
    def targeted(self) -> bool:
        """Whether the images have to be taken for a class that was given."""
        return bool(getattr(self.config, "targeted", False))

    def harder(self, times: int) -> Self:
        """The attack with `times` as many steps, and restarts where it has any; only called where `grows`."""
        raise NotImplementedError(f"{type(self).__name__} says that it grows but has no harder()")

    def unbounded(self) -> Self:
        """The attack in a ball that holds every image; only called where `mandatory`, of gradients."""
        everywhere = 1.0 if self.norm == "linf" else 1000.0
        return type(self)(type(self.config)(**{**self.config.model_dump(), "eps": everywhere}))

    def losses(self) -> Sequence[Self]:
        """The attack with each of the losses that it can follow, its own first."""
        return (self,)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Make the layers, before `fit` or `craft`; only called when `trainable`.

        Raises:
            ValueError: The images are of a shape that the attack cannot take.
        """

    def fit(self, data: TrainingData, surface: Surface, generator: torch.Generator) -> None:
        """Train the weights in place, against the surface; only called when `trainable`.

        Args:
            data: Training and validation images; the test images are out of reach.
            surface: What is to be fooled, frozen.
            generator: On the CPU, for everything drawn explicitly; torch's global generators are
                seeded by the harness.
        """
        raise NotImplementedError(f"{type(self).__name__} says that it is trainable but has no fit()")

    @abstractmethod
    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        """Adversarial images for `x`, of its shape, in [0, 1] and within `eps`.

        Args:
            surface: What to fool.
            x: Clean images (B, C, H, W), float32 in [0, 1]; not to be changed in place.
            labels: True labels (B,), int64.
            noise: The only source of randomness.
            start: Images inside the ball to begin at (only where `takes_start`).
        """

    @classmethod
    def craft_sweep(
        cls,
        attacks: Sequence[Attack[Any]],
        surface: Surface,
        x: Tensor,
        labels: Tensor,
        noises: Sequence[Noise],
    ) -> list[Tensor]:
        """Images of attacks that differ in their swept fields only, in one call.

        Only called where `shares_sweep`. Its whole cost is noted for each attack, so share only what
        each would need by itself.
        """
        raise NotImplementedError(f"{cls.__name__} says that it shares sweeps but has no craft_sweep()")


AttackT = TypeVar("AttackT", bound=type[Attack[Any]])


def attack(name: str) -> Callable[[AttackT], AttackT]:
    """Register the decorated `Attack` under `name` (a literal: it is read without importing)."""
    return named("attack", Attack, name)
