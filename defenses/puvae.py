"""PuVAE (Hwang et al. 2019, "PuVAE: A Variational Autoencoder to Purify Adversarial Examples").

arXiv 1903.00585; no official code is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from benchmark.defenses.nets.training_steps import StopCriterion
from torch import Tensor, nn

from benchmark.api import (
    Config,
    Defense,
    Loop,
    Noise,
    Scorer,
    Surrogate,
    TrainingData,
    defense,
    infer,
    require_small_images,
    steps_of,
    train,
)

_FILTERS = 32
_HIDDEN = 1024
_TEMPERATURE = 0.1


class PuVaeConfig(Config):
    """`preset: paper` trains 350 epochs in batches of 512, as in the replication by A. Wester; `cpu` is for
    two CPU cores: smaller and fewer batches, a learning rate that falls to 0 along a cosine (`anneal`), and
    gradients clipped to a norm of `clip`. Without clipping, single images with a large cross-entropy, which
    has a large weight, disturb the training.

    `latent` is 50 on MNIST, 100 on Fashion-MNIST, 256 on CIFAR. Weights of the losses: `rc_weight` of the
    reconstruction (binary cross-entropy, summed over pixels), `kl_weight` of the divergence (mean over
    latents), `ce_weight` of the source classifier's cross-entropy; all are means over the batch. The paper
    gives no values; these are from the thesis of A. Wester.

    Every `check_every` batches (0: never) 500 validation images are purified, clean and with FGSM of 0.3
    against the source. Training ends when this adds at most `stop_clean` to the source's error and the FGSM
    error is at most `stop_fgsm`.

    At inference `noise` is the standard deviation of the latent noise, instead of 1. Each label is tried with
    `samples` draws, and the nearest reconstruction of all is used.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"epochs": 350, "batch_size": 512, "check_every": 0, "anneal": False, "clip": None}
    }
    per_dataset: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fashion-mnist": {"latent": 100},
        "cifar10": {"latent": 256},
        "cifar100": {"latent": 256},
    }

    preset: Literal["cpu", "paper"] = train("cpu")
    latent: int = train(50, ge=1)
    epochs: int = train(3, ge=1)
    min_steps: int = train(200, ge=0)
    batch_size: int = train(64, ge=2)
    lr: float = train(1e-3, gt=0)
    anneal: bool = train(True)
    clip: float | None = train(1.0, gt=0)
    rc_weight: float = train(0.01, ge=0)
    kl_weight: float = train(0.1, ge=0)
    ce_weight: float = train(10.0, ge=0)
    check_every: int = train(400, ge=0)
    stop_clean: float = train(0.02, ge=0)
    stop_fgsm: float = train(0.10, ge=0)
    noise: float = infer(0.1, ge=0)
    samples: int = infer(1, ge=1)


