"""Hand-made families as methods: the family's own schedule between the teacher's ends, at no evaluation."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from problems import PROCESSES, Watched, mixture_problem

from optsteps.denoisers import CountedDenoiser
from optsteps.methods import GivenSchedules, HandMade
from optsteps.processes import EDM, VP
from optsteps.sampling import sample
from optsteps.schedules import FAMILIES, Schedule, build_schedule


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"published"}))
def test_schedules_are_the_familys_between_the_teachers_ends(family: str) -> None:
    problem = mixture_problem("edm", samples=2, teacher_steps=20)
    watched = Watched(problem.denoiser)
    found = HandMade(family).search(dataclasses.replace(problem, denoiser=watched), [10, 5])
    assert list(found.schedules) == [5, 10]
    for n, schedule in found.schedules.items():
        assert schedule == build_schedule(family, EDM(), n, t_max=80.0, t_min=0.002)
        assert torch.equal(schedule.times[[0, -1]], problem.teacher.times[[0, -1]])
    assert found.nfe == 0
    assert found.per_sample is None
    assert watched.batches == []


def test_published_levels_need_no_ends() -> None:
    process = VP.scaled_linear()
    teacher = build_schedule("time_uniform", process, 20, t_max=999.0, t_min=0.0)
    problem = dataclasses.replace(mixture_problem("vp", samples=1, teacher_steps=5), process=process, teacher=teacher)
    found = HandMade("published", model="sdxl").search(problem, [10])
    expected = build_schedule("published", process, 10, model="sdxl")
    assert torch.equal(found.schedules[10].times, expected.times)


def test_parameters_reach_the_family() -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=5)
    times = HandMade("edm", rho=3.0).search(problem, [4]).schedules[4].times
    assert torch.equal(times, build_schedule("edm", EDM(), 4, 80.0, 0.002, rho=3.0).times)
    with pytest.raises(ValueError, match="parameters"):
        HandMade("edm", shift=3.0).search(problem, [4])


def test_zero_ends_where_a_teacher_that_ends_clean_does() -> None:
    problem = mixture_problem("vp", samples=1, teacher_steps=20)  # ends ..., 0, -1
    schedule = HandMade("logsnr", final="zero").search(problem, [6]).schedules[6]
    assert schedule.steps == 6
    assert schedule.times[-2:].tolist() == problem.teacher.times[-2:].tolist() == [0.0, -1.0]
    positive = dataclasses.replace(problem, teacher=Schedule(problem.teacher.times[:-1], problem.process))
    assert HandMade("logsnr", final="zero").search(positive, [6]).schedules[6] == schedule


def test_families_end_as_the_teacher_does() -> None:
    for name in ("vp", "flow"):
        problem = mixture_problem(name, samples=1, teacher_steps=20)
        times = (
            problem.teacher.times
            if name == "vp"
            else torch.cat([torch.tensor([0.99]).double(), problem.teacher.times[1:]])
        )
        problem = dataclasses.replace(problem, teacher=Schedule(times, problem.process))
        appended = HandMade("time_quadratic").search(problem, [4]).schedules[4].times
        assert appended[-2:].tolist() == times[-2:].tolist()
        # uniform times reach the clean end by themselves
        reaching = HandMade("time_uniform").search(problem, [4]).schedules[4].times
        assert torch.allclose(reaching, torch.linspace(float(times[0]), float(times[-1]), 5).double())
    positive = mixture_problem("edm", samples=1, teacher_steps=5)
    assert (
        HandMade("edm").search(positive, [4]).schedules[4]
        == HandMade("edm", "t_min").search(positive, [4]).schedules[4]
    )


def test_given_schedules_are_taken_as_they_are() -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=5)
    found = GivenSchedules(lambda n: build_schedule("edm", EDM(), n, 70.0, 0.01)).search(problem, [3, 2])
    assert {n: s.facts for n, s in found.schedules.items()} == {
        n: build_schedule("edm", EDM(), n, 70.0, 0.01).facts for n in (2, 3)
    }
    assert {s.metadata["range"] for s in found.schedules.values()} == {"its users'"}
    assert not found.own_start
    assert GivenSchedules(lambda n: found.schedules[n], own_start=True).search(problem, [3]).own_start


def _ends(schedule: Schedule) -> tuple[float, float]:
    levels = schedule.noise_levels[schedule.noise_levels > 0]
    return round(levels[0].item(), 9), round(levels[-1].item(), 9)


@pytest.mark.parametrize("family", ["edm", "logsnr", "exponential", "cosine"])
def test_under_a_flow_the_range_is_the_best_on_the_problems_samples(family: str) -> None:
    whole = mixture_problem("flow", samples=6, teacher_steps=20)
    times = torch.cat([torch.tensor([0.999]).double(), whole.teacher.times[1:-1], torch.tensor([1e-3, 0.0]).double()])
    problem = dataclasses.replace(whole, teacher=Schedule(times, whole.process))
    teacher = sample(problem.denoiser, problem.teacher, problem.solver, problem.noise)
    found = HandMade(family, shard_size=4).search(problem, [4, 7])
    process, evaluations = problem.process, problem.teacher.steps
    for n in (4, 7):
        tried = {}
        for high in (999.0, 80.0, 20.0):
            for low in (1 / 999, 0.03, 0.1):
                ends = process.time_of_noise_level([high, low]).tolist()
                schedule = build_schedule(family, process, n, *ends, final="zero")
                x = sample(problem.denoiser, schedule, problem.solver, problem.noise)
                tried[_ends(schedule)] = (x - teacher).square().mean().item()
                evaluations += n
        schedule = found.schedules[n]
        assert _ends(schedule) == min(tried, key=lambda ends: tried[ends])
        assert tried[_ends(schedule)] < tried[round(999.0, 9), round(1 / 999, 9)]
        assert schedule.metadata["range"] == "chosen on the search's samples"
    assert found.nfe == evaluations


def test_families_in_noise_levels_have_a_range_where_a_flow_starts_at_infinity() -> None:
    problem = mixture_problem("flow", samples=2, teacher_steps=10)  # from t = 1 to 0
    schedule = HandMade("edm").search(problem, [4]).schedules[4]
    assert schedule.noise_levels[0].item() in (pytest.approx(80.0), pytest.approx(20.0))


def test_a_range_is_given_or_chosen_from_a_list() -> None:
    problem = mixture_problem("edm", samples=4, teacher_steps=20)
    given = HandMade("edm", noise_max=40.0, noise_min=0.01).search(problem, [5])
    assert (_ends(given.schedules[5]), given.nfe) == ((40.0, 0.01), 0)
    assert given.schedules[5].metadata["range"] == "given"
    chosen = HandMade("edm", noise_max=[80, 40, 10], noise_min=0.002).search(problem, [5])
    assert _ends(chosen.schedules[5]) in [(80.0, 0.002), (40.0, 0.002), (10.0, 0.002)]
    assert chosen.nfe == 20 + 3 * 5
    assert "range" not in HandMade("edm").search(problem, [5]).schedules[5].metadata
    with pytest.raises(ValueError, match="lists with a number in them"):
        HandMade("edm", noise_max=[])


def test_published_ends_as_its_users_end_it() -> None:
    process = VP.scaled_linear()
    teacher = build_schedule("time_uniform", process, 20, t_max=999.0, t_min=0.0, final="zero")
    problem = dataclasses.replace(mixture_problem("vp", samples=1, teacher_steps=5), process=process, teacher=teacher)
    for n in (6, 10):
        levels = HandMade("published").search(problem, [n]).schedules[n].noise_levels
        expected = build_schedule("published", process, n).noise_levels[:-1].tolist()
        assert levels.tolist() == [*expected, 0.0]


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown schedule 'emd'; known: .*edm"):
        HandMade("emd")
    problem = mixture_problem("edm", samples=1, teacher_steps=5)
    with pytest.raises(ValueError, match=r"at least 1, got \[0\]"):
        HandMade("edm").search(problem, [0])


def test_every_process_is_served() -> None:
    for name, process in PROCESSES.items():
        problem = mixture_problem(name, samples=1, teacher_steps=8)
        assert HandMade("time_uniform").search(problem, [3]).schedules[3].process == process


def test_cosine_takes_its_scale_from_the_teachers_samples() -> None:
    problem = mixture_problem("edm", samples=9, teacher_steps=12)
    watched = Watched(problem.denoiser)
    problem = dataclasses.replace(problem, denoiser=watched)
    method = HandMade("cosine", scale="data", shard_size=4)
    found = method.search(problem, [3, 6])
    assert sum(watched.batches) == 9 * 12 == found.nfe * 9 == method.evaluations(problem, [3, 6]).count
    scale = float(sample(problem.denoiser, problem.teacher, problem.solver, problem.noise).std(correction=0))
    for n, schedule in found.schedules.items():
        assert schedule.metadata["scale"] == pytest.approx(scale, rel=1e-9)
        expected = build_schedule("cosine", EDM(), n, 80.0, 0.002, scale=scale)
        torch.testing.assert_close(schedule.times, expected.times, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="parameters"):
        HandMade("edm", scale="data").search(problem, [3])


def test_a_measured_scale_and_a_chosen_range() -> None:
    problem = mixture_problem("flow", samples=5, teacher_steps=10)
    watched = Watched(problem.denoiser)
    method = HandMade("cosine", scale="data")
    found = method.search(dataclasses.replace(problem, denoiser=watched), [4])
    scale = found.schedules[4].metadata["scale"]
    known = HandMade("cosine", scale=scale).search(problem, [4])
    assert (found.schedules, found.nfe) == (known.schedules, known.nfe)
    assert method.evaluations(problem, [4]).count == found.nfe * 5


# --- proposals


def test_every_range_is_proposed_and_none_is_tried() -> None:
    problem = mixture_problem("flow", samples=4, teacher_steps=10)
    watched = Watched(problem.denoiser)
    problem = dataclasses.replace(problem, denoiser=watched)
    method = HandMade("edm")
    found = method.proposals(problem, [5, 4, 4])
    assert list(found) == [4, 5]
    assert not watched.batches
    for n, schedules in found.items():
        assert len(schedules) > 1
        assert len(set(map(_ends, schedules))) == len(schedules)
        assert method.search(problem, [n]).schedules[n] in schedules
    single = mixture_problem("edm", samples=4, teacher_steps=10)
    assert method.proposals(single, [4]) == {4: [method.search(single, [4]).schedules[4]]}


@pytest.mark.parametrize("process", ["edm", "flow"])
def test_a_measured_scale_is_proposed_on_every_range_for_the_teachers_walk_alone(process: str) -> None:
    problem = mixture_problem(process, samples=5, teacher_steps=10)
    watched = Watched(problem.denoiser)
    method = HandMade("cosine", scale="data", shard_size=2)
    counted = CountedDenoiser(watched)
    found = method.proposals(dataclasses.replace(problem, denoiser=counted), [4])
    assert sum(watched.batches) == counted.evaluations == 5 * 10
    best = method.search(problem, [4]).schedules[4]
    assert best in found[4]
    known = HandMade("cosine", scale=best.metadata["scale"])
    assert found == known.proposals(problem, [4])
    assert method.proposals(problem, [4]) == found  # of a denoiser that counts nothing too
