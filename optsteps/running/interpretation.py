"""A check of a network's clock and prediction type, before anything is searched.

It measures how well noise is removed. At every noise level, an exact denoiser is at least as good as the best linear
one, which multiplies deviations from the mean by one number. A network that is called at the wrong times, or whose
output is taken for another quantity, is worse at some level. Where it becomes a denoiser under another clock or
prediction type, this is the mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import (
    PREDICTIONS,
    Denoiser,
    DeviceDenoiser,
    GuidedDenoiser,
    ModelError,
    NetworkDenoiser,
    call_nfe,
    expand,
    network_output,
)
from optsteps.methods.base import SearchProblem
from optsteps.noise import unit_noise
from optsteps.processes import Flow
from optsteps.running.probe import rms
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import build_solver
from optsteps.trajectories import NO_CACHE, Cache, Trajectories

# numbers that errors are averaged over, and samples that they lie in
_NUMBERS, _FEWEST, _MOST = 2048, 4, 256
# steps of a walk to samples; noise levels, evenly in their logarithm over this part of the model's range
_STEPS, _LEVELS, _INNER = 12, 8, (0.2, 0.85)
# the largest noise level to begin at where the model's own is infinite
_LARGE = 100.0
# exact denoisers and the shipped ones have at most 1.06 times the error of the best linear one, well below 1 where
# noise and data are of one size (unless the data is Gaussian), and slopes of 0.81 to 1.02: a walk of few steps loses
# spread
_BAD, _AWFUL, _USELESS, _SKILLED, _SLOPES = 1.12, 1.5, 0.95, 0.9, (0.75, 1.2)
# by which another reading must be better, of the mean logarithm
_MARGIN = 0.05


@dataclass(frozen=True)
class Skill:
    """How well a denoiser removes noise.

    Attributes:
        noise_levels: at which it was tried [L].
        errors: its rms error there, divided by that of the best linear denoiser [L]; an exact one has at most 1.
        slopes: of the regression of x_0 on D [L], 1 for an exact denoiser; NaN where D hardly differs between samples.
        evaluations: network evaluations that were made.
    """

    noise_levels: Tensor
    errors: Tensor
    slopes: Tensor
    evaluations: int

    @property
    def score(self) -> float:
        """The mean logarithm of the errors."""
        return float(self.errors.log().mean())

    @property
    def biased(self) -> bool:
        """Whether its output is of another size than the samples."""
        return bool(((self.slopes < _SLOPES[0]) | (self.slopes > _SLOPES[1])).any())

    @property
    def suspicious(self) -> bool:
        """Whether it is worse than a linear denoiser somewhere, nowhere better, or of another size than the samples."""
        return bool(self.errors.max() > _BAD or self.errors.min() > _USELESS) or self.biased

    @property
    def convincing(self) -> bool:
        """Whether it is clearly a denoiser: nowhere bad, good somewhere, and of the samples' size."""
        return bool(self.errors.max() < _BAD and self.errors.min() < _SKILLED) and not self.biased


@dataclass(frozen=True)
class Interpretation:
    """The outcome of the check.

    Attributes:
        skill: of the denoiser as it is stated.
        evaluations: network evaluations in all.
        remark: a sentence where something seems wrong, None otherwise.
    """

    skill: Skill
    evaluations: int
    remark: str | None = None


