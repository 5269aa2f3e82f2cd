"""Shortest paths against all paths of small grids."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optsteps.methods.paths import shortest_path


def total(costs: Tensor, path: tuple[int, ...], growth: float) -> float:
    """sum_k growth^k c_k, from the definition."""
    return sum(growth**k * float(costs[path[k], path[k + 1]]) for k in range(len(path) - 1))


def all_paths(last: int, steps: int) -> list[tuple[int, ...]]:
    return [(0, *inner, last) for inner in combinations(range(1, last), steps - 1)]


@st.composite
def tables(draw: st.DrawFn) -> Tensor:
    """Costs [N+1, N+1] with holes, and numbers that must not be read on and below the diagonal."""
    last = draw(st.integers(1, 6))
    numbers = st.floats(-2, 5).map(lambda x: round(x, 2)) | st.just(math.inf)
    table = torch.full((last + 1, last + 1), torch.nan, dtype=torch.float64)
    for i in range(last):
        for j in range(i + 1, last + 1):
            table[i, j] = draw(numbers)
    return table


@settings(deadline=None, max_examples=200)
@given(tables(), st.sampled_from([1.0, 0.5, 1.7]))
def test_no_path_is_shorter(costs: Tensor, growth: float) -> None:
    last = len(costs) - 1
    totals = {n: [total(costs, path, growth) for path in all_paths(last, n)] for n in range(1, last + 1)}
    possible = [n for n, values in totals.items() if min(values) < math.inf]
    for n in set(totals) - set(possible):
        with pytest.raises(ValueError, match=f"no path of {n} steps from node 0 to node {last} has a finite cost"):
            shortest_path(costs, [n], growth)
    if not possible:
        return
    paths = shortest_path(costs, possible, growth)
    assert list(paths) == possible
    for n, path in paths.items():
        assert tuple(path.tolist()) in all_paths(last, n)
        assert total(costs, tuple(path.tolist()), growth) == pytest.approx(min(totals[n]), rel=1e-12, abs=1e-12)
        assert torch.equal(path, shortest_path(costs, [n], growth)[n])  # one table answers all step counts


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 7), st.integers(0, 2**31))
def test_every_table_of_a_batch_by_itself(last: int, seed: int) -> None:
    costs = torch.rand(2, 3, last + 1, last + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    paths = shortest_path(costs, [1, 2, last], 1.2)
    for n, path in paths.items():
        assert path.shape == (2, 3, n + 1)
        for a in range(2):
            for b in range(3):
                assert torch.equal(path[a, b], shortest_path(costs[a, b], [n], 1.2)[n])


def test_growth_weighs_late_costs() -> None:
    costs = torch.full((4, 4), torch.inf, dtype=torch.float64)
    costs[0, 1], costs[1, 3], costs[0, 2], costs[2, 3] = 3.0, 1.0, 1.5, 2.0  # totals 3 + 1 g and 1.5 + 2 g
    assert shortest_path(costs, [2], growth=1.4)[2].tolist() == [0, 2, 3]
    assert shortest_path(costs, [2], growth=1.6)[2].tolist() == [0, 1, 3]


@settings(deadline=None, max_examples=60)
@given(
    last=st.integers(1, 5),
    memory=st.integers(0, 2),
    endings=st.integers(0, 2),
    growth=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 2**31),
)
def test_costs_that_depend_on_the_nodes_before(last: int, memory: int, endings: int, growth: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tables = [
        torch.rand((last + 1,) * (memory + 2), generator=generator, dtype=torch.float64) for _ in range(endings + 1)
    ]

    def total(path: tuple[int, ...]) -> float:
        n = len(path) - 1
        sum_ = 0.0
        for k in range(n):
            before = [path[max(0, k - m)] for m in range(memory, -1, -1)]
            left = n - 1 - k
            table = tables[left + 1] if left < endings else tables[0]
            sum_ += growth**k * float(table[(*before, path[k + 1])])
        return sum_

    for n, path in shortest_path(tables[0], range(1, last + 1), growth, memory, tables[1:]).items():
        best = min(all_paths(last, n), key=total)
        assert total(tuple(path.tolist())) == pytest.approx(total(best), rel=1e-12)


def test_of_equal_paths_the_first_origin_from_the_last_step_back() -> None:
    paths = shortest_path(torch.ones(6, 6, dtype=torch.float64), [1, 2, 3, 5])
    assert [path.tolist() for path in paths.values()] == [[0, 5], [0, 1, 5], [0, 1, 2, 5], [0, 1, 2, 3, 4, 5]]


def test_order_and_repetition_of_step_counts_do_not_matter() -> None:
    costs = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert {n: p.tolist() for n, p in shortest_path(costs, [4, 2, 2]).items()} == {
        n: shortest_path(costs, [n])[n].tolist() for n in (2, 4)
    }


@pytest.mark.parametrize(
    ("costs", "steps", "growth", "message"),
    [
        (torch.zeros(3, 4), [1], 1.0, r"costs must have shape .* got \[3, 4\]"),
        (torch.zeros(1, 1), [1], 1.0, r"N of at least 1, got \[1, 1\]"),
        (torch.zeros(3), [1], 1.0, r"got \[3\]"),
        (torch.zeros(3, 3), [], 1.0, r"step counts must be integers of at least 1, got \[\]"),
        (torch.zeros(3, 3), [0, 1], 1.0, r"got \[0, 1\]"),
        (torch.zeros(3, 3), [1.5], 1.0, r"got \[1.5\]"),
        (torch.zeros(3, 3), [3], 1.0, r"no path of 3 steps from node 0 to node 2"),
        (torch.zeros(3, 3), [1], 0.0, r"growth must be positive and finite, got 0.0"),
        (torch.zeros(3, 3), [1], math.inf, r"growth must be positive and finite, got inf"),
        (torch.full((3, 3), torch.nan), [1], 1.0, r"some are NaN"),
    ],
)
def test_errors_name_what_is_wrong(costs: Tensor, steps: list[int], growth: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shortest_path(costs, steps, growth)
