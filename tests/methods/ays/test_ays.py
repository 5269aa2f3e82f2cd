"""AYS as a method: what it returns, from whatever batches and shards, under every process and end."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from problems import mixture_problem, noise, three_gaussians
from torch import Tensor

from optsteps import Schedule, build_schedule, sample
from optsteps.denoisers import GuidedDenoiser
from optsteps.methods import AYS, CRS, Entropic, HandMade, PublishedAYS, SearchProblem, SearchResult
from optsteps.methods.ays.klub_monte_carlo import gaussian_term
from optsteps.models.analytic import Gaussian
from optsteps.processes import EDM
from optsteps.solvers import build_solver

QUICK: dict[str, Any] = {"levels": 32, "block_size": 8}


def with_data(problem: SearchProblem, samples: int) -> SearchProblem:
    return dataclasses.replace(problem, data=three_gaussians().sample(samples, torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("choose", ["judged", "last", "optimum"])
@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
def test_a_schedule_for_every_count_between_the_teacher_s_ends(process: str, choose: Any) -> None:
    problem = mixture_problem(process, 16, 40)
    found = AYS(choose=choose, **QUICK).search(problem, [8, 4])
    assert list(found.schedules) == [4, 8]
    for n, schedule in found.schedules.items():
        assert schedule.steps == n
        assert schedule.process == problem.process
        if (process, choose) == ("flow", "judged"):  # on the range that suits its start
            assert schedule.metadata["range"] == "chosen on the search's samples"
            assert schedule.times[-1] == problem.teacher.times[-1]
        else:
            assert torch.equal(schedule.times[[0, -1]], problem.teacher.times[[0, -1]])
            assert "range" not in schedule.metadata
        assert schedule.metadata["method"] == "ays"
        x = sample(problem.denoiser, schedule, problem.solver, problem.noise)
        assert bool(torch.isfinite(x).all())
    assert found.seconds > 0


def test_the_schedule_judged_best_is_returned() -> None:
    problem = mixture_problem("edm", 24, 40)
    found = AYS(**QUICK).search(problem, [6])
    path, values, stop = (found.evidence[name][6] for name in ("path", "criterion", "stop"))
    assert len(values) == len(path) == len(found.evidence["klub"][6]) > 3
    teacher = sample(problem.denoiser, problem.teacher, problem.solver, problem.noise)
    for levels, value in zip(path, values, strict=True):
        schedule = dataclasses.replace(found.schedules[6], times=levels)  # under EDM a time is a noise level
        x = sample(problem.denoiser, schedule, problem.solver, problem.noise)
        assert (x - teacher).square().mean().item() == pytest.approx(value.item(), rel=1e-9)
    assert stop == values.argmin()
    assert torch.equal(found.schedules[6].times, path[stop])
    # by hand
    stopped = AYS(choose="last", max_sweeps=2, starts=["edm"], **QUICK).search(problem, [6])
    assert torch.equal(stopped.schedules[6].times, path[2])
    assert stopped.schedules[6].metadata["start"] == "edm"
    assert stopped.schedules[6].metadata["sweeps"] == 2
    least = AYS(choose="optimum", **QUICK).search(problem, [6])
    assert least.evidence["klub"][6].item() <= found.evidence["klub"][6].min()


def test_under_a_flow_descents_start_on_the_best_range_of_their_start() -> None:
    whole = mixture_problem("flow", 12, 40)
    times = [0.999, *whole.teacher.times[1:-1].tolist(), 0.001, 0.0]
    problem = dataclasses.replace(whole, teacher=Schedule(times, whole.process))
    found = AYS(levels=128, block_size=8).search(problem, [6])
    for family in ("edm", "logsnr"):
        alone = HandMade(family).search(problem, [6])
        walked = [start for start, _ in found.evidence["walk"][6]]
        start = found.evidence["path"][6][walked.index(family)]
        # on a grid of 128 levels
        torch.testing.assert_close(start.log(), alone.schedules[6].noise_levels[:-1].log(), rtol=0, atol=0.11)
    tried = 2 * 9 * 6 + problem.teacher.steps + 129 + 6 * len(found.evidence["path"][6])
    assert found.nfe == tried


def test_every_start_is_walked() -> None:
    """Each start's walk is the one it has alone, and the choice is among all."""
    problem = mixture_problem("edm", 24, 40)
    both = AYS(**QUICK).search(problem, [6]).evidence
    alone = [AYS(starts=[family], **QUICK).search(problem, [6]).evidence for family in ("edm", "logsnr")]
    for name in ("path", "klub", "criterion"):
        assert torch.equal(both[name][6], torch.cat([one[name][6] for one in alone]))
    assert both["walk"][6] == alone[0]["walk"][6] + alone[1]["walk"][6]
    assert both["criterion"][6][both["stop"][6]] == min(float(one["criterion"][6].min()) for one in alone)
    # unjudged: the least bound of the two ends
    last = AYS(choose="last", **QUICK).search(problem, [6]).evidence
    assert last["klub"][6][last["stop"][6]] == min(float(one["klub"][6][-1]) for one in alone)


