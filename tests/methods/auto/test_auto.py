"""Auto on small mixtures: who wins, what it costs, and that nothing depends on how the work was divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import PROCESSES, Watched, mixture_problem, noise
from torch import Tensor

from optsteps.denoisers import CountedDenoiser, ModelError
from optsteps.methods import GITS, OSS, Bayesian, HandMade, Method, Path, SearchProblem, SearchResult
from optsteps.methods.auto import Auto
from optsteps.methods.auto.plan import Plan, Refinement
from optsteps.methods.auto.race import Heat
from optsteps.methods.auto.search import finalists
from optsteps.methods.blackbox.search import parts
from optsteps.methods.blackbox.target import Target, loss
from optsteps.methods.candidates import Candidate
from optsteps.methods.nearness import Nearness
from optsteps.methods.refine.coordinates import Coordinates, GapCoordinates
from optsteps.methods.refine.gauss_newton import descended
from optsteps.models.analytic import GaussianMixture
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import Solver, build_solver
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import ALONE, StoredWorkers, Workers
from optsteps.trajectories import Cache

ENTRIES = 8
SAMPLES, FIT, RACE = 72, 16, 32
TEACHER = 14
STEPS = [3, 5]


def pool() -> dict[str, Method]:
    return {
        "logsnr": HandMade("logsnr"),
        "edm": HandMade("edm"),
        "cosine": HandMade("cosine", scale="data"),
        "gits": GITS(),
    }


def counted(problem: SearchProblem) -> SearchProblem:
    return replace(problem, denoiser=CountedDenoiser(problem.denoiser))


def problem_of(process: str = "edm", solver: str = "euler", samples: int = SAMPLES) -> SearchProblem:
    data = GaussianMixture(noise(4, ENTRIES, seed=3), torch.tensor([0.1, 0.2, 0.4, 0.3]))
    problem = mixture_problem(process, 1, TEACHER)
    denoiser = Watched(data.denoiser(PROCESSES[process]))
    return replace(problem, denoiser=denoiser, noise=noise(samples, ENTRIES), solver=build_solver(solver))


def evaluated(problem: SearchProblem) -> int:
    assert isinstance(problem.denoiser, Watched)
    return sum(problem.denoiser.batches)


def levels(problem: SearchProblem, schedules: Sequence[Schedule], index: Tensor) -> Tensor:
    """-10 log10 of the mean squares [C, b], by `sample` alone."""
    start = problem.noise[index]
    goal = sample(problem.denoiser, problem.teacher, problem.walker, start)
    ends = [sample(problem.denoiser, schedule, problem.solver, start) for schedule in schedules]
    return -10 * torch.stack([(end - goal).square().mean(1) for end in ends]).log10()


def same(one: SearchResult, other: SearchResult) -> None:
    for n, schedule in one.schedules.items():
        torch.testing.assert_close(schedule.times, other.schedules[n].times, rtol=1e-9, atol=1e-12)
        assert schedule.metadata == other.schedules[n].metadata
    assert (one.evaluations, one.nfe) == (other.evaluations, other.nfe)


# --- several solvers


def several(*names: str) -> dict[str, Solver]:
    return {name: build_solver(name) for name in names}


def test_the_best_of_several_solvers_is_found_at_equal_evaluations() -> None:
    problem, names = problem_of("edm", "dpmpp_2m"), ("dpmpp_2m", "euler", "heun")
    result = Auto(pool(), several(*names)).search(problem, [3, 5])
    for n, schedule in result.schedules.items():
        solver = result.solvers[n]
        assert schedule.metadata["solver"] == solver.name
        assert solver.nfe(schedule) == n
        finalists = result.evidence["heats"][n][-1]
        # what the race says of every finalist is what `sample` says with the solver that it names
        index = torch.arange(finalists.samples)
        for one, level in zip(finalists.ran, finalists.levels, strict=True):
            own = replace(problem, solver=build_solver(one.solver), teacher_solver=problem.walker)
            assert levels(own, [one.schedule], index).mean().item() == pytest.approx(level, abs=1e-3)
        assert all(f" with {one.solver}" in name for one in finalists.ran for name in one.names)


def test_one_of_several_solvers_is_as_it_is_alone() -> None:
    problem = problem_of("edm", "dpmpp_2m")
    one, alone = Auto(pool(), several("dpmpp_2m")).search(problem, STEPS), Auto(pool()).search(problem, STEPS)
    same(one, alone)
    assert {solver.name for solver in one.solvers.values()} == {"dpmpp_2m"}
    assert not alone.solvers


def test_a_solver_that_cannot_take_as_many_evaluations_sits_out() -> None:
    problem = problem_of("edm", "euler")
    plan = Auto(pool(), several("euler", "dpm2")).plan(replace(problem, teacher=without_clean_end(problem)), [3, 4])
    assert plan.lanes["dpm2"].counts == {4: 2}
    assert plan.lanes["euler"].counts == {3: 3, 4: 4}
    plan = Auto(pool(), several("euler", "dpm2")).plan(replace(problem, teacher=without_clean_end(problem)), [3])
    assert list(plan.lanes) == ["euler"]
    assert "dpm2, which has no number of steps that takes as many evaluations" in plan.left_out


def without_clean_end(problem: SearchProblem) -> Schedule:
    """The teacher without its last step to noise level 0, the only one that costs a two-stage solver one evaluation."""
    return replace(problem.teacher, times=problem.teacher.times[:-1])


def test_a_small_budget_keeps_the_first_solver() -> None:
    problem = problem_of("edm", "euler")
    auto = Auto(pool(), several("euler", "dpmpp_2m"))
    whole = auto.plan(problem, STEPS)
    plan = whole
    while len(plan.lanes) > 1:
        plan = whole.within(plan.evaluations - 1)
    assert list(plan.lanes) == ["euler"]
    assert "dpmpp_2m, for the budget" in plan.left_out


# --- samples


@given(st.integers(4, 5000), st.integers(1, 5000))
def test_every_sample_has_one_part(samples: int, entries: int) -> None:
    problem = replace(problem_of(), noise=torch.tensor([1.0, -1.0]).repeat(entries)[:entries].expand(samples, entries))
    plan = Plan.whole(problem, [3], pool(), {"": problem.solver}, ["times"], 6, False)
    fit, held = plan.fit, plan.held
    assert torch.cat([torch.arange(fit), *held]).tolist() == list(range(samples))
    assert plan.racing.tolist() == list(range(2 * fit))
    assert plan.brief.tolist() == list(range(min(fit, max(4, fit // 4))))
    assert held[0].tolist() == plan.racing[fit:].tolist()
    assert fit == samples // 2 or (fit >= 16 and fit * entries >= 48)
    assert all(len(part) > 0 for part in held)


# --- the winner


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("process", PROCESSES)
def test_the_winner_is_the_best_of_the_finalists(process: str, solver: str) -> None:
    problem = problem_of(process, solver)
    found = Auto(pool(), refine=False).search(problem, STEPS)
    for n in STEPS:
        heats = found.evidence["heats"][n]
        assert {name for candidate in heats[0].ran for name in candidate.names} == set(pool())
        finalists = heats[-1].ran
        measured = levels(problem, [one.schedule for one in finalists], torch.arange(heats[-1].samples)).mean(1)
        assert measured.argmax() == 0
        assert heats[-1].levels == pytest.approx(measured.tolist(), abs=1e-6)
        assert torch.equal(found.schedules[n].times, finalists[0].schedule.times)
        assert found.schedules[n].metadata["from"] == list(finalists[0].names)
        assert found.schedules[n].metadata["solver"] == solver
        assert found.schedules[n].steps == n


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("process", PROCESSES)
def test_refined_it_is_better_on_samples_that_no_step_saw(process: str, solver: str) -> None:
    problem = problem_of(process, solver)
    plain, found = (Auto(pool(), refine=refine).search(problem, STEPS) for refine in (False, True))
    fresh = replace(problem, noise=noise(200, ENTRIES, seed=7))
    for n in STEPS:
        [refined] = found.evidence["refined"][n]
        assert torch.equal(refined.iterates[0].times, plain.schedules[n].times)
        if refined.taken:
            was, now = levels(fresh, [plain.schedules[n], found.schedules[n]], torch.arange(200)).mean(1)
            assert now > was
    assert any(one.taken for (one,) in found.evidence["refined"].values())


# --- the finalists


def heat(*ran: Candidate) -> Heat:
    return Heat(2, list(ran), [0.0] * len(ran), len(ran))


def test_finalists_are_the_best_of_different_methods_with_the_winner_s_solver() -> None:
    schedule = HandMade("edm").schedules(problem_of(), 3)[0]
    first, again, second, third, other = (
        Candidate((name,), schedule, solver)
        for name, solver in (("a", "x"), ("a", "x"), ("b", "x"), ("c", "x"), ("d", "y"))
    )
    heats = [heat(other, third, second, again, first), heat(first, again, second)]
    assert finalists(heats, 3) == [first, second, third]
    assert finalists(heats, 9) == [first, second, third]
    assert finalists(heats, 1) == [first]


@pytest.mark.parametrize("process", PROCESSES)
def test_the_finalist_goes_on_that_is_nearest_after_two_rounds(process: str) -> None:
    problem = problem_of(process)
    found = Auto(pool()).search(problem, [3])
    [refined] = found.evidence["refined"][3]
    fit = Nearness(counted(problem), ALONE)
    tried = {
        one.names: descended(GapCoordinates(one.schedule), fit, torch.arange(4), 2)
        for one in finalists(found.evidence["heats"][3], 3)
    }
    assert len(tried) == 3
    nearest = levels(problem, list(tried.values()), torch.arange(FIT)).mean(1).argmax()
    torch.testing.assert_close(refined.iterates[1].times, list(tried.values())[nearest].times, rtol=1e-9, atol=1e-12)
    assert refined.taken
    assert found.schedules[3].metadata["from"] == list(list(tried)[nearest])


def test_what_no_refinement_is_better_than_stays_the_winner_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever led the finalists."""

    def worse(coordinates: Coordinates, *rest: Any) -> Schedule:
        return HandMade("time_uniform").schedules(problem_of(), 3)[0]

    def nothing(*rest: Any) -> list[Tensor]:
        return []

    monkeypatch.setattr("optsteps.methods.auto.search.descended", worse)
    monkeypatch.setattr("optsteps.methods.refine.gauss_newton._descent", nothing)
    found = Auto(pool()).search(problem_of(), [3])
    winner = found.evidence["heats"][3][-1].ran[0]
    assert torch.equal(found.schedules[3].times, winner.schedule.times)
    assert found.schedules[3].metadata["from"] == list(winner.names)