def check_interpretation(problem: SearchProblem, max_batch: int = 512) -> Interpretation:
    """Noise a few samples, the problem's data or else the denoiser's own, and measure how well it removes the noise.

    Guidance is left out, because a guided output is no denoiser. Where the errors are large, the network is tried
    under every other prediction type, at 1000 and 1/1000 times its times, and that of a flow on a clock that runs the
    other way. Each of these readings costs as many evaluations again.

    Raises:
        ModelError: the network is no denoiser as it is stated, and is one under another prediction type or clock; also
            as `evaluate`.
    """
    trial = _Trial.of(problem, max_batch)
    denoiser = _conditional(problem.denoiser)
    workers = problem.cache.workers.on("interpretation")
    skill = trial.skill(denoiser, replace(problem.cache, workers=workers, precision=None))
    if not skill.suspicious:
        return Interpretation(skill, skill.evaluations)
    stated, evaluations = _stated(denoiser, problem), skill.evaluations
    best, best_reading = skill, stated
    for changes in (1, 2):  # the fewest that make a denoiser of it
        for reading in _readings(stated, changes, float(problem.teacher.times[0])):
            try:
                other_skill = trial.skill(_conditional(problem.denoiser, partial(_replaced, reading)), NO_CACHE)
            except ModelError:  # a wrong reading may overflow
                continue
            evaluations += other_skill.evaluations
            if other_skill.score < best.score:
                best, best_reading = other_skill, reading
        if best.convincing:
            break
    worst = int(skill.errors.log().sub(best.errors.log()).argmax())
    error = (
        f"at noise level {skill.noise_levels[worst]:.3g} the denoiser's error is {skill.errors[worst]:.2f} times that "
        "of the best linear denoiser"
    )
    if best.convincing and best.score < skill.score - _MARGIN:
        raise ModelError(f"{error}, but {best.errors[worst]:.2f} times {_difference(stated, best_reading)}")
    bad = skill.errors.max() > _AWFUL
    remark = (
        f"the denoiser's error is up to {skill.errors.max():.2f} times that of the best linear denoiser (at noise "
        f"level {skill.noise_levels[int(skill.errors.argmax())]:.3g}), which an exact one never exceeds, and no other "
        "prediction type or clock is better: is the model trained, and on this noising process?"
    )
    return Interpretation(skill, evaluations, remark if bad else None)


def evaluations_of_check(problem: SearchProblem) -> int:
    """Network evaluations that `check_interpretation` takes for a denoiser in which it finds nothing wrong."""
    trial = _Trial.of(problem, max_batch=1)
    calls = len(trial.levels) + (0 if problem.data is not None else trial.schedule.steps)
    return len(trial.noise[0]) * calls * call_nfe(_conditional(problem.denoiser))


def _conditional(denoiser: Denoiser, change: Callable[[Denoiser], Denoiser] = lambda denoiser: denoiser) -> Denoiser:
    """The denoiser without its guidance, still on its own device, with its innermost part changed."""
    if isinstance(denoiser, GuidedDenoiser):
        return _conditional(denoiser.denoiser, change)
    if isinstance(denoiser, DeviceDenoiser):
        return DeviceDenoiser(_conditional(denoiser.denoiser, change), denoiser.device)
    return change(denoiser)


def _replaced(denoiser: Denoiser, _: Denoiser) -> Denoiser:
    """The first denoiser in the place of the second, as a change of `_conditional`."""
    return denoiser


def _stated(denoiser: Denoiser, problem: SearchProblem) -> NetworkDenoiser:
    """The denoiser's innermost network as it is stated; any other denoiser is a network that predicts x_0."""
    while isinstance(denoiser, DeviceDenoiser):
        denoiser = denoiser.denoiser
    return denoiser if isinstance(denoiser, NetworkDenoiser) else NetworkDenoiser(denoiser, problem.process, "x0")


def _readings(stated: NetworkDenoiser, changes: int, t_max: float) -> Iterator[NetworkDenoiser]:
    """The same network under another prediction type, another clock or, of a flow, the other direction of time, or
    under some of these.

    No clock runs to more than 1000 timesteps: what lies beyond a table of embeddings ends a GPU's process.
    """
    scales = [stated.time_scale, stated.time_scale / 1000]
    if stated.time_scale * 1000 * t_max <= 1000:
        scales.append(stated.time_scale * 1000)
    for prediction, scale in product(PREDICTIONS, scales):
        change = (prediction != stated.prediction) + (scale != stated.time_scale)
        if change == changes:
            yield replace(stated, prediction=prediction, time_scale=scale)
        if change + 1 == changes and prediction == "velocity" and isinstance(stated.process, Flow):
            yield replace(stated, network=_Backwards(stated.network, scale), prediction=prediction, time_scale=scale)


@dataclass(frozen=True)
class _Backwards:
    """A flow's network whose time runs from the noise at 0 to the data at 1, and whose velocity is data minus noise,
    called as one of ours.

    Args:
        network: called with time_scale (1 - t).
        time_scale: of its clock.
    """

    network: Callable[..., Tensor]
    time_scale: float

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return -network_output(self.network, x, self.time_scale - t, cond)


