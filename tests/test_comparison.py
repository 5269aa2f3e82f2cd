"""Comparisons and verdicts on an exact mixture, where every row can be computed by hand."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from optsteps.comparison import Comparison, Row, as_data, verdicts
from optsteps.conditions import Cond
from optsteps.denoisers import CountedDenoiser
from optsteps.metrics import Interval
from optsteps.metrics.judges import (
    CoordinateJudge,
    DistributionJudge,
    Judge,
    Measurement,
    TeacherJudge,
    sample_wise,
    set_wise,
)
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM, Flow
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import build_solver

MIXTURE = GaussianMixture([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]], [0.2, 0.3, 0.1])
ENDS = {"t_max": 80.0, "t_min": 0.002}
SOLVER = build_solver("euler")


def compare_on(samples: int = 40, **changes: object) -> Comparison:
    noise = torch.randn(samples, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    teacher = build_schedule("edm", EDM(), 50, **ENDS)
    plain = Comparison(MIXTURE.denoiser(EDM()), EDM(), SOLVER, teacher, noise, None, [TeacherJudge(None)], max_batch=16)
    return dataclasses.replace(plain, **changes)


def final(of: Comparison, schedule: Schedule) -> Tensor:
    return sample(of.denoiser, schedule, of.solver, of.noise)


def test_a_row_is_the_sampler_s_answer_and_its_distance_to_the_teacher_s() -> None:
    given, schedule = compare_on(), build_schedule("logsnr", EDM(), 6, **ENDS)
    row = given.judge("logsnr", schedule, search_nfe=7.0, search_seconds=2.0, search_evaluations=70)
    assert torch.allclose(row.samples, final(given, schedule), rtol=1e-12)
    expected = (final(given, schedule) - final(given, given.teacher)).square().mean(1)
    assert row.measurements["mse"].values is not None
    assert torch.allclose(row.measurements["mse"].values, expected)
    assert (row.method, row.steps, row.nfe, row.search_nfe, row.search_seconds) == ("logsnr", 6, 6, 7, 2)
    assert row.search_evaluations == as_data(row)["search_evaluations"] == 70
    assert not row.oracle


def test_guidance_counts_twice_in_a_row() -> None:
    exact = MIXTURE.denoiser(EDM())

    def guided(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return exact(x, t, cond)

    guided.nfe = 2  # type: ignore[attr-defined]
    given = compare_on(denoiser=guided)
    assert given.judge("edm", build_schedule("edm", EDM(), 6, **ENDS)).nfe == 12
    assert given.judge_teacher().nfe == 100


def path_error(comparison: Comparison, schedule: Schedule) -> Tensor:
    return comparison.path_error(schedule, comparison.walk(schedule))


def test_a_schedule_of_its_own_start_is_held_to_a_teacher_of_that_start() -> None:
    given, late = compare_on(), build_schedule("edm", EDM(), 40, 20.0, 0.002)
    row, plain = given.judge("own", late, own_start=True), given.judge("own", late)
    teacher = Schedule([20.0, *[t for t in given.teacher.times.tolist() if t < 20]], EDM())
    expected = (final(given, late) - final(given, teacher)).square().mean(1)
    assert row.measurements["mse"].values is not None
    assert torch.allclose(row.measurements["mse"].values, expected)
    assert torch.equal(row.samples, plain.samples)
    assert row.teacher is not None
    assert (row.teacher.steps, as_data(row)["teacher_start"]) == (teacher.steps, 20.0)
    # the start alone makes it far from the whole teacher
    assert row.measurements["mse"].interval.value < plain.measurements["mse"].interval.value / 2
    # one that starts with the teacher, or all but, is held to the teacher itself
    assert given.from_start_of(build_schedule("edm", EDM(), 3, 79.0, 0.002)) is given
    same = given.judge("own", build_schedule("logsnr", EDM(), 6, **ENDS), own_start=True)
    assert same.teacher is None
    assert as_data(same)["teacher_start"] is None
    with pytest.raises(ValueError, match=r"begins at t = 0\.001, where the teacher has ended"):
        given.from_start_of(Schedule([0.001, 0.0], EDM()))


def test_a_teacher_of_another_start_walks_once_for_all_solvers_and_schedules_of_that_start() -> None:
    counted = CountedDenoiser(MIXTURE.denoiser(EDM()))
    given = compare_on(denoiser=counted)
    teacher = given.from_start_of(build_schedule("edm", EDM(), 40, 20.0, 0.002)).walk_teacher()
    walked = counted.evaluations
    for held in (given, given.with_solver(build_solver("dpmpp_2m"))):
        again = held.from_start_of(build_schedule("logsnr", EDM(), 3, 20.0, 0.002)).walk_teacher()
        assert torch.equal(again.samples, teacher.samples)
    assert counted.evaluations == walked
    # the same time from noise of another size is another start
    smaller = Schedule([20.0, 1.0], EDM(), initial_scale=10.0)
    assert not torch.equal(given.from_start_of(smaller).walk_teacher().samples, teacher.samples)


def test_path_error_along_a_subset_of_the_teacher_s_times_is_the_difference_of_states() -> None:
    given = compare_on(traced=8)
    schedule = Schedule(given.teacher.times[[0, 7, 20, 50]], EDM())
    states = [
        sample(given.denoiser, s, SOLVER, given.noise[:8], return_trajectory=True) for s in (schedule, given.teacher)
    ]
    expected = (states[0] - states[1][[0, 7, 20, 50]]).square().flatten(1).mean(1)
    assert torch.allclose(path_error(given, schedule), expected, rtol=1e-9, atol=1e-20)
    assert path_error(given, given.teacher).max() < 1e-20


def test_path_error_between_the_teacher_s_times_follows_its_straight_steps() -> None:
    """A student whose first step ends inside the teacher's first step lies on that step exactly."""
    given = compare_on()
    first, second = given.teacher.times[:2].tolist()
    schedule = Schedule([first, 0.3 * first + 0.7 * second, 0.002], EDM())
    assert path_error(given, schedule)[1] < 1e-20
    assert path_error(given, schedule)[2] > 1e-6


