"""A plugin file: defenses and an attack that each show that one check, surface or preset works."""

from typing import ClassVar, Literal

import torch

from benchmark.api.attack import Attack, attack
from benchmark.api.defense import Defense, Surrogate, defense
from benchmark.api.target import Target, target
from benchmark.datasets.digits import Digits
from benchmark.plugins.plugin import Config, infer, param


def _training_images():
    splits = Digits(Config(), None).splits().train
    return splits.take(torch.arange(len(splits))), splits.labels


@defense("nearest-neighbour")
class NearestNeighbour(Defense[Config]):
    """Returns the nearest training image; it has no gradient, and the identity does not approximate it."""

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
    """The negative of an image with few levels: gradients have the opposite sign, or are zero."""

    def purify(self, x, noise):
        levels = self.config.levels
        return 1 - ((x * levels).round() / levels if levels else x)


@defense("prototypes")
class Prototypes(NearestNeighbour):
    """Returns the nearest class mean."""

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        images, labels = _training_images()
        self.images = torch.stack([images[labels == label].mean(dim=0) for label in range(num_classes)])


@defense("helpful-mask")
class HelpfulMask(Defense[Config]):
    """Flips the image and has no gradient, but declares a surrogate."""

    surrogates: ClassVar = ("unmasked",)

    def purify(self, x, noise):
        return x.flip(2).detach()

    def surrogate(self, name, target, noise):
        return Surrogate(lambda x: target(x.flip(2)))


@defense("narrow-generator")
class NarrowGenerator(Defense[Config]):
    """Projects onto forty principal components, without a gradient."""

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
    """Brightens the image a little more at each call."""

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
    """Subtracts the mean of the batch."""

    def purify(self, x, noise):
        return (x - x.mean(dim=0, keepdim=True) + 0.3).clamp(0, 1)


@defense("wrong-slope")
class WrongSlope(Defense[Config]):
    """Permutes the pixels but has the gradient of the identity; no convolution can learn the permutation."""

    def purify(self, x, noise):
        order = torch.randperm(x[0].numel(), generator=torch.Generator().manual_seed(0))
        return x + (x.flatten(1)[:, order].reshape(x.shape) - x).detach()


@defense("brittle")
class Brittle(Defense[Config]):
    """Raises for images that are brighter than any of PGD."""

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
    """Returns probabilities as class scores."""

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
    """Takes short steps, so that more steps fool more images."""

    scalable = True
    mandatory = True
    norm = "linf"

    def with_more_steps(self, times):
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


class DeclaredIdentityConfig(Config):
    how: Literal["detached", "masks"] = infer("detached")


@defense("declared-identity")
class DeclaredIdentity(Defense[DeclaredIdentityConfig]):
    """Declares that it returns its input, but has no gradient, or rounds all images except clean ones."""

    is_identity = True

    def purify(self, x, noise):
        is_clean = bool((x * 15 == (x * 15).round()).all())
        return x.detach() if self.config.how == "detached" or is_clean else x.round()
