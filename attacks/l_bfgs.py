"""Box-constrained L-BFGS (Szegedy et al. 2014, "Intriguing properties of neural networks", section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.ball import lengths
from attacks.contract import Attack, Surface, attack
from attacks.goal import AimedConfig, Goal
from benchmark.noise import Noise
from benchmark.plugin import Norm, param

Vector = NDArray[np.float64]


class LBfgsConfig(AimedConfig):
    """`steps`: iterations of L-BFGS-B for each weight c of the loss, at most.

    `search_steps`: values of c tried, from `initial_c` on, ten times the last until one succeeds and by
    bisection then.
    """

    steps: int = param(100, ge=1)
    search_steps: int = param(9, ge=1)
    initial_c: float = param(1.0, gt=0)


@attack("l-bfgs")
class LBfgs(Attack[LBfgsConfig]):
    """SciPy's L-BFGS-B on |δ|² + c · loss, in float64, with a search for c; keeps the nearest image met.

    The loss is −log p of the target or, as the paper always has a target, −log of all other classes' p
    together where any will do. The surface computes in the precision that it has. Each image has an optimiser
    of its own; what they ask for at the same time is computed in one batch.
    """

    @property
    def norm(self) -> Norm:
        return "l2"

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        losses = _Losses(surface, x, self.config.goal(surface, x, labels, noise))
        clean = x.flatten(1).double().cpu().numpy()

        def optimise(index: int, ask: Callable[[Vector], tuple[float, Vector, bool]]) -> None:
            self._search(clean[index], ask)

        together(optimise, len(x), losses)
        return losses.best

    def _search(self, clean: Vector, ask: Callable[[Vector], tuple[float, Vector, bool]]) -> None:
        from scipy.optimize import minimize

        c, lowest, highest = self.config.initial_c, 0.0, float("inf")
        for _ in range(self.config.search_steps):
            succeeded = False

            def objective(point: Vector, c: float = c) -> tuple[float, Vector]:
                nonlocal succeeded
                loss, slope, reached = ask(point)
                succeeded |= reached
                change = point - clean
                return float(change @ change) + c * loss, 2 * change + c * slope

            options = {"maxiter": self.config.steps}
            bounds = np.stack([np.zeros_like(clean), np.ones_like(clean)], axis=1)
            minimize(objective, clean, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
            lowest, highest = (lowest, c) if succeeded else (c, highest)
            c = 10 * c if highest == float("inf") else (lowest + highest) / 2


class _Losses:
    """Losses and gradients of some of the images; remembers the nearest image met that reaches the goal."""

    def __init__(self, surface: Surface, clean: Tensor, goal: Goal) -> None:
        self.best = clean.clone()
        self._size = torch.full((len(clean),), float("inf"), device=clean.device)
        self._surface, self._clean, self._goal = surface, clean, goal

    def __call__(self, which: Sequence[int], points: Sequence[Vector]) -> list[tuple[float, Vector, bool]]:
        index = torch.tensor(which, device=self._clean.device)
        images = torch.from_numpy(np.stack(points)).to(self._clean).view(-1, *self._clean.shape[1:])
        images.requires_grad_()
        with torch.enable_grad():
            logits = self._surface(images)
            losses = self._loss(logits, self._goal.take(index))
        (slopes,) = torch.autograd.grad(losses.sum(), images)
        reached = self._goal.take(index).margin(logits.detach()) > 0
        size = lengths(images.detach() - self._clean[index])
        better = reached & (size < self._size[index])
        self.best[index[better]], self._size[index[better]] = images.detach()[better], size[better]
        numbers = zip(
            losses.tolist(), slopes.flatten(1).double().cpu().numpy(), reached.tolist(), strict=True
        )
        return list(numbers)

    @staticmethod
    def _loss(logits: Tensor, goal: Goal) -> Tensor:
        scores = logits.log_softmax(dim=1)
        if goal.target is not None:
            return -scores.gather(1, goal.target[:, None]).squeeze(1)
        return -scores.scatter(1, goal.labels[:, None], float("-inf")).logsumexp(dim=1)


def together(
    job: Callable[[int, Callable[[Any], Any]], None],
    count: int,
    answer: Callable[[Sequence[int], Sequence[Any]], Sequence[Any]],
) -> None:
    """Run `count` jobs that ask questions one at a time, and answer what all that are not done ask at once.

    Args:
        job: Called with its number and with what it asks by; runs in a thread of its own.
        count: How many jobs.
        answer: Called in this thread, with the numbers of the jobs that ask and their questions.

    Raises:
        Exception: What a job or an answer raised; the other jobs are ended by it.
    """
    questions: SimpleQueue[tuple[int, Any, bool]] = SimpleQueue()
    answers: list[SimpleQueue[Any]] = [SimpleQueue() for _ in range(count)]

    def ask(number: int, question: Any) -> Any:
        questions.put((number, question, False))
        told = answers[number].get()
        if isinstance(told, BaseException):
            raise told
        return told

    def run(number: int) -> None:
        try:
            job(number, lambda question: ask(number, question))
        except BaseException as error:
            questions.put((number, error, True))
        else:
            questions.put((number, None, True))

    with ThreadPoolExecutor(max_workers=max(1, count)) as pool:
        try:
            for number in range(count):
                pool.submit(run, number)
            left = count
            while left:
                asked: dict[int, Any] = {}
                while len(asked) < left:
                    number, question, done = questions.get()
                    left -= done
                    if not done:
                        asked[number] = question
                    elif question is not None:
                        raise question
                numbers = sorted(asked)  # the order of arrival is chance
                told = answer(numbers, [asked[number] for number in numbers]) if numbers else ()
                for number, one in zip(numbers, told, strict=True):
                    answers[number].put(one)
        except BaseException as error:
            for queue in answers:
                queue.put(error)  # whoever waits, or asks again, ends with it
            raise
