"""Parts of a schedule, held to the walk of the whole and to hand-written loops."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optsteps import Schedule, sample
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM, VP, Flow
from optsteps.solvers import build_solver

TIMES = [999.0, 850.0, 700.0, 400.0, 150.0, -1.0]
MIXTURE = GaussianMixture([[0.0, 1.0], [1.5, -0.5]], [0.5, 0.2])
NOISE = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@given(st.integers(0, 4), st.integers(1, 5))
@settings(deadline=None)
def test_by_step(first: int, last: int) -> None:
    told = [990, 840, 690, 390, 140]
    whole = Schedule(TIMES, VP.linear(), orders=[1, 2, 3, 2, 1], told_times=told, initial_scale=0.9)
    if first >= last:
        with pytest.raises(ValueError, match=f"would run from time {first} to time {last}"):
            whole.part(first, last)
        return
    part = whole.part(first, last)
    assert part.times.tolist() == TIMES[first : last + 1]
    assert part.orders == (1, 2, 3, 2, 1)[first:last]
    assert part.told_times is not None
    assert part.told_times.tolist() == told[first:last]
    assert part.initial_scale == (0.9 if first == 0 else None)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_walk_in_two_parts_is_the_whole_walk_where_nothing_is_remembered(solver: str) -> None:
    whole, denoiser = Schedule([20.0, 9.0, 4.0, 1.0, 0.0], EDM()), MIXTURE.denoiser(EDM())
    path = sample(denoiser, whole, build_solver(solver), NOISE, return_trajectory=True)
    for cut in (1, 2, 3):
        part = whole.part(first=cut)
        x = sample(denoiser, part, build_solver(solver), path[cut] / part.scale)
        torch.testing.assert_close(x, path[-1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            sample(denoiser, whole.part(last=cut), build_solver(solver), NOISE), path[cut], rtol=1e-12, atol=1e-12
        )


def test_orders_go_as_far_as_the_part_remembers() -> None:
    whole = Schedule([20.0, 9.0, 4.0, 1.0, 0.2], EDM(), orders=[1, 2, 2, 2])
    part, solver = whole.part(first=2), build_solver("dpmpp_2m")
    expected = sample(MIXTURE.denoiser(EDM()), Schedule([4.0, 1.0, 0.2], EDM(), orders=[1, 2]), solver, NOISE)
    assert torch.equal(sample(MIXTURE.denoiser(EDM()), part, solver, NOISE), expected)


def test_by_noise_level() -> None:
    whole = Schedule([1.0, 0.8, 0.5, 0.2, 0.0], Flow())  # levels inf, 4, 1, 0.25, 0
    assert whole.part(first=4.0, last=0.25, by="noise_level").times.tolist() == [0.8, 0.5, 0.2]
    assert whole.part(first=3.9, by="noise_level").times.tolist() == [0.5, 0.2, 0.0]
    assert whole.part(last=0.3, by="noise_level").times.tolist() == [1.0, 0.8, 0.5]
    with pytest.raises(ValueError, match="no step is left"):
        whole.part(first=0.9, last=0.3, by="noise_level")


@given(st.integers(1, 100), st.integers(1, 100))
@settings(deadline=None)
def test_by_strength_as_diffusers_counts(steps: int, percent: int) -> None:
    whole = Schedule(range(steps, -1, -1), EDM())
    kept = steps * percent // 100  # in whole numbers, where no product is rounded
    if kept == 0:
        with pytest.raises(ValueError, match="no step is left"):
            whole.part(strength=percent / 100)
    else:
        assert whole.part(strength=percent / 100).times.tolist() == list(range(kept, -1, -1))


def test_weights_of_outputs_from_before_are_dropped_and_named() -> None:
    weights = [[0.0, 0.0], [0.3, 0.0], [0.4, 0.1], [0.5, 0.2]]
    whole, solver = Schedule([20.0, 9.0, 4.0, 1.0, 0.2], EDM(), weights=weights), build_solver("dpmpp_3m")
    with pytest.warns(UserWarning, match="weights of the steps 2, 3 belong to outputs from before the part"):
        part = whole.part(first=1)
    assert part.weights is not None
    assert part.weights.tolist() == [[0.0, 0.0], [0.0, 0.0], [0.5, 0.2]]
    solver.check(part)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begun = whole.part(last=3)
        assert begun.weights is not None
        assert begun.weights.tolist() == weights[:3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first": 1.5}, "whole numbers, got first=1.5"),
        ({"first": -1}, "from time -1"),
        ({"last": 9}, "to time 9"),
        ({"strength": 0.0}, "strength must lie above 0 and at most at 1, got 0"),
        ({"strength": 0.5, "first": 1}, "give one of the two"),
        ({"first": 1, "by": "level"}, "by must be 'step' or 'noise_level', got 'level'"),
    ],
)
def test_what_is_no_part(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(TIMES, VP.linear()).part(**arguments)
