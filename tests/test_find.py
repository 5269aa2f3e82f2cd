"""A schedule for one's own model in one call."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.version import getbase
from torch import Tensor

import optsteps
from optsteps import Schedule, build_schedule, sample
from optsteps.denoisers import PREDICTIONS, GuidedDenoiser, ModelError, NetworkDenoiser, expand
from optsteps.finding import Found
from optsteps.methods import Auto, HandMade
from optsteps.metrics.statistics import paired_difference
from optsteps.metrics.teacher import psnr
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM, VP, Flow
from optsteps.running.configs import composed
from optsteps.solvers import build_solver

MIXTURE = GaussianMixture([[-2.0, -2.0], [2.0, -1.0], [-1.0, 2.0], [2.5, 2.5]], [0.2, 0.4, 0.3, 0.1])
TEACHER = 32


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def find(samples: int = 48, nfe: int = 6, **options: Any) -> Found:
    settings = {"solver": "euler", "teacher": TEACHER, **options}
    return optsteps.find(MIXTURE.denoiser(EDM()), EDM(), normal(samples, 2), nfe, **settings)


@pytest.fixture(scope="module")
def found() -> Found:
    return find()


def gains(schedule: Schedule, rival: Schedule, unseen: Tensor) -> Any:
    """The paired difference in PSNR of two schedules, by nothing but `sample`."""
    denoiser, euler = MIXTURE.denoiser(EDM()), build_solver("euler")
    teacher = build_schedule("edm", EDM(), TEACHER, t_max=80.0, t_min=0.002)
    ends = [sample(denoiser, one, euler, unseen) for one in (schedule, rival, teacher)]
    return paired_difference(*(psnr(end, ends[2], 10.0) for end in ends[:2]))


def test_its_schedule_beats_hand_made_ones(found: Found) -> None:
    assert {row.rival for row in found.verdicts} == {"logsnr", "edm", "time_uniform"}
    assert {row.verdict for row in found.verdicts} == {"better"}
    assert found.schedule is found.search.schedules[6]
    assert found.answer.startswith("auto's schedule is nearer to the 32-step teacher than the best of 3 others")
    fresh = gains(found.schedule, build_schedule("logsnr", EDM(), 6, t_max=80.0, t_min=0.002), normal(256, 2, seed=1))
    assert fresh.low > 0


def test_the_numbers_of_the_answer_are_those_of_the_unseen_samples(found: Found) -> None:
    unseen = normal(48, 2)[-12:]
    rivals = {name: build_schedule(name, EDM(), 6, t_max=80.0, t_min=0.002) for name in ("logsnr", "edm")}
    expected = {name: gains(found.schedule, rival, unseen) for name, rival in rivals.items()}
    for row in found.verdicts:
        if row.rival in expected:
            difference = row.difference
            numbers = [difference.value, difference.low, difference.high]
            assert numbers == pytest.approx([*vars(expected[row.rival]).values()], abs=1e-3)
    best = min(found.verdicts, key=lambda row: row.difference.value)
    shown = re.search(r"\((\w+)\) by (.+) dB PSNR \[(.+), (.+)\] at (\d+) evaluations .* on (\d+) unseen", found.answer)
    assert shown is not None
    assert shown[1] == best.rival
    assert [float(shown[k]) for k in (2, 3, 4)] == pytest.approx([*vars(best.difference).values()], abs=0.006)
    assert (shown[5], shown[6]) == ("6", "12")
    assert f"the search took {found.search.evaluations:,} evaluations" in found.answer


@pytest.mark.slow
def test_the_best_of_several_solvers() -> None:
    several = find(solver=["dpmpp_2m", "euler", "heun"])
    assert {row.rival for row in several.verdicts} >= {"logsnr with euler", "logsnr with dpmpp_2m"}
    assert several.solver.nfe(several.schedule) <= 6
    assert several.schedule.metadata["solver"] == several.solver.name
    assert several.answer.startswith(f"auto's schedule with {several.solver.name} is nearer")
    unseen = normal(48, 2)[-12:]
    teacher = build_schedule("edm", EDM(), TEACHER, t_max=80.0, t_min=0.002)
    goal = sample(MIXTURE.denoiser(EDM()), teacher, build_solver("dpmpp_2m"), unseen)
    rival = build_schedule("logsnr", EDM(), 6, t_max=80.0, t_min=0.002)
    for name in ("euler", "dpmpp_2m"):
        ends = [
            sample(MIXTURE.denoiser(EDM()), schedule, solver, unseen)
            for schedule, solver in ((several.schedule, several.solver), (rival, build_solver(name)))
        ]
        gap = next(row.difference.value for row in several.verdicts if row.rival == f"logsnr with {name}")
        assert gap == pytest.approx((psnr(ends[0], goal, 10.0) - psnr(ends[1], goal, 10.0)).mean().item(), abs=1e-3)


@pytest.mark.slow
def test_told_times_are_searched_where_they_are_wanted() -> None:
    found = find(solver="euler", told_times=True)
    assert {one.moved for one in found.search.evidence["refined"][6]} == {"times", "times and told times"}


def test_no_search_sees_the_samples_that_judge() -> None:
    noise, other = normal(16, 2), normal(16, 2)
    other[-8:] = normal(8, 2, seed=1)
    first, second = (
        optsteps.find(MIXTURE.denoiser(EDM()), EDM(), some, 4, "euler", teacher=TEACHER) for some in (noise, other)
    )
    assert torch.equal(first.search.schedules[4].times, second.search.schedules[4].times)
    assert first.verdicts != second.verdicts


def test_every_evaluation_is_counted() -> None:
    calls = []

    def counted(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        calls.append(len(x))
        assert len(x) <= 5
        return MIXTURE.denoiser(EDM())(x, t)

    found = optsteps.find(counted, EDM(), normal(16, 2), 3, "euler", teacher=TEACHER, max_batch=5)
    told = re.findall(r"took ([\d,]+) evaluations, and the comparison ([\d,]+)", found.answer)[0]
    assert sum(int(number.replace(",", "")) for number in told) == sum(calls)


@pytest.mark.slow
def test_the_same_question_has_the_same_answer() -> None:
    first, second = find(16, 3), find(16, 3)
    assert first.answer == second.answer
    assert torch.equal(first.schedule.times, second.schedule.times)


def test_one_step_leaves_nothing_to_find(tmp_path: Path) -> None:
    """Between two ends there is one schedule of one step, which is everybody's."""
    found = find(16, 1)
    assert "is not nearer to the 32-step teacher than logsnr, so use that" in found.answer
    assert {row.verdict for row in found.verdicts} == {"no better"}
    assert found.schedule.metadata["family"] == "logsnr"
    found.schedule.save(tmp_path / "schedule.json")
    assert torch.equal(Schedule.load(tmp_path / "schedule.json").times, found.schedule.times)


