"""A scheduler of diffusers that samples with the solvers of this package, on any schedule that they take.

A pipeline's loop gives one output of the network for each of the scheduler's timesteps, and a step of a solver may ask
for two. Such a step is two entries of the timesteps. It is run when the first output has come, as far as the place
where it asks for another; that place is handed to the pipeline as if it were the end of a step. When the second output
has come, it is run again from its beginning with both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.denoisers import PREDICTIONS, expand
from optsteps.export.diffusers.scheduler_config import (
    DIFFUSERS_PREDICTIONS,
    calls_with_arctan,
    is_edm,
    is_flow,
    prediction_name,
)
from optsteps.export.diffusers.schedulers import KINDS, SCHEDULERS, class_name, unapplied
from optsteps.export.diffusers.tables import (
    TIMESTEP_TOLERANCE,
    called_with,
    check_trained_on,
    on_timesteps,
    time_called_with,
)
from optsteps.processes import EDM, Flow
from optsteps.sampling import calibrated, check_channels
from optsteps.schedules import Schedule
from optsteps.solvers import Multistep, Solver, build_solver, solver_settings
from optsteps.solvers.base import Denoise, Move, State
from optsteps.solvers.brownian import BrownianPaths

# classes whose step is Euler's, beside those of `SCHEDULERS`
_EULER = ("DDIMScheduler", "DDIMParallelScheduler", "CogVideoXDDIMScheduler")


@dataclass
class OptstepsSchedulerOutput(BaseOutput):  # type: ignore[misc]
    """What a step returns.

    Attributes:
        prev_sample: what the network is called with next, [B, ...].
        pred_original_sample: D, the estimate of x_0 that the output of the network gave, [B, ...].
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class Call(NamedTuple):
    """A call of the network on a walk.

    Attributes:
        step: of the schedule, counted from 0.
        time: of the state that the network is called on.
        told: the time that it is told.
        first: whether the step begins with it.
    """

    step: int
    time: float
    told: float
    first: bool


class _Asked(Exception):  # noqa: N818 no error
    """A step asks for a prediction at x that is not there yet."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


@dataclass
class _Answers:
    """A denoiser whose first answers are known."""

    known: Sequence[Tensor]
    given: int = 0

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        if self.given == len(self.known):
            raise _Asked(x)
        self.given += 1
        return self.known[self.given - 1]


@dataclass
class _Walk:
    """A walk under way.

    Attributes:
        begun: the step of the schedule that it began with.
        moves: from that step on.
        paths: of the samples, for a stochastic solver.
        x, answers: where the step under way begins [B, ...], and the predictions that have come for it.
        state: the solver's.
    """

    begun: int
    moves: list[Move]
    paths: BrownianPaths | None
    x: Tensor
    answers: list[Tensor] = field(default_factory=list)
    state: State = ()


class Timesteps(Tensor):
    """The numbers that the network is called with, [calls], as pipelines cut them.

    `timesteps[k:]` is how a pipeline with a strength leaves out steps. It counts steps of its own, and the number of
    these may be another than the schedule's: so the same share of the schedule's steps is left out. A pipeline that
    finds its place by comparing the timesteps with a time (SDXL's denoising_start) counts the entries as they are.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    scheduler: OptstepsScheduler

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) and index.stop is None and (index.start or 0) > 0:
            index = slice(self.scheduler.entry(index.start), None, index.step)
        return super().__getitem__(index)

    def __lt__(self, other: Any) -> Any:
        self.scheduler.counts_entries = True
        return super().__lt__(other)


class OptstepsScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """The scheduler of one schedule and one solver of this package.

    Make it by `from_schedule` or `from_pipeline`, and call the pipeline as ever: whatever number of steps, timesteps,
    sigmas or mu it passes, its schedule is run. Samples are in the process's own scale, and latents that a pipeline is
    given are unit noise.

    Args:
        schedule: `Schedule.to_dict`.
        solver: settings of `build_solver`.
        num_train_timesteps: a flow's network is called with so many times t.
        prediction_type: of the network: "epsilon", "v_prediction", "sample" or "flow_prediction". None: that of most
            models under the schedule's process.
        invert_sigmas: a flow's network is called with times that run from 0 at noise to 1, as Mochi's is.
        sigma_data: of an EDM network's preconditioning.
        arctan_levels: an EDM network is called with 2 / pi times the arctangents of noise levels, as StableAudio's is,
            and not with a quarter of their logarithms.
        whole: a pipeline with a strength runs the whole schedule, which begins where the strength says: for schedules
            that were made for this part alone. Otherwise it runs the schedule's last part.
        seed: of a stochastic solver: the noise of sample k of a batch depends on (seed, k) alone, as in
            `optsteps.sample`. None: it depends on the generator that the pipeline hands to `step`, as pipelines of
            Stable Diffusion's kind do, or else on torch's own.

    Raises:
        ValueError: no schedule, or one that the solver cannot obey (`Solver.check`); an unknown prediction type.
    """

    _compatibles: ClassVar[list[str]] = [*KINDS, *_EULER, "PNDMScheduler"]
    # where a walk is: the call that comes next, the one that it begins with, and its steps
    _step_index: int | None
    _begin_index: int | None
    _walk: _Walk | None

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        schedule: Mapping[str, Any] | None = None,
        solver: Mapping[str, Any] | None = None,
        num_train_timesteps: int = 1000,
        prediction_type: str | None = None,
        invert_sigmas: bool = False,
        sigma_data: float = 1.0,
        arctan_levels: bool = False,
        whole: bool = False,
        seed: int | None = None,
    ) -> None:
        if schedule is None:
            raise ValueError("OptstepsScheduler runs a schedule: make it by OptstepsScheduler.from_schedule(FILE)")
        self.schedule, self.solver = Schedule.from_dict(schedule), build_solver(**(solver or {"name": "euler"}))
        self.solver.check(self.schedule)
        prediction = prediction_type or {"flow": "flow_prediction"}.get(self.schedule.process.name, "epsilon")
        if prediction not in DIFFUSERS_PREDICTIONS:
            raise ValueError(f"prediction_type {prediction!r} is none of {', '.join(DIFFUSERS_PREDICTIONS)}")
        self.register_to_config(prediction_type=prediction)  # which tells a flow, also to others
        self.prediction, self.seed, self.whole = DIFFUSERS_PREDICTIONS[prediction], seed, whole
        self.variance, self.inverted = sigma_data**2, invert_sigmas
        self.calls = planned_calls(self.schedule, self.solver)
        self.order = max(sum(call.step == step for call in self.calls) for step in range(self.schedule.steps))
        self.said = False
        self.set_timesteps(self.schedule.steps)

    @classmethod
    def from_schedule(
        cls, schedule: Schedule | str | Path, solver: str | Solver | None = None, **settings: Any
    ) -> OptstepsScheduler:
        """The scheduler of a schedule, or of a file with one.

        Args:
            solver: or its name; None for the one that the schedule was searched with, else Euler's.
            settings: those of the class.

        Raises:
            ValueError: as the class; orders that the solver does not have; a solver that is not of this package.
        """
        schedule = schedule if isinstance(schedule, Schedule) else Schedule.load(schedule)
        ours = {"schedule": schedule.to_dict(), "solver": solver_settings(solver_for(schedule, solver))}
        return cls(**ours, **settings)  # by name: diffusers takes other arguments for defaults

    @classmethod
    def from_pipeline(
        cls, pipe: Any, schedule: Schedule | str | Path, solver: str | Solver | None = None, **settings: Any
    ) -> OptstepsScheduler:
        """The scheduler of a schedule for the model of a pipeline, whose own scheduler says what its network predicts.

        The settings of the pipeline's scheduler stay in the config, so that
        `EulerDiscreteScheduler.from_config(pipe.scheduler.config)` is that of the model again.

        Args:
            pipe: a pipeline, or its scheduler.
            schedule, solver, settings: as in `from_schedule`. Where the schedule names no solver either, it is that of
                the pipeline's scheduler.

        Raises:
            ValueError: as `from_schedule`; a schedule of another process than the model's; no solver is named, and this
                package has none with the steps of the pipeline's scheduler.
        """
        schedule = schedule if isinstance(schedule, Schedule) else Schedule.load(schedule)
        theirs = unapplied(getattr(pipe, "scheduler", pipe))
        check_trained_on(schedule, theirs)
        if solver is None and "solver" not in schedule.metadata:
            solver = solver_of_scheduler(theirs)
            if solver is None:
                raise ValueError(
                    f"this package has no solver with the steps of {class_name(theirs)}: name one, solver=..."
                )
        model = _kind_of_process(theirs)
        if model != schedule.process.name:
            raise ValueError(
                f"the model of {class_name(theirs)} has a process of the kind {model}, and the schedule is for "
                f"{schedule.process!r}"
            )
        ours = {"schedule": schedule.to_dict(), "solver": solver_settings(solver_for(schedule, solver))}
        model_settings = {"prediction_type": prediction_name(theirs), "arctan_levels": calls_with_arctan(theirs)}
        settings = {**model_settings, **settings}
        made: OptstepsScheduler = cls.from_config(theirs.config, **ours, **settings)
        return made

    @property
    def timesteps(self) -> Timesteps:
        """The numbers that the network is called with [calls], on the device of `set_timesteps`."""
        timesteps = self._timesteps.as_subclass(Timesteps)
        timesteps.scheduler = self
        return timesteps

    @property
    def init_noise_sigma(self) -> float:
        """The scale of the first sample, by which pipelines of Stable Diffusion's kind multiply unit noise."""
        return float(self.schedule.scale)

    @property
    def step_index(self) -> int | None:
        """The number of the call that comes next; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The number of the call that a walk begins with, where the pipeline has said it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin with this call, counted as the pipeline counts (`Timesteps`)."""
        self._begin_index = self.entry(begin_index)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **others: Any,
    ) -> None:
        """Be ready for a walk of the schedule. All arguments but the device are ignored.

        Warns:
            UserWarning: once, where another number of steps is asked for.
        """
        listed = next((given for given in (timesteps, sigmas) if given is not None), None)
        asked = num_inference_steps if listed is None else len(listed)
        if asked not in (None, self.schedule.steps) and not self.said:
            self.said = True
            warnings.warn(
                f"the pipeline asks for {asked} steps, and its scheduler runs the {self.schedule.steps} steps of its "
                "schedule",
                stacklevel=2,
            )
        process, told = self.schedule.process, torch.tensor([call.told for call in self.calls], dtype=torch.float64)
        numbers, times = called_with(told, process, self), [call.time for call in self.calls]
        whole = process.name == "vp" and on_timesteps(numbers)
        self._timesteps = (numbers.round().long() if whole else numbers.float()).to(device)
        levels = torch.tensor([*times, float(self.schedule.times[-1])], dtype=torch.float64)
        self.sigmas = (levels if isinstance(process, Flow) else process.noise_level(levels)).float()
        self.num_inference_steps = self.schedule.steps
        # what the pipeline counts in: its own steps, or the entries of the list that it reads afterwards
        self.counted = self.schedule.steps if asked is None else asked if listed is None else len(self.calls)
        self.counts_entries = False
        self._step_index = self._begin_index = self._walk = None

    def entry(self, begin: int) -> int:
        """The number of the call, the first of a step, at which a pipeline begins that leaves out `begin` of the
        timesteps as it counts them."""
        if self.whole or begin <= 0:
            return 0
        steps = self.schedule.steps
        if self.counts_entries:
            step = self.calls[begin].step if begin < len(self.calls) else steps
        else:
            entries = self.counted * self.order
            left = max(entries - begin, 0)
            step = steps - (max(1, (2 * steps * left + entries) // (2 * entries)) if left else 0)
        return next((number for number, call in enumerate(self.calls) if call.step == step), len(self.calls))

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network is called with for a sample [B, ...]: the sample, or that times EDM's c_in."""
        if not isinstance(self.schedule.process, EDM):
            return sample
        call = self.calls[self._place(timestep) if self._step_index is None else self._step_index]
        total = call.told**2 + self.variance
        return sample / total**0.5

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> OptstepsSchedulerOutput | tuple[Tensor, Tensor]:
        """The sample that the network is called with next, or the last one.

        Args:
            model_output: of the network for `sample` [B, ...]; a learned variance behind it is left out.
            timestep: the entry of `timesteps` that it was called with, by which the first call finds its place.
            sample: [B, ...], in the process's own scale.
            generator: of a stochastic solver's noise, one or one per sample; see `seed` of the class.
            return_dict: whether to return an `OptstepsSchedulerOutput` instead of a tuple of its parts.

        Raises:
            IndexError: the schedule is at its end, and `set_timesteps` was not called.
            ValueError: an amplitude for another number of channels.
        """
        if self._step_index is None:
            self._step_index = self._place(timestep)
        if self._step_index >= len(self.calls):
            raise IndexError(f"all {len(self.calls)} calls of the schedule are made: set_timesteps begins again")
        call, process = self.calls[self._step_index], self.schedule.process
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        if model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]
        predicted = self._denoised(model_output.to(x), x, call.told)
        walk = self._walk = self._walk or self._begun(call.step, x, generator)
        if call.first:
            walk.x, walk.answers = x, []
        walk.answers.append(predicted)
        denoise = Denoise(_Answers(walk.answers), process, paths=walk.paths).at(self.schedule, call.step)
        try:
            x, walk.state = walk.moves[call.step - walk.begun](walk.state, walk.x, denoise)
            x = calibrated(self.schedule, call.step, x)
        except _Asked as asked:
            x = asked.x
        self._step_index += 1
        x, predicted = x.to(sample.dtype), predicted.to(sample.dtype)
        return OptstepsSchedulerOutput(x, predicted) if return_dict else (x, predicted)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x_0 + sigma eps for x_0 and eps [B, ...] at the times of the timesteps [B] or [1]."""
        given = torch.as_tensor(timesteps, dtype=torch.float64).reshape(-1).tolist()
        t, process = torch.tensor([self._time(number) for number in given], dtype=torch.float64), self.schedule.process
        alpha, sigma = (part(t).expand(len(original_samples)) for part in (process.alpha, process.sigma))
        return expand(alpha, original_samples) * original_samples + expand(sigma, original_samples) * noise

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor | None = None) -> Tensor:
        """`add_noise`, in the order of arguments of schedulers of flows."""
        noise = torch.randn_like(sample) if noise is None else noise
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def __getstate__(self) -> dict[str, Any]:
        """All but a walk under way, whose steps are functions: a copy begins with `set_timesteps`."""
        return {**vars(self), "_walk": None}

    def sample_numbers(self, samples: int, generator: Any) -> Tensor:
        """The numbers [B] on which the noise of a stochastic solver's samples depends, beside the seed."""
        return torch.arange(samples) if self.seed is not None else _drawn_numbers(generator, samples)

    def _time(self, number: float) -> float:
        """The time of the state that the network is called on with `number`."""
        place = self._nearest(number)
        return time_called_with(number, self.schedule.process, self) if place is None else self.calls[place].time

    def _place(self, timestep: Any) -> int:
        """The number of a walk's first call."""
        if self._begin_index is not None:
            return self._begin_index
        place = self._nearest(float(timestep))
        if place is None:
            raise ValueError(f"no step of the schedule begins at timestep {float(timestep):g}")
        return place

    def _nearest(self, number: float) -> int | None:
        """The first call of a step whose number this is, or else any such call."""
        distances = (self._timesteps.double() - number).abs().tolist()
        order = sorted(range(len(self.calls)), key=lambda k: (round(distances[k], 6), not self.calls[k].first))
        return order[0] if distances[order[0]] <= TIMESTEP_TOLERANCE else None

    def _begun(self, step: int, x: Tensor, generator: Any) -> _Walk:
        """A walk that begins with a step of the schedule at x [B, ...]."""
        check_channels(self.schedule, x)
        paths = None
        if self.solver.stochastic:
            paths = BrownianPaths(self.seed or 0, self.sample_numbers(len(x), generator), x.shape[1:], x.device)
        return _Walk(step, self.solver.moves(self.schedule.part(step), x), paths, x)

    def _denoised(self, output: Tensor, x: Tensor, told: float) -> Tensor:
        """D for the output of the network that was told this time for x [B, ...]."""
        process, t = self.schedule.process, torch.tensor(told, dtype=torch.float64)
        if isinstance(process, EDM) and self.prediction != "x0":
            data = self.variance
            sign = 1 if self.prediction == "eps" else -1  # by diffusers' names for an EDM network's output
            of_x, of_output = data / (t**2 + data), sign * t * (data / (t**2 + data)) ** 0.5
        else:
            of_x, of_output = PREDICTIONS[self.prediction](process.alpha(t), process.sigma(t))
        if self.inverted:
            of_output = -of_output
        return expand(of_x, x) * x + expand(of_output, x) * output


def planned_calls(schedule: Schedule, solver: Solver) -> list[Call]:
    """The calls of the network on a walk of the schedule, found by walking with a network that answers 0."""
    calls = list[Call]()
    asked = list[float]()

    def noted(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        asked.append(float(t[0]))
        return torch.zeros_like(x)

    x = torch.zeros(1, 1, dtype=torch.float64)
    state: State = ()
    paths = BrownianPaths(0, torch.arange(1), x.shape[1:]) if solver.stochastic else None
    denoise = Denoise(noted, schedule.process, paths=paths)
    with torch.no_grad():
        for step, move in enumerate(solver.moves(schedule, x)):
            asked.clear()
            x, state = move(state, x, denoise.at(schedule, step))
            times = [float(schedule.times[step]), *asked[1:]]
            calls += [Call(step, *both, not k) for k, both in enumerate(zip(times, asked, strict=True))]
    return calls


def solver_for(schedule: Schedule, solver: str | Solver | None = None) -> Solver:
    """The solver to walk a schedule with: `solver`, or its name; None for that of the search, else Euler's.

    Raises:
        ValueError: it does not have the schedule's orders, or cannot obey the schedule otherwise.
    """
    if solver is None:
        form = {key: schedule.metadata[key] for key in ("flow_as",) if key in schedule.metadata}
        solver = build_solver(str(schedule.metadata.get("solver", "euler")), **form)
    elif isinstance(solver, str):
        solver = build_solver(solver)
    if max(schedule.orders or (1,)) > solver.order:
        if not isinstance(solver, Multistep) or max(schedule.orders or ()) not in solver.orders_known:
            raise ValueError(
                f"the schedule's steps have the orders {list(schedule.orders or ())}, and {solver.name} has none above "
                f"{solver.order}: name the solver of the search, solver=..."
            )
        solver = build_solver(**{**solver_settings(solver), "order": max(schedule.orders or ())})
    solver.check(schedule)
    return solver


def _drawn_numbers(generator: torch.Generator | list[torch.Generator] | None, samples: int) -> Tensor:
    """Numbers of the samples' Brownian paths [B], drawn from one generator or from each sample's own."""
    generators = generator if isinstance(generator, list) else [generator] * samples
    drawn = [torch.randint(2**31, (), generator=one, device="cpu" if one is None else one.device) for one in generators]
    return torch.stack([number.cpu() for number in drawn])


def solver_of_scheduler(scheduler: Any) -> str | None:
    """The name of the solver whose steps a scheduler of diffusers takes; None where this package has none."""
    name = class_name(scheduler)
    if name in _EULER:
        return "euler"
    return next((solver for solver, classes in SCHEDULERS.items() if name in classes.values()), None)


def _kind_of_process(scheduler: Any) -> str:
    """The name of the process of a scheduler's model."""
    if isinstance(scheduler, OptstepsScheduler):
        return scheduler.schedule.process.name
    return "flow" if is_flow(scheduler) else "edm" if is_edm(scheduler) else "vp"
