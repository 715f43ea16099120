"""A plugin file: defenses and an attack by which one check, surface or preset each can be told to work."""

from typing import ClassVar

import torch

from attacks.contract import Attack, attack
from benchmark.datasets.digits import Digits
from benchmark.plugin import Config, infer, param
from defenses.contract import Defense, Surrogate, defense
from targets.contract import Target, target


def _training_images():
    splits = Digits(Config(), None).splits().train
    return splits.take(torch.arange(len(splits))), splits.labels


@defense("nearest-neighbour")
class NearestNeighbour(Defense[Config]):
    """Answers with the nearest training image: no gradient, and nothing that the identity would carry."""

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        images, _ = _training_images()
        self.register_buffer("images", images)

    def purify(self, x, noise):
        with torch.no_grad():
            nearest = torch.cdist(x.flatten(1), self.images.flatten(1)).argmin(dim=1)
        return self.images[nearest]


class NegativeConfig(Config):
    levels: int = infer(0, ge=0)  # 0 for as many as there are


@defense("negative")
class Negative(Defense[NegativeConfig]):
    """The negative, of an image of few levels: to it gradients go the other way, or nowhere."""

    def purify(self, x, noise):
        levels = self.config.levels
        return 1 - ((x * levels).round() / levels if levels else x)


@defense("prototypes")
class Prototypes(NearestNeighbour):
    """Answers with one image for each class."""

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        images, labels = _training_images()
        self.images = torch.stack([images[labels == label].mean(dim=0) for label in range(num_classes)])


@defense("helpful-mask")
class HelpfulMask(Defense[Config]):
    """Has no gradient, and looks at the image turned upside down; but it says so."""

    surrogates: ClassVar = ("unmasked",)

    def purify(self, x, noise):
        return x.flip(2).detach()

    def surrogate(self, name, target, noise):
        return Surrogate(lambda x: target(x.flip(2)))


@defense("narrow-generator")
class NarrowGenerator(Defense[Config]):
    """Projects onto what forty principal components can make, without a gradient."""

    latents: ClassVar = "components"

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        images = _training_images()[0].flatten(1)
        self.register_buffer("mean", images.mean(dim=0))
        self.register_buffer("basis", torch.linalg.svd(images - self.mean, full_matrices=False)[2][:40])

    def encode(self, x):
        return (x.flatten(1) - self.mean) @ self.basis.T

    def decode(self, latents):
        return (latents @ self.basis + self.mean).reshape(-1, *self.image_shape).clamp(0, 1)

    def purify(self, x, noise):
        return self.decode(self.encode(x.detach()))

    def surrogate(self, name, target, noise):
        return Surrogate(target, encode=self.encode, decode=self.decode)


@defense("counts-calls")
class CountsCalls(Defense[Config]):
    """Gives the image back at its first call, and later one that it shifts a little more each time."""

    calls = 0

    def purify(self, x, noise):
        self.calls += 1
        return (x + 0.02 * self.calls).clamp(0, 1)


@defense("shows-attackers-another")
class ShowsAttackersAnother(Defense[Config]):
    def purify(self, x, noise):
        return 1 - x if torch.is_grad_enabled() else x


@defense("looks-around")
class LooksAround(Defense[Config]):
    """Takes the mean of the batch away."""

    def purify(self, x, noise):
        return (x - x.mean(dim=0, keepdim=True) + 0.3).clamp(0, 1)


@defense("wrong-slope")
class WrongSlope(Defense[Config]):
    """Pixels out of order, with the gradient of those in order: no filter learns what the identity misses."""

    def purify(self, x, noise):
        order = torch.randperm(x[0].numel(), generator=torch.Generator().manual_seed(0))
        return x + (x.flatten(1)[:, order].reshape(x.shape) - x).detach()


@defense("brittle")
class Brittle(Defense[Config]):
    """Raises where images are brighter than any of PGD's."""

    def purify(self, x, noise):
        if x.amin() > 0.09:
            raise ValueError("too bright")
        return x.clone()


class DimConfig(Config):
    noise: float = infer(0.3, ge=0)


@defense("declared-noise")
class DeclaredNoise(Defense[DimConfig]):
    stochastic = True

    def purify(self, x, noise):
        return (x + self.config.noise * noise.normal_like(x)).clamp(0, 1)


@target("sure-mean")
class SureMean(Target[Config]):
    """Probabilities for scores."""

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.register_buffer("means", torch.zeros(num_classes, image_shape[1] * image_shape[2]))

    def fit(self, data, generator):
        images = data.train.take(torch.arange(len(data.train))).flatten(1).to(data.device)
        labels = data.train.labels.to(data.device)
        for label in range(data.num_classes):
            self.means[label] = images[labels == label].mean(dim=0)
        self.report(1, 1)

    def forward(self, x):
        return (x.flatten(1) @ self.means.T - self.means.square().sum(dim=1) / 2).softmax(dim=1)


class CrawlConfig(Config):
    eps: float = param(0.3, ge=0, le=1)
    steps: int = param(1, ge=1)


@attack("crawl")
class Crawl(Attack[CrawlConfig]):
    """Short steps: as many more as it is given, as many more it breaks."""

    grows = True
    mandatory = True
    norm = "linf"

    def harder(self, times):
        return type(self)(CrawlConfig(eps=self.config.eps, steps=times * self.config.steps))

    def craft(self, surface, x, labels, noise, start=None):
        current = x
        for _ in range(self.config.steps):
            current = current.detach().requires_grad_()
            with torch.enable_grad():
                loss = torch.nn.functional.cross_entropy(surface(current), labels)
            (gradient,) = torch.autograd.grad(loss, current)
            current = (current + 0.03 * gradient.sign()).clamp(0, 1).detach()
        return torch.clamp(current, x - self.config.eps, x + self.config.eps)
