"""The isomorphic-loss GAN denoiser (Journal of Intelligent & Fuzzy Systems, DOI 10.3233/JIFS-200280)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.datasets.contract import TrainingData
from benchmark.noise import Noise
from benchmark.plugin import Config, train
from benchmark.training import Loop, steps_of
from defenses.ape_nets import build_discriminator, build_generator, check_size
from defenses.contract import Defense, defense
from defenses.learning import attacked, update


class IsoGanConfig(Config):
    """`preset: paper` is 70,000 batches of 32 (one reading of its "70,00 epochs"); `cpu` fits two cores:
    fewer batches, at a rate five times as high that falls to zero along half a cosine (`anneal`).

    Weights of the generator's losses: `repair_weight` of MSE(G(x_adv), x), `recovery_weight` of
    MSE(G(x), x), `iso_weight` of MSE(G(x_adv), G(x)), `gan_weight` of the adversarial loss, `label_weight`
    of the source classifier's cross-entropy on G(x_adv), `clean_label_weight` of the one on G(x), and
    `pair_label_weight` of the divergence between its predictions for the two. `detach_clean` holds G(x)
    still in the isomorphic loss, so that only the repaired image is moved towards the recovered one.

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
    """Feeds the image to a generator that is to map an FGSM image and its clean original to the same image.

    Our reading of an under-specified paper: neither the net nor a weight of its losses is printed, and no
    code was published. The nets are APE-GAN's, which the paper says it improves on; its losses at image
    level (repair, recovery, isomorphic) are mean squared errors of weight 1, the adversarial loss weighs 0.3
    (in APE-GAN 0.3 against 0.7); its "label-level" loss is the cross-entropy of the source classifier
    on the repaired image (the other reading, of real against generated, is the adversarial loss itself).
    D sees repaired and recovered images in equal shares.
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
            adversarial = attacked("fgsm", source, clean, labels, eps)
            # one pass, so that batch normalisation sees both kinds as it will when purifying
            repaired, recovered = self.generator(torch.cat([adversarial, clean])).chunk(2)
            loss_d = _discriminate(discriminator, clean, repaired.detach(), recovered.detach())
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
        """The generator's losses by name, weighted; those without a weight are left out."""
        config = self.config
        twin = recovered.detach() if config.detach_clean else recovered
        losses = {
            "repair": config.repair_weight * F.mse_loss(repaired, clean),
            "recovery": config.recovery_weight * F.mse_loss(recovered, clean),
            "iso": config.iso_weight * F.mse_loss(repaired, twin),
        }
        if config.gan_weight:
            deceived = discriminator(torch.cat([repaired, recovered]))
            losses["gan"] = -config.gan_weight * F.logsigmoid(deceived).mean()
        if config.label_weight or config.pair_label_weight:
            scores = source(repaired)
            losses["label"] = config.label_weight * F.cross_entropy(scores, labels)
        if config.clean_label_weight or config.pair_label_weight:
            clean_scores = source(recovered)
            losses["clean_label"] = config.clean_label_weight * F.cross_entropy(clean_scores, labels)
        if config.pair_label_weight:
            divergence = F.kl_div(
                scores.log_softmax(dim=1),
                clean_scores.log_softmax(dim=1),
                log_target=True,
                reduction="batchmean",
            )
            losses["pair_label"] = config.pair_label_weight * divergence
        return losses


def _discriminate(discriminator: nn.Module, real: Tensor, repaired: Tensor, recovered: Tensor) -> Tensor:
    """−log D(x) − ½ [log(1 − D(repaired)) + log(1 − D(recovered))]."""
    made = discriminator(torch.cat([repaired, recovered]))
    return -F.logsigmoid(discriminator(real)).mean() - F.logsigmoid(-made).mean()
