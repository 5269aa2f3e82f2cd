"""Schedule, the times of an n-step sampler: checked when it is made, and storable in a file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optsteps.deprecation import MovedMethod
from optsteps.processes import Process, Times, as_times, process_from_dict
from optsteps.storage.documents import read_json
from optsteps.storage.files import write_atomically

FORMAT = "optsteps.schedule"


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
            process; orders, scale or amplitude that do not fit. The message names the value.
    """

    times: Tensor
    process: Process
    orders: tuple[int, ...] | None = None
    initial_scale: float | None = None
    amplitude: Tensor | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

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
    ) -> None:
        set_field = object.__setattr__  # the dataclass is frozen: fields are set here, once
        set_field(self, "times", as_times(times).clone())
        set_field(self, "process", process)
        set_field(self, "orders", None if orders is None else tuple(_integer(order) for order in orders))
        set_field(self, "initial_scale", None if initial_scale is None else float(initial_scale))
        set_field(self, "amplitude", None if amplitude is None else as_times(amplitude).detach().clone())
        set_field(self, "metadata", dict(metadata or {}))
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
        }

    def snapped(self, timesteps: int = 1000) -> Schedule:
        """The nearest schedule whose times are timesteps at which every sampler can call its network.

        Many samplers cannot call it between two timesteps: they cut a time to an integer, or take the nearest one.

        Args:
            timesteps: number of timesteps of a flow from t = 0 to 1. A VP process has its own number.

        Returns:
            A schedule with times rounded to integers under VP and to multiples of 1 / timesteps under a flow; `t_clean`
            stays. Times that are rounded to the same number become one, so a dense schedule loses steps.

        Raises:
            ValueError: an EDM process, which has no timesteps; times that become one in a schedule whose steps have
                orders or an amplitude; fewer than two times left.
        """
        if self.process.name == "edm":
            raise ValueError("an EDM process has no timesteps to snap to: its networks take any noise level")
        count = 1 if self.process.name == "vp" else timesteps
        times = (self.times * count).round() / count
        # only the clean time itself is rounded to it
        vanished = (self.times > self.process.t_clean) & (times <= self.process.t_clean)
        times = times.masked_fill(vanished, 1 / count).unique_consecutive()
        if len(times) < len(self.times) and (self.orders is not None or self.amplitude is not None):
            raise ValueError(
                f"{len(self.times) - len(times)} of the {self.steps} steps vanish when times are rounded to timesteps, "
                "and the schedule has orders or an amplitude for them: search on a teacher that is snapped instead"
            )
        return Schedule(times, self.process, self.orders, self.initial_scale, self.amplitude, self.metadata)

    def save(self, path: str | Path) -> None:
        """Write a JSON file with a checksum. Every number reads back exactly; the file appears whole or not at all."""
        data = {"format": FORMAT, "version": 2, "steps": self.steps, **self.facts, "metadata": dict(self.metadata)}
        write_atomically(Path(path), json.dumps({**data, "checksum": _checksum(data)}, indent=1).encode())

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read a file that `save` wrote. Files of version 1, which have no checksum, are read as well.

        Raises:
            ValueError: the file is not a schedule, its content is not valid, or it was changed since it was written.
        """
        try:
            data = read_json(path)
            if data["format"] != FORMAT or data["version"] not in (1, 2):
                raise ValueError(f"format {data['format']!r}, version {data['version']!r}")
            if data["version"] == 2 and data.pop("checksum") != _checksum(data):
                raise ValueError(
                    "its checksum is not that of its content: the file is damaged, or was changed by hand; where that "
                    'was meant, say "version": 1'
                )
            optional = [data[key] for key in ("orders", "initial_scale", "amplitude", "metadata")]
            return cls(data["times"], process_from_dict(data["process"]), *optional)
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise ValueError(f"{path} is not a schedule of this version ({error})") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        same_amplitude = (
            self.amplitude is other.amplitude
            if self.amplitude is None or other.amplitude is None
            else torch.equal(self.amplitude, other.amplitude)
        )
        return (
            torch.equal(self.times, other.times)
            and (self.process, self.orders, self.initial_scale) == (other.process, other.orders, other.initial_scale)
            and dict(self.metadata) == dict(other.metadata)
            and same_amplitude
        )

    def __hash__(self) -> int:
        return hash((tuple(self.times.tolist()), self.orders, self.initial_scale))


def _checksum(data: Mapping[str, Any]) -> str:
    """SHA-256 of JSON data, whatever its layout in a file."""
    as_read = json.loads(json.dumps(data))  # keys that are numbers become text in a file
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def _integer(number: float) -> int:
    if number != int(number):
        raise ValueError(f"orders must be integers, got {number}")
    return int(number)