@pytest.mark.parametrize("start", ["time_uniform", "edm"])
def test_steps_closer_than_the_grid_are_moved_apart(start: str) -> None:
    """Uniform steps in time crowd the noisy end of EDM's range: 60 of them, on a grid that is as fine as it takes."""
    problem = mixture_problem("edm", 8, 80)
    found = AYS(starts=[start], choose="last", max_sweeps=0, levels=8, block_size=8).search(problem, [60])
    assert len(found.evidence["table"].levels) == 4 * 60 + 1
    assert found.schedules[60].steps == 60


def test_a_criterion_of_one_s_own_sees_samples_and_data() -> None:
    problem = with_data(mixture_problem("edm", 16, 40), 40)
    seen: list[tuple[Tensor, Tensor]] = []

    def last(x: Tensor, reference: Tensor) -> float:
        seen.append((x, reference))
        return -len(seen)

    found = AYS(criterion=last, **QUICK).search(problem, [5])
    assert found.evidence["stop"][5] == len(seen) - 1 == len(found.evidence["walk"][5]) - 1 > 0
    assert problem.data is not None
    assert all(x.shape == (16, 2) and torch.equal(reference, problem.data) for x, reference in seen)


def test_evaluations_are_counted() -> None:
    own = mixture_problem("edm", 16, 40)
    problem = with_data(own, 32)
    judged = AYS(**QUICK).search(problem, [5, 6])
    tried = sum(n * len(judged.evidence["path"][n]) for n in (5, 6))
    assert judged.nfe == pytest.approx(2 * 33 + 40 + tried)  # two data a noise, the teacher, the schedules tried
    assert AYS(choose="last", criterion="distribution", **QUICK).search(problem, [5, 6]).nfe == 2 * 33
    assert AYS(choose="last", **QUICK).search(own, [5]).nfe == 33 + 40

    def conditional(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return own.denoiser(x, t) * cond[:, None]

    null, cond = torch.zeros(1, dtype=torch.float64), torch.ones(16, dtype=torch.float64)
    guided = dataclasses.replace(own, denoiser=GuidedDenoiser(conditional, 2.0, null), cond=cond)
    assert AYS(choose="last", **QUICK).search(guided, [5]).nfe == 2 * (33 + 40)


@pytest.mark.parametrize("solver", ["dpmpp_2m", pytest.param("ddim_stochastic", marks=pytest.mark.slow)])
def test_the_same_schedules_whatever_the_batch_and_the_shard(solver: str) -> None:
    problem = with_data(dataclasses.replace(mixture_problem("vp", 12, 20), solver=build_solver(solver)), 24)
    expected = AYS(**QUICK).search(problem, [4, 7])
    for changed in ({"max_batch": 1}, {"max_batch": 7}, {"shard_size": 4}, {"shard_size": 6, "max_batch": 5}):
        found = AYS(**QUICK | changed).search(problem, [4, 7])
        for n in (4, 7):
            torch.testing.assert_close(found.schedules[n].times, expected.schedules[n].times, rtol=1e-12, atol=0)
            torch.testing.assert_close(found.evidence["klub"][n], expected.evidence["klub"][n], rtol=1e-9, atol=0)


def test_search_is_partial_and_combine() -> None:
    problem, method = mixture_problem("edm", 24, 40), AYS(shard_size=8, **QUICK)
    shards = torch.arange(24).split(8)
    first = [method.partial(problem, [5], index) for index in shards]
    decision = method.combine(problem, [5], first)
    second = [method.partial(problem, [5], index, part, decision) for index, part in zip(shards, first, strict=True)]
    result = method.combine(problem, [5], second, decision)
    assert isinstance(result, SearchResult)
    assert torch.equal(result.schedules[5].times, method.search(problem, [5]).schedules[5].times)


def test_stochastic_students_are_judged_by_distribution() -> None:
    problem = mixture_problem("edm", 16, 40)
    noisy = dataclasses.replace(problem, solver=build_solver("ddim_stochastic"), teacher_solver=problem.solver)
    by_default = AYS(**QUICK).search(noisy, [5]).evidence["criterion"][5]
    assert torch.equal(by_default, AYS(criterion="distribution", **QUICK).search(noisy, [5]).evidence["criterion"][5])
    assert not torch.equal(by_default, AYS(criterion="teacher", **QUICK).search(noisy, [5]).evidence["criterion"][5])


def test_as_published_on_gaussian_data() -> None:
    """The true bound of its 10 steps falls from EDM's nearly to the coupled optimum's; 20 and 40 steps keep the 10."""
    data, generator = Gaussian(torch.zeros(32), 0.5), torch.Generator().manual_seed(0)
    teacher = build_schedule("edm", EDM(), 40, t_max=80.0, t_min=0.002)
    solver = build_solver("ddim_stochastic")
    problem = SearchProblem(data.denoiser(EDM()), EDM(), solver, noise(8, 32), teacher, data=data.sample(64, generator))
    found = PublishedAYS(max_sweeps=10, max_iterations=1).search(problem, [7, 10, 20])

    def bound(levels: Tensor) -> float:
        return gaussian_term(0.5, levels[:-1], levels[1:]).sum().item()

    least = bound(AYS(levels=128, choose="optimum").search(problem, [10]).schedules[10].times)
    first = bound(build_schedule("edm", EDM(), 10, t_max=80.0, t_min=0.002).times)
    assert bound(found.schedules[10].times) < least + 0.15 * (first - least)
    hierarchy = found.evidence["hierarchy"]
    assert torch.equal(hierarchy[20][::2], hierarchy[10])
    assert torch.equal(hierarchy[40][::2], hierarchy[20])
    torch.testing.assert_close(found.schedules[20].times, hierarchy[20])
    # 7 steps: log-linear between the 40's at 40 / 7, 80 / 7, ...
    share = 40 / 7 - 5
    expected = hierarchy[40][5].log() * (1 - share) + hierarchy[40][6].log() * share
    assert found.schedules[7].times[1].log().item() == pytest.approx(expected.item(), rel=1e-9)
    # two evaluations per data sample and term, two terms for each of eleven candidates
    moved = 9 * 10 + 10 + 20
    assert found.nfe == pytest.approx(64 * 2 * 2 * 11 * moved / 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choose": "best"}, "choose must be 'judged', 'last' or 'optimum', got 'best'"),
        ({"criterion": "pretty"}, "criterion must be 'teacher', 'distribution' or a function, got 'pretty'"),
        ({"order": 3}, "order 1 and 2, not 3"),
        ({"starts": "edm"}, "starts must be a list of hand-made families, got 'edm'"),
        ({"levels": 0}, "levels, max_batch"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AYS(**options)


def test_bad_problems() -> None:
    problem = mixture_problem("vp", 4, 20)
    with pytest.raises(ValueError, match="1 steps leave none above noise level 0"):
        AYS(**QUICK).search(problem, [1])
    with pytest.raises(ValueError, match="unknown schedule 'nonsense'"):
        AYS(starts=["nonsense"], **QUICK).search(problem, [3])


@pytest.mark.parametrize("samples", [2, 3])
def test_few_data_beside_much_noise(samples: int) -> None:
    """Shards whose share of the data is none add nothing to the table."""
    problem = with_data(mixture_problem("edm", 200, 10), samples)
    for method in (AYS(choose="last", **QUICK), CRS(**QUICK), Entropic(**QUICK)):
        assert method.search(problem, [4]).schedules[4].metadata["samples"] == samples
