"""A pipeline's own call as the sampler: whatever it does at a step, it does it on every schedule that is searched.

The pipeline gets a scheduler of ours for the time of a call. It begins with the state that it is given, notes the
states and predictions of the steps, and ends the call when the last state is there, so that nothing is decoded.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.denoisers import ModelError, NoPredictionError, expand, model_errors
from optsteps.export.diffusers.scheduler import OptstepsScheduler
from optsteps.export.diffusers.scheduler_config import least_noise_level, noisiest_time, prediction_of, process_of
from optsteps.export.diffusers.schedulers import unapplied
from optsteps.export.diffusers.tables import time_called_with
from optsteps.models.base import Model
from optsteps.processes import VP, Process
from optsteps.schedules import Schedule
from optsteps.solvers import Solver, build_solver

# components that are called for a prediction; a ControlNet works for these
NETWORKS = ("unet", "transformer", "transformer_2")
# by which way a pipeline is given the state that it begins with
Way = Literal["latents", "added noise", "input"]


class _Done(BaseException):
    """The call has given what was wanted of it."""


class _Walking(OptstepsScheduler):
    """A scheduler that begins with a given state, and notes what it sees.

    Attributes:
        start: the state that a walk begins with, or the noise that it is made of, [B, ...]; None: the pipeline's own.
        way: by which it comes to the pipeline.
        adds_noise: whether `start` is noise that the pipeline's clean samples get, instead of the state.
        states, predictions: of the steps so far, each [B, ...].
        end: the last state [B, ...]; None until it is there.
        calls_back: whether the pipeline calls `after_step`, with what it has made of a step's result.
        steps: after so many steps the call is over.
        numbers: of the samples, for a stochastic solver.
    """

    start: Tensor | None = None
    way: Way | None = None
    adds_noise: bool = False
    numbers: Tensor | None = None
    steps: int
    states: list[Tensor]
    predictions: list[Tensor]
    end: Tensor | None = None
    calls_back: bool = False

    @property
    def init_noise_sigma(self) -> float:
        """1: the state is given as it is."""
        return 1.0

    def sample_numbers(self, samples: int, generator: Any) -> Tensor:
        if self.numbers is None:
            return super().sample_numbers(samples, generator)
        return self.numbers.repeat(samples // len(self.numbers))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self._step_index is None and self.start is not None and self.way == "added noise":
            if not self.adds_noise:
                return self.start.to(noise)
            noise.copy_(self.start)  # in place: inpainting adds the same noise to its known part after every step
        elif self.start is not None and noise.shape == self.start.shape and torch.equal(noise, self.start.to(noise)):
            noise = noise / self.schedule.scale.to(noise)  # the latents it was given, which have the start's scale
        return super().add_noise(original_samples, noise, timesteps)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        if self._step_index is None and self.start is not None and self.way == "input":
            sample = self.start.to(sample).repeat(len(sample) // len(self.start), *(1,) * (sample.ndim - 1))
        return super().scale_model_input(sample, timestep)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *arguments: Any, **named: Any) -> Any:
        first = self.calls[self._step_index or 0].first
        out: Any = super().step(model_output, timestep, sample, *arguments, **{**named, "return_dict": True})
        if first:
            self.states.append(sample)
            self.predictions.append(out.pred_original_sample)
        now = self._step_index or 0
        ended = now == len(self.calls) or self.calls[now].first
        if ended and len(self.states) == self.steps:
            self.end = out.prev_sample
            if not self.calls_back:
                raise _Done
        return out if named.get("return_dict", True) else (out.prev_sample, out.pred_original_sample)

    def after_step(self, latents: Tensor) -> None:
        """Note the state [B, ...] that the pipeline goes on with, such as one whose known part is put back."""
        if self.end is not None:
            self.end = latents
            raise _Done


class PipelineWalks:
    """A pipeline that walks by its own call (`optsteps.sampling.Walks`), and a denoiser by walks of one step.

    Args:
        pipe: loaded; between calls it is as it was.
        calls: arguments of its call for one sample each. A sample's cond is the number of its call.
        seed: of the generator that every call is given, for what the pipeline draws beside its first noise.

    Attributes:
        shape: of the noise of a sample.
        nfe: network evaluations of a prediction, per sample.
        process, t_max: of its model, and the time that walks begin with.
        answers: whether it can be asked for the prediction at a state, and not for walks alone.

    Raises:
        ValueError: no calls; a call that fails, or that does not ask its scheduler; a pipeline that takes no state to
            begin with, or that begins within its schedule without noise; one whose scheduler names no process; at a
            walk, a call that begins with another state than the given one.
    """

    def __init__(self, pipe: Any, calls: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
        if not calls:
            raise ValueError("calls holds nothing: give the arguments of the pipeline's call, [dict(prompt=...), ...]")
        self.pipe, self.calls, self.seed = pipe, [dict(call) for call in calls], seed
        self.own = unapplied(pipe.scheduler)
        self.taken = set(inspect.signature(type(pipe).__call__).parameters)
        self.process: Process = process_of(self.own)
        self.t_max = noisiest_time(self.own, self.process, prediction_of(self.own))
        self.networks = [part for name in NETWORKS if (part := getattr(pipe, name, None)) is not None]
        self._look()

    def walk(
        self, schedule: Schedule, solver: Solver, noise: Tensor, cond: Cond, seed: int, index: Tensor
    ) -> tuple[list[tuple[Tensor, Tensor | None]], int]:
        """See `Walks`."""
        adds = self.way == "added noise"
        start = noise if adds else noise * expand(schedule.scale, noise)
        parts, evaluations = self._walked(schedule, solver, start, cond, adds, seed, index)
        states, predictions = (torch.cat(part, 1).to(noise) for part in zip(*parts, strict=True))
        return [*zip(states, [*predictions, None], strict=True)], evaluations

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """D(x [B, ...], t [B], cond [B]): what a walk of one step begins with; a call for every time and batch.

        Raises:
            NoPredictionError: the pipeline makes its first state itself, so that it walks and answers nothing else.
        """
        if not self.answers:
            name = type(self.pipe).__name__
            raise NoPredictionError(f"{name} makes its first state itself, and is asked for walks alone")
        answer, euler = torch.empty_like(x), build_solver("euler")
        for time in t.unique().tolist():
            rows = (t == time).nonzero()[:, 0].to(x.device)
            step = Schedule([time, self.process.t_clean], self.process)
            conds = None if cond is None else cond[rows.to(cond.device)]
            parts, _ = self._walked(step, euler, x[rows], conds, False, 0, torch.arange(len(rows)))
            answer[rows] = torch.cat([predictions[0] for _, predictions in parts]).to(x)
        return answer

    def _walked(
        self, schedule: Schedule, solver: Solver, start: Tensor, cond: Cond, adds: bool, seed: int, index: Tensor
    ) -> tuple[list[tuple[Tensor, Tensor]], int]:
        """States [n+1, b, ...] and predictions [n, b, ...] of every call, and the evaluations of all."""
        scheduler = _Walking.from_pipeline(self.own, schedule, solver, whole=True, seed=seed)
        scheduler.way, scheduler.adds_noise, scheduler.steps = self.way, adds, schedule.steps
        scheduler.said = True  # the pipeline's number of steps means nothing here
        numbers = torch.zeros(len(start), dtype=torch.long) if cond is None else cond.cpu()
        parts = list[tuple[Tensor, Tensor]]()
        with self._counted() as count:
            for rows, arguments in self._batches(numbers):
                scheduler.start, scheduler.numbers = start[rows.to(start.device)], index[rows]
                scheduler.states, scheduler.predictions, scheduler.end = [], [], None
                self._call(scheduler, arguments, scheduler.start)
                assert scheduler.end is not None
                taken = len(rows)  # DiT's loop carries the samples twice
                states, predictions = (
                    torch.stack([part[:taken].float() for part in parts])
                    for parts in ([*scheduler.states, scheduler.end], scheduler.predictions)
                )
                if not adds:
                    self._check_start(states[0], scheduler.start)
                parts.append((states, predictions))
        return parts, count[0]

    def _check_start(self, state: Tensor, start: Tensor) -> None:
        """Raises ModelError where a walk has begun with another state [b, ...] than the given one, up to rounding."""
        start, rounding = start.to(state), 4 * torch.finfo(self.dtype).eps
        if not bool((state - start).abs().max() <= rounding * start.abs().max()):
            raise ModelError(
                f"{type(self.pipe).__name__} does not begin with the state that it is given: an argument of its call, "
                "such as an initial sample, makes it begin with another; leave that out"
            )

    def _batches(self, numbers: Tensor) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """The samples' positions [b] with the arguments of one call for them: calls in a row that differ in their
        prompts alone become one."""
        begin = 0
        for end in range(1, len(numbers) + 1):
            calls = [self.calls[int(number)] for number in numbers[begin : end + 1]]
            if end < len(numbers) and "prompt" in _words(calls[0]) and _together(calls[0], calls[-1]):
                continue
            yield torch.arange(begin, end), _joined(calls[: end - begin])
            begin = end

    def _call(self, scheduler: Any, arguments: Mapping[str, Any], start: Tensor | None) -> None:
        """Call the pipeline with this scheduler, until that says that it is done."""
        extra: dict[str, Any] = {}
        if "generator" in self.taken:
            extra["generator"] = torch.Generator().manual_seed(self.seed)
        if start is not None and self.way == "latents":
            extra["latents"] = start.to(self.device, self.dtype)
        if isinstance(scheduler, _Walking) and "callback_on_step_end" in self.taken:
            scheduler.calls_back = True
            arguments = {**arguments, **_called_back(scheduler, arguments)}
        bars = getattr(self.pipe, "_progress_bar_config", {})
        before = self.pipe.scheduler
        try:
            self.pipe.scheduler = scheduler
            self.pipe.set_progress_bar_config(disable=True)
            with torch.no_grad(), suppress(_Done), model_errors(f"called with {', '.join(arguments)}"):
                self.pipe(**{**extra, **arguments})
                if getattr(scheduler, "end", None) is None:
                    raise ModelError(
                        f"{type(self.pipe).__name__} ended before its scheduler's steps did: its call does not run "
                        "them, or an argument such as denoising_end cuts them; leave that out"
                    )
        finally:
            self.pipe.scheduler, self.pipe._progress_bar_config = before, bars

    def _look(self) -> None:
        """Call the pipeline up to its first step, to see what it begins with, and what a prediction takes."""
        looking = _Looking(self.own)
        self.way, self.device, self.dtype = None, torch.device("cpu"), torch.float32
        with self._counted() as count:
            self._call(looking, _joined(self.calls[:1]), None)
        self.nfe, state = max(count[0], 1), looking.state
        self.device, self.dtype = state.device, state.dtype
        self.answers, self.shape = True, tuple(state.shape[1:])
        if looking.noise is not None:  # it begins with an image, at the time that its strength says
            self.way, self.t_max = "added noise", time_called_with(looking.timestep, self.process, self.own)
            self.answers, self.shape = looking.noise == self.shape, looking.noise
        elif not looking.whole:
            raise ValueError(
                f"{type(self.pipe).__name__} begins within its schedule, at timestep {looking.timestep:g}, and adds no "
                "noise there, as with denoising_start: leave that argument out"
            )
        elif "latents" in self.taken:
            self.way = "latents"
        elif looking.scaled:
            self.way = "input"
        else:
            raise ValueError(
                f"{type(self.pipe).__name__} draws the state that it begins with and shows it to nobody before its "
                "first step, so it cannot be given samples: wrap it by optsteps.models.diffusers.from_pipeline"
            )

    @contextmanager
    def _counted(self) -> Iterator[list[int]]:
        """The network evaluations of the calls inside, one per sample, in a list of one."""
        count = [0]

        def note(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            given = next(value for value in (*args, *named.values()) if isinstance(value, Tensor | list))
            count[0] += len(given)

        hooks = [network.register_forward_pre_hook(note, with_kwargs=True) for network in self.networks]
        try:
            yield count
        finally:
            for hook in hooks:
                hook.remove()


class _Looking:
    """A pipeline's own scheduler, which ends the call at its first step and says what it saw.

    Attributes:
        state: of the first step [b, ...].
        timestep: of the first step.
        whole: whether the first step is the first of the scheduler's own.
        noise: the shape of a sample of the noise that was added before; None where none was.
        scaled: whether the pipeline showed the state before it called its network.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = copy.deepcopy(scheduler)
        self.noise: tuple[int, ...] | None = None
        self.scaled = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_scheduler"], name)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        self.noise = tuple(noise.shape[1:])
        added: Tensor = self._scheduler.add_noise(original_samples, noise, timesteps)
        return added

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor) -> Tensor:
        self.noise = tuple(noise.shape[1:])
        added: Tensor = self._scheduler.scale_noise(sample, timestep, noise)
        return added

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        self.scaled = True
        scaled: Tensor = self._scheduler.scale_model_input(sample, timestep)
        return scaled

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *, generator: Any = None, **named: Any) -> None:
        self.state, self.timestep = sample, float(timestep)
        self.whole = math.isclose(self.timestep, float(self._scheduler.timesteps[0]), rel_tol=1e-3)
        raise _Done


