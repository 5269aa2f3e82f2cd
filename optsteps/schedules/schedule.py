"""Schedule, the times of an n-step sampler: checked when it is made, and storable in a file."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from optsteps.deprecation import MovedMethod
from optsteps.processes import Process, Times, as_times, process_from_dict
from optsteps.storage.documents import read_json
from optsteps.storage.files import write_atomically

FORMAT = "optsteps.schedule"
PartBy = Literal["step", "noise_level"]
ToldAs = Literal["x0", "slope"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """The strictly decreasing times t_0 > ... > t_n of an n-step sampler, and what else the sampler must obey.

    Args:
        times: [n+1], the noisiest first; `process.t_clean` is allowed as the last. Gradients are kept.
        process: the process whose clock the times are read on.
        orders: the solver's order at each of the n steps (OSS Algorithm 2). None: the solver decides.
        initial_scale: the factor of unit noise at t_0. None: `process.prior_std(t_0)`.
        amplitude: [n, C, 2], the gain and offset of every channel that are applied after each step (OSS, eq. 13).
        metadata: JSON data about where the schedule comes from. The keys that other parts read are below; all others
            are for people.
        weights: [n, K], the weights of a multistep solver's remembered outputs, in place of the solver's own. Step i,
            counted from 0, is x_{i+1} = a x_i + b D_i + sum_k weights[i, k-1] (q_{i-k} - q_i), k = 1 ... K, with q the
            quantity that the solver extrapolates (`Multistep.extrapolates`). They are 0 where k > i, since nothing
            is remembered there. `Multistep.own_weights` are the solver's own. Gradients are kept.
        told_times: [n], the times that the network is told at the steps in place of t_0 ... t_{n-1}. The solver's
            coefficients are those of the schedule's own times. Gradients are kept.
        told_as: what the answer at a told time gives to the step. "x0": the estimate of x_0, as it is. "slope": the
            slope of the path there, which the step then takes at its own time: eps under VP and EDM, the velocity
            under a flow.

    Metadata that are read:
        "solver": name of the solver that the schedule was searched with. The export writes for the scheduler of
            diffusers that has this solver, and refuses orders that this solver would not use. None: Euler's.
        "flow_as": the form of the solver's step under a flow (`Solver.formulas`). The export warns where a tool samples
            with another form. None: "flow". `Solver.described` holds both keys.
        "range": where the first and the last time come from, as the comparison's table shows it. None: "the teacher's"
            where the ends are the teacher's, otherwise "its method's".
        "formula_levels": the largest and the least noise level of a hand-made family's formula, where the schedule goes
            on to an infinite level or to 0 and the formula cannot. A run's report and log say it.

    Raises:
        ValueError: fewer than two times; a time that is not finite, not below the one before it, or outside the
            process; orders, scale, amplitude, weights or told times that do not fit; both orders and weights; the slope
            at another time than the step's own where one of them has alpha 0. The message names the value.
    """

    times: Tensor
    process: Process
    orders: tuple[int, ...] | None = None
    initial_scale: float | None = None
    amplitude: Tensor | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    weights: Tensor | None = None
    told_times: Tensor | None = None
    told_as: ToldAs = "x0"

    to_diffusers = MovedMethod("optsteps.export.to_diffusers(schedule, scheduler)")
    to_comfyui = MovedMethod("optsteps.export.to_comfyui(schedule, form)")
    to_csv = MovedMethod("optsteps.export.to_csv(schedule)")
    from_levels = MovedMethod("optsteps.export.read_schedule(source, process)")

    def __init__(
        self,
        times: Times,
        process: Process,
        orders: Sequence[int] | None = None,
        initial_scale: float | None = None,
        amplitude: Tensor | Sequence[Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        weights: Tensor | Sequence[Any] | None = None,
        told_times: Times | None = None,
        told_as: ToldAs = "x0",
    ) -> None:
        set_field = object.__setattr__  # the dataclass is frozen: fields are set here, once
        set_field(self, "times", as_times(times).clone())
        set_field(self, "process", process)
        set_field(self, "orders", None if orders is None else tuple(_integer(order) for order in orders))
        set_field(self, "initial_scale", None if initial_scale is None else float(initial_scale))
        set_field(self, "amplitude", None if amplitude is None else as_times(amplitude).detach().clone())
        set_field(self, "metadata", dict(metadata or {}))
        set_field(self, "weights", None if weights is None else as_times(weights).cpu().clone())
        set_field(self, "told_times", None if told_times is None else as_times(told_times).cpu().clone())
        set_field(self, "told_as", told_as)
        self._check()

    def _check(self) -> None:
        t = self.times.detach()
        if t.ndim != 1 or len(t) < 2:
            raise ValueError(f"a schedule needs a list of at least two times, got shape {tuple(t.shape)}")
        finite = torch.isfinite(t)
        if not bool(finite.all()):
            position = int((~finite).nonzero()[0])
            raise ValueError(
                f"value {position + 1} of the schedule's times is {t[position].item()}; times must be finite"
            )
        inside = self.process.contains(t)
        if not bool(inside.all()):
            position = int((~inside).nonzero()[0])
            raise ValueError(
                f"value {position + 1} of the schedule's times is {t[position].item()!r}, "
                f"outside the process {self.process!r}, "
                f"whose times run from {self.process.t_clean:g} to {self.process.t_limit:g}"
            )
        falling = t.diff() < 0
        if not bool(falling.all()):
            position = int((~falling).nonzero()[0]) + 1
            raise ValueError(
                f"times must be strictly decreasing, but value {position + 1} is {t[position].item()!r} after "
                f"{t[position - 1].item()!r}"
            )
        if self.orders is not None and (len(self.orders) != self.steps or min(self.orders) < 1):
            raise ValueError(f"orders must be {self.steps} integers of at least 1, one a step; got {self.orders}")
        if self.initial_scale is not None and not (math.isfinite(self.initial_scale) and self.initial_scale > 0):
            raise ValueError(f"initial_scale must be finite and positive, got {self.initial_scale}")
        if self.amplitude is not None:
            shape = tuple(self.amplitude.shape)
            if len(shape) != 3 or shape[0] != self.steps or shape[2] != 2:
                raise ValueError(f"amplitude must have shape [{self.steps}, channels, 2], got {shape}")
            if not bool(torch.isfinite(self.amplitude).all()):
                raise ValueError("amplitude must be finite")
        if self.weights is not None:
            self._check_weights(self.weights.detach())
        if self.told_times is not None:
            self._check_told_times(self.told_times.detach())
        if self.told_as not in get_args(ToldAs):
            raise ValueError(f"told_as must be 'x0' or 'slope', got {self.told_as!r}")
        if self.told_as == "slope" and self.told_times is None:
            raise ValueError("told_as='slope' says how told times are taken, and there are none: give told_times")

    def _check_weights(self, weights: Tensor) -> None:
        if self.orders is not None:
            raise ValueError("weights take the place of orders: give a schedule one of the two")
        if weights.ndim != 2 or len(weights) != self.steps or weights.shape[1] < 1:
            raise ValueError(
                f"weights must have shape [{self.steps}, K], a row for each step with K of at least 1, "
                f"got {tuple(weights.shape)}"
            )
        infinite = ~torch.isfinite(weights)
        if bool(infinite.any()):
            step, k = infinite.nonzero()[0].tolist()
            raise ValueError(f"weight {k + 1} of step {step + 1} is {weights[step, k].item()}; weights must be finite")
        too_early = weights.triu() != 0  # entry [i, k-1] with k > i
        if bool(too_early.any()):
            step, k = too_early.nonzero()[0].tolist()
            raise ValueError(
                f"weight {k + 1} of step {step + 1} is {weights[step, k].item()!r}, but only {step} outputs are "
                "remembered at that step: it must be 0"
            )

    def _check_told_times(self, told: Tensor) -> None:
        if told.shape != (self.steps,):
            raise ValueError(f"told_times must be {self.steps} times, one a step; got shape {tuple(told.shape)}")
        known = self.process.contains(told) & (told > self.process.t_clean)
        if not bool(known.all()):
            step = int((~known).nonzero()[0])
            raise ValueError(
                f"the network is told {told[step].item()!r} at step {step + 1}, which is no time of the process "
                f"{self.process!r} with noise: its times run from above {self.process.t_clean:g} to "
                f"{self.process.t_limit:g}"
            )
        if self.told_as == "slope" and self.process.name != "flow":
            own = self.times.detach()[:-1].cpu()
            of_pure_noise = ((self.process.alpha(own) == 0) | (self.process.alpha(told) == 0)) & (own != told)
            if bool(of_pure_noise.any()):
                step = int(of_pure_noise.nonzero()[0])
                raise ValueError(
                    f"step {step + 1} is at {own[step].item()!r} and the network is told {told[step].item()!r}, and at "
                    "one of them alpha is 0 and eps says nothing about x_0: tell it the step's own time, or give told "
                    "times that are told_as='x0'"
                )

    @property
    def steps(self) -> int:
        """Number of solver steps, n."""
        return len(self.times) - 1

    @property
    def noise_levels(self) -> Tensor:
        """sigma / alpha at every time, float64 [n+1]; infinite where a flow starts at t = 1."""
        return self.process.noise_level(self.times)

    @property
    def scale(self) -> Tensor:
        """Factor of unit noise at t_0, float64 scalar."""
        return self.process.prior_std(self.times[0]) if self.initial_scale is None else as_times(self.initial_scale)

    @property
    def ends_clean(self) -> bool:
        """Whether the last time is that of noise level 0."""
        return bool(self.times[-1] == self.process.t_clean)

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that determines the samples of the schedule, as JSON data: all but the metadata."""
        return {
            "times": self.times.tolist(),
            "process": self.process.to_dict(),
            "orders": self.orders,
            "initial_scale": self.initial_scale,
            "amplitude": None if self.amplitude is None else self.amplitude.tolist(),
            **self.carried,
        }

    @property
    def carried(self) -> dict[str, Any]:
        """The entries "weights", "told_times" and "told_as" as JSON data, each where the schedule has them.

        So the facts of a schedule without them, and the store's keys, are those of versions that did not know them.
        """
        parts = {"weights": self.weights, "told_times": self.told_times}
        carried: dict[str, Any] = {name: part.tolist() for name, part in parts.items() if part is not None}
        return carried if self.told_as == "x0" else {**carried, "told_as": self.told_as}

    def snapped(self, timesteps: int = 1000) -> Schedule:
        """The nearest schedule whose times are timesteps at which every sampler can call its network.

        Many samplers cannot call it between two timesteps: they cut a time to an integer, or take the nearest one.

        Args:
            timesteps: number of timesteps of a flow from t = 0 to 1. A VP process has its own number.

        Returns:
            A schedule with times rounded to integers under VP and to multiples of 1 / timesteps under a flow; `t_clean`
            stays. Times that are rounded to the same number become one, so a dense schedule loses steps. Told times
            are rounded as well, since they are what the network is called with.

        Raises:
            ValueError: an EDM process, which has no timesteps; times that become one in a schedule whose steps have
                orders, an amplitude or told times; times that move in a schedule with weights, which belong to the
                times that they were found for; fewer than two times left.
        """
        if self.process.name == "edm":
            raise ValueError("an EDM process has no timesteps to snap to: its networks take any noise level")
        count = 1 if self.process.name == "vp" else timesteps

        def rounded(times: Tensor) -> Tensor:
            timesteps = (times * count).round() / count
            # only the clean time itself is rounded to it
            vanished = (times > self.process.t_clean) & (timesteps <= self.process.t_clean)
            return timesteps.masked_fill(vanished, 1 / count)

        times = rounded(self.times)
        if self.weights is not None and not torch.equal(times, self.times):
            raise ValueError(
                "the schedule has weights, which belong to its times as they are: search on a teacher that is snapped "
                "instead"
            )
        times = times.unique_consecutive()
        of_steps = (self.orders, self.amplitude, self.told_times)
        if len(times) < len(self.times) and any(part is not None for part in of_steps):
            raise ValueError(
                f"{len(self.times) - len(times)} of the {self.steps} steps vanish when times are rounded to timesteps, "
                "and the schedule has orders, an amplitude or told times for them: search on a teacher that is snapped "
                "instead"
            )
        return replace(self, times=times, told_times=None if self.told_times is None else rounded(self.told_times))

    def part(
        self, first: float | None = None, last: float | None = None, by: PartBy = "step", strength: float | None = None
    ) -> Schedule:
        """The steps from one time of the schedule to another, as image-to-image and two-stage sampling run them.

        What belongs to the steps goes along: orders, weights, amplitudes and told times. The initial scale stays with
        a part that begins where the schedule does; another begins with the process's own, and a sampler that starts
        from an image adds it: x = alpha(t) x_0 + sigma(t) eps.

        Args:
            first, last: where the part begins and ends; None: where the schedule does. By "step" they are numbers of
                its times, 0 to n, so that `first` steps are left out before the part. By "noise_level" the part is all
                steps between two noise levels.
            strength: in place of the others, the img2img strength in (0, 1]: the last floor(n * strength) steps, as
                pipelines of diffusers count them.

        Raises:
            ValueError: no step is left, numbers that are no times of the schedule, or a strength with anything else.

        Warns:
            UserWarning: weights of outputs from before the part, which it does not have: such steps are of first order.
        """
        start, end = self._part_ends(first, last, by, strength)
        if not 0 <= start < end <= self.steps:
            raise ValueError(
                f"no step is left: the part of this schedule of {self.steps} steps would run from time {start} to time "
                f"{end}, counted from 0; choose first < last within 0 to {self.steps}"
            )
        kept = slice(start, end)
        return replace(
            self,
            times=self.times[start : end + 1],
            orders=None if self.orders is None else self.orders[kept],
            initial_scale=self.initial_scale if start == 0 else None,
            amplitude=None if self.amplitude is None else self.amplitude[kept],
            metadata={**self.metadata, "part_of_steps": self.steps},
            weights=None if self.weights is None else _weights_within(self.weights[kept], start),
            told_times=None if self.told_times is None else self.told_times[kept],
        )

    def _part_ends(
        self, first: float | None, last: float | None, by: PartBy, strength: float | None
    ) -> tuple[int, int]:
        if strength is not None:
            if first is not None or last is not None:
                raise ValueError("a part has a strength, or first and last: give one of the two")
            if not 0 < strength <= 1:
                raise ValueError(f"strength must lie above 0 and at most at 1, got {strength}")
            # a product such as 100 * 0.29 is rounded to just below the whole number
            return self.steps - math.floor(self.steps * strength + 1e-9), self.steps
        if by == "noise_level":
            levels, slack = self.noise_levels.detach(), 1 + 1e-6
            noisier = 0 if first is None else int((levels > first * slack).sum())
            return noisier, self.steps if last is None else int((levels * slack >= last).sum()) - 1
        if by != "step":
            raise ValueError(f"by must be 'step' or 'noise_level', got {by!r}")
        ends = 0 if first is None else first, self.steps if last is None else last
        if any(end != int(end) for end in ends):
            raise ValueError(f"steps are whole numbers, got first={ends[0]} and last={ends[1]}")
        return int(ends[0]), int(ends[1])

    def to_dict(self) -> dict[str, Any]:
        """Everything that `from_dict` needs to rebuild the schedule exactly, as JSON data."""
        return {**self.facts, "metadata": dict(self.metadata)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schedule:
        """Inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: this is no such data.
        """
        optional = [data[key] for key in ("orders", "initial_scale", "amplitude", "metadata")]
        carried = {key: data[key] for key in ("weights", "told_times", "told_as") if key in data}
        return cls(data["times"], process_from_dict(data["process"]), *optional, **carried)

    def save(self, path: str | Path) -> None:
        """Write a JSON file with a checksum. Every number reads back exactly; the file appears whole or not at all.

        A schedule with weights or told times is of version 3, and one that takes the slope at its told times of version
        4: versions of this package that would not obey them refuse it. All others are of version 2.
        """
        version = 4 if self.told_as == "slope" else 3 if self.carried else 2
        data = {
            "format": FORMAT,
            "version": version,
            "steps": self.steps,
            **self.to_dict(),
        }
        write_atomically(Path(path), json.dumps({**data, "checksum": _checksum(data)}, indent=1).encode())

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read a file that `save` wrote, of version 2 to 4. Files of version 1, which have no checksum, are read too.

        Raises:
            ValueError: the file is not a schedule, its content is not valid, or it was changed since it was written.
        """
        try:
            data = read_json(path)
            if data["format"] != FORMAT or data["version"] not in (1, 2, 3, 4):
                raise ValueError(f"format {data['format']!r}, version {data['version']!r}")
            if data["version"] != 1 and data.pop("checksum") != _checksum(data):
                raise ValueError(
                    "its checksum is not that of its content: the file is damaged, or was changed by hand; where that "
                    'was meant, say "version": 1'
                )
            return cls.from_dict(data)
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise ValueError(f"{path} is not a schedule of this version ({error})") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return (
            torch.equal(self.times, other.times)
            and (self.process, self.orders, self.initial_scale) == (other.process, other.orders, other.initial_scale)
            and self.told_as == other.told_as
            and dict(self.metadata) == dict(other.metadata)
            and _same(self.amplitude, other.amplitude)
            and _same(self.weights, other.weights)
            and _same(self.told_times, other.told_times)
        )

    def __hash__(self) -> int:
        carried = (() if part is None else tuple(part.flatten().tolist()) for part in (self.weights, self.told_times))
        return hash((tuple(self.times.tolist()), self.orders, self.initial_scale, *carried))


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def _weights_within(weights: Tensor, left_out: int) -> Tensor:
    """The weights [m, K] of a part with those of outputs from `left_out` steps before it removed, step by step whole:
    the rest of a step's weights are those of no formula."""
    reaches_back = (weights.detach().triu() != 0).any(1)
    if left_out and bool(reaches_back.any()):
        numbers = ", ".join(str(left_out + step + 1) for step in reaches_back.nonzero()[:, 0].tolist())
        warnings.warn(
            f"weights of the steps {numbers} belong to outputs from before the part, which it does not remember: these "
            "steps are of first order in it",
            UserWarning,
            stacklevel=3,
        )
    return weights.masked_fill(reaches_back[:, None], 0.0)


def _checksum(data: Mapping[str, Any]) -> str:
    """SHA-256 of JSON data, whatever its layout in a file."""
    as_read = json.loads(json.dumps(data))  # keys that are numbers become text in a file
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def _integer(number: float) -> int:
    if number != int(number):
        raise ValueError(f"orders must be integers, got {number}")
    return int(number)
