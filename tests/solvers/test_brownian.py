"""Brownian paths keyed by (seed, sample): their law, and that nothing but the key matters."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optsteps.solvers.brownian import BrownianPaths

WIDE = (40_000,)  # independent coordinates: a Monte Carlo in one sample


def clock(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("ends", [(0.0, 1e-4), (1e-4, 2e-4), (0.3, 0.31), (1.0, 3.7), (5.0, 2.5e5), (0.0, 1e-20)])
@pytest.mark.parametrize("many", [([7], WIDE), (range(5, WIDE[0] + 5), (1,))])
def test_an_increment_is_unit_gaussian(ends: tuple[float, float], many: tuple[range, tuple[int]]) -> None:
    x = BrownianPaths(3, *many).increments(*clock(*ends)).flatten().numpy()
    assert abs(x.mean()) < 4 / math.sqrt(len(x))
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / len(x))
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / len(x))


def test_disjoint_increments_are_independent() -> None:
    times = clock(0.0, 1e-3, 0.4, 0.5, 0.51, 0.7, 1.0, 1.5, 64.0, 64.001, 1e4)
    path = BrownianPaths(0, [0], WIDE)
    x = torch.stack([path.increments(a, b)[0] for a, b in pairwise(times)]).numpy()
    correlation = np.corrcoef(x) - np.eye(len(x))
    assert np.abs(correlation).max() < 4.5 / math.sqrt(WIDE[0])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=6, unique=True), st.integers(0, 2**31), st.integers(0, 10**7)
)
def test_refining_keeps_the_path(points: list[float], seed: int, index: int) -> None:
    times = clock(*sorted(points))
    if bool((times.diff() / times[1:] < 1e-5).any()):
        return  # below the resolution
    fine, coarse = BrownianPaths(seed, [index], (3,)), BrownianPaths(seed, [index], (3,))
    # in units of W, coarse asked first and in another order
    whole = coarse.increments(times[0], times[-1]) * (times[-1] - times[0]).sqrt()
    parts = sum(fine.increments(a, b) * (b - a).sqrt() for a, b in pairwise(times))
    # increments are normalised by their length at the path's resolution
    assert torch.allclose(parts, whole, atol=2e-2 * times[-1].sqrt().item() * 1e-2, rtol=1e-2)


def test_refining_at_dyadic_times_is_exact() -> None:
    times = clock(0.125, 0.5, 0.75, 1.0, 3.0, 7.0, 64.0)
    path = BrownianPaths(5, [11], (10,))
    whole = path.increments(times[0], times[-1]) * (times[-1] - times[0]).sqrt()
    parts = sum(path.increments(a, b) * (b - a).sqrt() for a, b in pairwise(times))
    assert torch.allclose(parts, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", [(2,), (4, 2), (3, 7, 5), (1, 28, 28)])
def test_a_sample_depends_on_seed_and_number_alone(shape: tuple[int, ...]) -> None:
    start, end = clock(0.2, 3.3)
    alone = BrownianPaths(1, [5], shape).increments(start, end)
    batch = BrownianPaths(1, torch.tensor([9, 5, 2]), shape)
    batch.increments(*clock(50.0, 60.0))  # what was asked before does not matter
    assert torch.equal(batch.increments(start, end)[1:2], alone)
    assert torch.equal(batch.take(torch.tensor([1])).increments(start, end), alone)
    assert torch.equal(BrownianPaths(1, range(9), shape).increments(start, end)[5:6], alone)
    for other in (BrownianPaths(2, [5], shape), BrownianPaths(1, [6], shape)):
        assert not torch.allclose(other.increments(start, end), alone)


def test_times_per_sample() -> None:
    starts, ends = clock(0.1, 1.0, 2.0), clock(0.2, 5.0, 2.5)
    together = BrownianPaths(0, [0, 1, 2], (3,)).increments(starts, ends)
    for k in range(3):
        assert torch.equal(together[k], BrownianPaths(0, [k], (3,)).increments(starts[k], ends[k])[0])


def test_an_empty_or_infinite_interval_gives_nothing() -> None:
    path = BrownianPaths(0, [0], (3,))
    for ends in (clock(1.0, 1.0), clock(1.0, math.inf)):
        assert not path.increments(*ends).any()


@pytest.mark.parametrize("shape", [(1,), (2, 3), (1, 28, 28)])
def test_all_at_once_draws_the_same_numbers(shape: tuple[int, ...]) -> None:
    """What other devices do, on the CPU's tensors."""
    path = BrownianPaths(4, [0, 1, 2, 70_000], shape)
    octaves, nodes, blocks = [-3, 0, 0, 17], [0, 0, 1, 2**15 + 3], -(-math.prod(shape) // 8)
    one, other = (draw(octaves, nodes, blocks) for draw in (path._on_cpu, path._on_device))
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_path_is_the_same_on_a_gpu() -> None:
    ends = clock(0.2, 3.3)
    one, other = (BrownianPaths(0, range(4), (3, 8, 8), device).increments(*ends) for device in ("cpu", "cuda"))
    torch.testing.assert_close(other.cpu(), one, rtol=1e-4, atol=1e-4)
