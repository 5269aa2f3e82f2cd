"""DM-NonUniform: its bound against restatements, its optima against those of the authors' code."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PROCESSES, Watched, mixture_problem
from torch import Tensor

from optsteps.methods import DM, Gaussian, HandMade
from optsteps.methods.bounds.dm import least_bound
from optsteps.methods.bounds.error_bound import error_bound, integral_weights, prediction_error
from optsteps.methods.bounds.starts import STARTS
from optsteps.processes import EDM, VP
from optsteps.schedules import Schedule, build_schedule

# VP with betas of 0.1 to 20 in continuous time: the optima from 1 to 0.001 that the authors' code finds
REFERENCE = [
    (4, 1, [1, 0.6130, 0.3903, 0.0977, 0.001], 83.836),
    (4, 2, [1, 0.6291, 0.4166, 0.1202, 0.001], 60.838),
    (5, 1, [1, 0.6405, 0.4743, 0.2745, 0.0780, 0.001], 71.376),
    (5, 2, [1, 0.6582, 0.4978, 0.3095, 0.1014, 0.001], 49.905),
]
gaps = st.lists(st.floats(0.05, 3.0), min_size=1, max_size=9)


def log_snr_of_linear_vp(t: Tensor) -> Tensor:
    log_alpha = -0.25 * t**2 * 19.9 - 0.05 * t
    return log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))


@pytest.mark.parametrize(("steps", "p", "times", "cost"), REFERENCE)
@pytest.mark.parametrize("start", ["logsnr", "edm"])
def test_the_optima_of_the_authors_code(steps: int, p: int, times: list[float], cost: float, start: str) -> None:
    first, last = log_snr_of_linear_vp(torch.tensor([1.0, 0.001], dtype=torch.float64)).tolist()
    found = least_bound(EDM(), first, last, steps, p=p, starts=(start,))
    assert float(error_bound(found, prediction_error(found[:-1], p), 3)) == pytest.approx(cost, abs=5.1e-4)
    low, high = torch.zeros(steps + 1, dtype=torch.float64), torch.ones(steps + 1, dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        noisy = log_snr_of_linear_vp(middle) < found
        low, high = torch.where(noisy, low, middle), torch.where(noisy, middle, high)
    assert [round(t, 4) for t in middle.tolist()] == pytest.approx(times, abs=1e-9)


def places_of(lengths: list[float], first: float) -> Tensor:
    return first + torch.tensor([0.0, *lengths], dtype=torch.float64).cumsum(0)


@given(gaps, st.floats(-4, 2))
@settings(max_examples=40, deadline=None)
def test_weights_are_the_integrals_of_lagrange_polynomials(lengths: list[float], first: float) -> None:
    places = places_of(lengths, first)
    steps, values = len(lengths), places.numpy()
    nodes, shares = np.polynomial.legendre.leggauss(30)
    found = integral_weights(places)
    for step in range(steps):
        order = min(step, steps - 1 - step, 2) + 1
        x = values[step] + (nodes + 1) / 2 * lengths[step]
        used = values[step - order + 1 : step + 1]
        expected = [0.0] * (3 - order)
        for k in range(order):
            others = np.delete(used, k)
            polynomial = np.prod([(x - other) / (used[k] - other) for other in others], axis=0) * np.ones_like(x)
            expected.append(float((shares * np.exp(x) * polynomial).sum() * lengths[step] / 2))
        torch.testing.assert_close(found[step].tolist(), expected, rtol=1e-7, atol=1e-9 * float(np.exp(values[-1])))


@given(gaps, st.integers(0, 9), st.sampled_from([1.0, 1.5, 2.0]))
@settings(max_examples=40, deadline=None)
def test_the_bound_step_by_step(lengths: list[float], truncated: int, p: float) -> None:
    places = places_of(lengths, -3.0)
    level = torch.exp(-places[:-1])
    alpha, sigma = 1 / (1 + level**2).sqrt(), level / (1 + level**2).sqrt()
    errors = sigma**p / alpha
    torch.testing.assert_close(prediction_error(places[:-1], p), errors, rtol=1e-10, atol=0)
    steps, total = len(lengths), [0.0] * len(lengths)
    bound = 0.0
    for step, row in enumerate(integral_weights(places).tolist()):
        parts = {k: row[k - step + 2] * float(errors[k]) for k in range(max(0, step - 2), step + 1)}
        if step < truncated or step in (0, steps - 1):
            bound += sum(part**2 for part in parts.values()) ** 0.5
        else:
            for k, part in parts.items():
                total[k] += part
    bound += sum(abs(part) for part in total)
    assert float(error_bound(places, errors, truncated)) == pytest.approx(bound, rel=1e-9)


def test_its_gradient_is_that_of_finite_differences() -> None:
    places = places_of([0.7, 1.3, 0.4, 2.0, 0.9, 1.1], -4.0).requires_grad_()
    for truncated in (0, 3, 6):
        assert torch.autograd.gradcheck(lambda x, t=truncated: error_bound(x, prediction_error(x[:-1], 2.0), t), places)


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_no_schedule_of_a_grid_has_a_lesser_bound(steps: int) -> None:
    grid = torch.linspace(-4.0, 6.0, 24, dtype=torch.float64)
    inner = torch.tensor(list(combinations(range(1, 23), steps - 1)))
    places = torch.cat([grid[:1].expand(len(inner), 1), grid[inner], grid[-1:].expand(len(inner), 1)], 1)
    for truncated in (None, 3):
        found = least_bound(EDM(), -4.0, 6.0, steps, 1.0, truncated, ("logsnr", "edm"))
        alone = max(3, steps - 2)
        tried = error_bound(places, prediction_error(places[:, :-1], 1.0), alone)
        assert float(error_bound(found, prediction_error(found[:-1], 1.0), alone)) <= float(tried.min())


def test_more_starts_are_never_worse_and_gaps_have_a_floor() -> None:
    def bound(places: Tensor) -> float:
        return float(error_bound(places, prediction_error(places[:-1], 1.0), 0))

    one, two = (least_bound(EDM(), -4.0, 6.0, 8, 1.0, 0, starts) for starts in (("logsnr",), ("logsnr", "edm")))
    assert bound(two) <= bound(one)
    apart = least_bound(EDM(), -4.0, 6.0, 8, 1.0, 0, ("logsnr",), least_gap=0.5)
    assert float(apart.diff().min()) >= 0.5 * 10 / 8 - 1e-9


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_ends_are_those_of_other_schedules_in_noise_levels(name: str) -> None:
    problem = mixture_problem(name, samples=3, teacher_steps=12)
    watched = Watched(problem.denoiser)
    problem = replace(problem, denoiser=watched)
    limits = {"noise_max": 50.0, "noise_min": 0.05} if name == "flow" else {}
    for n in (2, 5, 9):
        found = DM(**limits).search(problem, [n])
        other = HandMade("logsnr", **limits).search(problem, [n]).schedules[n]
        schedule = found.schedules[n]
        torch.testing.assert_close(
            schedule.times[[0, -2 if name != "edm" else -1, -1]], other.times[[0, -2 if name != "edm" else -1, -1]]
        )
        assert schedule.steps == n
        assert found.nfe == 0
        assert schedule.metadata["family"] == "dm"
    assert watched.batches == []


def test_a_flow_chooses_its_range_and_starts_at_infinity_if_told() -> None:
    problem = mixture_problem("flow", samples=4, teacher_steps=10)
    method = DM()
    found = method.search(problem, [3])
    assert found.schedules[3].metadata["range"] == "chosen on the search's samples"
    assert found.nfe * len(problem.noise) == method.evaluations(problem, [3]).count > 0
    whole = DM(noise_max=float("inf"), noise_min=0.05).search(problem, [4]).schedules[4]
    assert float(whole.times[0]) == 1.0
    assert float(whole.noise_levels[1]) < 999.0


def test_equal_models_of_two_processes_have_equal_schedules() -> None:
    process = VP.linear()
    levels = process.noise_level([999.0, 0.0]).tolist()
    teacher = build_schedule("logsnr", EDM(), 12, *levels)
    edm = replace(mixture_problem("edm", samples=1, teacher_steps=5), teacher=teacher)
    vp = mixture_problem("vp", samples=1, teacher_steps=5)
    vp = replace(vp, teacher=Schedule(vp.teacher.times[:-1], process))
    of_each = [DM(p=2.0, starts=["logsnr"]).search(problem, [5]).schedules[5].noise_levels for problem in (edm, vp)]
    torch.testing.assert_close(*of_each, rtol=1e-3, atol=0)


def test_bad_settings_are_named() -> None:
    for settings_of, message in (
        ({"p": -1.0}, "p must be"),
        ({"starts": []}, "starts must be"),
        ({"starts": ["published"]}, r"starts must be some of .*, got \['published'\]"),
        ({"starts": ["nonsense"]}, "nonsense"),
        ({"truncated": -1}, "truncated must be"),
        ({"least_gap": 1.0}, "least_gap must be"),
    ):
        with pytest.raises(ValueError, match=message):
            DM(**settings_of)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("start", STARTS)
def test_every_family_that_may_be_a_start_is_one(process: str, start: str) -> None:
    problem = mixture_problem(process, 4, 8)
    for method in (DM(starts=(start,)), Gaussian(starts=(start,))):
        assert method.search(problem, [3]).schedules[3].steps == 3