def test_a_search_that_ends_at_a_hand_made_schedule_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {name: HandMade(name) for name in ("logsnr", "edm", "time_uniform", "flow_shift")}
    monkeypatch.setattr("optsteps.finding._auto", lambda *settings: Auto(pool, refine=False))
    process = Flow()
    denoiser = MIXTURE.denoiser(process)
    found = optsteps.find(
        denoiser, process, normal(16, 2), 4, "euler", noise_max=80.0, noise_min=0.002, teacher=TEACHER
    )
    assert {row.rival for row in found.verdicts} == set(pool)
    best = min(found.verdicts, key=lambda row: row.difference.value)
    assert best.difference.value <= 0
    assert f"is not nearer to the 32-step teacher than {best.rival}, so use that" in found.answer
    assert found.schedule.metadata["family"] == best.rival


def test_a_condition_goes_with_its_samples() -> None:
    centres = torch.tensor([[-2.0, 0.0], [3.0, 1.0]])
    level = 0.3

    def conditional(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Of Gaussians, one a class; the noise is told from its class by its number."""
        assert torch.equal(cond["label"], cond["number"] % 2)
        gain = (level**2 / (level**2 + t**2)).to(x)[:, None]
        return centres[cond["label"]] + gain * (x - centres[cond["label"]])

    numbers = torch.arange(16)
    cond = {"label": numbers % 2, "number": numbers}
    found = optsteps.find(conditional, EDM(), normal(16, 2), 4, "euler", cond, teacher=TEACHER)
    assert found.schedule.steps == 4
    null = {"label": torch.tensor([0]), "number": torch.tensor([0])}
    guided = optsteps.find(
        GuidedDenoiser(conditional, 1.0, null), EDM(), normal(16, 2), 9, "euler", cond, teacher=TEACHER
    )
    assert guided.schedule.steps == 4
    assert "at 8 evaluations per sample" in guided.answer


def test_a_network_of_torch() -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x + 0.1 * self.layer(torch.cat([x, t[:, None] / 1000], 1)).tanh()

    process = VP.linear()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = NetworkDenoiser(Network(), process, "eps")
    found = optsteps.find(denoiser, process, normal(16, 2), 4, "euler", teacher=TEACHER)
    assert not found.schedule.times.requires_grad
    assert found.schedule.times[[0, -1]].tolist() == [999.0, 0.0]


def test_a_hydra_of_the_caller_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("answer: 42")
    with initialize_config_dir(str(tmp_path), "my_job", version_base="1.2"):
        mine, base = GlobalHydra.instance().hydra, getbase()
        config = composed("method/auto", ["+max_batch=8", "method.weights=true"])
        assert config.method.pool.edm.max_batch == 8
        assert config.method.weights is True
        assert GlobalHydra.instance().hydra is mine
        assert getbase() == base
        assert compose("mine", return_hydra_config=True).hydra.job.name == "my_job"
        assert compose("mine").answer == 42
    assert not GlobalHydra.instance().is_initialized()


def test_a_hydra_of_the_caller_stays_after_an_error(tmp_path: Path) -> None:
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        mine = GlobalHydra.instance().hydra
        with pytest.raises(Exception, match="nosuch"):
            composed("method/nosuch", [])
        assert GlobalHydra.instance().hydra is mine


def test_a_teacher_may_be_given_and_levels_bound_the_schedule() -> None:
    teacher = build_schedule("logsnr", EDM(), 20, t_max=50.0, t_min=0.01)
    assert find(16, 2, teacher=teacher).schedule.times[[0, -1]].tolist() == [50.0, 0.01]
    bounded = find(16, 2, noise_max=40.0, noise_min=0.1)
    assert bounded.schedule.times[[0, -1]].tolist() == pytest.approx([40.0, 0.1])
    with pytest.raises(ValueError, match="leave noise_max and noise_min out"):
        find(16, 2, teacher=teacher, noise_max=40.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 13}, "noise holds 13 samples, and at least 14 are needed.*64 are a good number"),
        ({"nfe": 0}, "nfe=0: 0 evaluations pay for no step of euler"),
        ({"nfe": 1, "solver": "dpm2"}, "nfe=1: 1 evaluations pay for no step of dpm2"),
        ({"nfe": TEACHER}, "nfe=32 pays for 32 steps, and the teacher has 32: give fewer"),
        ({"solver": "sde_dpmpp_2m"}, "stochastic solver 'sde_dpmpp_2m'"),
        ({"solver": "nosuch"}, "unknown solver 'nosuch'"),
        ({"solver": "heun", "weights": True}, "heun is no multistep solver"),
        ({"solver": "heun", "told_times": True}, "heun takes two evaluations a step"),
        ({"budget": 10}, "a search of 10 evaluations cannot be made here"),
        ({"cond": torch.zeros(3)}, "noise holds 48 samples but cond holds 3"),
    ],
)
def test_what_cannot_be_found_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(**options)


@pytest.mark.parametrize("noise", [80 * normal(64, 2), normal(64, 2) + 3, torch.zeros(64, 2)])
def test_noise_that_is_no_unit_noise_is_refused(noise: Tensor) -> None:
    with pytest.raises(ValueError, match=r"noise must be unit noise, torch\.randn"):
        optsteps.find(MIXTURE.denoiser(EDM()), EDM(), noise, 4)


def test_two_solvers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="several solvers called 'unipc': give each name once"):
        find(solver=["euler", build_solver("unipc"), build_solver("unipc", order=3)])


def network(process: Any, prediction: str) -> Any:
    denoise = MIXTURE.denoiser(process)

    def called(x: Tensor, t: Tensor) -> Tensor:
        c_skip, c_out = PREDICTIONS[prediction](process.alpha(t), process.sigma(t))
        return (denoise(x, t) - expand(c_skip, x) * x) / expand(c_out, x)

    return called


VELOCITY, EPS = network(Flow(), "velocity"), network(VP.linear(), "eps")
MISTAKES = {
    "v for eps": (NetworkDenoiser(network(VP.linear(), "v"), VP.linear(), "eps"), "prediction=v "),
    "eps for v": (NetworkDenoiser(network(VP.linear(), "eps"), VP.linear(), "v"), "prediction=eps "),
    "1000 t": (NetworkDenoiser(lambda x, t: VELOCITY(x, t / 1000), Flow(), "velocity"), "time_scale=1000"),
    "backwards": (NetworkDenoiser(lambda x, t: -VELOCITY(x, 1 - t / 1000), Flow(), "velocity"), "data at 1"),
    "bare": (lambda x, t, cond: EPS(x, t), "taken for eps instead of x0"),
    "in place": (lambda x, t, cond: x.mul_(0.5), "changes its input x in place"),
    "random": (lambda x, t, cond: x / 2 * (1 + 0.1 * torch.randn_like(x)), "does not answer the same twice"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_model_that_is_stated_wrongly_is_refused_before_anything_is_searched(mistake: str) -> None:
    denoiser, message = MISTAKES[mistake]
    process = denoiser.process if isinstance(denoiser, NetworkDenoiser) else VP.linear()
    with pytest.raises(ModelError, match=message):
        optsteps.find(denoiser, process, normal(64, 2), 4, "euler", teacher=20)


def test_the_checks_can_be_left_out_and_a_doubtful_model_is_warned_of() -> None:
    def untrained(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return torch.sin(3 * x)

    for check, warned in ((True, 1), (False, 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = optsteps.find(untrained, EDM(), normal(16, 2), 4, "euler", teacher=8, check_model=check)
        assert sum("is the model trained" in str(one.message) for one in caught) == warned
        assert found.answer.endswith(" with the checks of the model." if check else f"{found.answer.split()[-1]}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nfe": 4.5}, "nfe must be a whole number of at least 1 .evaluations per sample., got 4.5"),
        ({"nfe": [4, 8]}, r"nfe must be a whole number .* got \[4, 8\]"),
        ({"nfe": True}, "nfe must be a whole number"),
        ({"budget": "10min"}, "budget must be a whole number .*optsteps.tune takes times.*, got '10min'"),
        ({"max_batch": 0}, "max_batch must be a whole number of at least 1, got 0"),
        ({"teacher": [80, 1, 0.002]}, "teacher must be a whole number of at least 1 .steps., or a Schedule, got"),
        ({"process": "edm"}, r"process must be an object of optsteps\.processes, such as EDM\(\), got 'edm'"),
        ({"process": EDM}, r"process must be an object of optsteps\.processes, such as EDM\(\), got <class"),
        ({"noise": normal(32, 2).numpy()}, "noise must be a floating tensor .* got ndarray"),
        ({"noise": normal(32)}, r"at least two dimensions, got shape \(32,\) of torch.float32"),
        ({"noise": torch.ones(32, 2, dtype=torch.long)}, "got shape .* of torch.int64"),
        ({"noise_max": 0.002, "noise_min": 80.0}, "largest and then the smallest, got 0.002 and 80"),
    ],
)
def test_arguments_of_another_kind_are_named(changes: dict[str, Any], message: str) -> None:
    arguments = {"denoiser": MIXTURE.denoiser(EDM()), "process": EDM(), "noise": normal(32, 2), "nfe": 4} | changes
    with pytest.raises(ValueError, match=message):
        optsteps.find(**arguments)


def test_a_budget_that_leaves_too_few_samples_for_some_leaves_these_out() -> None:
    """8 of the pool's samples are asked for by OSS on few; with this budget there are 6."""
    found = find(samples=32, nfe=4, teacher=20, budget=3000)
    assert any("wants 8 samples and the problem has 6" in one for one in found.search.evidence["decisions"])