def test_path_error_of_a_flow_is_in_units_of_clean_samples() -> None:
    """The same noise levels give the same path under EDM and Flow, so the same error."""
    given = compare_on()
    schedule = build_schedule("logsnr", EDM(), 6, **ENDS)
    flow = Flow()

    def on_flow(s: Schedule) -> Schedule:
        times = flow.time_of_noise_level(s.noise_levels)
        return Schedule(times, flow, initial_scale=times[0].item())

    same = compare_on(denoiser=MIXTURE.denoiser(flow), process=flow, teacher=on_flow(given.teacher))
    # EDM starts from 80 eps, Flow from t eps = 80 eps / (1 + 80): the same state
    assert torch.allclose(path_error(same, on_flow(schedule)), path_error(given, schedule), rtol=1e-6, atol=1e-14)


def test_the_oracle_samples_each_noise_with_its_own_schedule() -> None:
    given = compare_on()
    own = [build_schedule("edm", EDM(), 4, **ENDS, rho=rho) for rho in (3.0, 5.0, 7.0)]
    row = given.judge_oracle("oss_per_sample", own)
    assert row.oracle
    assert (row.steps, row.nfe, row.schedule) == (4, 4, None)
    for k, schedule in enumerate(own):
        assert torch.allclose(row.samples[k], final(given, schedule)[k], rtol=1e-12)
    judged = compare_on(judges=[DistributionJudge(MIXTURE, 100), TeacherJudge(None)]).judge_oracle("oracle", own)
    assert set(judged.measurements) == {"nll", "mse"}  # a distance between distributions needs more than three samples


def test_the_teacher_is_not_compared_with_itself() -> None:
    row = compare_on(judges=[TeacherJudge(2.0), DistributionJudge(MIXTURE, 100)]).judge_teacher()
    assert set(row.measurements) == {"nll", "sliced_wasserstein"}
    assert (row.steps, row.nfe) == (50, 50)


class Constant(Judge):
    """The same figure for every row."""

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        return {"constant": Measurement(Interval(1.0, 1.0, 1.0), True)}


def row(method: str, values: Tensor, nfe: float = 5, oracle: bool = False, **figures: Measurement) -> Row:
    return Row(
        method, 5, nfe, None, torch.zeros(len(values), 2), {"psnr": sample_wise(values, True), **figures}, oracle
    )


def test_verdicts_are_paired_at_equal_nfe_and_leave_oracles_out() -> None:
    shared = 5 * torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [
        row("oss", shared + 0.5),
        row("edm", shared + 0.01 * shared.flip(0)),
        row("copy", shared + 0.5),
        row("more", shared, nfe=10),
        row("bound", shared + 9, oracle=True),
    ]
    # the intervals of the two means overlap by far; the pairing still tells
    assert rows[0].measurements["psnr"].interval.low < rows[1].measurements["psnr"].interval.high
    found = {v.rival: v for v in verdicts(rows, "oss", "psnr")}
    assert set(found) == {"edm", "copy"}
    assert found["edm"].verdict == "better"
    assert found["edm"].difference.value == pytest.approx(0.5, abs=0.01)
    assert found["copy"].verdict == "no better"
    assert verdicts(rows, "edm", "psnr")[0].verdict == "worse"
    assert verdicts(rows, "oss", "fid") == []


