"""A plugin file: a small network with ways of hiding its gradient, and adversarially trained networks."""

from collections.abc import Callable
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from benchmark.targets.mnist_cnn import MnistC
from torch import nn

from benchmark.api import Config, Loop, Target, Tensor, TrainingData, param, target

Shape = tuple[int, int, int]

_ROUNDING = 1e-4
"""The largest float32 rounding error of a bound."""


def layers(architecture: str, image_shape: Shape, num_classes: int) -> nn.Sequential:
    """`dense` trains in seconds, `conv` in minutes; `mnist-c` is model C of the papers."""
    channels, height, width = image_shape
    if architecture == "mnist-c":
        return MnistC.build(channels, num_classes)
    if architecture == "dense":
        pixels = channels * (height // 2) * (width // 2)
        hidden = [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(pixels, 100)]
        return nn.Sequential(*hidden, nn.ReLU(), nn.Linear(100, num_classes))
    side = ((height - 3) // 2 - 3) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * side * side, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )


class NetConfig(Config):
    """`steps` of Adam at the learning rate `rate`."""

    architecture: Literal["dense", "conv", "mnist-c"] = param("dense")
    steps: int = param(150, ge=1)
    rate: float = param(1e-2, gt=0)


class RobustConfig(NetConfig):
    """`eps`: the radius of the L∞ ball for which the network is trained."""

    eps: float = param(0.15, ge=0, le=1)


class FaultyConfig(NetConfig):
    """`fault`: a name in `FAULTS`."""

    fault: str = param("none")


def temperature(scores: Tensor) -> Tensor:
    """A softmax of temperature 1e-3: in float32 all probabilities but one are zero, and so are gradients."""
    return (scores / 1e-3).softmax(dim=1)


def saturated_sigmoid(scores: Tensor) -> Tensor:
    """One sigmoid per class, of log-odds times 50: flat if the network is sure."""
    odds = scores - scores.logsumexp(dim=1, keepdim=True)
    return torch.sigmoid(50 * (odds - torch.log1p(-odds.exp().clamp(max=1 - 1e-6))))


def probabilities(scores: Tensor) -> Tensor:
    """Probabilities in place of logits: a second softmax of them is nearly flat."""
    return scores.softmax(dim=1)


def rounded_scores(scores: Tensor) -> Tensor:
    """Probabilities with two decimals, as a web service prints them."""
    return scores.softmax(dim=1).round(decimals=2)


def clipped_scores(scores: Tensor) -> Tensor:
    """Probabilities clipped to [0.01, 0.99], so that logarithms are finite: flat outside of it."""
    return scores.softmax(dim=1).clamp(0.01, 0.99)


def underflowing_logarithm(scores: Tensor) -> Tensor:
    """The logarithm of a softmax in two steps: minus infinity if the softmax underflows."""
    return (20 * scores).softmax(dim=1).log()


def sigmoid_stack(scores: Tensor) -> Tensor:
    """Eight sigmoids in sequence: each one removes three quarters of the gradient or more."""
    for _ in range(8):
        scores = scores.sigmoid()
    return scores


def hard_labels(scores: Tensor) -> Tensor:
    """One-hot vectors of the predicted class."""
    return F.one_hot(scores.argmax(dim=1), scores.shape[1]).float()


def batch_centred(scores: Tensor) -> Tensor:
    """Subtracts the mean over the batch: the scores depend on the other images."""
    return scores - scores.mean(dim=0)


def three_bits(net: nn.Module, x: Tensor) -> Tensor:
    """Rounds its input to eight levels inside of the target, where BPDA on the purifier does not help."""
    return net((x * 7).round() / 7)  # type: ignore[no-any-return]


def without_gradients(net: nn.Module, x: Tensor) -> Tensor:
    """Runs under no_grad, as in deployment."""
    with torch.no_grad():
        return net(x)  # type: ignore[no-any-return]


def dropout_left_on(net: nn.Module, x: Tensor) -> Tensor:
    """Undeclared dropout in every mode."""
    return net(F.dropout(x, 0.2, training=True))  # type: ignore[no-any-return]


Fault = Callable[[nn.Module, Tensor], Tensor]


def _of_scores(change: Callable[[Tensor], Tensor]) -> Fault:
    return lambda net, x: change(net(x))


FAULTS: dict[str, Fault] = {
    "none": lambda net, x: net(x),
    "temperature": _of_scores(temperature),
    "saturated-sigmoid": _of_scores(saturated_sigmoid),
    "probabilities": _of_scores(probabilities),
    "rounded-scores": _of_scores(rounded_scores),
    "clipped-scores": _of_scores(clipped_scores),
    "underflowing-logarithm": _of_scores(underflowing_logarithm),
    "sigmoid-stack": _of_scores(sigmoid_stack),
    "hard-labels": _of_scores(hard_labels),
    "batch-centred": _of_scores(batch_centred),
    "three-bits": three_bits,
    "without-gradients": without_gradients,
    "dropout-left-on": dropout_left_on,
}

NetConfigT = TypeVar("NetConfigT", bound=NetConfig)


class _Net(Target[NetConfigT]):
    """A network with a short training; `loss` says what a step minimises."""

    def __init__(self, config: NetConfigT, image_shape: Shape, num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        self.layers = layers(config.architecture, image_shape, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]

    def loss(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        """The loss that a step minimises; `progress` goes from 0 to 1."""
        return F.cross_entropy(self.layers(images), labels)

    def fit(self, data: TrainingData, generator: torch.Generator) -> None:
        # The same weights for every fault, so that only the fault makes a difference.
        torch.manual_seed(0)
        generator.manual_seed(0)
        self.layers.apply(_reset)
        adam = torch.optim.Adam(self.parameters(), lr=self.config.rate)
        loop = Loop(self, data, generator, batch_size=100, steps=self.config.steps, adam=adam)
        for images, labels in loop:
            progress = (loop.step - 1) / loop.steps
            adam.param_groups[0]["lr"] = self.config.rate * min(1, 2 * (1 - progress))
            loss = self.loss(images, labels, progress)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            loop.report(loss=loss)


def _reset(module: nn.Module) -> None:
    getattr(module, "reset_parameters", lambda: None)()


@target("masked-net")
class MaskedNet(_Net[FaultyConfig]):
    """A network without any robustness, with the fault in `FAULTS` that `fault` names."""

    def forward(self, x: Tensor) -> Tensor:
        return FAULTS[self.config.fault](self.layers, x)


@target("adversarial-net")
class AdversarialNet(_Net[RobustConfig]):
    """Trained on adversarial images of PGD (Madry et al. 2018); the ball grows in the first half."""

    def loss(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        eps = self.config.eps * min(1, 2 * progress)
        low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
        adversarial = torch.clamp(images + eps * (2 * torch.rand_like(images) - 1), low, high)
        for _ in range(4):
            adversarial.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(self.layers(adversarial), labels), adversarial)
            adversarial = torch.clamp(adversarial.detach() + 0.4 * eps * gradient.sign(), low, high)
        return super().loss(adversarial, labels, progress)


@target("interval-net")
class IntervalNet(_Net[RobustConfig]):
    """Trained on bounds of its scores over the ball (interval bound propagation, Gowal et al. 2018)."""

    def loss(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        share = min(1, max(0, (progress - 0.15) / 0.5))
        worst = F.cross_entropy(self.worst(images, labels, self.config.eps * share), labels)
        return (1 - share / 2) * super().loss(images, labels, progress) + share / 2 * worst

    def worst(self, x: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Upper bounds over the ball of each score less that of the true class, shape (B, classes)."""
        low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
        centre, radius = (low + high) / 2, (high - low) / 2
        *inner, last = self.layers
        assert isinstance(last, nn.Linear)
        for layer in inner:
            centre, radius = bounds(layer, centre, radius)
        rows = last.weight - last.weight[labels][:, None]  # (B, classes, hidden)
        reach = torch.einsum("bch,bh->bc", rows, centre) + torch.einsum("bch,bh->bc", rows.abs(), radius)
        return reach + last.bias - last.bias[labels][:, None]

    def not_certified(self, x: Tensor, labels: Tensor, eps: float) -> Tensor:
        """For which images a misclassified image in the L∞ ball cannot be excluded, shape (B,)."""
        with torch.no_grad():
            others = self.worst(x, labels, eps).scatter(1, labels[:, None], float("-inf"))
        return others.amax(dim=1) >= -_ROUNDING


def bounds(layer: nn.Module, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and half width of a layer's outputs, from those of its inputs."""
    if isinstance(layer, nn.ReLU):
        low, high = (centre - radius).relu(), (centre + radius).relu()
        return (low + high) / 2, (high - low) / 2
    if isinstance(layer, nn.Linear):
        return layer(centre), F.linear(radius, layer.weight.abs())
    if isinstance(layer, nn.Conv2d):
        width = F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding)
        return layer(centre), width
    if isinstance(layer, (nn.AvgPool2d, nn.Flatten)):
        return layer(centre), layer(radius)
    raise TypeError(f"no bounds for {type(layer).__name__}")
