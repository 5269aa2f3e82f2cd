"""Timestep Aligner, held to a closed form: for Gaussian data its loss is 0 at a time that can be written down."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
from problems import mixture_problem, noise, unet_problem
from torch import Tensor

from optsteps.denoisers import ModelError
from optsteps.methods import HandMade, SearchProblem, TimestepAligner
from optsteps.models.analytic import Gaussian
from optsteps.processes import EDM, VP
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import build_solver

ZERO_SNR = VP.from_betas(torch.cat([torch.linspace(1e-4, 0.02, 999), torch.ones(1)]).double().numpy())
TIMES = [8.0, 4.0, 2.5, 1.6]
FAST = {"iterations": 200, "rate": 0.03}


class Fixed(HandMade):
    """The schedule of the times above."""

    def schedules(self, problem: SearchProblem, steps: int) -> list[Schedule]:
        return [Schedule(TIMES, EDM())]


def gaussian_problem(solver: str = "euler") -> SearchProblem:
    data = Gaussian(torch.zeros(2), 1.0)
    teacher = Schedule(torch.linspace(8.0, 1.6, 8, dtype=torch.float64), EDM())
    return SearchProblem(
        data.denoiser(EDM()), EDM(), build_solver(solver), noise(6, 2), teacher, data=noise(5, 2, seed=1)
    )


def exact_ratios() -> list[float]:
    """With D(x, t) = x / (1 + t^2), eps = t x / (1 + t^2), and the step x' = x + (t' - t) eps(x, tau)."""
    ratios = []
    for t, t_next in pairwise(TIMES[:-1]):
        growth = t / (1 + t**2) * (1 + t_next**2) / t_next  # of x, that leaves eps as it was
        slope = (1 - growth) / (t - t_next)  # tau / (1 + tau^2), of whose solutions the larger is near t
        ratios.append((1 + (1 - 4 * slope**2) ** 0.5) / (2 * slope) / t)
    return [*ratios, 1.0]


@pytest.mark.parametrize("states", ["teacher", "data"])
@pytest.mark.parametrize("order", ["sequential", "parallel"])
def test_the_loss_of_gaussian_data_vanishes(order: Any, states: Any) -> None:
    method, problem = TimestepAligner(Fixed("edm"), order, states, **FAST), gaussian_problem()
    result = method.search(problem, [3])
    found = result.schedules[3]
    assert found.told_times is not None
    assert (found.times.tolist(), found.told_as) == (TIMES, "slope")
    expected = torch.tensor(exact_ratios(), dtype=torch.float64)
    torch.testing.assert_close(found.told_times / found.times[:-1], expected, rtol=1e-2, atol=0)
    for before, after in zip(*result.evidence["losses"][3], strict=True):
        assert after < 1e-3 * before
    assert method.evaluations(problem, [3]).count == result.evaluations
    assert result.evidence["decisions"][0].startswith("3 steps: the network is told the times multiplied by 1.0")


@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
@pytest.mark.parametrize("order", ["sequential", "parallel"])
def test_every_process_and_memory(process: str, order: Any) -> None:
    problem = dataclasses.replace(mixture_problem(process, 5, 12), solver=build_solver("unipc", order=3))
    result = TimestepAligner(HandMade("time_uniform"), order, iterations=20).search(problem, [1, 2, 5])
    plain = HandMade("time_uniform").search(problem, [1, 2, 5])
    for n, found in result.schedules.items():
        assert torch.equal(found.times, plain.schedules[n].times)
        assert found.told_times is not None
        assert found.told_times[-1] == found.times[-2]
        problem.solver.check(found)
        before, after = result.evidence["losses"][n]
        assert len(before) == n - 1
        assert sum(after) <= sum(before)


@pytest.mark.parametrize("order", ["sequential", "parallel"])
def test_from_zero_terminal_snr_the_first_step_keeps_its_time(order: Any) -> None:
    """There eps says nothing about x_0."""
    denoiser = Gaussian(torch.tensor([0.5, -0.2]), 0.7).denoiser(ZERO_SNR)
    problem = dataclasses.replace(
        gaussian_problem(),
        denoiser=denoiser,
        process=ZERO_SNR,
        teacher=build_schedule("time_uniform", ZERO_SNR, 12, 999.0, 0.0, final="zero"),
    )
    result = TimestepAligner(HandMade("time_uniform"), order, iterations=20).search(problem, [4])
    found = result.schedules[4]
    assert found.told_times is not None
    assert found.told_times[0] == found.times[0] == 999
    assert bool((found.told_times[1:3] != found.times[1:3]).any())
    assert bool(sample(denoiser, found, problem.solver, noise(6, 2)).isfinite().all())


def test_a_network_and_its_labels() -> None:
    problem = unet_problem(torch.float64, 4, 6)
    first, again = (TimestepAligner(HandMade("edm"), iterations=3, batch=2).search(problem, [3]) for _ in range(2))
    assert first.schedules == again.schedules
    assert first.evaluations == TimestepAligner(HandMade("edm"), iterations=3, batch=2).evaluations(problem, [3]).count


def test_what_it_refuses() -> None:
    problem = gaussian_problem()

    def rounding(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return x / (1 + t.round()[:, None] ** 2)

    for changes, options, error, message in (
        ({"data": None}, {"states": "data"}, ValueError, "needs data"),
        ({"solver": build_solver("heun")}, {}, ValueError, "two evaluations"),
        ({"solver": build_solver("ddim_stochastic")}, {}, ValueError, "'ddim_stochastic' does not repeat"),
        ({"denoiser": rounding}, {}, ModelError, "rounds its time"),
    ):
        with pytest.raises(error, match=message):
            TimestepAligner(Fixed("edm"), iterations=1, **options).search(dataclasses.replace(problem, **changes), [3])
    for options, message in (
        ({"order": "random"}, "order must be 'sequential' or 'parallel', got 'random'"),
        ({"states": "noise"}, "states must be 'teacher' or 'data', got 'noise'"),
        ({"iterations": 0}, "iterations and batch must be at least 1, got 0 and 8"),
        ({"rate": -1.0}, "rate must be positive and finite, got -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            TimestepAligner(Fixed("edm"), **options)  # type: ignore[arg-type]