def test_a_budget_leaves_out_finalists_and_cuts_refinement_before_it_goes() -> None:
    problem = problem_of("edm", "dpmpp_2m")
    plan = whole = Plan.whole(problem, STEPS, methods(), {"": problem.solver}, ["times"], 6, False)
    seen = [(plan.finalists, plan.rounds, bool(plan.refinements))]
    while plan.refinements:
        plan = whole.within(plan.evaluations - 1)
        seen.append((plan.finalists, plan.rounds, bool(plan.refinements)))
        found = Auto(methods(), budget=plan.evaluations).search(problem, STEPS)
        assert ("the finalists" in found.evidence["stages"]) == (plan.finalists > 1)
        for refined in (one for some in found.evidence["refined"].values() for one in some):
            assert len(refined.iterates) <= 1 + (plan.finalists > 1) + plan.rounds
    kinds = list(dict.fromkeys(seen))
    assert kinds == [(3, 6, True), (1, 6, True), (1, 2, True), (1, 2, False)]
    assert "all but 2 rounds of every refinement, for the budget" in plan.left_out


# --- what else is refined


def test_weights_are_refined_for_multistep_solvers_alone() -> None:
    for solver in ("dpmpp_2m", "heun"):
        found = Auto(pool(), weights=True, rounds=2).search(problem_of("edm", solver), [4])
        times, *weights, start = found.evidence["refined"][4]
        assert all(schedule.weights is None for schedule in times.iterates)
        tried = [schedule.weights is not None for one in weights for schedule in one.iterates[1:]]
        assert all(tried)
        assert (len(tried) > 0) == (solver == "dpmpp_2m")
        assert all((schedule.weights is not None) == bool(tried) for schedule in start.iterates[1:])
        assert all(schedule.initial_scale is None for one in (times, *weights) for schedule in one.iterates)
        assert all(schedule.initial_scale is not None for schedule in start.iterates[1:])


