"""Noise depends on the image alone, not on batches, order or global state."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.api.noise import Noise, StreamNoise

IMAGE = (1, 8, 8)
METHODS = ["normal_like", "uniform_like"]


def _batch(count: int) -> Tensor:
    return torch.zeros(count, *IMAGE)


def _draw(seed: int, indices: list[int], method: str = "normal_like") -> Tensor:
    return getattr(Noise(seed, indices), method)(_batch(len(indices)))


@pytest.mark.parametrize("method", METHODS)
def test_an_image_gets_the_same_noise_alone_and_in_any_batch(method: str) -> None:
    indices = [3, 141, 59, 26, 0]
    alone = {i: _draw(7, [i], method)[0] for i in indices}
    for order in (indices, sorted(indices), indices[::-1], indices[1:3]):
        together = _draw(7, order, method)
        assert all(torch.equal(row, alone[i]) for i, row in zip(order, together, strict=True))


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_the_noise_of_an_image_is_the_philox_stream_of_its_seed_and_index(seed: int) -> None:
    stream = np.random.Generator(np.random.Philox(key=np.array([seed, 26], dtype=np.uint64)))
    noise = Noise(seed, [3, 26])
    for like in (torch.zeros(2, 3, 5, 7), torch.zeros(2)):
        shape = like.shape[1:]
        normal, uniform = noise.normal_like(like)[1], noise.uniform_like(like)[1]
        assert torch.equal(normal, torch.as_tensor(stream.standard_normal(shape, dtype=np.float32)))
        assert torch.equal(uniform, torch.as_tensor(stream.random(shape, dtype=np.float32)))


def test_later_draws_do_not_depend_on_the_batch_either() -> None:
    one, many = Noise(7, [5]), Noise(7, [4, 5, 6])
    one.normal_like(_batch(1))
    many.normal_like(_batch(3))
    assert torch.equal(one.uniform_like(_batch(1))[0], many.uniform_like(_batch(3))[1])


@pytest.mark.parametrize("method", METHODS)
def test_noise_of_different_images_and_seeds_differs(method: str) -> None:
    seeds = [0, 1, 2, 2**62, 2**62 + 1, 2**63 - 1]
    drawn = {(seed, i): _draw(seed, [i], method)[0] for seed in seeds for i in (0, 1, 2, 9999)}
    for one, other in itertools.combinations(drawn, 2):
        assert not torch.equal(drawn[one], drawn[other]), (one, other)


def test_noise_of_neighbouring_images_and_seeds_is_uncorrelated() -> None:
    like = torch.zeros(1, 1, 100, 100)
    rows = torch.stack([Noise(seed, [i]).normal_like(like).flatten() for seed in (0, 1) for i in (0, 1, 2)])
    correlation = torch.corrcoef(rows).fill_diagonal_(0)
    assert correlation.abs().max() < 0.05  # five standard deviations


def test_successive_draws_differ() -> None:
    noise = Noise(7, [1, 2])
    first, second = noise.normal_like(_batch(2)), noise.normal_like(_batch(2))
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_noise_neither_uses_nor_changes_the_global_generators() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = _draw(7, [0, 1])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(_draw(7, [0, 1]), first)


def test_noise_for_another_number_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match="noise for 2 images, asked for 3"):
        Noise(7, [0, 1]).normal_like(_batch(3))


@pytest.mark.parametrize("make", [lambda: Noise(7, list(range(64))), lambda: StreamNoise(7)])
def test_noise_has_the_stated_distribution(make) -> None:
    like = torch.zeros(64, 3, 32, 32, dtype=torch.float64)
    normal, uniform = make().normal_like(like), make().uniform_like(like)
    assert normal.dtype == uniform.dtype == torch.float32
    assert normal.shape == uniform.shape == like.shape
    assert normal.mean().item() == pytest.approx(0, abs=0.01)
    assert normal.var().item() == pytest.approx(1, abs=0.02)
    assert (normal.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=0.005)
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.005)
    assert uniform.var().item() == pytest.approx(1 / 12, abs=0.001)
    assert uniform.min() >= 0
    assert uniform.max() < 1


def test_stream_noise_takes_any_batch_and_is_reproducible_for_the_same_calls() -> None:
    sizes = [5, 1, 12, 5]
    first, again = StreamNoise(7), StreamNoise(7)
    drawn = [first.normal_like(_batch(size)) for size in sizes]
    assert [len(batch) for batch in drawn] == sizes
    assert all(torch.equal(batch, again.normal_like(_batch(len(batch)))) for batch in drawn)


def test_stream_noise_differs_for_every_call_image_and_seed() -> None:
    stream = StreamNoise(7)
    rows = [
        *stream.normal_like(_batch(3)),
        *stream.normal_like(_batch(3)),
        *StreamNoise(8).normal_like(_batch(3)),
    ]
    for one, other in itertools.combinations(rows, 2):
        assert not torch.equal(one, other)
