"""The isomorphic-loss GAN denoiser (Journal of Intelligent & Fuzzy Systems, DOI 10.3233/JIFS-200280)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from benchmark.defenses.nets.ape_gan_networks import build_discriminator, build_generator, check_size
from benchmark.defenses.nets.training_steps import adversarial_batch, update
from torch import Tensor, nn

from benchmark.api import Config, Defense, Loop, Noise, TrainingData, defense, steps_of, train


class IsoGanConfig(Config):
    """`preset: paper` trains on 70,000 batches of 32 (a reading of its "70,00 epochs"); `cpu` is for two CPU
    cores: fewer batches and a learning rate five times as high that falls to 0 along a cosine
    (`anneal`).

    Weights of the generator's losses: `repair_weight` of MSE(G(x_adv), x), `recovery_weight` of
    MSE(G(x), x), `iso_weight` of MSE(G(x_adv), G(x)), `gan_weight` of the adversarial loss, `label_weight`
    of the source classifier's cross-entropy on G(x_adv), `clean_label_weight` of that on G(x), and
    `pair_label_weight` of the KL divergence between its predictions for both. `detach_clean` detaches G(x) in
    the isomorphic loss, so that only G(x_adv) is moved towards G(x).

    `eps` of the FGSM training images is 0.3 for grey and 0.15 for colour images, as in the paper.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"epochs": 1, "min_steps": 70_000, "lr": 2e-4, "anneal": False}
    }

    preset: Literal["cpu", "paper"] = train("cpu")
    epochs: int = train(1, ge=1)
    min_steps: int = train(1500, ge=0)
    batch_size: int = train(32, ge=2)
    lr: float = train(1e-3, gt=0)
    anneal: bool = train(True)
    beta1: float = train(0.5, ge=0, lt=1)
    eps: float | None = train(None, ge=0, le=1)
    repair_weight: float = train(1.0, ge=0)
    recovery_weight: float = train(1.0, ge=0)
    iso_weight: float = train(1.0, ge=0)
    gan_weight: float = train(0.3, ge=0)
    label_weight: float = train(0.1, ge=0)
    clean_label_weight: float = train(0.0, ge=0)
    pair_label_weight: float = train(0.0, ge=0)
    detach_clean: bool = train(False)


@defense("iso-gan")
class IsoGan(Defense[IsoGanConfig]):
    """Restores images by a generator trained to map an FGSM image and its clean image to the same image.

    The paper is under-specified: it states neither the network nor the weights of its losses, and no code was
    published. This is an interpretation. The networks are those of APE-GAN, on which the paper improves. The
    image-level losses (repair, recovery, isomorphic) are mean squared errors of weight 1, and the adversarial
    loss has weight 0.3 (in APE-GAN 0.3 against 0.7). The "label-level" loss is the cross-entropy of the
    source classifier on the repaired image; read as real against generated it would be the adversarial loss
    itself. D gets repaired images G(x_adv) and recovered images G(x) in equal shares.
    """

    trainable = True

    def __init__(self, config: IsoGanConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        check_size(self.name, image_shape)
        self.generator = build_generator(image_shape)

    def purify(self, x: Tensor, noise: Noise) -> Tensor:
        return self.generator(x)  # type: ignore[no-any-return]

    def fit(self, data: TrainingData, source: nn.Module, generator: torch.Generator) -> None:
        config = self.config
        default_eps = 0.3 if data.image_shape[0] == 1 else 0.15
        eps = default_eps if config.eps is None else config.eps
        discriminator = build_discriminator(data.image_shape).to(data.device)
        betas = (config.beta1, 0.999)
        adam_g = torch.optim.Adam(self.generator.parameters(), lr=config.lr, betas=betas)
        adam_d = torch.optim.Adam(discriminator.parameters(), lr=config.lr, betas=betas)
        steps = steps_of(data, epochs=config.epochs, batch_size=config.batch_size, at_least=config.min_steps)
        loop = Loop(
            self,
            data,
            generator,
            batch_size=config.batch_size,
            steps=steps,
            discriminator=discriminator,
            adam_g=adam_g,
            adam_d=adam_d,
        )
        for clean, labels in loop:
            if config.anneal:
                for adam in (adam_g, adam_d):
                    loop.cosine(adam, config.lr)
            adversarial = adversarial_batch("fgsm", source, clean, labels, eps)
            # one pass, because batch normalisation will get both kinds of images when purifying
            repaired, recovered = self.generator(torch.cat([adversarial, clean])).chunk(2)
            loss_d = _discriminator_loss(discriminator, clean, repaired.detach(), recovered.detach())
            update(adam_d, loss_d)
            losses = self._losses(discriminator, source, clean, labels, repaired, recovered)
            loss_g = torch.stack(list(losses.values())).sum()
            update(adam_g, loss_g)
            loop.report(loss_g=loss_g, loss_d=loss_d)

    def _losses(
        self,
        discriminator: nn.Module,
        source: nn.Module,
        clean: Tensor,
        labels: Tensor,
        repaired: Tensor,
        recovered: Tensor,
    ) -> dict[str, Tensor]:
        """The generator's losses by name, weighted; optional ones only if their weight is not 0."""
        config = self.config
        reference = recovered.detach() if config.detach_clean else recovered
        losses = {
            "repair": config.repair_weight * F.mse_loss(repaired, clean),
            "recovery": config.recovery_weight * F.mse_loss(recovered, clean),
            "iso": config.iso_weight * F.mse_loss(repaired, reference),
        }
        if config.gan_weight:
            fake = discriminator(torch.cat([repaired, recovered]))
            losses["gan"] = -config.gan_weight * F.logsigmoid(fake).mean()
        if config.label_weight or config.pair_label_weight:
            logits = source(repaired)
            losses["label"] = config.label_weight * F.cross_entropy(logits, labels)
        if config.clean_label_weight or config.pair_label_weight:
            clean_logits = source(recovered)
            losses["clean_label"] = config.clean_label_weight * F.cross_entropy(clean_logits, labels)
        if config.pair_label_weight:
            divergence = F.kl_div(
                logits.log_softmax(dim=1),
                clean_logits.log_softmax(dim=1),
                log_target=True,
                reduction="batchmean",
            )
            losses["pair_label"] = config.pair_label_weight * divergence
        return losses


def _discriminator_loss(
    discriminator: nn.Module, real: Tensor, repaired: Tensor, recovered: Tensor
) -> Tensor:
    """−log D(real) − ½ [log(1 − D(repaired)) + log(1 − D(recovered))], averaged over the batch.

    D is the sigmoid of the discriminator's logits.
    """
    fake = discriminator(torch.cat([repaired, recovered]))
    return -F.logsigmoid(discriminator(real)).mean() - F.logsigmoid(-fake).mean()
