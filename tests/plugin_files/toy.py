"""A plugin file: a classifier whose logits are known by construction, and defenses with known faults."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from benchmark.api.attack import Attack, attack
from benchmark.api.dataset import Dataset, TensorSplit, dataset
from benchmark.api.defense import Defense, defense
from benchmark.api.target import Target, target
from benchmark.api.training import Loop
from benchmark.datasets.digits import Digits
from benchmark.plugins.plugin import Config, infer, param, sweep, train


class DimmedConfig(Config):
    light: float = param(1.0, ge=0, le=1)


@target("nearest-mean")
class NearestMean(Target[Config]):
    """Scores are minus the squared distances to the class means: linear, so attacks are predictable."""

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        self.register_buffer("means", torch.zeros(num_classes, pixels))

    def fit(self, data, generator):
        images = data.train.take(torch.arange(len(data.train))).flatten(1).to(data.device)
        labels = data.train.labels.to(data.device)
        for label in range(data.num_classes):
            self.means[label] = images[labels == label].mean(dim=0)
        self.report(1, 1, classes=float(data.num_classes))

    def forward(self, x):
        return x.flatten(1) @ self.means.T - self.means.square().sum(dim=1) / 2


class OddConfig(Config):
    how: Literal["sure", "stepped", "nan-gradient", "nan-scores"] = param("sure")


@target("odd")
class Odd(NearestMean):
    """As easy to fool, but not by attacks that follow its gradient or its scores."""

    @classmethod
    def config_type(cls):
        return OddConfig

    def forward(self, x):
        how = self.config.how
        if how == "stepped":
            x = (x * 15).round() / 15
        if how == "nan-gradient":
            x = x + 0 * (x * 0).sqrt()
        scores = super().forward(x)
        if how == "nan-scores" and not (x * 15 == (x * 15).round()).all():
            return scores * float("nan")
        return 1e4 * scores if how == "sure" else scores


class ShiftConfig(Config):
    strength: float = train(0.0, ge=0, le=1)
    scale: float = infer(1.0, ge=0, le=1)


@defense("shift")
class Shift(Defense[ShiftConfig]):
    """Trained (it stores one number) and scaled afterwards: one `train` and one `infer` field."""

    trainable = True

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.amount = nn.Parameter(torch.zeros(1))

    def fit(self, data, source, generator):
        with torch.no_grad():
            self.amount.fill_(self.config.strength)
        self.report(1, 1, amount=self.config.strength)

    def purify(self, x, noise):
        return (x * self.config.scale + self.amount).clamp(0, 1)


@defense("detached")
class Detached(Defense[Config]):
    """The identity without its gradient: robust only to attacks that rely on the gradient."""

    def purify(self, x, noise):
        return x.detach().clone()


@defense("noisy")
class Noisy(Defense[Config]):
    stochastic = True

    def purify(self, x, noise):
        return (x + 0.2 * noise.normal_like(x)).clamp(0, 1)


@defense("constant")
class Constant(Defense[Config]):
    """Returns the same grey image for every image."""

    trainable = True

    def fit(self, data, source, generator):
        pass

    def purify(self, x, noise):
        return torch.full_like(x, 0.5) + 0 * x


@defense("returns-nan")
class ReturnsNan(Defense[Config]):
    def purify(self, x, noise):
        return x * float("nan")


@defense("returns-shape")
class ReturnsShape(Defense[Config]):
    def purify(self, x, noise):
        return x[:, :, :-1]


@defense("returns-range")
class ReturnsRange(Defense[Config]):
    def purify(self, x, noise):
        return x * 2


@defense("writes-input")
class WritesInput(Defense[Config]):
    def purify(self, x, noise):
        with torch.no_grad():
            return x.mul_(0.5)


@defense("writes-memory")
class WritesMemory(Defense[Config]):
    """Changes its input in memory, where torch does not notice it."""

    def purify(self, x, noise):
        x.detach().numpy()[:] *= 0.5
        return x


@defense("ruins-source")
class RuinsSource(Defense[Config]):
    trainable = True

    def fit(self, data, source, generator):
        source.train()
        source.means.zero_()

    def purify(self, x, noise):
        return x


@defense("hidden-randomness")
class HiddenRandomness(Defense[Config]):
    """Draws from torch's global generator, and does not declare it."""

    def purify(self, x, noise):
        return (x + 0.2 * torch.randn_like(x)).clamp(0, 1)


