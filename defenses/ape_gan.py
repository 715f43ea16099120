"""APE-GAN (Shen et al. 2017, "APE-GAN: Adversarial Perturbation Elimination with GAN", arXiv 1707.05474)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from benchmark.defenses.nets.ape_gan_networks import build_discriminator, build_generator, check_size
from benchmark.defenses.nets.training_steps import adversarial_batch, update
from torch import Tensor, nn

from benchmark.api import Config, Defense, Loop, Noise, TrainingData, defense, steps_of, train


class ApeGanConfig(Config):
    """`preset: paper` and `cpu` differ only in `min_steps`: more epochs on small data sets, at least so many
    batches. The paper's schedule has no such minimum.

    Null means the paper's value for that image size: `epochs` 2 on 28×28, 10 on 32×32 and 30 on larger
    images; `batch_size` 64, and 16 on larger images; `eps` 0.3, 0.1 and 8/255; `mse_weight` and `adv_weight`
    (ξ1, ξ2) 0.7 and 0.3. `official_code` uses the losses and the output of the published code instead: 0.9
    times the root of the mean squared error, 0.02 times the adversarial loss, and a rescaled tanh.

    `attack` (`fgsm`, or `pgd` with ten steps) with `eps` makes the training images on the source classifier.
    `beta1` is that of Adam: the paper does not state it, its code uses 0.5. `generator_updates` is the number
    of updates of G for each update of D.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"min_steps": 0}}

    preset: Literal["cpu", "paper"] = train("cpu")
    epochs: int | None = train(None, ge=1)
    min_steps: int = train(150, ge=0)
    batch_size: int | None = train(None, ge=2)
    lr: float = train(2e-4, gt=0)
    beta1: float = train(0.5, ge=0, lt=1)
    attack: Literal["fgsm", "pgd"] = train("fgsm")
    eps: float | None = train(None, ge=0, le=1)
    official_code: bool = train(False)
    mse_weight: float | None = train(None, ge=0)
    adv_weight: float | None = train(None, ge=0)
    generator_updates: int = train(2, ge=1)


@dataclass(frozen=True)
class _Schedule:
    """The paper's settings for one image size."""

    epochs: int
    batch_size: int
    eps: float


_SCHEDULES = {28: _Schedule(2, 64, 0.3), 32: _Schedule(10, 64, 0.1)}
_LARGE = _Schedule(30, 16, 8 / 255)


@defense("ape-gan")
class ApeGan(Defense[ApeGanConfig]):
    """Restores clean images from FGSM images by a generator, trained as a GAN.

    It follows the paper and not its published code: 3×3 kernels, sigmoid output, 0.7 · MSE + 0.3 ·
    adversarial loss. Interpretations and differences:

    * the paper's discriminator loss (eq. 10) lacks "1 −" in the second term; here D minimises
      −log D(x) − log(1 − D(G(x_adv))), and G minimises −log D(G(x_adv));
    * batch normalisation uses running statistics when purifying. The published code normalises by the
      test batch, which makes the result for an image depend on the other images;
    * `official_code` uses the losses and the output of the published code, but not its kernels, the ReLU of
      its decoder or its initialisation.

    For 28×28 and 32×32 images and, with the paper's deeper network, for larger images whose sides are
    multiples of 8 (the paper: 256×256). The source classifier and the true labels give the training images.
    """

    trainable = True

    def __init__(self, config: ApeGanConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        check_size(self.name, image_shape)
        self.generator = build_generator(image_shape)
        if config.official_code:
            self.generator[-1] = _ScaledTanh()

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return self.generator(x)  # type: ignore[no-any-return]

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        config, paper = self.config, _SCHEDULES.get(data.image_shape[1], _LARGE)
        batch_size = config.batch_size or paper.batch_size
        eps = paper.eps if config.eps is None else config.eps
        discriminator = build_discriminator(data.image_shape).to(data.device)
        betas = (config.beta1, 0.999)
        adam_g = torch.optim.Adam(self.generator.parameters(), lr=config.lr, betas=betas)
        adam_d = torch.optim.Adam(discriminator.parameters(), lr=config.lr, betas=betas)
        steps = steps_of(
            data, epochs=config.epochs or paper.epochs, batch_size=batch_size, at_least=config.min_steps
        )
        loop = Loop(
            self,
            data,
            generator,
            batch_size=batch_size,
            steps=steps,
            discriminator=discriminator,
            adam_g=adam_g,
            adam_d=adam_d,
        )
        for clean, labels in loop:
            adversarial = adversarial_batch(config.attack, source, clean, labels, eps)
            loss_d = self._discriminator_loss(discriminator, clean, adversarial)
            update(adam_d, loss_d)
            for _ in range(config.generator_updates):
                loss_g = self._generator_loss(discriminator, clean, adversarial)
                update(adam_g, loss_g)
            loop.report(loss_g=loss_g, loss_d=loss_d)

    def _discriminator_loss(self, discriminator: nn.Module, clean: Tensor, adversarial: Tensor) -> Tensor:
        """−log D(x) − log(1 − D(G(x_adv))), where D is the sigmoid of the discriminator's output."""
        with torch.no_grad():
            restored = self.generator(adversarial)
        real, fake = discriminator(clean), discriminator(restored)
        return -F.logsigmoid(real).mean() - F.logsigmoid(-fake).mean()

    def _generator_loss(self, discriminator: nn.Module, clean: Tensor, adversarial: Tensor) -> Tensor:
        """ξ1 · MSE(x, G(x_adv)) − ξ2 · log D(G(x_adv)); the published code takes the root of the MSE."""
        config = self.config
        restored = self.generator(adversarial)
        content = F.mse_loss(restored, clean)
        if config.official_code:
            content = (content * 4).sqrt()  # on the code's scale, [-1, 1]
        adversarial_loss = -F.logsigmoid(discriminator(restored)).mean()
        default_mse, default_adv = (0.9, 0.02) if config.official_code else (0.7, 0.3)
        mse_weight = default_mse if config.mse_weight is None else config.mse_weight
        adv_weight = default_adv if config.adv_weight is None else config.adv_weight
        return mse_weight * content + adv_weight * adversarial_loss


class _ScaledTanh(nn.Module):
    """Tanh, rescaled from [-1, 1] to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.tanh() + 1) / 2