def _difference(stated: NetworkDenoiser, reading: NetworkDenoiser) -> str:
    """A sentence on the other reading, and how to state it."""
    advice, taken = [], []
    if reading.prediction != stated.prediction:
        taken.append(f"where its output is taken for {reading.prediction} instead of {stated.prediction}")
        advice.append(f"prediction={reading.prediction}")
    if reading.time_scale != stated.time_scale:
        taken.append(f"where the network is called with {reading.time_scale:g} t instead of {stated.time_scale:g} t")
        advice.append(f"time_scale={reading.time_scale:g}")
    if not isinstance(reading.network, _Backwards):
        stating = " and ".join(advice)
        return f"{' and '.join(taken)}: state the network with {stating} (NetworkDenoiser, model=diffusers)"
    taken.append("on a clock that runs from noise at 0 to data at 1")
    stating = f", with {' and '.join(advice)}" if advice else ""
    return (
        f"{' and '.join(taken)}: a flow has its data at t = 0 here and its velocity is noise minus data, so give "
        f"lambda x, t, cond: -network(x, {reading.time_scale:g} - t, cond) as the network{stating}"
    )


@dataclass(frozen=True)
class _Trial:
    """The samples of the check, and the noise that is added to them.

    Attributes:
        problem: with process, range and data.
        max_batch: most samples in one call.
        noise: unit Gaussian, of the samples and of their noising [n, ...].
        cond: of these samples.
        levels: noise levels [L].
        schedule: of the walk to the samples.
    """

    problem: SearchProblem
    max_batch: int
    noise: tuple[Tensor, Tensor]
    cond: Cond
    levels: Tensor
    schedule: Schedule

    @classmethod
    def of(cls, problem: SearchProblem, max_batch: int) -> _Trial:
        shape, process = problem.noise.shape[1:], problem.process
        count = min(_MOST, max(_FEWEST, -(-_NUMBERS // shape.numel())))
        if problem.data is not None:
            count = min(count, len(problem.data))
        cond = problem.cond if problem.data is None else problem.data_cond
        size = len(problem.noise) if problem.data is None else count
        noise = tuple(unit_noise(seed, range(count), shape).to(problem.noise) for seed in (0, 1))
        times = problem.teacher.times
        low, high = process.noise_level(times[times > process.t_clean][[-1, 0]]).tolist()
        high = high if math.isfinite(high) else max(_LARGE, 2 * low)
        ends = torch.tensor([low, high], dtype=torch.float64).log()
        levels = torch.lerp(ends[0], ends[1], torch.linspace(*_INNER, _LEVELS, dtype=torch.float64)).exp()
        t_min, t_max = process.time_of_noise_level([low, high]).tolist()
        schedule = build_schedule("logsnr", process, _STEPS, t_max=t_max, t_min=t_min)
        return cls(problem, max_batch, noise, take(cond, torch.arange(count) % size), levels, schedule)  # type: ignore[arg-type]

    def skill(self, denoiser: Denoiser, cache: Cache) -> Skill:
        """Measure how well a denoiser removes the noise."""
        trajectories = Trajectories(denoiser, self.max_batch, cache)
        noise, eps = self.noise
        if self.problem.data is not None:
            clean = self.problem.data[: len(noise)].to(noise)
        else:
            clean = trajectories.ends(self.schedule, build_solver("euler"), noise, self.cond)
        process = self.problem.process
        deviation = (clean - clean.mean()).square().mean().sqrt()
        errors, slopes = [], []
        for level in self.levels:
            t = process.time_of_noise_level(level).expand(len(clean))
            x = expand(process.alpha(t), clean) * clean + expand(process.sigma(t), clean) * eps
            gain = deviation**2 / (deviation**2 + float(level) ** 2)
            linear = clean.mean() + gain * (clean + float(level) * eps - clean.mean())
            out = trajectories.predictions(x, t, self.cond)
            errors.append(float(rms(out - clean) / rms(linear - clean)))
            slopes.append(_slope(out - clean.mean(), clean - clean.mean()))
        return Skill(self.levels, torch.tensor(errors), torch.tensor(slopes), trajectories.evaluations)


def _slope(out: Tensor, clean: Tensor) -> float:
    """The slope of the regression of x_0 on D; NaN where D hardly differs between samples."""
    out, clean = out.double(), clean.double()
    size = out.square().sum()
    return float((out * clean).sum() / size) if size > 0.25 * clean.square().sum() else math.nan