@defense("exits")
class Exits(Defense[Config]):
    def purify(self, x, noise):
        raise SystemExit(0)


@defense("raises")
class Raises(Defense[Config]):
    def purify(self, x, noise):
        raise RuntimeError("out of purifier fluid")


@defense("diverges")
class Diverges(Defense[Config]):
    trainable = True

    def fit(self, data, source, generator):
        self.report(3, 10, loss=float("nan"))

    def purify(self, x, noise):
        return x


def one_step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@defense("staged")
class Staged(Defense[Config]):
    """Trained in two stages, with all kinds of state: three optimizers, another module, running
    statistics, dropout. It reports every step."""

    trainable = True

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.first = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout(0.3))
        self.second = nn.Conv2d(2, 1, 3, padding=1)

    def fit(self, data, source, generator):
        critic = nn.Linear(784, 1).to(data.device)
        adam = torch.optim.Adam(self.first.parameters(), lr=0.01)
        momentum = torch.optim.SGD(critic.parameters(), lr=0.01, momentum=0.9)
        kept = {"critic": critic, "adam": adam, "momentum": momentum}
        loop = Loop(self, data, generator, batch_size=100, steps=7, **kept)
        for images, labels in loop:
            noisy = images + 0.1 * torch.randn_like(images)
            scores = critic(self.first(noisy).mean(dim=1).flatten(1))
            loss = (scores * (labels[:, None] > 4)).mean() + F.cross_entropy(source(noisy), labels)
            adam.zero_grad()
            one_step(momentum, loss)
            adam.step()
            self.report(loop.step, loop.steps, loss=loss.item())
        adam = torch.optim.Adam(self.parameters(), lr=0.01)
        loop = Loop(self, data, generator, batch_size=100, steps=5, adam=adam)
        for images, _ in loop:
            loss = F.mse_loss(self.second(self.first(images)), images)
            one_step(adam, loss)
            self.report(10 + loop.step, 10 + loop.steps, loss=loss.item())

    def purify(self, x, noise):
        return self.second(self.first(x)).sigmoid()


class FailsConfig(Config):
    how: Literal["reports-nan", "weights-nan", "raises", "exits"] = train("reports-nan")


@defense("fails-late")
class FailsLate(Defense[FailsConfig]):
    """Its training works for an epoch of three steps, and fails in the fifth step."""

    trainable = True

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.amount = nn.Parameter(torch.zeros(1))

    def fit(self, data, source, generator):
        for _ in (loop := Loop(self, data, generator, batch_size=60, steps=6)):
            good = loop.step < 5
            if self.config.how == "raises" and not good:
                raise RuntimeError("out of training fluid")
            if self.config.how == "exits" and not good:
                raise SystemExit(3)
            if self.config.how == "weights-nan" and not good:
                self.amount.data.fill_(float("nan"))
            if self.config.how == "reports-nan" and (not good or loop.step == 1):
                # every tenth step and the last one are reported
                loop.stop() if not good else None
                loop.report(loss=0.5 if good else float("nan"))

    def purify(self, x, noise):
        return (x + self.amount).clamp(0, 1)


class TunedConfig(Config):
    presets: ClassVar = {"paper": {"epochs": 7, "rate": 0.5}}
    per_dataset: ClassVar = {"digits": {"width": 3, "epochs": 4}}

    preset: Literal["cpu", "paper"] = train("cpu")
    epochs: int = train(1, ge=1)
    width: int = train(1, ge=1)
    rate: float = infer(0.25, ge=0)


@defense("tuned")
class Tuned(Defense[TunedConfig]):
    def purify(self, x, noise):
        return x * (1 - self.config.rate / 10)


class DialConfig(Config):
    level: float = sweep(0.5, ge=0, le=1)


@defense("dial")
class Dial(Defense[DialConfig]):
    """Darkens the image."""

    def purify(self, x, noise):
        return x * self.config.level


class DearConfig(Config):
    width: int = train(1)
    iterations: int = infer(4)
    attack_iterations: int = infer(1)
    spoilt: bool = infer(False)


EVENTS = []


@defense("dear")
class Dear(Defense[DearConfig]):
    """Attacks run one iteration instead of four; it records its calls in `EVENTS`."""

    @classmethod
    def in_attack(cls, config):
        changed = {"iterations": config.attack_iterations} | ({"width": 2} if config.spoilt else {})
        return config.model_copy(update=changed)

    def forget(self):
        EVENTS.append("forget")

    def purify(self, x, noise):
        EVENTS.append(self.config.iterations)
        return x * 0.95**self.config.iterations


