"""Searches by a figure: its samples and prompts, common noise, fresh noise for the winner, and how work is divided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from problems import Watched, mixture_problem, noise, three_gaussians
from torch import Tensor
from torch.distributed import HashStore

from optsteps.datasets.scene_prompts import prompts_of_all_tasks
from optsteps.denoisers import ModelError, counting
from optsteps.methods import CMAES, OSS, Bayesian, Evolution, HandMade, Method, SearchProblem, SearchResult
from optsteps.methods.blackbox.search import BlackBox, as_good_as_the_best, parts
from optsteps.methods.blackbox.target import Answer, Target, difference_error, loss, standard_error
from optsteps.metrics.base import Judge, Measurement, sample_wise
from optsteps.metrics.geneval.judge import ScoreMeasurement
from optsteps.metrics.geneval.rules import Judgement
from optsteps.metrics.geneval.score import GenEvalScore
from optsteps.metrics.judges import CoordinateJudge, FunctionJudge
from optsteps.metrics.statistics import Interval
from optsteps.metrics.toy import DistributionJudge
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.solvers import build_solver
from optsteps.storage.division import Division
from optsteps.storage.shards import pack, unpack
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import ALONE, StoredWorkers, Workers
from optsteps.trajectories import Cache

SAMPLES, STEPS = 64, 3


def pool() -> dict[str, Method]:
    return {"logsnr": HandMade("logsnr"), "edm": HandMade("edm"), "time_uniform": HandMade("time_uniform")}


def problem_of(process: str = "edm", samples: int = SAMPLES, judges: Any = None) -> SearchProblem:
    problem = mixture_problem(process, samples, 24)
    return replace(problem, denoiser=Watched(problem.denoiser), judges=judges)


def searches(criterion: str, **settings: Any) -> dict[str, BlackBox]:
    pytest.importorskip("sklearn")
    pytest.importorskip("cmaes")
    return {
        "evolution": Evolution(criterion, pool(), rounds=3, population=10, mutants=5, crossovers=3, **settings),
        "bayesian": Bayesian(criterion, pool(), rounds=4, batch=3, **settings),
        "cmaes": CMAES(criterion, pool(), rounds=3, population=5, **settings),
    }


def radius(x: Tensor, prompts: Any) -> Tensor:
    return x.norm(dim=1)


def by_radius(numbers: Sequence[int]) -> list[Judge]:
    return [FunctionJudge(radius, "radius", higher_is_better=False)]


class ManyJudge(FunctionJudge):
    """It needs at least 16 samples."""

    def __init__(self) -> None:
        super().__init__(radius, "many")

    def check(self, samples: int, shape: Any) -> None:
        if samples < 16:
            raise ValueError(f"it needs at least 16 samples, and there are {samples}")


# --- the target


def test_it_is_measured_on_its_own_samples_and_their_prompts() -> None:
    asked = list[list[str]]()

    def liked(x: Tensor, prompts: list[str]) -> Tensor:
        asked.append(prompts)
        return x[:, 0]

    def judges(numbers: Sequence[int]) -> list[Judge]:
        return [FunctionJudge(liked, "liked", prompts=[f"prompt {k}" for k in numbers])]

    problem = problem_of(judges=judges)
    some = torch.tensor([5, 3, 40])
    part = problem.part(some).part(torch.tensor([2, 0]))
    (measurement,) = measured(part, "liked", [HandMade("edm").schedules(problem, STEPS)[0]])
    assert asked == [["prompt 40", "prompt 5"]]
    schedule = HandMade("edm").schedules(problem, STEPS)[0]
    ends = sample(problem.denoiser, schedule, problem.solver, problem.noise[[40, 5]])
    assert measurement.interval.value == pytest.approx(float(ends[:, 0].mean()), rel=1e-9)
    assert loss(measurement) == -measurement.interval.value


def measured(problem: SearchProblem, criterion: str, schedules: Sequence[Schedule]) -> list[Measurement]:
    with counting(problem.denoiser) as counted:
        return Target(replace(problem, denoiser=counted), criterion, ALONE).measured(schedules)


def test_a_search_sees_no_sample_but_its_own() -> None:
    """The samples that are searched, re-scored and re-tested on are different ones."""
    seen = list[int]()

    def judges(numbers: Sequence[int]) -> list[Judge]:
        seen.extend(numbers)
        return by_radius(numbers)

    searches("radius")["evolution"].search(problem_of(judges=judges), [STEPS])
    assert set(seen) == set(range(SAMPLES))
    some = parts(SAMPLES)
    assert torch.cat(some).tolist() == list(range(SAMPLES))
    assert [len(part) for part in some] == [32, 16, 16]


@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
def test_common_noise_lowers_the_variance_of_differences(process: str) -> None:
    """Over repetitions with noise of their own, and as the figure says of itself."""
    one, other = (HandMade("edm", rho=rho, noise_min=0.02).schedules(problem_of(process), 6)[0] for rho in (7.0, 6.0))
    together, apart, said = list[float](), list[float](), list[float]()
    for seed in range(20):
        problem, further = (
            replace(problem_of(process, judges=by_radius), noise=noise(64, 2, seed=s)) for s in (seed, 100 + seed)
        )
        a, b = measured(problem, "radius", [one, other])
        (c,) = measured(further, "radius", [other])
        together.append(loss(a) - loss(b))
        apart.append(loss(a) - loss(c))
        said.append(difference_error(a, b))
        assert difference_error(a, b) < (standard_error(a) ** 2 + standard_error(b) ** 2) ** 0.5 / 2
    spread, wide = torch.tensor(together).std(), torch.tensor(apart).std()
    assert spread < wide / 2
    assert torch.tensor(said).mean() == pytest.approx(float(spread), rel=0.6)


def test_who_measures_nothing_is_refused() -> None:
    problem = problem_of(judges=by_radius)
    with pytest.raises(ValueError, match=r"criterion=radios, .* are nearness, data_distance, radius"):
        Evolution("radios", pool()).check(problem, [STEPS])
    with pytest.raises(ValueError, match="criterion=data_distance needs clean samples"):
        Evolution("data_distance", pool()).check(problem, [STEPS])
    neither = replace(problem, judges=lambda numbers: [DistributionJudge(three_gaussians(), 64)])
    with pytest.raises(ValueError, match="neither a high nor a low nll is better"):
        Evolution("nll", pool()).check(neither, [STEPS])
    with pytest.raises(ValueError, match="no method of the pool can take part: oss_free"):
        Evolution("nearness", {"oss_free": OSS(grid_steps=2)}).check(problem, [STEPS])
    with pytest.raises(ValueError, match="at least 8 samples are needed, got 7"):
        Evolution("radius", pool()).check(problem_of(samples=7, judges=by_radius), [STEPS])
    few = problem_of(samples=48, judges=lambda _: [ManyJudge()])
    with pytest.raises(ValueError, match="at least 16 samples, and there are 12"):
        Evolution("many", pool()).check(few, [STEPS])
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        Evolution("radius", pool(), rounds=0)


class Finds(HandMade):
    """A hand-made schedule that cannot be made of what it finds."""

    def __init__(self, error: Exception) -> None:
        super().__init__("edm")
        self.error = error

    def proposals(self, *_: Any) -> Any:
        raise self.error


def test_a_method_that_finds_nothing_is_left_out_but_a_model_that_fails_is_told() -> None:
    problem = problem_of(judges=by_radius)

    def searched(**others: Method) -> SearchResult:
        search = Evolution("radius", {"logsnr": HandMade("logsnr"), **others}, rounds=1, population=40)
        return search.search(problem, [STEPS])

    found = searched(finds=Finds(ValueError("all samples are one")))
    assert found.evidence["decisions"][0] == "left out: finds, which finds nothing here (all samples are one)"
    assert found.evidence["sought"][STEPS].incumbent.names == ("logsnr",)
    with pytest.raises(ModelError, match="the network failed"):
        searched(finds=Finds(ModelError("the network failed")))
    with pytest.raises(ValueError, match="no method of the pool found a schedule: logsnr, which finds nothing here"):
        searched(logsnr=Finds(ValueError("nothing")))


# --- the winner


def answer(liked: Tensor, nearness: float) -> Answer:
    return Answer(sample_wise(liked, True), torch.full((len(liked),), nearness))


def test_who_may_be_as_good_as_the_best() -> None:
    common, own = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).split([1, 2])
    good = common[0]
    as_good = good - 0.01 + 0.1 * own[0]  # a hundredth behind, and its difference is uncertain by more than that
    worse = good - 1.0 + 0.1 * own[1]
    assert as_good_as_the_best([answer(worse, 40.0), answer(good, 10.0), answer(as_good, 20.0)]) == [1, 2]
    assert as_good_as_the_best([answer(worse, 40.0), answer(good, 10.0)]) == [1]
    # what diverged is nobody's equal
    diverged = Answer(Measurement(Interval(math.nan, math.nan, math.nan), True), answer(good, 40.0).nearness)
    assert as_good_as_the_best([diverged, answer(worse, 1.0)]) == [1]
    assert as_good_as_the_best([diverged]) == [0]


def test_the_incumbent_is_the_nearest_on_all_samples_of_those_that_may_be_as_good() -> None:
    """By a figure of pure noise all may be."""

    def chance(x: Tensor, prompts: Any) -> Tensor:
        return (x.double() * 1e9).long()[:, 0] % 1009 / 1009

    problem = problem_of(judges=lambda numbers: [FunctionJudge(chance, "chance")])
    sought = searches("chance")["evolution"].search(problem, [STEPS]).evidence["sought"][STEPS]
    assert sought.as_good > 1
    candidates = {name: one.schedules(problem, STEPS)[0] for name, one in pool().items()}
    levels = [one.interval.value for one in measured(problem, "nearness", list(candidates.values()))]
    assert list(candidates)[levels.index(max(levels))] in sought.incumbent.names


@pytest.mark.parametrize("name", ["evolution", "bayesian", "cmaes"])
@pytest.mark.parametrize("criterion", ["nearness", "radius", "fid", "data_distance"])
def test_every_figure_can_be_searched_by(name: str, criterion: str) -> None:
    def judges(numbers: Sequence[int]) -> list[Judge]:
        fid = CoordinateJudge(three_gaussians(), 512, ["fid"], sets=4)
        return [*by_radius(numbers), fid]

    problem = replace(problem_of(judges=judges), data=three_gaussians().sample(256))
    result = searches(criterion)[name].search(problem, [STEPS])
    sought, schedule = result.evidence["sought"][STEPS], result.schedules[STEPS]
    assert schedule.steps == STEPS
    assert schedule.metadata["criterion"] == criterion
    assert sought.trials.values.isfinite().all()
    assert len(sought.trials) > len(pool())
    assert result.evaluations == sum(problem.denoiser.batches)  # type: ignore[union-attr]
    if sought.taken:
        assert (sought.kept.high < 0) if criterion in ("radius", "fid", "data_distance") else (sought.kept.low > 0)
    else:
        assert torch.equal(schedule.times, sought.incumbent.schedule.times)


def test_a_figure_of_pure_noise_replaces_nobody_more_often_than_its_interval_allows() -> None:
    """Every search has a best that seems better. On fresh noise it is not."""

    def chance(x: Tensor, prompts: Any) -> Tensor:
        bits = (x.double() * 1e9).long() % 1009
        return bits[:, 0].double() / 1009

    def judges(numbers: Sequence[int]) -> list[Judge]:
        return [FunctionJudge(chance, "chance")]

    taken, promised = 0, list[float]()
    for seed in range(20):
        problem = replace(problem_of(judges=judges), noise=noise(SAMPLES, 2, seed=seed))
        result = searches("chance", seed=seed)["evolution"].search(problem, [STEPS])
        sought = result.evidence["sought"][STEPS]
        taken += sought.taken
        promised.append(float(sought.trials.values[: len(pool())].min() - sought.trials.values.min()))
    assert min(promised) >= 0
    assert sum(promised) / len(promised) > 0.02  # the winner's curse
    assert taken <= 3


@pytest.mark.slow
def test_evolution_does_better_than_uniform_times_where_there_is_much_to_gain() -> None:
    problem = replace(problem_of("vp", samples=512), data=three_gaussians().sample(512))
    start = {"time_uniform": HandMade("time_uniform")}
    search = Evolution("data_distance", start, rounds=4, population=20, mutants=10, crossovers=6)
    found = search.search(problem, [STEPS])
    fresh = replace(problem, noise=noise(512, 2, seed=9))
    uniform = HandMade("time_uniform").schedules(problem, STEPS)[0]
    mine, theirs = measured(fresh, "data_distance", [found.schedules[STEPS], uniform])
    assert found.evidence["sought"][STEPS].taken
    assert mine.difference(theirs).high < 0  # type: ignore[union-attr]


# --- the division of the work


def same(one: SearchResult, other: SearchResult) -> None:
    assert torch.equal(one.schedules[STEPS].times, other.schedules[STEPS].times)
    assert one.evidence["decisions"] == other.evidence["decisions"]
    assert torch.equal(one.evidence["sought"][STEPS].trials.values, other.evidence["sought"][STEPS].trials.values)
    assert one.evaluations == other.evaluations


def stored(folder: Path, division: Division | None = None) -> Workers:
    return StoredWorkers(ShardStore(folder), {}, division)


def kept(problem: SearchProblem, folder: Path, division: Division | None = None) -> SearchProblem:
    """The problem whose teacher's walks are kept too."""
    return replace(problem, cache=Cache(stored(folder, division)))