@defense("puvae")
class PuVae(Defense[PuVaeConfig]):
    """Reconstructs the image under every label with a conditional VAE and keeps the nearest one.

    The distance is the root of the mean squared error over all pixels and channels. The label enters the
    encoder after the convolutional features, which are computed once for all labels. Interpretations:

    * the printed divergence, log(σ² − 1), has its minimum at the wrong value; here it is
      ½ (μ² + σ² − log σ² − 1), averaged over latents;
    * `latent` and the noise at inference are those of replications (the paper's figure has 32 latents), and
      the layers have He initialisation;
    * the output layer of the decoder is not in the paper's figure: at 28×28 an unpadded 7×7 transposed
      convolution goes from 1×1 to 7×7, two more to 28×28, and a 3×3 one to the channels of the image
      (925,569 parameters with 32 latents); at 32×32 three go from 4×4 to 32×32 and its channels;
    * the label that it chooses is a prediction of its own; its error is `label_error` in the records.
    """

    trainable = True
    stochastic = True
    decides_label = True
    surrogates = ("soft-selection", "selection")
    gate = 0.10
    gates: ClassVar[Mapping[str, float]] = {"fashion-mnist": 0.15}

    def __init__(self, config: PuVaeConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        require_small_images(self.name, image_shape)
        self.encoder = Encoder(image_shape, config.latent, num_classes)
        self.decoder = Decoder(image_shape, config.latent, num_classes)
        self.apply(_initialise)
        self.to(memory_format=torch.channels_last)  # twice as fast on CPUs

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return self.purify_and_decide(x, noise)[0]

    def purify_and_decide(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        latents = self._latents(x, noise)
        with torch.no_grad():
            nearest = _distances(self._decode(latents), x).argmin(dim=1)
        # decoded again, at a tenth of the cost, because gradients must not flow through the other labels
        chosen = latents[torch.arange(len(x), device=x.device), nearest]
        label = nearest % self.num_classes
        return self.decoder(chosen, label), label

    def surrogate(self, name: str, target: Scorer, noise: Noise) -> Surrogate:
        """`soft-selection`: the logits of the average reconstruction, weighted by a softmax of distances.

        `selection`: minus the distance to the nearest reconstruction under each label. An image that fools
        it makes the defense choose the reconstruction under another label. Both divide the distances by their
        standard deviation.
        """

        def soft_selection(x: Tensor) -> Tensor:
            images = self._reconstruct(x, noise)
            distances = _distances(images, x)
            scale = _TEMPERATURE * distances.detach().std(dim=1, keepdim=True)
            weights = (-distances / scale).softmax(dim=1)
            return target((weights[:, :, None, None, None] * images).sum(dim=1))

        def selection(x: Tensor) -> Tensor:
            distances = _distances(self._reconstruct(x, noise), x)
            distances = distances.reshape(len(x), -1, self.num_classes).amin(dim=1)
            return -distances / distances.detach().std(dim=1, keepdim=True)

        return Surrogate({"soft-selection": soft_selection, "selection": selection}[name])

    def _reconstruct(self, x: Tensor, noise: Noise) -> Tensor:
        """Reconstructions (B, samples · classes, C, H, W) under every label, sample by sample."""
        return self._decode(self._latents(x, noise))

    def _latents(self, x: Tensor, noise: Noise) -> Tensor:
        """Latents (B, samples · classes, latent) under every label, sample by sample."""
        config = self.config
        mean, std = self.encoder.for_every_label(x)
        normal = noise.normal_like(mean[:, None].expand(-1, config.samples, -1, -1))
        return (mean[:, None] + config.noise * std[:, None] * normal).flatten(1, 2)

    def _decode(self, latents: Tensor) -> Tensor:
        labels = torch.arange(latents.shape[1], device=latents.device) % self.num_classes
        images = self.decoder(latents.flatten(0, 1), labels.repeat(len(latents)))
        return images.unflatten(0, latents.shape[:2])  # type: ignore[no-any-return]

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        config = self.config
        adam = torch.optim.Adam(self.parameters(), lr=config.lr, fused=True)
        steps = steps_of(data, epochs=config.epochs, batch_size=config.batch_size, at_least=config.min_steps)
        loop = Loop(self, data, generator, batch_size=config.batch_size, steps=steps, adam=adam)
        criterion = StopCriterion(config.stop_clean, config.stop_fgsm, images=500)
        for images, labels in loop:
            if config.anneal:
                loop.cosine(adam, config.lr)
            mean, std = self.encoder(images, labels)
            decoded = self.decoder(mean + std * torch.randn_like(std), labels)
            rc = F.binary_cross_entropy(decoded, images, reduction="sum") / len(images)
            kl = 0.5 * (mean.square() + std.square() - 2 * std.log() - 1).mean()
            ce = F.cross_entropy(source(decoded), labels)
            loss = config.rc_weight * rc + config.kl_weight * kl + config.ce_weight * ce
            adam.zero_grad()
            loss.backward()
            if config.clip is not None:
                nn.utils.clip_grad_norm_(self.parameters(), config.clip)
            adam.step()
            loop.report(loss=loss, rc=rc, kl=kl, ce=ce)
            if config.check_every and loop.step % config.check_every == 0:
                criterion.check(loop, self, self._with_fixed_noise, data, source)

    def _with_fixed_noise(self, x: Tensor) -> Tensor:
        return self.purify(x, Noise(0, range(len(x))))


def _distances(images: Tensor, x: Tensor) -> Tensor:
    """The mean squared error of each reconstruction (B, reconstructions); the root has the same order."""
    return (images - x[:, None]).square().flatten(2).mean(dim=2)


class Encoder(nn.Module):
    """q(z | x, y): three dilated 7×7 convolutions, then with the label two dense layers to mean and std."""

    def __init__(self, image_shape: tuple[int, int, int], latent: int, classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.features = nn.Sequential(
            nn.Conv2d(channels, _FILTERS, 7, dilation=2, padding=6),
            nn.ReLU(),
            nn.Conv2d(_FILTERS, _FILTERS, 7, dilation=2, padding=6),
            nn.ReLU(),
            nn.Conv2d(_FILTERS, _FILTERS, 7, dilation=2, padding=6),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.classes = classes
        # one dense layer in two parts, so that the features are computed once for all labels
        self.from_features = nn.Linear(_FILTERS * height * width, _HIDDEN)
        self.from_label = nn.Linear(classes, _HIDDEN, bias=False)
        self.statistics = nn.Sequential(
            nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 2 * latent)
        )

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each (B, latent)."""
        return self._mean_and_std(self.from_features(self.features(x)) + self._embed(labels))

    def for_every_label(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation under each label, each (B, classes, latent)."""
        labels = torch.arange(self.classes, device=x.device)
        hidden = self.from_features(self.features(x))[:, None]
        return self._mean_and_std(hidden + self._embed(labels))

    def _embed(self, labels: Tensor) -> Tensor:
        weight = self.from_label.weight
        return self.from_label(F.one_hot(labels, self.classes).to(weight.dtype))  # type: ignore[no-any-return]

    def _mean_and_std(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self.statistics(hidden).chunk(2, dim=-1)
        return mean, F.softplus(spread) + 1e-6


class Decoder(nn.Module):
    """p(x | z, y): a dense layer with the label to 512 values, then transposed 7×7 convolutions."""

    def __init__(self, image_shape: tuple[int, int, int], latent: int, classes: int) -> None:
        super().__init__()
        channels = image_shape[0]
        self.classes = classes
        self.dense = nn.Sequential(nn.Linear(latent + classes, 512), nn.ReLU())
        if image_shape[1:] == (28, 28):
            self.layers = nn.Sequential(
                nn.Unflatten(1, (512, 1, 1)),
                nn.ConvTranspose2d(512, _FILTERS, 7, stride=2),
                nn.ReLU(),
                _doubling(_FILTERS),
                nn.ReLU(),
                _doubling(_FILTERS),
                nn.ReLU(),
                nn.ConvTranspose2d(_FILTERS, channels, 3, padding=1),
                nn.Sigmoid(),
            )
        else:
            self.layers = nn.Sequential(
                nn.Unflatten(1, (_FILTERS, 4, 4)),
                _doubling(_FILTERS),
                nn.ReLU(),
                _doubling(_FILTERS),
                nn.ReLU(),
                _doubling(channels),
                nn.Sigmoid(),
            )

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        conditioned = torch.cat([latents, F.one_hot(labels, self.classes).to(latents.dtype)], dim=1)
        return self.layers(self.dense(conditioned))  # type: ignore[no-any-return]


def _initialise(module: nn.Module) -> None:
    """He et al. 2015, "Delving Deep into Rectifiers"; with torch's defaults signals shrink layer by layer."""
    if isinstance(module, nn.ConvTranspose2d):
        # positions that contribute to one pixel; the input of the 28×28 decoder's first layer is 1×1
        positions = (
            math.prod(module.kernel_size) / math.prod(module.stride) if module.in_channels < 512 else 1
        )
        nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_channels * positions)))
    elif isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _doubling(outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(_FILTERS, outputs, 7, stride=2, padding=3, output_padding=1)