@defense("keeps")
class Keeps(Defense[Config]):
    """Returns its first input again, until `forget` is called."""

    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.kept = None

    def forget(self):
        self.kept = None

    def purify(self, x, noise):
        if self.kept is None or self.kept.shape != x.shape:
            self.kept = x.detach().clone()
        return self.kept


@defense("breaks-in-attack")
class BreaksInAttack(Defense[Config]):
    @classmethod
    def in_attack(cls, config):
        raise RuntimeError("no cheaper way")

    def purify(self, x, noise):
        return x


class DecidesConfig(Config):
    how: Literal["well", "column", "list", "not-at-all", "two-faced"] = infer("well")


def decided(x):
    """A label that changes with nearly every change of an image."""
    return (x.flatten(1).double().sum(dim=1) * 10).long() % 10


@defense("decides")
class Decides(Defense[DecidesConfig]):
    decides_label = True

    def purify(self, x, noise):
        return x * 0.9

    def purify_and_decide(self, x, noise):
        if self.config.how == "not-at-all":
            return super().purify_and_decide(x, noise)
        label = decided(x)
        if self.config.how == "two-faced":
            return x, label
        return x * 0.9, {"well": label, "column": label[:, None], "list": label.tolist()}[self.config.how]


@defense("hard-task")
class HardTask(Constant):
    """May add any clean error on `digits`, but not on `dimmed`."""

    gate = 0.05
    gates: ClassVar = {"digits": 1.0}


@defense("square-28")
class Square28(Defense[Config]):
    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        if image_shape[1:] != (28, 28):
            raise ValueError(f"square-28 takes 28×28 images, got {image_shape[1]}×{image_shape[2]}")

    def purify(self, x, noise):
        return x


@target("eleven")
class Eleven(NearestMean):
    """Returns one score too many."""

    def fit(self, data, generator):
        for _ in Loop(self, data, generator, batch_size=300, steps=3):
            pass
        super().fit(data, generator)

    def forward(self, x):
        return F.pad(super().forward(x), (0, 1), value=-1e3)


@dataset("taught-by-eleven")
class TaughtByEleven(Digits):
    source = "eleven"


@dataset("few-digits")
class FewDigits(Digits):
    """Digits with 200 training images."""

    source = "nearest-mean"
    substitutes = ()
    validation_size = 100

    def load_train(self):
        return super().load_train().subset(torch.arange(300))


@dataset("framed")
class Framed(Digits):
    """Digits with a frame of one pixel."""

    image_shape = (1, 30, 30)
    source = "nearest-mean"

    def load_train(self):
        split = super().load_train()
        return TensorSplit(F.pad(split.images, (1, 1, 1, 1)), split.labels)

    def load_test(self):
        split = super().load_test()
        return TensorSplit(F.pad(split.images, (1, 1, 1, 1)), split.labels)


@dataset("dimmed")
class Dimmed(Digits, Dataset[DimmedConfig]):
    """Digits with a parameter."""

    @classmethod
    def config_type(cls):
        return DimmedConfig

    def load_test(self):
        test = super().load_test()
        return TensorSplit(test.images.float() / 255 * self.config.light, test.labels)


@attack("leaves-ball")
class LeavesBall(Attack[Config]):
    eps = 0.1
    norm = "linf"

    def craft(self, surface, x, labels, noise, start=None):
        return 1 - x


@attack("gives-up")
class GivesUp(Attack[Config]):
    """Returns its input: the weakest attack there is."""

    eps = 0.1
    norm = "linf"
    mandatory = True

    def craft(self, surface, x, labels, noise, start=None):
        surface(x)
        return x


@attack("dear-later")
class DearLater(Attack[Config]):
    """Queries the surface once for each of the first hundred images, and nine times for later ones."""

    eps = 0.1
    norm = "linf"

    def craft(self, surface, x, labels, noise, start=None):
        for _ in range(1 if max(noise.indices) < 100 else 9):
            surface(x)
        return x


@attack("crashes")
class Crashes(Attack[Config]):
    eps = 0.1
    norm = "linf"

    def craft(self, surface, x, labels, noise, start=None):
        raise ValueError("no step size")