@pytest.mark.parametrize("name", ["evolution", "bayesian", "cmaes"])
def test_a_search_that_was_cut_off_goes_on(name: str, tmp_path: Path) -> None:
    whole = searches("radius")[name].search(problem_of(judges=by_radius), [STEPS])
    allowed = 40

    class Failing(Watched):
        """Ends a search that has only begun."""

        def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            if len(self.batches) >= allowed:
                raise RuntimeError("out of power")
            return super().__call__(x, t, cond)

    problem = problem_of(judges=by_radius)
    cut = replace(problem, denoiser=Failing(problem.denoiser))
    with pytest.raises(ModelError, match="out of power"):
        searches("radius")[name].search(kept(cut, tmp_path), [STEPS], stored(tmp_path))
    again, third = problem_of(judges=by_radius), problem_of(judges=by_radius)
    same(whole, searches("radius")[name].search(kept(again, tmp_path), [STEPS], stored(tmp_path)))
    assert 0 < sum(again.denoiser.batches) < whole.evaluations  # type: ignore[union-attr]
    same(whole, searches("radius")[name].search(kept(third, tmp_path), [STEPS], stored(tmp_path)))
    assert third.denoiser.batches == []  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["evolution", "bayesian", "cmaes"])
def test_two_workers_find_the_same_as_one(name: str, tmp_path: Path) -> None:
    whole = searches("radius")[name].search(problem_of(judges=by_radius), [STEPS])
    results = dict[int, SearchResult]()
    problems, board = [problem_of(judges=by_radius) for _ in range(2)], HashStore()

    def work(rank: int) -> None:
        division = Division(board, rank, 2)
        problem = kept(problems[rank], tmp_path, division)
        results[rank] = searches("radius")[name].search(problem, [STEPS], stored(tmp_path, division))

    threads = [Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(whole, results[0])
    same(whole, results[1])
    walked = [sum(problem.denoiser.batches) for problem in problems]  # type: ignore[union-attr]
    assert sum(walked) == whole.evaluations  # everything is walked once
    assert min(walked) > 0


def test_the_figure_of_a_measurement_that_pairs_with_nothing_has_an_interval() -> None:
    one, other = (Measurement(Interval(value, value - 0.2, value + 0.2), True) for value in (1.0, 1.5))
    assert difference_error(one, other) == pytest.approx(2**0.5 * 0.2 / 1.96, rel=1e-6)


def test_a_stochastic_solver_has_its_noise_in_common_too() -> None:
    problem = replace(problem_of(judges=by_radius), solver=build_solver("sde_dpmpp_2m"))
    schedule = HandMade("edm").schedules(problem, STEPS)[0]
    one, other = (measured(problem, "radius", [schedule])[0] for _ in range(2))
    assert torch.equal(one.values, other.values)  # type: ignore[arg-type]


def test_a_geneval_score_is_kept_with_all_that_pairs_it() -> None:
    metadata = prompts_of_all_tasks(2, "train")
    scores = [
        GenEvalScore(tuple(metadata), tuple(Judgement((k * step) % 3 == 0) for k in range(len(metadata))))
        for step in (1, 2)
    ]
    one, other = (ScoreMeasurement(score.interval(), True, score=score) for score in scores)
    kept = unpack(pack([one, 12]))[0]
    assert kept == one
    assert kept.difference(other) == one.difference(other)
