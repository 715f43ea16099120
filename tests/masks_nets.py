"""A plugin file: a small net with ways of hiding its gradient, and nets that are robust by training."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from benchmark.plugin import Config, param
from benchmark.training import Loop
from targets.contract import Target, target
from targets.mnist_cnn import MnistC

_ROUNDING = 1e-4
"""What float32 may take from a bound."""

Architecture = Literal["dense", "conv", "mnist-c"]


def layers(architecture, image_shape, num_classes):
    """The net: of a moment's training, of minutes', or the papers' model C."""
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
    architecture: Architecture = param("dense")
    steps: int = param(150, ge=1)
    rate: float = param(1e-2, gt=0)


class RobustConfig(NetConfig):
    """`eps`: the radius of the L∞ ball that the training is for."""

    eps: float = param(0.15, ge=0, le=1)


def temperature(scores):
    """A softmax of temperature 1e-3: in float32 all but one are zero, and so are the gradients."""
    return (scores / 1e-3).softmax(dim=1)


def saturated_sigmoid(scores):
    """One sigmoid for each class, of log-odds times 50: flat wherever the net is sure."""
    odds = scores - scores.logsumexp(dim=1, keepdim=True)
    return torch.sigmoid(50 * (odds - torch.log1p(-odds.exp().clamp(max=1 - 1e-6))))


def probabilities(scores):
    """Probabilities where logits are due: a second softmax of them is nearly flat."""
    return scores.softmax(dim=1)


def rounded_scores(scores):
    """Probabilities of two decimals, as a service prints them."""
    return scores.softmax(dim=1).round(decimals=2)


def clipped_scores(scores):
    """Probabilities kept between 1 and 99 percent, so that logarithms are finite: flat beyond."""
    return scores.softmax(dim=1).clamp(0.01, 0.99)


def underflowing_logarithm(scores):
    """The logarithm of a softmax taken in two steps: minus infinity where the softmax underflows."""
    return (20 * scores).softmax(dim=1).log()


def sigmoid_stack(scores):
    """Eight sigmoids on top of one another: each takes three quarters of the gradient or more."""
    for _ in range(8):
        scores = scores.sigmoid()
    return scores


def hard_labels(scores):
    """Only which class it is."""
    return F.one_hot(scores.argmax(dim=1), scores.shape[1]).float()


def batch_centred(scores):
    """Less the mean of the batch: others' images shift the scores."""
    return scores - scores.mean(dim=0)


def by_scores(change):
    return lambda net, x: change(net(x))


def three_bits(net, x):
    """Rounds its input to eight levels, where no attack that goes round a purifier gets."""
    return net((x * 7).round() / 7)


def without_gradients(net, x):
    """Runs as it was deployed: under no_grad."""
    with torch.no_grad():
        return net(x)


def dropout_left_on(net, x):
    """Dropout is on whatever the mode, and says nothing of it."""
    return net(F.dropout(x, 0.2, training=True))


FAULTS = {
    "none": lambda net, x: net(x),
    "temperature": by_scores(temperature),
    "saturated-sigmoid": by_scores(saturated_sigmoid),
    "probabilities": by_scores(probabilities),
    "rounded-scores": by_scores(rounded_scores),
    "clipped-scores": by_scores(clipped_scores),
    "underflowing-logarithm": by_scores(underflowing_logarithm),
    "sigmoid-stack": by_scores(sigmoid_stack),
    "hard-labels": by_scores(hard_labels),
    "batch-centred": by_scores(batch_centred),
    "three-bits": three_bits,
    "without-gradients": without_gradients,
    "dropout-left-on": dropout_left_on,
}


class FaultyConfig(NetConfig):
    fault: str = param("none")


class _Net(Target):
    """What the nets share: a short training on what `examples` makes of a batch."""

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.layers = layers(config.architecture, image_shape, num_classes)

    def forward(self, x):
        return self.layers(x)

    def loss(self, images, labels, progress):
        """What a step minimises; `progress` goes from 0 to 1."""
        return F.cross_entropy(self.layers(images), labels)

    def fit(self, data, generator):
        # The same weights whatever hides their gradient: what differs is then the hiding alone.
        torch.manual_seed(0)
        generator.manual_seed(0)
        self.layers.apply(lambda part: getattr(part, "reset_parameters", lambda: None)())
        adam = torch.optim.Adam(self.parameters(), lr=self.config.rate)
        loop = Loop(self, data, generator, batch_size=100, steps=self.config.steps, adam=adam)
        for images, labels in loop:
            progress = (loop.step - 1) / loop.steps
            adam.param_groups[0]["lr"] = self.config.rate * min(1, 2 * (1 - progress))
            loss = self.loss(images, labels, progress)
            adam.zero_grad()
            loss.backward()
            adam.step()
            loop.report(loss=loss)


@target("masked-net")
class MaskedNet(_Net, Target[FaultyConfig]):
    """A net that is as easy to fool as it comes, behind one of `FAULTS`."""

    def forward(self, x):
        return FAULTS[self.config.fault](self.layers, x)


@target("adversarial-net")
class AdversarialNet(_Net, Target[RobustConfig]):
    """Trained on images attacked by PGD (Madry et al. 2018), in a ball that grows in the first half."""

    def loss(self, images, labels, progress):
        eps = self.config.eps * min(1, 2 * progress)
        low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
        there = torch.clamp(images + eps * (2 * torch.rand_like(images) - 1), low, high)
        for _ in range(4):
            there.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(self.layers(there), labels), there)
            there = torch.clamp(there.detach() + 0.4 * eps * gradient.sign(), low, high)
        return super().loss(there, labels, progress)


@target("interval-net")
class IntervalNet(_Net, Target[RobustConfig]):
    """Trained on bounds of its scores over the ball (interval bound propagation, Gowal et al. 2018)."""

    def loss(self, images, labels, progress):
        share = min(1, max(0, (progress - 0.15) / 0.5))
        worst = F.cross_entropy(self.worst(images, labels, self.config.eps * share), labels)
        return (1 - share / 2) * super().loss(images, labels, progress) + share / 2 * worst

    def worst(self, x, labels, eps):
        """Upper bounds over the ball of each score less that of the true class, shape (B, classes)."""
        low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
        centre, radius = (low + high) / 2, (high - low) / 2
        *inner, last = self.layers
        for layer in inner:
            centre, radius = bounds(layer, centre, radius)
        rows = last.weight - last.weight[labels][:, None]  # (B, classes, hidden)
        reach = torch.einsum("bch,bh->bc", rows, centre) + torch.einsum("bch,bh->bc", rows.abs(), radius)
        return reach + last.bias - last.bias[labels][:, None]

    def not_certified(self, x, labels, eps):
        """At which images some image of the L∞ ball might be taken for another class, shape (B,)."""
        with torch.no_grad():
            others = self.worst(x, labels, eps).scatter(1, labels[:, None], float("-inf"))
        return others.amax(dim=1) >= -_ROUNDING


def bounds(layer, centre, radius):
    """Centre and half width of a layer's outputs, of those of its inputs."""
    if isinstance(layer, nn.ReLU):
        low, high = (centre - radius).relu(), (centre + radius).relu()
        return (low + high) / 2, (high - low) / 2
    if isinstance(layer, nn.Linear):
        return layer(centre), F.linear(radius, layer.weight.abs())
    if isinstance(layer, nn.Conv2d):
        return layer(centre), F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding)
    if isinstance(layer, (nn.AvgPool2d, nn.Flatten)):
        return layer(centre), layer(radius)
    raise TypeError(f"no bounds for {type(layer).__name__}")
