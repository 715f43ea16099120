"""A plugin file: a net whose scores have several scales, and classifiers at chance level."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from benchmark.api.defense import Defense, defense
from benchmark.api.target import Target, target
from benchmark.plugins.plugin import Config, param


class UnitConfig(Config):
    unit: float = param(1.0, gt=0)
    head: Literal["linear", "cosine", "probabilities"] = param("linear")


@target("unit")
class Unit(Target[UnitConfig]):
    """A small net, the same for every scale of its scores; a cosine head is trained at scale 16."""

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        torch.manual_seed(3)
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 128), nn.ReLU(), nn.Linear(128, 64))
        self.head = nn.Linear(64, num_classes)

    def fit(self, data, generator):
        generator = torch.Generator().manual_seed(3)
        adam = torch.optim.Adam(self.parameters(), lr=3e-3)
        for _ in range(60):
            images, labels = data.take(torch.randint(len(data.train), (100,), generator=generator))
            loss = F.cross_entropy(self._scores(images), labels)
            adam.zero_grad()
            loss.backward()
            adam.step()
        self.report(60, 60, loss=float(loss.detach()))

    def _scores(self, x):
        features = self.features(x)
        if self.config.head == "cosine":
            return 16 * F.linear(F.normalize(features, dim=1), F.normalize(self.head.weight, dim=1))
        return self.head(features.relu())

    def forward(self, x):
        scores = self._scores(x)
        if self.config.head == "probabilities":
            return scores.softmax(dim=1)
        return self.config.unit * scores


class GuessConfig(Config):
    fault: Literal["none", "order", "some", "normalisation"] = param("none")


@target("guess")
class Guess(Target[GuessConfig]):
    """Scores by the nearest class mean, with permuted classes, or for images in [0, 255]."""

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        self.register_buffer("means", torch.zeros(num_classes, pixels))

    def fit(self, data, generator):
        images, labels = data.take(torch.arange(len(data.train)))
        for label in labels.unique().tolist():
            self.means[label] = images.flatten(1)[labels == label].mean(dim=0)
        self.report(1, 1, classes=1.0)

    def forward(self, x):
        x = x.flatten(1) / 255 if self.config.fault == "normalisation" else x.flatten(1)
        scores = x @ self.means.T - self.means.square().sum(dim=1) / 2
        if self.config.fault == "some":
            return torch.cat([scores[:, :5].roll(1, dims=1), scores[:, 5:]], dim=1)
        return scores.roll(1, dims=1) if self.config.fault == "order" else scores


@defense("autoencoder")
class Autoencoder(Defense[Config]):
    """Compresses an image to 48 numbers."""

    trainable = True

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        torch.manual_seed(5)
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, 48), nn.ReLU(), nn.Linear(48, pixels), nn.Sigmoid()
        )

    def fit(self, data, source, generator):
        generator = torch.Generator().manual_seed(5)
        adam = torch.optim.Adam(self.parameters(), lr=3e-3)
        for _ in range(200):
            images, _ = data.take(torch.randint(len(data.train), (100,), generator=generator))
            loss = F.mse_loss(self.purify(images, None), images)
            adam.zero_grad()
            loss.backward()
            adam.step()
        self.report(200, 200, loss=float(loss.detach()))

    def purify(self, x, noise):
        return self.net(x).reshape(x.shape)