@pytest.mark.parametrize("weights", [False, True])
def test_told_times_are_refined_for_solvers_of_one_evaluation_a_step(weights: bool) -> None:
    for solver in ("dpmpp_2m", "heun"):
        found = Auto(pool(), told_times=True, weights=weights, rounds=2).search(problem_of("edm", solver), [4])
        times, *others = found.evidence["refined"][4]
        assert all(schedule.told_times is None for schedule in times.iterates)
        if solver == "heun":
            assert all(schedule.told_times is schedule.weights is None for one in others for schedule in one.iterates)
            continue
        told, *weighted = others
        assert all(schedule.told_times is not None for schedule in told.iterates[1:])
        assert all(schedule.weights is None for schedule in told.iterates)
        assert len(weighted) == 2 * weights  # with them the start is free
        for one in weighted:
            assert all(None not in (schedule.told_times, schedule.weights) for schedule in one.iterates[1:])


def test_told_times_come_nearer_to_the_teacher_on_unseen_samples() -> None:
    problem = problem_of("edm", "euler")
    plain, found = (Auto(pool(), told_times=told).search(problem, [3, 5]) for told in (False, True))
    fresh = replace(problem, noise=noise(200, ENTRIES, seed=7))
    for n in (3, 5):
        assert found.schedules[n].told_times is not None
        was, now = levels(fresh, [plain.schedules[n], found.schedules[n]], torch.arange(200)).mean(1)
        assert now > was


