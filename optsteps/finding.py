"""A schedule for one's own model in one call: searched, compared with hand-made ones, and explained in a sentence."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Integral

import torch
from torch import Tensor

from optsteps.comparison import VerdictRow
from optsteps.conditions import Cond, take
from optsteps.denoisers import Denoiser, call_nfe, counting
from optsteps.fingerprint import probe_inputs
from optsteps.methods import Auto, SearchProblem, SearchResult
from optsteps.methods.auto.plan import obeys
from optsteps.methods.auto.race import Track
from optsteps.methods.candidates import Candidate
from optsteps.methods.nearness import Nearness, decibels
from optsteps.metrics.statistics import paired_difference, verdict
from optsteps.processes import Flow, Process
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import Multistep, Solver, build_solver
from optsteps.storage.workers import ALONE

# hand-made schedules that people use, by their names in the pool; those that are preferred among equal ones first
HAND_MADE = ("logsnr", "edm", "time_uniform")
HAND_MADE_FOR_FLOWS = ("flow_shift",)
# unseen samples: a quarter of all, but no fewer than this; and the fewest that auto searches with
_UNSEEN, _SEARCHED = 8, 6
# by how much the standard deviation of unit noise may be off, beside five times its own
_OFF = 0.05


@dataclass(frozen=True)
class Found:
    """What `find` found.

    Attributes:
        answer: a sentence: by how much auto's schedule is nearer to the teacher than the best hand-made one, or that it
            is not.
        schedule: the one to sample with: auto's where it is nearer, otherwise the best hand-made one.
        solver: that samples it.
        verdicts: on auto's schedule against every hand-made one, in PSNR (dB) to the teacher's samples, on samples that
            no search saw.
        search: what auto found; `search.evidence["decisions"]` says how.
    """

    answer: str
    schedule: Schedule
    solver: Solver
    verdicts: list[VerdictRow]
    search: SearchResult


def find(
    denoiser: Denoiser,
    process: Process,
    noise: Tensor,
    nfe: int,
    solver: str | Solver | Sequence[str | Solver] = "dpmpp_2m",
    cond: Cond = None,
    *,
    noise_max: float | None = None,
    noise_min: float | None = None,
    teacher: int | Schedule = 100,
    weights: bool = False,
    told_times: bool = False,
    budget: int | None = None,
    max_batch: int = 64,
    check_model: bool = True,
) -> Found:
    """The schedule that spends `nfe` network evaluations per sample best.

    The method `auto` (conf/method/auto.yaml) searches with the first three quarters of the samples. On the others, of
    which there are at least 8 and which nothing before has seen, its schedule is compared with hand-made ones: uniform
    in log-SNR, EDM's, uniform in time and, under a flow, the shifted one. Where it is not nearer to the teacher than
    the best of them, by the 95 % interval of the paired differences, the hand-made one is the answer.

    Args:
        denoiser: D(x [B, ...], t [B], cond) -> [B, ...]; `NetworkDenoiser` makes one of a network.
        process: its noising process.
        noise: unit Gaussian [B, ...]; 64 samples are a good number, and 14 the fewest.
        nfe: network evaluations per sample; guidance counts 2. The most steps that they pay for are taken.
        solver: the solver to sample with, or its name; a deterministic one. Of several the best is found, at equal
            evaluations, and the hand-made schedules are sampled with each.
        cond: condition of the noise's samples, or None.
        noise_max, noise_min: the largest and the smallest noise level of the model, as far as the process reaches.
            None: all of the process, which under EDM, where that is infinite, is 80 and 0.002.
        teacher: the steps of the teacher, which follows EDM's formula between these levels; or its schedule.
        weights: whether the weights of a multistep step are searched too, which only this package's sampler runs.
        told_times: whether the times that the network is told at the steps are searched too, which only this package's
            sampler tells. They help most with few steps.
        budget: network evaluations of the search, about; None for no limit.
        max_batch: most samples in one call of the denoiser.
        check_model: whether the model is checked before anything is searched: that it answers the same twice and for
            every sample by itself (`probe`), and that it removes noise (`check_interpretation`).

    Warns:
        UserWarning: the model removes noise worse than a linear denoiser.

    Raises:
        ValueError: an argument of another kind; too few samples; noise that is not unit noise; an `nfe` that pays for
            no step, or for as many as the teacher's; a stochastic solver, or two of one name; weights or told times for
            a solver that obeys none; noise levels beside a teacher's schedule, or beyond the process; a budget that is
            too small; noise and cond of different batch sizes; a denoiser that fails, or that is none as it is stated
            (`ModelError`).
    """
    if not isinstance(process, Process):
        raise ValueError(f"process must be an object of optsteps.processes, such as EDM(), got {process!r}")
    if not isinstance(teacher, Schedule):
        _check_count("teacher", teacher, " (steps), or a Schedule")
    _check_count("nfe", nfe, " (evaluations per sample)", least=0)  # 0 and its like pay for no step, which is said
    _check_count("max_batch", max_batch)
    if budget is not None:
        _check_count("budget", budget, " (evaluations), or None; optsteps.tune takes times such as '10min'")
    unseen = _unseen(noise)
    named = [solver] if isinstance(solver, (str, Solver)) else solver
    built = [build_solver(one) if isinstance(one, str) else one for one in named]
    solvers = {one.name: one for one in built}
    if len(solvers) < len(built):
        repeated = Counter(one.name for one in built).most_common(1)[0][0]
        raise ValueError(f"solver has several solvers called {repeated!r}: give each name once")
    solver = next(iter(solvers.values()))
    if weights and not any(isinstance(one, Multistep) for one in solvers.values()):
        raise ValueError(
            f"{' and '.join(solvers)} is no multistep solver, so it has no weights to search: leave weights=False"
        )
    teacher = _teacher(process, teacher, noise_max, noise_min)
    with counting(denoiser) as counted:
        problem = SearchProblem(counted, process, solver, noise, teacher, cond)
        steps = _steps(problem, nfe)
        if told_times and not any(obeys(replace(problem, solver=one), "told times") for one in solvers.values()):
            raise ValueError(
                f"{' and '.join(solvers)} takes two evaluations a step, the second at a time of its own, so there are "
                "no told times to search: leave told_times=False"
            )
        checks = _checked(denoiser, problem, max_batch) if check_model else 0
        searched, judged = map(problem.part, torch.arange(len(noise)).split([len(noise) - unseen, unseen]))
        auto = _auto(solvers, weights, told_times, budget, max_batch)
        search = auto.search(searched, [steps])
        ours = _Sampled(search.schedules[steps], search.solvers.get(steps, solver))
        hand_made = _hand_made(auto, searched, steps, nfe)
        verdicts = _verdicts(judged, ours, hand_made, max_batch)
        comparison = counted.evaluations - search.evaluations + checks
    best = min(verdicts, key=lambda row: row.difference.value)
    better = best.verdict == "better" and best.nfe <= nfe
    sentence = _sentence(best, better, ours.named("auto's schedule", len(solvers) > 1), len(verdicts), teacher.steps)
    answer = (
        f"{sentence} at {best.nfe:g} evaluations per sample, on {unseen} unseen samples; the search took "
        f"{search.evaluations:,} evaluations, and the comparison {comparison:,}"
        f"{' with the checks of the model' * check_model}."
    )
    chosen = ours if better else hand_made[best.rival]
    return Found(answer, chosen.schedule, chosen.solver, verdicts, search)


@dataclass(frozen=True)
class _Sampled:
    """A schedule and the solver that samples it."""

    schedule: Schedule
    solver: Solver

    def named(self, name: str, several: bool) -> str:
        """A name for it, with the solver's where there are several to choose from."""
        return f"{name} with {self.solver.name}" if several else name