def walked_pipeline(pipe: Any, calls: Sequence[Mapping[str, Any]], name: str | None = None, seed: int = 0) -> Model:
    """A pipeline with its calls as a model: sample k has call k modulo their number.

    Args:
        pipe, calls, seed: as of `PipelineWalks`.
        name: that reports use; None for the name of the pipeline's class.

    Raises:
        ValueError: as `PipelineWalks`.
    """
    walks = PipelineWalks(pipe, calls, seed)
    process, scheduler = walks.process, walks.own
    prompted = all(isinstance(call.get("prompt"), str) for call in calls)
    least = least_noise_level(scheduler, process, scheduler.config.num_train_timesteps)
    return Model(
        name=name or type(pipe).__name__,
        denoiser=walks,
        process=process,
        shape=walks.shape,
        noise_levels=(float(process.noise_level(walks.t_max)), least),
        conditions=partial(_numbers, len(calls)),
        prompts=partial(_prompts, calls) if prompted else None,
        snap=isinstance(process, VP),
        final="zero",
        facts={
            "pipeline": f"{type(pipe).__name__} with {type(scheduler).__name__}, sampled by its own call",
            "calls": f"{len(calls)} in turn, {walks.nfe} network evaluations a prediction",
            "latents": f"{list(walks.shape)}, network in {str(walks.dtype).removeprefix('torch.')}",
        },
    )