def test_a_free_start_is_searched_where_it_is_wanted() -> None:
    methods = {**pool(), "oss_free": OSS(start="free", grid_steps=7)}
    plain, free = (Auto(methods, start=start).search(problem_of(), [3]) for start in ("teacher", "free"))
    names = [{name for one in found.evidence["heats"][3][0].ran for name in one.names} for found in (plain, free)]
    assert names == [set(pool()), set(methods)]
    teacher, schedule = problem_of().teacher, free.schedules[3]
    assert plain.schedules[3].times[0] == teacher.times[0]
    assert plain.schedules[3].initial_scale is None
    assert schedule.initial_scale is not None
    assert schedule.noise_levels[0] <= teacher.noise_levels[0]
    fresh = replace(problem_of(), noise=noise(200, ENTRIES, seed=7))
    was, now = levels(fresh, [plain.schedules[3], schedule], torch.arange(200)).mean(1)
    assert now > was + 1
    assert Auto(pool()).start == "teacher"
    assert Auto(pool(), weights=True).start == "free"
    with pytest.raises(ValueError, match="start must be 'teacher', 'free' or None, got 'late'"):
        Auto(pool(), start="late")  # type: ignore[arg-type]


def test_the_range_of_the_winner_s_family_is_told() -> None:
    for name, method in {"cosine": HandMade("cosine", scale="data"), "edm": HandMade("edm", noise_max=5.0)}.items():
        found = Auto({name: method}).search(problem_of("flow"), [3])
        winner = found.evidence["heats"][3][-1].ran[0].schedule
        metadata = found.schedules[3].metadata
        assert metadata.get("range") == winner.metadata.get("range")
        assert ("range" in metadata) or name == "cosine"
        assert found.schedules[3].times[0] == winner.times[0]
        assert "start" not in metadata