def _check_count(name: str, value: object, more: str = "", least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least 1{more}, got {value!r}")


def _unseen(noise: Tensor) -> int:
    """How many of the samples no search sees; ValueError where there are too few, or they are no unit noise."""
    if not isinstance(noise, Tensor) or noise.ndim < 2 or not noise.is_floating_point():
        shape = f"shape {tuple(noise.shape)} of {noise.dtype}" if isinstance(noise, Tensor) else type(noise).__name__
        raise ValueError(f"noise must be a floating tensor [B, ...] of at least two dimensions, got {shape}")
    unseen, fewest = max(_UNSEEN, len(noise) // 4), _UNSEEN + _SEARCHED
    if len(noise) < fewest:
        raise ValueError(
            f"noise holds {len(noise)} samples, and at least {fewest} are needed: {_UNSEEN} that no search sees judge "
            f"what is found on the others; 64 are a good number, torch.randn(64, *shape)"
        )
    mean, std = noise.double().mean().item(), noise.double().std().item()
    if not (abs(std - 1) < _OFF + 5 / math.sqrt(2 * noise.numel()) and abs(mean) < _OFF + 5 / math.sqrt(noise.numel())):
        raise ValueError(
            f"noise must be unit noise, torch.randn, which the sampler scales to the noise of its first time; this has "
            f"mean {mean:.3g} and standard deviation {std:.3g}"
        )
    return unseen


def _checked(denoiser: Denoiser, problem: SearchProblem, max_batch: int) -> int:
    """The evaluations of the checks that the model passes."""
    from optsteps.running.interpretation import check_interpretation
    from optsteps.running.probe import probe

    cond, count = problem.cond, len(problem.noise)
    times = problem.teacher.times[problem.teacher.times > problem.process.t_clean]
    ends = times[0].item(), times[-1].item()
    shape = tuple(problem.noise.shape[1:])
    x, t, conds = probe_inputs(problem.process, shape, ends, lambda numbers: take(cond, torch.tensor(numbers) % count))
    answers = probe(denoiser, x.to(problem.noise), t, conds, min(len(x), max_batch))
    interpretation = check_interpretation(replace(problem, denoiser=denoiser), max_batch)
    if interpretation.remark is not None:
        warnings.warn(interpretation.remark, UserWarning, stacklevel=3)
    return answers.evaluations + interpretation.evaluations


def _teacher(process: Process, teacher: int | Schedule, noise_max: float | None, noise_min: float | None) -> Schedule:
    if isinstance(teacher, Schedule):
        if noise_max is not None or noise_min is not None:
            raise ValueError("the teacher's schedule has the model's range already: leave noise_max and noise_min out")
        return teacher
    highest, lowest = (80.0, 0.002) if math.isinf(process.t_limit) else (math.inf, 0.0)
    t_max, t_min = process.time_range(
        highest if noise_max is None else noise_max, lowest if noise_min is None else noise_min
    )
    return build_schedule("edm", process, teacher, t_max, t_min)


def _steps(problem: SearchProblem, nfe: int) -> int:
    """The most steps that so many evaluations per sample pay for."""
    solver, teacher, per_call = problem.solver, problem.teacher, call_nfe(problem.denoiser)
    try:
        steps = solver.steps(nfe // per_call, problem.process, *teacher.times[[0, -1]])
    except ValueError as error:
        counts = f", where a call of the denoiser counts {per_call}" if per_call > 1 else ""
        raise ValueError(f"nfe={nfe}{counts}: {error}") from error
    if steps >= teacher.steps:
        raise ValueError(
            f"nfe={nfe} pays for {steps} steps, and the teacher has {teacher.steps}: give fewer evaluations, or a "
            "teacher of more steps"
        )
    return steps


def _auto(solvers: Mapping[str, Solver], weights: bool, told_times: bool, budget: int | None, max_batch: int) -> Auto:
    """The method of conf/method/auto.yaml with these solvers."""
    from hydra.utils import instantiate

    from optsteps.running.configs import composed

    settings = {"method.weights": weights, "method.told_times": told_times, "method.budget": budget}
    settings |= {"+max_batch": max_batch, "+seed": 0}
    config = composed("method/auto", [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    auto: Auto = instantiate(config.method, solvers=solvers)
    return auto


def _hand_made(auto: Auto, problem: SearchProblem, steps: int, nfe: int) -> dict[str, _Sampled]:
    """The hand-made schedules that cost no more than `nfe`, by name, with every solver. Of several ranges each takes
    the best on the samples that auto's pool sees."""
    plan, per_call = auto.plan(problem, [steps]), call_nfe(problem.denoiser)
    names = HAND_MADE + HAND_MADE_FOR_FLOWS * isinstance(problem.process, Flow)
    found = dict[str, _Sampled]()
    for lane in plan.lanes.values():
        few, count = lane.problem.part(torch.arange(plan.fit)), lane.counts[steps]
        for name in names:
            with suppress(ValueError):  # a formula that cannot take so few steps
                auto.pool[name].check(few, [count])
                one = _Sampled(auto.pool[name].search(few, [count]).schedules[count], lane.problem.solver)
                if one.solver.nfe(one.schedule) * per_call <= nfe:
                    found[one.named(name, len(plan.lanes) > 1)] = one
    return found


def _verdicts(
    problem: SearchProblem, ours: _Sampled, hand_made: Mapping[str, _Sampled], max_batch: int
) -> list[VerdictRow]:
    """Verdicts on auto's schedule against each of the others, on the samples of the problem."""
    samples, everyone = Nearness(problem, ALONE, max_batch), {"auto": ours, **hand_made}
    track = Track({one.solver.name: samples.with_solver(one.solver) for one in everyone.values()})
    running = [Candidate((name,), one.schedule, one.solver.name) for name, one in everyone.items()]
    # PSNR up to the data's range, which no difference depends on
    own, *theirs = decibels(track.errors(running, torch.arange(track.samples)))
    nfe = ours.solver.nfe(ours.schedule) * call_nfe(problem.denoiser)
    differences = {name: paired_difference(own, level) for name, level in zip(hand_made, theirs, strict=True)}
    return [
        VerdictRow("auto", name, ours.schedule.steps, nfe, "psnr", gap, verdict(gap, higher_is_better=True))
        for name, gap in differences.items()
    ]


def _sentence(best: VerdictRow, better: bool, ours: str, count: int, teacher_steps: int) -> str:
    """The verdict against the best of the hand-made schedules in words."""
    teacher, gap = f"the {teacher_steps}-step teacher", best.difference
    if better:
        interval = f"{gap.value:.2f} dB PSNR [{gap.low:.2f}, {gap.high:.2f}]"
        return f"{ours} is nearer to {teacher} than the best of {count} others ({best.rival}) by {interval}"
    interval = f"{gap.value:+.2f} dB PSNR [{gap.low:+.2f}, {gap.high:+.2f}]"
    if best.verdict == "better":
        return f"{ours} takes more evaluations than it may, so use {best.rival}: the difference is {interval}"
    return f"{ours} is not nearer to {teacher} than {best.rival}, so use that: the difference is {interval}"
