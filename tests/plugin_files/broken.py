"""Defenses with one fault each, as bodies of a plugin file, and the check that finds it."""

from __future__ import annotations

OUTPUT, TRAINING, EFFECT, DECIDES = "output", "training", "effect", "decides_label"

FAULTS: dict[str, tuple[str, str]] = {
    "normalises by the batch": (
        "batch",
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return F.batch_norm(x, None, None, training=True).sigmoid()
""",
    ),
    "takes noise by place": (
        "batch",
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return x * torch.linspace(0.4, 0.5, len(x))[:, None, None, None]
""",
    ),
    "draws from the global generator": (
        "global generators",
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return x * torch.rand(1)
""",
    ),
    "draws from a generator of its own": (
        "repeated calls",
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return x * float(np.random.default_rng().uniform())
""",
    ),
    "leaves something behind": (
        "repeated calls",
        """
class Subject(Faultless):
    calls = 0

    def purify(self, x, noise):
        self.calls += 1
        return x / (1 + self.calls)
""",
    ),
    "says that it is random": (
        "stochastic",
        """
class Subject(Faultless):
    stochastic = True
""",
    ),
    "does not say that it is random": (
        "stochastic",
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return x * noise.uniform_like(x)
""",
    ),
    "changes its input": (
        OUTPUT,
        """
class Subject(Faultless):
    def purify(self, x, noise):
        with torch.no_grad():
            return x.mul_(0.5)
""",
    ),
    "changes its input behind torch's back": (
        OUTPUT,
        """
class Subject(Faultless):
    def purify(self, x, noise):
        x.detach().numpy()[:] *= 0.5
        return x
""",
    ),
    "leaves the range": (
        OUTPUT,
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return x * 2
""",
    ),
    "returns another shape": (
        OUTPUT,
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return x[:, :, 1:]
""",
    ),
    "returns another dtype": (
        OUTPUT,
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return x.double() / 2
""",
    ),
    "raises": (
        OUTPUT,
        """
class Subject(Faultless):
    def purify(self, x, noise):
        raise RuntimeError("out of purifier fluid")
""",
    ),
    "forgets the image": (
        EFFECT,
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return 0.5 + 0 * x
""",
    ),
    "gives noise for an image": (
        EFFECT,
        """
class Subject(Faultless):
    stochastic = True

    def purify(self, x, noise):
        return noise.uniform_like(x) + 0 * x
""",
    ),
    "does nothing": (
        EFFECT,
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return x
""",
    ),
    "learns nothing": (
        TRAINING,
        """
class Subject(Trained):
    def fit(self, data, source, generator):
        self.report(1, 1, loss=0.0)
""",
    ),
    "learns in silence": (
        TRAINING,
        """
class Subject(Trained):
    def fit(self, data, source, generator):
        with torch.no_grad():
            self.factor.mul_(0.5)
""",
    ),
    "learns something infinite": (
        TRAINING,
        """
class Subject(Trained):
    def fit(self, data, source, generator):
        with torch.no_grad():
            self.factor.fill_(torch.inf)
        self.report(1, 1, loss=0.0)
""",
    ),
    "diverges": (
        TRAINING,
        """
class Subject(Trained):
    def fit(self, data, source, generator):
        super().fit(data, source, generator)
        self.report(1, 1, loss=float("nan"))
""",
    ),
    "has no fit": (
        TRAINING,
        """
class Subject(Faultless):
    trainable = True
""",
    ),
    "keeps what it learnt to itself": (
        "saved weights",
        """
class Subject(Trained):
    hidden = 1.0

    def fit(self, data, source, generator):
        super().fit(data, source, generator)
        self.hidden = 0.5

    def purify(self, x, noise):
        return x * self.factor * self.hidden
""",
    ),
    "draws weights that are not saved": (
        "saved weights",
        """
class Subject(Faultless):
    def __init__(self, config, image_shape, num_classes):
        super().__init__(config, image_shape, num_classes)
        self.factor = torch.rand(1)

    def purify(self, x, noise):
        return x * self.factor
""",
    ),
    "decides on labels of another type": (
        DECIDES,
        """
class Subject(Faultless):
    decides_label = True

    def purify_and_decide(self, x, noise):
        return self.purify(x, noise), torch.zeros(len(x))
""",
    ),
    "decides on labels that there are not": (
        DECIDES,
        """
class Subject(Faultless):
    decides_label = True

    def purify_and_decide(self, x, noise):
        return self.purify(x, noise), torch.full((len(x),), 10)
""",
    ),
    "decides on other images": (
        DECIDES,
        """
class Subject(Faultless):
    decides_label = True

    def purify_and_decide(self, x, noise):
        return x * 0.4, torch.zeros(len(x), dtype=torch.int64)
""",
    ),
    "does not say how it decides": (
        DECIDES,
        """
class Subject(Faultless):
    decides_label = True
""",
    ),
    "has another net in attacks": (
        "in_attack",
        """
class Subject(Faultless):
    @classmethod
    def in_attack(cls, config):
        return config.model_copy(update={"depth": 2})
""",
    ),
    "has a setting for attacks that is out of bounds": (
        "in_attack",
        """
class Subject(Faultless):
    @classmethod
    def in_attack(cls, config):
        return config.model_copy(update={"steps": 0})
""",
    ),
    "does not forget": (
        "in_attack",
        """
class Subject(Faultless):
    calls = 0

    @classmethod
    def in_attack(cls, config):
        return config.model_copy(update={"steps": 1})

    def purify(self, x, noise):
        self.calls += self.config.steps == 1
        return x / (2 + self.calls)
""",
    ),
    "looks whether gradients are on": (
        "gradients on or off",
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return x * (0.5 if x.requires_grad else 0.4)
""",
    ),
    "has a gradient that is not finite": (
        "gradient",
        """
class Subject(Faultless):
    def purify(self, x, noise):
        return x * 0.5 + (x - x).sqrt()
""",
    ),
    "cannot be made": (
        "images",
        """
class Subject(Faultless):
    def __init__(self, config, image_shape, num_classes):
        super().__init__(config)
""",
    ),
}