# --- what it costs


def prefixes(schedules: Sequence[Schedule]) -> int:
    """Evaluations of one sample for walks that start at one scale and take Euler's steps."""
    return len({tuple(s.times.tolist()[: i + 1]) for s in schedules for i in range(s.steps)})


def test_the_teacher_is_walked_once_whoever_asks_for_it() -> None:
    problem = problem_of()
    found = Auto(pool(), refine=False).search(problem, STEPS)
    heats = found.evidence["heats"]
    # those whom the race cannot tell apart go on over further samples
    expected = max(RACE, *(heats[n][-1].samples for n in STEPS)) * TEACHER
    for n in STEPS:
        seen = 0
        for heat in heats[n]:
            expected += (heat.samples - seen) * prefixes([one.schedule for one in heat.ran])
            seen = heat.samples
    assert found.evaluations == expected == evaluated(problem)
    assert found.nfe == expected / SAMPLES


@pytest.mark.parametrize("weights", [False, True])
def test_every_evaluation_is_counted_and_no_sample_is_asked_that_is_not_needed(weights: bool) -> None:
    problem = problem_of("edm", "dpmpp_2m")
    found = Auto({**pool(), "path": Path()}, weights=weights).search(problem, [4])
    assert found.evaluations == evaluated(problem)
    asked = max(one.samples for one in found.evidence["refined"][4])
    assert asked in (RACE - FIT, 2 * (RACE - FIT), SAMPLES - FIT)
    assert sum(found.evidence["stages"].values()) == found.evaluations


# --- how the work is divided


@pytest.mark.parametrize("weights", [False, True])
def test_shards_of_any_size_find_the_same(weights: bool) -> None:
    one, other = (
        Auto(pool(), weights=weights, rounds=2, shard_size=size).search(problem_of("edm", "dpmpp_2m", 12), [4])
        for size in (1, 8)
    )
    same(one, other)
    for n in one.schedules:
        kept = [found.schedules[n].weights for found in (one, other)]
        if kept[0] is not None:
            torch.testing.assert_close(*kept, rtol=1e-7, atol=1e-9)


def stored(folder: File, problem: SearchProblem) -> tuple[SearchProblem, Workers]:
    cache = Cache(StoredWorkers(ShardStore(folder / "walks"), {}))
    return replace(problem, cache=cache), StoredWorkers(ShardStore(folder / "shards"), {})


def methods() -> dict[str, Method]:
    return {**pool(), "path": Path()}


def test_a_store_changes_nothing_and_nothing_is_computed_again(tmp_path: File) -> None:
    problem = problem_of("flow", "dpmpp_2m")
    expected = Auto(methods(), rounds=2).search(problem, STEPS, ALONE)
    for again in (False, True):
        fresh = problem_of("flow", "dpmpp_2m")
        same(Auto(methods(), rounds=2).search(*_with_steps(stored(tmp_path, fresh))), expected)
        assert evaluated(fresh) == (0 if again else expected.evaluations)


