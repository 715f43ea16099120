"""A plugin file: plugins that open the file `weights.npy` beside it without declaring it."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmark.api.attack import Attack, attack
from benchmark.api.dataset import dataset
from benchmark.api.defense import Defense, defense
from benchmark.api.target import Target, target
from benchmark.datasets.digits import Digits
from benchmark.plugins.plugin import Config, infer

FILE = Path(__file__).with_name("weights.npy")


class ScaledConfig(Config):
    scale: float = infer(1.0, ge=0, le=1)


@cache
def factor():
    """The factor, read once for all plugins of the process."""
    return float(np.load(FILE)[0])


@defense("reads-when-built")
class ReadsWhenBuilt(Defense[Config]):
    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.factor = float(np.load(FILE)[0])

    def purify(self, x, noise):
        return x * self.factor


@defense("reads-when-purifying")
class ReadsWhenPurifying(Defense[ScaledConfig]):
    def purify(self, x, noise):
        return x * factor() * self.config.scale


@defense("reads-when-trained")
class ReadsWhenTrained(Defense[Config]):
    trainable = True

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.factor = nn.Parameter(torch.zeros(()))

    def fit(self, data, source, generator):
        with torch.no_grad():
            self.factor.fill_(float(np.load(FILE)[0]))
        self.report(1, 1, loss=0.0)

    def purify(self, x, noise):
        return x * self.factor


@target("reads-in-training")
class ReadsInTraining(Target[Config]):
    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.layer = nn.Linear(784, num_classes)

    def fit(self, data, generator):
        with torch.no_grad():
            self.layer.weight.mul_(float(np.load(FILE)[0]))
        self.report(1, 1, loss=0.0)

    def forward(self, x):
        return self.layer(x.flatten(1))


@attack("reads-when-crafting")
class ReadsWhenCrafting(Attack[Config]):
    eps = 0.1
    norm = "linf"

    def craft(self, surface, x, labels, noise, start=None):
        return (x * float(np.load(FILE)[0])).clamp(x - self.eps, x + self.eps).clamp(0, 1)


@dataset("reads-beside")
class ReadsBeside(Digits):
    """Digits; opens a file outside the root of the data sets."""

    def prepare(self):
        super().prepare()
        np.load(FILE)
