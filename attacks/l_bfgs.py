"""Box-constrained L-BFGS (Szegedy et al. 2014, "Intriguing properties of neural networks", section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmark.attacks.steps.goal import Goal, TargetedConfig
from numpy.typing import NDArray
from torch import Tensor

from benchmark.api import Attack, Noise, Surface, attack, choose, lengths, param

Vector = NDArray[np.float64]


class Evaluation(NamedTuple):
    """The loss at one image, its gradient, and whether the image reaches the goal."""

    loss: float
    gradient: Vector
    reached: bool


class LBfgsConfig(TargetedConfig):
    """`steps`: most iterations of L-BFGS-B for each weight c of the loss.

    `search_steps`: number of values of c. The search begins at `initial_c`, multiplies c by ten until the
    first success, and bisects after that.
    """

    steps: int = param(100, ge=1)
    search_steps: int = param(9, ge=1)
    initial_c: float = param(1.0, gt=0)


@attack("l-bfgs")
class LBfgs(Attack[LBfgsConfig]):
    """Minimises |δ|² + c · loss by SciPy's L-BFGS-B in float64 and searches for the best c.

    The paper always has a target class, whose loss is −log p. Without a target the loss is −log of the summed
    p of all wrong classes. The closest adversarial example is kept. The surface computes in its own
    precision. Each image has its own optimiser, and their evaluations are computed in one batch.
    """

    norm = "l2"

    def craft(
        self, surface: Surface, x: Tensor, labels: Tensor, noise: Noise, start: Tensor | None = None
    ) -> Tensor:
        objective = _BatchedLoss(surface, x, self.config.goal(surface, x, labels, noise))
        clean = x.flatten(1).double().cpu().numpy()

        def optimise(index: int, evaluate: Callable[[Vector], Evaluation]) -> None:
            self._search(clean[index], evaluate)

        run_batched(optimise, len(x), objective)
        return objective.best

    def _search(self, clean: Vector, evaluate: Callable[[Vector], Evaluation]) -> None:
        from scipy.optimize import minimize

        c, lower_c, upper_c = self.config.initial_c, 0.0, float("inf")
        for _ in range(self.config.search_steps):
            succeeded = False

            def objective(point: Vector, c: float = c) -> tuple[float, Vector]:
                nonlocal succeeded
                loss, gradient, reached = evaluate(point)
                succeeded |= reached
                delta = point - clean
                return float(delta @ delta) + c * loss, 2 * delta + c * gradient

            options = {"maxiter": self.config.steps}
            bounds = np.stack([np.zeros_like(clean), np.ones_like(clean)], axis=1)
            minimize(objective, clean, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
            lower_c, upper_c = (lower_c, c) if succeeded else (c, upper_c)
            c = 10 * c if upper_c == float("inf") else (lower_c + upper_c) / 2


class _BatchedLoss:
    """Computes losses and gradients of some images, and keeps each image's closest adversarial example."""

    def __init__(self, surface: Surface, clean: Tensor, goal: Goal) -> None:
        self.best = clean.clone()
        self._distance = torch.full((len(clean),), float("inf"), device=clean.device)
        self._surface, self._clean, self._goal = surface, clean, goal

    def __call__(self, indices: Sequence[int], points: Sequence[Vector]) -> list[Evaluation]:
        index = torch.tensor(indices, device=self._clean.device)
        goal = self._goal.take(index)
        images = torch.from_numpy(np.stack(points)).to(self._clean).view(-1, *self._clean.shape[1:])
        images.requires_grad_()
        with torch.enable_grad():
            logits = self._surface(images)
            losses = self._loss(logits, goal)
        (gradients,) = torch.autograd.grad(losses.sum(), images)
        images = images.detach()
        reached = goal.margin(logits.detach()) > 0
        distance = lengths(images - self._clean[index])
        closer = reached & (distance < self._distance[index])
        self.best[index] = choose(closer, images, self.best[index])
        self._distance[index[closer]] = distance[closer]
        vectors = gradients.flatten(1).double().cpu().numpy()
        return list(map(Evaluation, losses.tolist(), vectors, reached.tolist()))

    @staticmethod
    def _loss(logits: Tensor, goal: Goal) -> Tensor:
        log_probabilities = logits.log_softmax(dim=1)
        if goal.target is not None:
            return -log_probabilities.gather(1, goal.target[:, None]).squeeze(1)
        return -log_probabilities.scatter(1, goal.labels[:, None], float("-inf")).logsumexp(dim=1)


def run_batched(
    job: Callable[[int, Callable[[Any], Any]], None],
    count: int,
    evaluate_batch: Callable[[Sequence[int], Sequence[Any]], Sequence[Any]],
) -> None:
    """Run `count` jobs that request evaluations one at a time, and evaluate the requests in batches.

    A batch holds one request of every job that has not finished.

    Args:
        job: Called in a thread of its own with its number and the function to request an evaluation.
        count: Number of jobs.
        evaluate_batch: Called in this thread with the numbers of the jobs and their requests; returns one
            result for each.

    Raises:
        Exception: The error of a job or of `evaluate_batch`; it also ends all other jobs.
    """
    requests: SimpleQueue[tuple[int, Any, bool]] = SimpleQueue()
    results: list[SimpleQueue[Any]] = [SimpleQueue() for _ in range(count)]

    def evaluate(number: int, request: Any) -> Any:
        requests.put((number, request, False))
        result = results[number].get()
        if isinstance(result, BaseException):
            raise result
        return result

    def run(number: int) -> None:
        error = None
        try:
            job(number, lambda request: evaluate(number, request))
        except BaseException as raised:
            error = raised
        requests.put((number, error, True))

    with ThreadPoolExecutor(max_workers=max(1, count)) as pool:
        try:
            for number in range(count):
                pool.submit(run, number)
            running = count
            while running:
                batch: dict[int, Any] = {}
                while len(batch) < running:
                    number, request, finished = requests.get()
                    running -= finished
                    if not finished:
                        batch[number] = request
                    elif request is not None:
                        raise request
                numbers = sorted(batch)  # the order of arrival is random
                evaluated = evaluate_batch(numbers, [batch[number] for number in numbers]) if numbers else ()
                for number, result in zip(numbers, evaluated, strict=True):
                    results[number].put(result)
        except BaseException as error:
            for queue in results:
                queue.put(error)  # ends every job that waits for a result or requests one later
            raise
