"""Steps of attacks by value, on surfaces whose scores and gradients are given call by call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from benchmark.attacks import apgd_dlr_targeted
from benchmark.attacks.apgd_ce import ApgdCe, ApgdCeConfig
from benchmark.attacks.apgd_dlr_targeted import ApgdDlrTargeted, ApgdDlrTargetedConfig
from benchmark.attacks.bim import Bim, BimConfig
from benchmark.attacks.fgsm import Fgsm, FgsmConfig
from benchmark.attacks.jsma import Jsma, JsmaConfig
from benchmark.attacks.mim import Mim, MimConfig
from benchmark.attacks.pgd import Pgd, PgdConfig
from benchmark.attacks.steps.auto_pgd import auto_pgd
from benchmark.attacks.uniform_noise import UniformNoise, UniformNoiseConfig
from torch import Tensor

from benchmark.api import Ball, margin, perturb
from benchmark.api.attack import Attack, Surface
from benchmark.api.noise import Noise


class Scripted(Surface):
    """Two classes. In call k the margin of the second one is `weights[k] · x + offsets[k]`.

    The last weights and offsets stay for later calls. `seen` are the images of all calls.
    """

    def __init__(self, weights: Sequence[Sequence[float]], offsets: Sequence[float] = (0.0,)) -> None:
        super().__init__(2, (1, 1, len(weights[0])))
        self._weights, self._offsets = torch.tensor(weights), list(offsets)
        self.seen: list[list[float]] = []

    def forward(self, x: Tensor) -> Tensor:
        call = len(self.seen)
        self.seen.append(x.detach()[0].flatten().tolist())
        weights = self._weights[min(call, len(self._weights) - 1)]
        margins = x.flatten(1) @ weights + self._offsets[min(call, len(self._offsets) - 1)]
        return torch.stack([torch.zeros_like(margins), margins], dim=1)


def crafted(attack: Attack[Any], surface: Surface, pixels: Sequence[float]) -> list[float]:
    """The pixels that an attack makes of one image of class 0."""
    x = torch.tensor(pixels).reshape(1, *surface.image_shape)
    label = torch.tensor([0])
    found = attack.craft(surface, x, label, Noise(0, range(1)))
    return found.flatten().tolist()


def near(*pixels: float) -> Any:
    return pytest.approx(list(pixels), abs=1e-6)


# --- projected steps ---------------------------------------------------------------------------------


def still(**settings: Any) -> Pgd:
    return Pgd(PgdConfig(random_start=False, **settings))


@pytest.mark.parametrize(
    ("offsets", "pixel"),
    [
        ([0, 9, 0, 0], 0.6),  # the second iterate is the most wrong one
        ([9, 0, 0, 0], 0.5),
        ([0, 0, 0, 9], 0.8),
        ([-9, -9, -8, -9], 0.7),  # none is misclassified
        ([-0.5, -0.6, -0.7, -0.8], 0.8),  # all are equal: the last one
    ],
)
def test_pgd_returns_the_most_wrong_iterate_and_not_the_last_one(offsets: list[float], pixel: float) -> None:
    attack = still(eps=0.4, steps=3, alpha=0.1)
    assert crafted(attack, Scripted([[1.0]], offsets), [0.5]) == near(pixel)


def test_every_iterate_is_in_the_ball_and_in_the_box() -> None:
    surface = Scripted([[1.0, -1.0]], range(5))
    assert crafted(still(eps=0.3, steps=4, alpha=0.2), surface, [0.5, 0.4]) == near(0.8, 0.1)
    assert [pixels[0] for pixels in surface.seen] == near(0.5, 0.7, 0.8, 0.8, 0.8)
    assert crafted(still(eps=0.3, steps=4, alpha=0.2), Scripted([[1.0, -1.0]]), [0.9, 0.1]) == near(1.0, 0.0)


@pytest.mark.parametrize(
    ("attack", "step"),
    [
        (still(eps=0.4, steps=5), 0.2),  # 2.5 · eps / steps
        (still(eps=0.4, steps=5, alpha=0.03), 0.03),
        (Bim(BimConfig(eps=0.4, steps=5)), 0.04),  # eps / 10
        (Bim(BimConfig(eps=0.4, steps=5, alpha=0.03)), 0.03),
        (Mim(MimConfig(eps=0.4, steps=5)), 0.2),
    ],
)
def test_the_size_of_a_step(attack: Attack[Any], step: float) -> None:
    surface = Scripted([[1.0]])
    crafted(attack, surface, [0.1])
    assert surface.seen[1] == near(0.1 + step)
    assert len(surface.seen) == 6  # five gradients, and the scores of the last image


def test_an_l2_step_has_its_length_and_an_l2_ball_its_radius() -> None:
    surface = Scripted([[3.0, 4.0]])
    found = crafted(still(eps=0.25, distance="l2", steps=3, alpha=0.1), surface, [0.5, 0.5])
    assert surface.seen[1] == near(0.5 + 0.06, 0.5 + 0.08)
    assert found == near(0.5 + 0.15, 0.5 + 0.2)


def test_restarts_keep_the_most_wrong_image_of_all_runs() -> None:
    """Two steps per run: three calls. The best margin is in the second call of the second run."""
    surface = Scripted([[1.0]], [0, 1, 0, 0, 9, 0, 0, 2, 0])
    found = crafted(Pgd(PgdConfig(eps=0.2, steps=2, restarts=3)), surface, [0.5])
    assert len(surface.seen) == 9
    assert found == near(*surface.seen[4])
    starts = [pixels[0] for pixels in surface.seen[::3]]
    assert len(set(starts)) == 3
    assert all(abs(start - 0.5) <= 0.2 for start in starts)


def test_a_given_start_replaces_the_random_one() -> None:
    surface = Scripted([[1.0]])
    x = torch.full((1, 1, 1, 1), 0.5)
    Pgd(PgdConfig(eps=0.2, steps=2)).craft(surface, x, torch.tensor([0]), Noise(0, range(1)), x - 0.1)
    assert surface.seen[0] == near(0.4)


def test_more_steps_add_restarts_only_where_they_differ() -> None:
    more = Pgd(PgdConfig(eps=0.2, steps=5, restarts=2)).with_more_steps(3).config
    assert (more.steps, more.restarts) == (15, 6)
    more = still(eps=0.2, steps=5).with_more_steps(3).config
    assert (more.steps, more.restarts) == (15, 1)
    more = Pgd(PgdConfig(eps=0.2, steps=5, backend="foolbox")).with_more_steps(3).config
    assert (more.steps, more.restarts) == (15, 1)
    of_apgd = ApgdCe(ApgdCeConfig(eps=0.2, steps=5, restarts=2)).with_more_steps(3).config
    assert (of_apgd.steps, of_apgd.restarts) == (15, 6)


def test_an_unbounded_pgd_has_a_step_for_its_ball() -> None:
    everywhere = Pgd(PgdConfig(eps=0.1, steps=10, alpha=0.01)).unbounded().config
    assert (everywhere.eps, everywhere.step) == (1.0, 0.25)
    assert Pgd(PgdConfig(eps=0.1, distance="l2")).unbounded().config.eps == 1000


def test_both_losses_are_tried_natively() -> None:
    ours, other = still(eps=0.1).losses()
    assert (ours.config.loss, other.config.loss) == ("ce", "margin")
    assert [a.config.loss for a in still(eps=0.1, loss="margin").losses()] == ["margin", "ce"]
    assert len(Pgd(PgdConfig(eps=0.1, backend="art")).losses()) == 1


@pytest.mark.parametrize(
    ("decay", "pixels"),
    [
        (0.0, (0.5, 0.5)),  # the second gradient alone leads back
        (0.5, (0.5, 0.5)),  # (0.75, 0.25) − (4/3, 2/3)
        (1.0, (0.7, 0.5)),  # (1.5, 0.5) − (4/3, 2/3)
        (2.0, (0.7, 0.7)),  # (3, 1) − (4/3, 2/3)
    ],
)
def test_mim_adds_normalised_gradients_with_its_decay(decay: float, pixels: tuple[float, float]) -> None:
    """The gradients are (30, 10) and (−2, −1); divided by their means, (1.5, 0.5) and (−4/3, −2/3)."""
    surface = Scripted([[30.0, 10.0], [-2.0, -1.0]], [0, 99, 999])
    attack = Mim(MimConfig(eps=0.4, steps=2, alpha=0.1, decay=decay))
    assert crafted(attack, surface, [0.5, 0.5]) == near(*pixels)
    assert surface.seen[1] == near(0.6, 0.6)


def test_fgsm_takes_one_step_of_its_radius() -> None:
    surface = Scripted([[2.0, -3.0, 0.0, 1.0]])
    assert crafted(Fgsm(FgsmConfig(eps=0.2)), surface, [0.5, 0.5, 0.5, 0.9]) == near(0.7, 0.3, 0.5, 1.0)
    assert len(surface.seen) == 1


def test_a_sweep_of_fgsm_computes_one_gradient() -> None:
    surface, attacks = Scripted([[1.0]]), [Fgsm(FgsmConfig(eps=eps)) for eps in (0.1, 0.3)]
    x = torch.full((1, 1, 1, 1), 0.5)
    small, large = Fgsm.craft_sweep(attacks, surface, x, torch.tensor([0]), [Noise(0, range(1))] * 2)
    assert (small.item(), large.item()) == pytest.approx((0.6, 0.8))
    assert len(surface.seen) == 1


def test_uniform_noise_fills_its_interval() -> None:
    x = torch.full((1, 1, 50, 50), 0.5)
    attack = UniformNoise(UniformNoiseConfig(eps=0.2))
    offset = attack.craft(Scripted([[1.0]]), x, torch.tensor([0]), Noise(0, range(1))) - x
    assert 0.199 < offset.max() <= 0.2
    assert -0.2 <= offset.min() < -0.199
    assert abs(float(offset.mean())) < 0.01


# --- Auto-PGD ----------------------------------------------------------------------------------------


def reference(
    loss: Callable[[float], float], slope: Callable[[float], float], start: float, eps: float, steps: int
) -> tuple[list[float], float]:
    """Algorithm 1 of the paper for an image of one pixel at 0.5: the points visited, and the best one.

    As in the authors' code, a rise is one over the last point visited, also after a restart.
    """

    def project(point: float) -> float:
        return min(max(point, 0.5 - eps), 0.5 + eps)

    period = max(int(0.22 * steps), 1)
    checkpoint, step, x, before = period, 2 * eps, start, start
    best, best_loss = start, loss(start)
    last = best_loss
    visited, rises, halved, loss_at_checkpoint = [start], 0, True, best_loss
    for number in range(steps):
        share = 0.75 if number else 1.0
        z = project(x + step * math.copysign(1, slope(x)))
        new = project(x + share * (z - x) + (1 - share) * (x - before))
        rises, last = rises + (loss(new) > last), loss(new)
        before, x = x, new
        visited.append(x)
        if loss(x) > best_loss:
            best, best_loss = x, loss(x)
        if number + 1 == checkpoint:
            stalls = not halved and best_loss <= loss_at_checkpoint
            halved = rises < 0.75 * period or stalls
            if halved:
                step, x = step / 2, best
            rises, loss_at_checkpoint = 0, best_loss
            period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
            checkpoint += period
    return visited, best


@pytest.mark.parametrize("start", [0.35, 0.5, 0.62])
@pytest.mark.parametrize(("frequency", "shift"), [(3.0, 0.4), (23.0, 0.1), (47.0, 0.7)])
@pytest.mark.parametrize("steps", [3, 12, 40, 100])
def test_auto_pgd_halves_its_steps_where_the_paper_does(
    start: float, frequency: float, shift: float, steps: int
) -> None:
    visited: list[float] = []

    def objective(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = images.flatten(1)[:, 0]
        visited.append(float(x[0]))
        value = torch.sin(frequency * (x - shift))
        return (frequency * torch.cos(frequency * (x - shift)))[:, None, None, None], value, _logits(value)

    ball = Ball(torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), 0.2, "linf")
    point = torch.full_like(ball.centre, start)
    found, largest = auto_pgd(objective, torch.tensor([0]), point, ball, steps=steps)
    expected, best = reference(
        lambda x: math.sin(frequency * (x - shift)),
        lambda x: math.cos(frequency * (x - shift)),
        start,
        0.2,
        steps,
    )
    assert visited == pytest.approx(expected, abs=1e-9)
    assert found.item() == pytest.approx(best, abs=1e-9)
    assert largest.item() == pytest.approx(math.sin(frequency * (best - shift)))


def _logits(margins: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(margins), margins], dim=1)


def test_auto_pgd_returns_the_image_with_the_largest_margin_and_not_with_the_largest_loss() -> None:
    margins = iter([0.0, 5.0, 1.0, 2.0])
    losses = iter([0.0, 1.0, 2.0, 3.0])

    def objective(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = torch.full((1,), next(margins))
        return torch.ones_like(images), torch.full((1,), next(losses)), _logits(value)

    ball = Ball(torch.full((1, 1, 1, 1), 0.5), 0.2, "linf")
    found, largest = auto_pgd(objective, torch.tensor([0]), ball.centre - 0.2, ball, steps=3)
    assert (found.item(), largest.item()) == pytest.approx((0.7, 5.0))


def test_images_of_a_batch_have_their_own_step_sizes() -> None:
    def climb(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = images.flatten(1)[:, 0]
        value = torch.where(torch.arange(len(x)) == 0, x, torch.sin(40 * x))
        slope = torch.where(torch.arange(len(x)) == 0, 1.0, torch.cos(40 * x))
        return slope[:, None, None, None], value, _logits(value)

    def run(*starts: float) -> Tensor:
        point = torch.tensor(starts).reshape(-1, 1, 1, 1)
        ball = Ball(torch.full_like(point, 0.5), 0.2, "linf")
        return auto_pgd(climb, torch.zeros(len(starts), dtype=torch.int64), point, ball, steps=20)[0]

    together = run(0.4, 0.45)
    assert together[0].item() == pytest.approx(run(0.4)[0].item())
    assert together[0].item() == pytest.approx(0.7)


def test_apgd_ce_follows_the_log_of_the_odds() -> None:
    """The best start of several restarts counts, and each takes one more call than steps."""
    surface = Scripted([[1.0]], [0, 0, 0, 9, 0, 0])
    found = crafted(ApgdCe(ApgdCeConfig(eps=0.2, steps=2, restarts=2)), surface, [0.5])
    assert len(surface.seen) == 6
    assert found == near(*surface.seen[3])


class Waves(Surface):
    """Three classes whose scores are waves of the pixel."""

    def __init__(self) -> None:
        super().__init__(3, (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        pixel = x.flatten(1)
        return torch.cat([(20 * pixel).sin(), (33 * pixel).cos(), 2 * pixel - 1], dim=1)


def test_apgd_ce_adapts_the_steps_of_each_image_to_its_own_label() -> None:
    x, labels = torch.tensor([0.3, 0.5, 0.7]).reshape(3, 1, 1, 1), torch.tensor([2, 0, 1])
    attack = ApgdCe(ApgdCeConfig(eps=0.2, steps=30))
    together = attack.craft(Waves(), x, labels, Noise(0, range(3)))
    for row in range(3):
        alone = attack.craft(Waves(), x[row : row + 1], labels[row : row + 1], Noise(0, [row]))
        assert torch.allclose(together[row], alone[0], atol=1e-6)


class Ladder(Surface):
    """Five classes. Only the third of the wrong ones by score can overtake the true class."""

    def __init__(self) -> None:
        super().__init__(5, (1, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = x.flatten(1).T
        zero = torch.zeros_like(one)
        return torch.stack([zero + 1.0, zero + 0.9, zero + 0.8 - 0.1 * two, 0.7 + one, zero - three], dim=1)


def test_the_targeted_difference_of_logits_ratio_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """(target − true) / (highest − mean of third and fourth highest), with its gradient and the logits."""
    objectives: list[Any] = []

    def run(
        objective: Any, labels: Tensor, start: Tensor, ball: Ball, *, steps: int
    ) -> tuple[Tensor, Tensor]:
        objectives.append(objective)
        return start, torch.zeros(len(start))

    monkeypatch.setattr(apgd_dlr_targeted, "auto_pgd", run)
    attack, weights = ApgdDlrTargeted(ApgdDlrTargetedConfig(eps=0.1)), torch.tensor([1.0, 3.0, -1.0, 2.0])
    surface = Scripted([[1.0]])
    surface.num_classes = 4
    surface.forward = lambda x: x.flatten(1) * weights  # type: ignore[method-assign]
    x, labels = torch.tensor([0.5, 0.25]).reshape(2, 1, 1, 1), torch.tensor([2, 0])
    attack.craft(surface, x, labels, Noise(0, range(2)))
    assert len(objectives) == 3
    gradient, loss, logits = objectives[0](x)  # towards class 1, the highest one for both images
    assert torch.equal(logits, x.flatten(1) * weights)
    assert loss.tolist() == pytest.approx([(3 + 1) / (3 - 0), (3 - 1) / (3 - 0)])
    assert gradient.flatten().tolist() == pytest.approx([0.0, 0.0], abs=1e-5)  # it is invariant to scaling
    moved = objectives[2](x)[1].tolist()  # towards the lowest one
    assert moved == pytest.approx([(1 + 1) / 3, (-1 - 1) / 3])


@pytest.mark.parametrize(("classes", "breaks"), [(1, False), (2, False), (3, True), (9, True)])
def test_apgd_dlr_targets_the_classes_with_the_highest_scores(classes: int, breaks: bool) -> None:
    attack = ApgdDlrTargeted(ApgdDlrTargetedConfig(eps=0.5, steps=10, classes=classes))
    surface = Ladder()
    found = torch.tensor(crafted(attack, surface, [0.0, 0.5, 0.5])).reshape(1, 1, 1, 3)
    assert bool(margin(surface(found), torch.tensor([0])) > 0) == breaks


# --- JSMA --------------------------------------------------------------------------------------------


class Weighted(Surface):
    """Two classes; the margin of the second is linear in four pixels."""

    def __init__(self, weights: Sequence[float], offset: float) -> None:
        super().__init__(2, (1, 2, 2))
        self._weights, self._offset = torch.tensor(weights), offset

    def forward(self, x: Tensor) -> Tensor:
        margins = x.flatten(1) @ self._weights + self._offset
        return torch.stack([-margins / 2, margins / 2], dim=1)


@pytest.mark.parametrize("scores", ["probabilities", "logits"])
@pytest.mark.parametrize(
    ("weights", "offset", "theta", "pixels"),
    [
        ([3.0, 2.0, -1.0, 0.1], -3.0, 1.0, (1.0, 1.0, 0.6, 0.8)),  # both pixels of the best pair
        ([3.0, -2.0, -1.0, 2.5], -4.0, 1.0, (1.0, 0.4, 0.6, 1.0)),
        ([-3.0, -2.0, 1.0, 0.1], 0.5, -1.0, (0.0, 0.0, 0.6, 0.8)),  # darker
        ([3.0, 2.0, -1.0, 0.1], -2.5, 0.25, (0.7, 0.9, 0.6, 0.8)),  # two steps of a quarter
        ([3.0, 2.0, -1.0, 0.1], -9.0, 1.0, (0.2, 0.4, 0.6, 0.8)),  # never: the clean image
    ],
)
def test_jsma_changes_both_pixels_of_the_best_pair(
    scores: Any, weights: list[float], offset: float, theta: float, pixels: tuple[float, ...]
) -> None:
    attack = Jsma(JsmaConfig(gamma=0.5, theta=theta, scores=scores))
    assert crafted(attack, Weighted(weights, offset), [0.2, 0.4, 0.6, 0.8]) == near(*pixels)


@pytest.mark.parametrize(("gamma", "breaks"), [(0.5, False), (0.75, False), (1.0, True)])
def test_jsma_changes_two_pixels_at_a_time_and_no_more_than_allowed(gamma: float, breaks: bool) -> None:
    surface = Weighted([4.0, 3.0, 2.0, 1.0], -9.0)
    found = crafted(Jsma(JsmaConfig(gamma=gamma)), surface, [0.1, 0.1, 0.1, 0.1])
    assert found == (near(1, 1, 1, 1) if breaks else near(0.1, 0.1, 0.1, 0.1))


# --- adversarial training ------------------------------------------------------------------------------


def test_training_images_by_one_step_and_by_several() -> None:
    x, labels = torch.tensor([0.5, 0.1, 0.3]).reshape(1, 1, 1, 3), torch.tensor([0])

    def made(**settings: Any) -> tuple[list[float], list[list[float]]]:
        surface = Scripted([[1.0, -2.0, 0.0]])
        return perturb(surface, x, labels, eps=0.2, **settings).flatten().tolist(), surface.seen

    assert made()[0] == near(0.7, 0.0, 0.3)
    images, seen = made(steps=5)
    assert images == near(0.7, 0.0, 0.3)
    assert [pixels[0] for pixels in seen] == near(0.5, 0.6, 0.7, 0.7, 0.7)
    assert made(steps=2, start=torch.tensor([0.9, 0.3, 0.3]).reshape_as(x))[1][0] == near(0.7, 0.3, 0.3)
