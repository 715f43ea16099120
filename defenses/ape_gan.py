"""APE-GAN (Shen et al. 2017, "APE-GAN: Adversarial Perturbation Elimination with GAN", arXiv 1707.05474)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData
from benchmark.noise import Noise
from benchmark.plugin import Config, train
from defenses.contract import Defense, defense


class ApeGanConfig(Config):
    """The paper's schedule: on MNIST 2 epochs with `eps` 0.3, on CIFAR-10 10 epochs with `eps` 0.1.

    Small data sets are passed over until `min_steps` batches were seen. `mse_weight` and `adv_weight`
    are ξ1 and ξ2 of the paper; `beta1` is Adam's, which the paper leaves open and its code sets to 0.5;
    `generator_updates` is how often G is updated for each update of D.
    """

    epochs: int = train(2, ge=1)
    min_steps: int = train(150, ge=0)
    batch_size: int = train(64, ge=2)
    lr: float = train(2e-4, gt=0)
    beta1: float = train(0.5, ge=0, lt=1)
    eps: float = train(0.3, ge=0, le=1)
    mse_weight: float = train(0.7, ge=0)
    adv_weight: float = train(0.3, ge=0)
    generator_updates: int = train(2, ge=1)


@defense("ape-gan")
class ApeGan(Defense[ApeGanConfig]):
    """Feeds the image to a generator trained to turn FGSM images back into clean ones.

    Follows the paper rather than its published code: 3×3 kernels, sigmoid output, 0.7 · MSE +
    0.3 · adversarial loss. Two readings where the paper is unclear:

    * its discriminator loss (eq. 10) lacks "1 −" in the second term; D minimises
      −log D(x) − log(1 − D(G(x_adv))), and G minimises −log D(G(x_adv));
    * batch normalisation uses running statistics when purifying. The published code normalises by the
      test batch, which makes an image's result depend on its neighbours.

    For 28×28 and 32×32 images. FGSM images come from the source classifier and the true labels.
    """

    trainable = True

    def __init__(self, config: ApeGanConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__(config, image_shape)
        channels, height, width = image_shape
        if (height, width) not in ((28, 28), (32, 32)):
            raise ValueError(f"ape-gan takes 28×28 or 32×32 images, got {height}×{width}")
        self.generator = build_generator(channels)

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return self.generator(x)  # type: ignore[no-any-return]

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        config = self.config
        discriminator = build_discriminator(data.image_shape).to(data.device)
        betas = (config.beta1, 0.999)
        adam_g = torch.optim.Adam(self.generator.parameters(), lr=config.lr, betas=betas)
        adam_d = torch.optim.Adam(discriminator.parameters(), lr=config.lr, betas=betas)
        per_epoch = data.batches_per_epoch(config.batch_size)
        epochs = max(config.epochs, -(-config.min_steps // per_epoch))
        done, total = 0, epochs * per_epoch
        for _ in range(epochs):
            for clean, labels in data.batches(config.batch_size, generator):
                adversarial = _fgsm(source, clean, labels, config.eps)
                loss_d = self._discriminate(discriminator, clean, adversarial)
                _step(adam_d, loss_d)
                for _ in range(config.generator_updates):
                    loss_g = self._generate(discriminator, clean, adversarial)
                    _step(adam_g, loss_g)
                done += 1
                if done % 10 == 0 or done == total:
                    self.report(done, total, loss_g=loss_g.item(), loss_d=loss_d.item())

    def _discriminate(self, discriminator: nn.Module, clean: Tensor, adversarial: Tensor) -> Tensor:
        """−log D(x) − log(1 − D(G(x_adv))), D being the sigmoid of the discriminator's output."""
        with torch.no_grad():
            restored = self.generator(adversarial)
        real, fake = discriminator(clean), discriminator(restored)
        return -F.logsigmoid(real).mean() - F.logsigmoid(-fake).mean()

    def _generate(self, discriminator: nn.Module, clean: Tensor, adversarial: Tensor) -> Tensor:
        """ξ1 · MSE(x, G(x_adv)) − ξ2 · log D(G(x_adv))."""
        restored = self.generator(adversarial)
        content = F.mse_loss(restored, clean)
        deception = -F.logsigmoid(discriminator(restored)).mean()
        return self.config.mse_weight * content + self.config.adv_weight * deception


def build_generator(channels: int) -> nn.Sequential:
    """The generator of Table 6: 149,377 parameters for one channel, 151,683 for three."""
    return nn.Sequential(
        nn.Conv2d(channels, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(128, 64, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(64, channels, 3, stride=2, padding=1, output_padding=1),
        nn.Sigmoid(),
    )


def build_discriminator(image_shape: tuple[int, int, int]) -> nn.Sequential:
    """The discriminator of Table 6 without its final sigmoid, which lives in the losses."""
    channels, height, width = image_shape
    features = 256 * (-(-height // 8)) * (-(-width // 8))
    return nn.Sequential(
        nn.Conv2d(channels, 64, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2),
        nn.Conv2d(128, 256, 3, stride=2, padding=1),
        nn.BatchNorm2d(256),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(features, 1),
    )


def _fgsm(source: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(source(images), labels, reduction="sum"), images)
    return (images.detach() + eps * gradient.sign()).clamp_(0, 1)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
