"""The base class of attacks, and the surface that an attack optimises against."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from benchmark.api.dataset import TrainingData
from benchmark.api.noise import Noise
from benchmark.plugins.plugin import ConfigT, Norm, Plugin, named

Knowledge = Literal["gradients", "scores", "labels", "nothing"]
"""The outputs of a surface that an attack uses: gradients of images, class scores, labels, or nothing."""


class Surface(nn.Module, ABC):
    """The model that an attack queries: images (B, C, H, W) in [0, 1] to class scores (B, classes).

    It is a plain module and accepts any batch; the harness counts its forward and backward passes. If
    `has_latents`, an attack can also search a latent space: `encode` maps images to latents, `decode` maps
    latents to images, both differentiable. `image_shape` is (C, H, W).
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
        """Latents (B, …) whose images are near `x`."""
        raise NotImplementedError("this surface has no latent space")

    def decode(self, latents: Tensor) -> Tensor:
        """The images (B, C, H, W) of latents, in [0, 1]."""
        raise NotImplementedError("this surface has no latent space")


class Attack(Plugin[ConfigT], ABC, Generic[ConfigT]):
    """An attack: computes adversarial examples against a surface, without knowledge of its implementation.

    A subclass states its norm as a class attribute, e.g. `norm = "linf"`, or has a parameter `distance`.

    Attributes:
        uses: What the attack uses of the surface.
        stochastic: The attack draws random numbers from `noise`.
        takes_start: `craft` accepts other starting points than the clean images; not with library backends.
        needs_determinism: Requires a surface that returns the same scores for the same images.
        needs_latents: Requires a surface that has a latent space.
        scalable: More steps or restarts make the attack stronger; implements `with_more_steps`.
        single_step: Takes one gradient step. A multi-step attack that finds less raises a doubt.
        shares_sweep: `craft_sweep` computes several values of a swept field in one call.
        mandatory: A row is ranked in a ball only if such an attack was run in it. If the threat gives
            gradients, the attack has to use them. False if the parameters make the attack weak.
        trainable: The attack is an `nn.Module` too, and `fit` has to run before `craft`.
        weak_backends: Backends that `make strength` found weaker than the best one.
    """

    uses: ClassVar[Knowledge] = "gradients"
    stochastic: ClassVar[bool] = False
    takes_start: ClassVar[bool] = False
    needs_determinism: ClassVar[bool] = False
    needs_latents: ClassVar[bool] = False
    scalable: ClassVar[bool] = False
    single_step: ClassVar[bool] = False
    shares_sweep: ClassVar[bool] = False
    mandatory: ClassVar[bool] = False
    trainable: ClassVar[bool] = False
    weak_backends: ClassVar[frozenset[str]] = frozenset()

    @property
    def norm(self) -> Norm | None:
        """The norm that the attack bounds or minimises; None for benign changes."""
        return self.config.distance  # type: ignore[attr-defined, no-any-return]  # `attack` checks it

    @property
    def eps(self) -> float | None:
        """The radius of the ball, on the [0, 1] scale; None for attacks that minimise the norm."""
        eps = getattr(self.config, "eps", None)
        return None if eps is None else float(eps)

    @property
    def backend(self) -> str:
        """The library that computes the attack; "native" for our own code."""
        return str(getattr(self.config, "backend", "native"))

    @property
    def weak_backend(self) -> bool:
        """Whether `weak_backends` contains the chosen backend."""
        return self.backend in self.weak_backends

    @property
    def targeted(self) -> bool:
        """Whether the images have to be classified as a chosen class."""
        return bool(getattr(self.config, "targeted", False))

    def with_more_steps(self, times: int) -> Self:
        """The attack with `times` as many steps and restarts; only called if `scalable`."""
        raise NotImplementedError(f"{type(self).__name__} is scalable but has no with_more_steps()")

    def unbounded(self) -> Self:
        """The attack in a ball that contains every image; only called if `mandatory` and `uses` gradients."""
        everywhere = 1.0 if self.norm == "linf" else 1000.0
        return type(self)(type(self.config)(**{**self.config.model_dump(), "eps": everywhere}))

    def losses(self) -> Sequence[Self]:
        """The attack with each loss function that it supports, its own first."""
        return (self,)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Make the layers, before `fit` or `craft`; only called if `trainable`.

        Raises:
            ValueError: The attack cannot take images of this shape.
        """

    def fit(self, data: TrainingData, surface: Surface, generator: torch.Generator) -> None:
        """Train the weights in place, against the frozen surface; only called if `trainable`.

        The test images are not accessible. All explicit random numbers are from `generator`, on the CPU. The
        harness seeds torch's global generators.
        """
        raise NotImplementedError(f"{type(self).__name__} is trainable but has no fit()")

    @abstractmethod
    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        """Adversarial examples for `x`: same shape, in [0, 1] and within `eps`.

        Args:
            surface: The model to attack.
            x: Clean images (B, C, H, W), float32 in [0, 1]; must not be changed in place.
            labels: True labels (B,), int64.
            noise: The only source of randomness.
            start: Starting points inside the ball; only passed if `takes_start`.
        """

    @classmethod
    def craft_sweep(
        cls, attacks: Sequence[Self], surface: Surface, x: Tensor, labels: Tensor, noises: Sequence[Noise]
    ) -> list[Tensor]:
        """Adversarial examples of attacks that differ only in swept fields; only called if `shares_sweep`.

        The total cost is recorded for each attack, so share only what each would need by itself.
        """
        raise NotImplementedError(f"{cls.__name__} shares sweeps but has no craft_sweep()")


_RENAMED = {"grows": "scalable", "harder": "with_more_steps"}

AttackT = TypeVar("AttackT", bound=type[Attack[Any]])


def attack(name: str) -> Callable[[AttackT], AttackT]:
    """Register the decorated `Attack` under `name`: a literal, since it is read from the source text."""
    set_name = named("attack", Attack, name)

    def decorate(cls: AttackT) -> AttackT:
        cls = set_name(cls)
        for old, new in _RENAMED.items():  # an old name would silently weaken the attack
            if hasattr(cls, old):
                raise TypeError(f"@attack({name!r}): `{old}` is an old name; write `{new}`")
        if cls.norm is Attack.norm and "distance" not in cls.config_type().model_fields:
            raise TypeError(f'@attack({name!r}) needs a norm: state `norm = "linf"` in the class')
        return cls

    return decorate