def _called_back(scheduler: _Walking, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by which a pipeline calls the scheduler after every step, and before it what they call already."""
    theirs = arguments.get("callback_on_step_end")
    names = getattr(theirs, "tensor_inputs", None) or arguments.get("callback_on_step_end_tensor_inputs", ["latents"])

    def after(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        changed = {} if theirs is None else theirs(pipe, step, timestep, tensors) or {}
        scheduler.after_step(changed.get("latents", tensors["latents"]))
        return changed

    shown = [*names, *({"latents"} - set(names))]
    return {"callback_on_step_end": after, "callback_on_step_end_tensor_inputs": shown}


def _numbers(calls: int, samples: Sequence[int] | range) -> Tensor:
    return torch.tensor([k % calls for k in samples])


def _prompts(calls: Sequence[Mapping[str, Any]], samples: Sequence[int] | range) -> list[str]:
    return [calls[k % len(calls)]["prompt"] for k in samples]


def _words(call: Mapping[str, Any]) -> dict[str, str]:
    """The arguments of a call that are prompts."""
    return {key: value for key, value in call.items() if "prompt" in key and isinstance(value, str)}


def _together(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two calls differ in their prompts alone; arguments that are no plain data must be the same objects."""

    def same(a: Any, b: Any) -> bool:
        return a is b or (isinstance(a, str | int | float | bool) and type(a) is type(b) and a == b)

    rest = one.keys() - _words(one).keys()
    return (
        _words(one).keys() == _words(other).keys()
        and one.keys() == other.keys()
        and all(same(one[key], other[key]) for key in rest)
    )


def _joined(calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of one call for all samples of calls that differ in their prompts alone."""
    if "prompt" not in _words(calls[0]):
        return dict(calls[0])
    return {**calls[0], **{key: [call[key] for call in calls] for key in _words(calls[0])}}