def test_verdicts_of_a_set_s_figure_rest_on_the_sets_differences() -> None:
    values, scatter = torch.arange(4.0), torch.tensor([0.0, 3.0, -2.0, 1.0])
    fid = {"oss": set_wise(10.0, 10 + scatter, False), "edm": set_wise(12.0, 12 + scatter + 0.1 * values, False)}
    rows = [row(name, values, fid=figure) for name, figure in fid.items()]
    (found,) = verdicts(rows, "oss", "fid")
    assert found.difference.value == -2
    assert found.verdict == "better"
    assert fid["oss"].interval.high > fid["edm"].interval.low  # what the intervals side by side would not show
    turned, (of_rival,) = found.turned(), verdicts(rows, "edm", "fid")
    assert dataclasses.astuple(turned.difference) == pytest.approx(dataclasses.astuple(of_rival.difference))
    assert dataclasses.replace(turned, difference=of_rival.difference) == of_rival
    assert (turned.verdict, turned.turned()) == ("worse", found)
    rows = [row(name, values, fid=Measurement(Interval(1, 0, 2), False)) for name in ("oss", "edm")]
    assert verdicts(rows, "oss", "fid") == []  # a single number cannot be paired


def test_a_figure_without_direction_gets_no_verdict() -> None:
    values = torch.arange(4.0)
    rows = [row(name, values, nll=sample_wise(values + shift, None)) for name, shift in (("oss", 0), ("edm", 1))]
    assert verdicts(rows, "oss", "nll") == []


def test_a_row_as_data() -> None:
    given = compare_on(judges=[Constant()])
    schedule = build_schedule("edm", EDM(), 4, **ENDS)
    data = as_data(given.judge("edm", schedule))
    assert data["times"] == schedule.times.tolist() == data["noise_levels"]
    assert data["figures"] == {"constant": {"value": 1.0, "low": 1.0, "high": 1.0, "higher_is_better": True}}
    assert (data["samples"], len(data["path_error"])) == (40, 5)
    assert not {"weights", "told_times"} & set(data)
    parts: dict[str, Any] = {"weights": torch.zeros(4, 2).tolist(), "told_times": schedule.times[:-1].tolist()}
    carrying = as_data(given.judge("edm", dataclasses.replace(schedule, **parts)))
    assert {name: carrying[name] for name in parts} == parts
    assert carrying["figures"] == data["figures"]


@pytest.mark.parametrize("parts", [{"weights": [[0.0], [0.1]]}, {"told_times": [40.0, 3.0]}], ids=str)
def test_a_teacher_with_steps_of_its_own_begins_nowhere_else(parts: dict[str, Any]) -> None:
    given = dataclasses.replace(compare_on(), teacher=Schedule([50.0, 3.0, 0.1], EDM(), **parts))
    assert given.from_start_of(given.teacher) is given
    with pytest.raises(ValueError, match=f"a teacher with {next(iter(parts))} begins at no other time"):
        given.from_start_of(Schedule([20.0, 1.0], EDM()))


def test_a_teacher_of_another_solver() -> None:
    heun, schedule = build_solver("heun"), build_schedule("logsnr", EDM(), 6, **ENDS)
    given = compare_on(teacher_solver=heun)
    truth = sample(given.denoiser, given.teacher, heun, given.noise)
    expected = (final(given, schedule) - truth).square().mean(1)
    assert torch.allclose(given.judge("logsnr", schedule).measurements["mse"].values, expected)  # type: ignore[arg-type]
    assert given.judge_teacher().nfe == 100
    # half the teacher's schedule leaves Heun's trajectory under Euler, and only there
    assert path_error(given, given.teacher)[-1] > 1e-8
    assert path_error(dataclasses.replace(given, solver=heun), given.teacher).max() < 1e-20


def test_fid_and_kid_in_the_plane() -> None:
    """FID of coordinates is the Frechet distance of two Gaussians: |m - m'|^2 + tr(C + C' - 2 (C C')^1/2)."""
    judge = CoordinateJudge(MIXTURE, 4000, ["fid", "kid"], sets=4, kid_subsets=4)
    truth = MIXTURE.sample(4000, torch.Generator().manual_seed(0))
    moved = judge.judge(truth + torch.tensor([0.5, 0.0]), truth, None)
    assert moved["fid"].interval.value == pytest.approx(0.25, rel=1e-6)
    assert moved["fid"].higher_is_better is False
    wider = judge.judge(2 * (truth - truth.mean(0)) + truth.mean(0), truth, None)
    assert wider["fid"].interval.value == pytest.approx(truth.T.cov().trace().item(), rel=1e-6)
    # samples of the truth's own: KID's estimate has mean 0
    same = judge.judge(MIXTURE.sample(4000, torch.Generator().manual_seed(1)), truth, None)
    assert abs(same["kid"].interval.value) < 0.1 * moved["kid"].interval.value
