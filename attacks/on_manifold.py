"""A search in the latent space of a surface, for purifiers whose output is an image of a generator.

It follows the "overpowered" attack of Jalal, Ilyas et al. ("The Robust Manifold Defense", arXiv 1712.09196)
and the attack on Defense-GAN by Athalye et al. 2018 ("Obfuscated Gradients Give a False Sense of Security",
section 5.4.2). A projection onto the range of a generator leaves the images of that generator unchanged, also
the adversarial ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.api import (
    Attack,
    Ball,
    BallConfig,
    Noise,
    Surface,
    attack,
    choose,
    lengths,
    margin,
    most_wrong,
    param,
)

_MULTIPLIER_GROWTH = 1.1
_INITIAL_MULTIPLIER = 1.0
_EXCESS_PENALTY = 10.0
_TINY = 1e-12


class OnManifoldConfig(BallConfig):
    """`eps`: radius of the ball of `distance`; `steps` and `lr`: of Adam on the latents.

    Each of the `restarts` begins at the latents of the image. All but the first add normal noise of `spread`
    times the standard deviation of the latents. `kappa`: the margin to reach on the generated image.
    """

    steps: int = param(200, ge=1)
    lr: float = param(0.05, gt=0)
    restarts: int = param(2, ge=1)
    spread: float = param(0.5, ge=0)
    kappa: float = param(1.0, ge=0)


@attack("on-manifold")
class OnManifold(Attack[OnManifoldConfig]):
    """Optimises the latents of an image until the generated image is adversarial and near the ball.

    The loss is max(κ − margin, 0) plus a Lagrange multiplier times the distance outside the ball. The
    multiplier of an image rises while the image is outside and falls while it is inside, so that the search
    ends near the boundary of the ball. The result is a generated image, projected onto the ball: the one with
    the largest margin inside the ball, or else an adversarial one that is close to it.
    """

    needs_latents = True
    stochastic = True
    scalable = True

    def with_more_steps(self, times: int) -> OnManifold:
        config = self.config
        more = {"steps": times * config.steps, "restarts": times * config.restarts}
        return type(self)(type(config)(**{**config.model_dump(), **more}))

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        ball = Ball(x, self.config.eps, self.config.distance)
        latents = surface.encode(x).detach()
        scale = self.config.spread * latents.std()
        others = [latents + scale * noise.normal_like(latents) for _ in range(self.config.restarts - 1)]
        return most_wrong(self._search(surface, ball, labels, point) for point in (latents, *others))

    def _search(self, surface: Surface, ball: Ball, labels: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The best image of one restart and its score (B,): the margin minus a penalty for the excess."""
        config = self.config
        latents = latents.clone().requires_grad_()
        adam = torch.optim.Adam([latents], lr=config.lr)
        multiplier = torch.full((len(labels),), _INITIAL_MULTIPLIER, device=labels.device)
        best = ball.project(ball.centre)
        best_score = torch.full((len(labels),), float("-inf"), device=labels.device)
        for _ in range(config.steps):
            with torch.enable_grad():
                images = surface.decode(latents)
                delta = images - ball.centre
                outside = (_distance(delta, ball.norm) - config.eps).clamp_min(0)
                margins = margin(surface(images), labels)
                loss = (config.kappa - margins).clamp_min(0) + multiplier * outside
                (latents.grad,) = torch.autograd.grad(loss.sum(), latents)
            images, delta, margins = images.detach(), delta.detach(), margins.detach()
            excess = (_distance(delta, ball.norm, exact=True) / max(config.eps, _TINY) - 1).clamp_min(0)
            score = margins.clamp_max(config.kappa) - _EXCESS_PENALTY * excess
            better = score > best_score
            best = choose(better, ball.project(images), best)
            best_score = torch.where(better, score, best_score)
            multiplier = torch.where(
                outside > 0, multiplier * _MULTIPLIER_GROWTH, multiplier / _MULTIPLIER_GROWTH
            ).clamp_(1e-3, 1e4)
            adam.step()
        return best.detach(), best_score


def _distance(delta: Tensor, norm: str, *, exact: bool = False) -> Tensor:
    """The norm of each image's change, shape (B,).

    For L∞, unless `exact`, the mean of the largest hundredth of the changes, so that more than one pixel gets
    a gradient.
    """
    if norm == "l2":
        return lengths(delta)
    flat = delta.flatten(1).abs()
    if exact:
        return flat.amax(dim=1)
    return flat.topk(max(1, flat.shape[1] // 100), dim=1).values.mean(dim=1)
