"""A search in the latent space of a surface, for purifiers that answer with what a generator can make.

After the "overpowered" attack of Jalal et al. 2017 ("The Robust Manifold Defense", section 4) and that on
Defense-GAN by Athalye et al. 2018 ("Obfuscated Gradients", section 5.4.2): an adversarial image that a
generator made itself is left as it is by a projection onto what the generator can make.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.ball import Ball, BallConfig, choose, lengths, most_wrong
from attacks.contract import Attack, Surface, attack
from attacks.gradients import margin
from benchmark.noise import Noise
from benchmark.plugin import Norm, param

_GROWTH = 1.1
_FIRST_PRICE = 1.0
_LEAVING = 10.0
_TINY = 1e-12


class OnManifoldConfig(BallConfig):
    """`eps`: radius of the ball of `distance`; `steps`: of Adam on the latents, of length `lr`.

    Each of `restarts` begins at the latents of the image, all but the first with normal noise of `spread`
    times their standard deviation. `kappa`: by how much the wrong score has to lead on the generated image.
    """

    steps: int = param(200, ge=1)
    lr: float = param(0.05, gt=0)
    restarts: int = param(2, ge=1)
    spread: float = param(0.5, ge=0)
    kappa: float = param(1.0, ge=0)


@attack("on-manifold")
class OnManifold(Attack[OnManifoldConfig]):
    """Moves the latents of an image until what they generate is wrong, at a price for leaving the ball.

    The price of each image rises while it is outside and falls while it is inside, so that the search ends
    near the rim. What is returned is the generated image moved into the ball: the most wrong one of those
    that lie in it, or else one that is wrong and nearest to it.
    """

    needs_latents = True
    stochastic = True
    grows = True

    @property
    def norm(self) -> Norm:
        return self.config.distance

    def harder(self, times: int) -> OnManifold:
        config = self.config
        more = {"steps": times * config.steps, "restarts": times * config.restarts}
        return type(self)(type(config)(**{**config.model_dump(), **more}))

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        ball = Ball(x, self.config.eps, self.config.distance)
        begin = surface.encode(x).detach()
        return most_wrong(
            self._search(surface, ball, labels, latents) for latents in self._starts(begin, noise)
        )

    def _starts(self, begin: Tensor, noise: Noise) -> list[Tensor]:
        scale = self.config.spread * begin.std()
        others = [begin + scale * noise.normal_like(begin) for _ in range(self.config.restarts - 1)]
        return [begin, *others]

    def _search(self, surface: Surface, ball: Ball, labels: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        latents = latents.clone().requires_grad_()
        adam = torch.optim.Adam([latents], lr=config.lr)
        price = torch.full((len(labels),), _FIRST_PRICE, device=labels.device)
        best = ball.project(ball.centre)
        best_margin = torch.full((len(labels),), float("-inf"), device=labels.device)
        for _ in range(config.steps):
            with torch.enable_grad():
                made = surface.decode(latents)
                change = made - ball.centre
                outside = (_distance(change, ball.norm) - config.eps).clamp_min(0)
                lead = margin(surface(made), labels)
                loss = (config.kappa - lead).clamp_min(0) + price * outside
                (latents.grad,) = torch.autograd.grad(loss.sum(), latents)
            made, change, lead = made.detach(), change.detach(), lead.detach()
            excess = (_distance(change, ball.norm, exact=True) / max(config.eps, _TINY) - 1).clamp_min(0)
            found = lead.clamp_max(config.kappa) - _LEAVING * excess
            better = found > best_margin
            best = choose(better, ball.project(made), best)
            best_margin = torch.where(better, found, best_margin)
            price = torch.where(outside > 0, price * _GROWTH, price / _GROWTH).clamp_(1e-3, 1e4)
            adam.step()
        return best.detach(), best_margin


def _distance(change: Tensor, norm: str, *, exact: bool = False) -> Tensor:
    """The size of each image's change (B,); of L∞, unless `exact`, the mean of the largest hundredth.

    More pixels than one get a gradient then.
    """
    if norm == "l2":
        return lengths(change)
    flat = change.flatten(1).abs()
    if exact:
        return flat.amax(dim=1)
    return flat.topk(max(1, flat.shape[1] // 100), dim=1).values.mean(dim=1)