def _with_steps(where: tuple[SearchProblem, Workers]) -> tuple[SearchProblem, list[int], Workers]:
    return where[0], STEPS, where[1]


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_a_search_that_was_broken_off_goes_on(share: float, tmp_path: File) -> None:
    expected = Auto(methods(), rounds=2).search(problem_of("flow", "dpmpp_2m"), STEPS)
    broken = problem_of("flow", "dpmpp_2m")
    inner = broken.denoiser

    def breaks(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        if evaluated(broken) > share * expected.evaluations:
            raise RuntimeError("the machine was turned off")
        return inner(x, t, cond)

    with pytest.raises(ValueError, match="turned off"):
        Auto(methods(), rounds=2).search(*_with_steps(stored(tmp_path, replace(broken, denoiser=breaks))))
    same(Auto(methods(), rounds=2).search(*_with_steps(stored(tmp_path, broken))), expected)
    # what was lost is at most a shard's work
    assert expected.evaluations <= evaluated(broken) < 1.3 * expected.evaluations


def test_a_search_of_its_own_counts_by_itself_whatever_auto_kept(tmp_path: File) -> None:
    """A method of the pool finds the teacher's walk paid for; a run of the same method does not."""
    problem, workers = stored(tmp_path, problem_of())
    Auto(pool(), refine=False).search(problem, STEPS, workers)
    alone = replace(problem, noise=problem.noise[:FIT])
    assert GITS().search(alone, STEPS, workers).evaluations == FIT * TEACHER
    assert HandMade("cosine", scale="data").search(alone, STEPS, workers).evaluations == FIT * TEACHER


# --- who takes part


def test_a_method_that_cannot_take_part_is_left_out_and_why_is_told() -> None:
    problem = problem_of()
    found = Auto(pool(), refine=False).search(problem, [TEACHER + 1])
    [told] = [one for one in found.evidence["decisions"] if one.startswith("left out")]
    assert "gits, which cannot take part (15 student steps were asked for, but the teacher has only 14" in told
    assert "logsnr" not in told
    ran = found.evidence["heats"][TEACHER + 1][0].ran
    assert {name for one in ran for name in one.names} == set(pool()) - {"gits"}
    complete = Auto(pool(), refine=False).search(problem, [3])
    assert not any("left out" in one for one in complete.evidence["decisions"])


class Finds(HandMade):
    """A hand-made schedule that cannot be made of what it finds."""

    def __init__(self, error: Exception) -> None:
        super().__init__("edm")
        self.error = error

    def proposals(self, *_: Any) -> Any:
        raise self.error


def test_a_method_that_finds_nothing_is_left_out_but_a_model_that_fails_is_told() -> None:
    found = Auto({**pool(), "finds": Finds(ValueError("all samples are one"))}, refine=False).search(problem_of(), [3])
    assert any("finds, which finds nothing here (all samples are one)" in one for one in found.evidence["decisions"])
    with pytest.raises(ModelError, match="the network failed"):
        Auto({**pool(), "finds": Finds(ModelError("the network failed"))}).search(problem_of(), [3])
    with pytest.raises(ValueError, match="no method of the pool found a schedule"):
        Auto({"finds": Finds(ValueError("nothing"))}).search(problem_of(), [3])


def test_decisions_tell_who_won_and_what_was_gained() -> None:
    found = Auto(pool()).search(problem_of(), STEPS)
    for n in STEPS:
        best = " and ".join(found.evidence["heats"][n][-1].ran[0].names)
        assert any(one.startswith(f"{n} steps: {best} wins the race") for one in found.evidence["decisions"])
        [told] = [one for one in found.evidence["decisions"] if "refine" in one and one.startswith(f"{n} steps")]
        [refined] = found.evidence["refined"][n]
        assert ("stays as it was" in told) == (not refined.taken)
    assert f"({found.evaluations:,} evaluations so far)" in found.evidence["decisions"][-1]


def test_orders_are_chosen_where_a_method_of_the_pool_chooses_them() -> None:
    problem = problem_of("edm", "dpmpp_2m")
    assert not Auto(pool()).chooses_orders(problem)
    assert Auto(methods()).chooses_orders(problem)


def test_what_auto_cannot_search_is_refused_before_anything_is_spent() -> None:
    problem = problem_of()
    with pytest.raises(ValueError, match="the pool is empty"):
        Auto({})
    with pytest.raises(ValueError, match="needs at least 4, got 3"):
        Auto(pool()).search(replace(problem, noise=problem.noise[:3]), [3])
    for part in ("solver", "teacher_solver"):
        with pytest.raises(ValueError, match="stochastic solver 'sde_dpmpp_2m' does not repeat"):
            Auto(pool()).search(replace(problem, **{part: build_solver("sde_dpmpp_2m")}), [3])
    with pytest.raises(
        ValueError, match=r"no method of the pool can take part: gits, which cannot take part \(15 student steps"
    ):
        Auto({"gits": GITS()}).search(problem, [15])
    with pytest.raises(ValueError, match="at least 1"):
        Auto(pool()).search(problem, [0])
    assert evaluated(problem) == 0


# --- a budget


@pytest.mark.parametrize("weights", [False, True])
def test_a_plan_fits_its_budget_and_says_what_it_leaves_out(weights: bool) -> None:
    problem = problem_of("edm", "dpmpp_2m")
    wanted: list[Refinement] = ["times", "told times", "weights"]
    whole = Plan.whole(
        problem,
        STEPS,
        {**methods(), "oss": OSS(grid_steps=7)},
        {"": problem.solver},
        wanted[: 3 if weights else 1],
        6,
        False,
    )
    kept = whole.within(whole.evaluations)
    assert replace(kept, problem=whole.problem) == whole
    assert len(kept.problem.noise) == kept.asked == min(3 * whole.fit, SAMPLES)
    assert kept.evaluations == whole.evaluations
    plan = whole
    while plan.refinements:
        smaller = whole.within(plan.evaluations - 1)
        assert smaller.evaluations < plan.evaluations
        plan = smaller
    with pytest.raises(ValueError, match=f"the smallest takes about {plan.evaluations:,}"):
        whole.within(plan.evaluations - 1)
    assert plan.fit == 4
    assert "oss" not in plan.pool
    told = "; ".join(plan.left_out)
    assert "oss" in told
    assert "all refinement" in told
    assert ("refined weights" in told) == ("refined told times" in told) == weights


@pytest.mark.parametrize("steps", [40, 41])
def test_a_budget_thins_a_teacher_that_stays_far_finer_than_the_schedules(steps: int) -> None:
    problem = problem_of("edm", "dpmpp_2m")
    problem = replace(problem, teacher=build_schedule("edm", problem.process, steps, 80.0, 0.002))
    whole = Plan.whole(problem, STEPS, methods(), {"": problem.solver}, ["times"], 6, False)
    coarse = whole.coarser()
    assert coarse is not None
    fine, kept = problem.teacher.times, coarse.problem.teacher.times
    assert kept.tolist() == [*fine[:-1:2].tolist(), float(fine[-1])]
    assert coarse.lanes[""].problem.teacher == coarse.problem.teacher
    assert coarse.stages["the teacher"] == whole.stages["the teacher"] // steps * -(-steps // 2)
    few = whole
    while few.problem.teacher.steps == steps:
        few = whole.within(few.evaluations - 1)
    assert f"every second of the teacher's {steps} steps, for the budget" in few.left_out
    found = Auto(methods(), budget=few.evaluations).search(problem, STEPS)
    assert {schedule.metadata["teacher_steps"] for schedule in found.schedules.values()} == {-(-steps // 2)}
    scarce = replace(problem, teacher=build_schedule("edm", problem.process, 8 * max(STEPS) - 1, 80.0, 0.002))
    assert Plan.whole(scarce, STEPS, methods(), {"": problem.solver}, ["times"], 6, False).coarser() is None


def test_a_search_within_a_budget_spends_about_that() -> None:
    problem = problem_of("edm", "dpmpp_2m")
    free = Auto(methods(), weights=True).search(problem, STEPS).evaluations
    found = Auto(methods(), weights=True, budget=free // 3).search(problem, STEPS)
    assert found.evaluations < free / 2
    with pytest.raises(ValueError, match="positive number of evaluations, got 0"):
        Auto(pool(), budget=0)
    with pytest.raises(ValueError, match="a search of 7 evaluations cannot be made here"):
        Auto(pool(), budget=7).search(problem, STEPS)


@pytest.mark.parametrize("samples", [4, 7])
def test_few_samples_suffice(samples: int) -> None:
    found = Auto(pool(), weights=True, rounds=2).search(problem_of("vp", "dpmpp_2m", samples), [1, 2, 4])
    assert {n: schedule.steps for n, schedule in found.schedules.items()} == {1: 1, 2: 2, 4: 4}


# --- other criteria


def test_by_another_criterion_the_pool_is_judged_by_it_and_the_search_goes_on_from_the_best() -> None:
    pytest.importorskip("sklearn")
    data = GaussianMixture(noise(4, ENTRIES, seed=3), torch.tensor([0.1, 0.2, 0.4, 0.3])).sample(256)
    problem = replace(problem_of(), data=data)
    stage = Bayesian("nearness", {}, free_ends=False, rounds=3, batch=2)
    found = Auto(pool(), criterion="data_distance", last_stage=stage).search(problem, STEPS)
    by_nearness = Auto(pool()).search(problem, STEPS)
    assert found.evaluations == evaluated(problem) - by_nearness.evaluations
    assert sum(found.evidence["stages"].values()) == found.evaluations
    for n in STEPS:
        sought = found.evidence["sought"][n]
        candidates = by_nearness.evidence["heats"][n][0].ran
        assert len(sought.trials) == len(candidates) + 6
        on = [Target(counted(problem.part(part)), "data_distance", ALONE) for part in parts(SAMPLES)]
        schedules = [candidate.schedule for candidate in candidates]
        answers = on[0].answers(schedules)
        distances = [loss(answer.criterion) for answer in answers]
        assert sorted(distances) == pytest.approx(sorted(sought.trials.values[: len(candidates)].tolist()), rel=1e-9)
        best = answers[distances.index(min(distances))].criterion
        gaps = [answer.criterion.difference(best) for answer in answers]
        as_good = [k for k, gap in enumerate(gaps) if gap is not None and gap.low <= 0]
        assert len(as_good) == sought.as_good
        nearness = Target(counted(problem), "nearness", ALONE).measured([schedules[k] for k in as_good])
        levels = [one.interval.value for one in nearness]
        nearest = schedules[as_good[levels.index(max(levels))]]
        assert torch.equal(sought.incumbent.schedule.times, nearest.times)
        assert found.schedules[n].metadata["criterion"] == "data_distance"
        assert found.schedules[n].metadata["method"] == "auto"


def test_a_criterion_needs_a_last_stage_that_can_search_by_it() -> None:
    stage = Bayesian("nearness", {})
    with pytest.raises(ValueError, match="is searched by the last stage"):
        Auto(pool(), criterion="geneval")
    with pytest.raises(ValueError, match="weights=True"):
        Auto(pool(), criterion="geneval", last_stage=stage, weights=True)
    with pytest.raises(ValueError, match="a budget is for criterion=nearness"):
        Auto(pool(), criterion="geneval", last_stage=stage, budget=5000)
    with pytest.raises(ValueError, match="criterion=geneval, but the criteria here are nearness, data_distance"):
        Auto(pool(), criterion="geneval", last_stage=stage).check(problem_of(), STEPS)


def test_settings_without_their_method_are_no_member_of_a_pool() -> None:
    for search in (Auto, lambda pool: Bayesian("nearness", pool)):
        with pytest.raises(ValueError, match=r"oss of the pool is no method but .*remove it with ~method\.pool\.oss"):
            search({**pool(), "oss": {"grid_steps": 25}})  # type: ignore[dict-item]
