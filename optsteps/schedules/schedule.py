"""Schedules: the times of an n-step sampler, checked and storable, and the hand-made families."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from optsteps.processes import VP, Process, Times, as_times, process_from_dict
from optsteps.storage.documents import read_json
from optsteps.storage.files import write_atomically

if TYPE_CHECKING:
    from optsteps.export import DiffusersArguments

FORMAT = "optsteps.schedule"


@dataclass(frozen=True, eq=False)
class Schedule:
    """The strictly decreasing times t_0 > ... > t_n of an n-step sampler, and what else the sampler must obey.

    Args:
        times: [n+1], from the noisy end; `process.t_clean` is allowed as the last. Gradients are kept.
        process: the process whose clock the times are read on.
        orders: order the solver uses at each of the n steps (OSS Algorithm 2); None leaves it to the solver.
        initial_scale: what unit noise is multiplied by at t_0; None for `process.prior_std(t_0)`.
        amplitude: [n, C, 2], gain and offset per channel applied after each step (OSS, eq. 13).
        metadata: JSON data about where the schedule comes from.

    Raises:
        ValueError: fewer than two times; not finite, not strictly decreasing or outside the process; orders, scale or
            amplitude that do not fit. The message names the value.
    """

    times: Tensor
    process: Process
    orders: tuple[int, ...] | None = None
    initial_scale: float | None = None
    amplitude: Tensor | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

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
        """What unit noise is multiplied by at t_0, float64 scalar."""
        return self.process.prior_std(self.times[0]) if self.initial_scale is None else as_times(self.initial_scale)

    @property
    def ends_clean(self) -> bool:
        """Is its last time that of noise level 0?"""
        return bool(self.times[-1] == self.process.t_clean)

    @property
    def facts(self) -> dict[str, Any]:
        """All but its metadata, as JSON data: what determines the samples it gives."""
        return {
            "times": self.times.tolist(),
            "process": self.process.to_dict(),
            "orders": self.orders,
            "initial_scale": self.initial_scale,
            "amplitude": None if self.amplitude is None else self.amplitude.tolist(),
        }

    def snapped(self, timesteps: int = 1000) -> Schedule:
        """The nearest schedule whose times are timesteps that every sampler can call its network at.

        Many cannot call it between two of them: they cut a time to an integer, or take the nearest one.

        Args:
            timesteps: how many a flow counts from t = 0 to 1; a VP process has its own.

        Returns:
            Times rounded to integers under VP and to multiples of 1 / timesteps under a flow; `t_clean` stays. Of
            times that meet only one is left, so a dense schedule has fewer steps than it had.

        Raises:
            ValueError: an EDM process, which has no timesteps; times that meet in a schedule whose steps have orders or
                an amplitude; fewer than two times left.
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

    def to_diffusers(self, scheduler: Any) -> DiffusersArguments:
        """What makes a scheduler of diffusers run this schedule: see `optsteps.export.to_diffusers`."""
        from optsteps.export import to_diffusers

        return to_diffusers(self, scheduler)

    def to_comfyui(self, form: Literal["text", "json"] = "text") -> str:
        """The sigmas for ComfyUI's manual-sigmas node: see `optsteps.export.to_comfyui`."""
        from optsteps.export import to_comfyui

        return to_comfyui(self, form)

    def to_csv(self) -> str:
        """A line for every time: see `optsteps.export.to_csv`."""
        from optsteps.export import to_csv

        return to_csv(self)

    @classmethod
    def from_levels(cls, source: str | Path | Sequence[float], process: Process) -> Schedule:
        """A schedule that somebody published: see `optsteps.export.read_schedule`."""
        from optsteps.export import read_schedule

        return read_schedule(source, process)

    def save(self, path: str | Path) -> None:
        """Write as JSON, with a checksum; every number reads back exactly. The file appears whole or not at all."""
        data = {"format": FORMAT, "version": 2, "steps": self.steps, **self.facts, "metadata": dict(self.metadata)}
        write_atomically(Path(path), json.dumps({**data, "checksum": _checksum(data)}, indent=1).encode())

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read what `save` wrote, also as it wrote before there were checksums (version 1).

        Raises:
            ValueError: the file is not a schedule, its content is not valid, or it is not what was written.
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


Final = Literal["t_min", "zero"]


def build_schedule(
    name: str,
    process: Process,
    steps: int,
    t_max: float | None = None,
    t_min: float | None = None,
    final: Final = "t_min",
    snap: bool = False,
    **parameters: Any,
) -> Schedule:
    """A hand-made schedule by its name.

    Args:
        name: one of `FAMILIES`.
        process: the process whose clock the times are read on.
        steps: number of solver steps, at least 1.
        t_max, t_min: the noisiest and the cleanest time of the formula (not used by `published`). Where the noise level
            at t_max is infinite (a flow's t = 1), families in noise levels start there and go on as from `t_finite`.
        final: "t_min" ends there; "zero" ends at noise level 0 (`process.t_clean`) as the family's authors do. Most
            append it, so that the last of the `steps` goes from t_min to noise level 0, as EDM's own sampler does;
            `published`, and `beta` in times, have a formula of one time more and 0 in the place of its last.
        snap: round the times to timesteps (`Schedule.snapped`), so that what is chosen among them every sampler can
            run; a dense schedule gets fewer steps by it.
        parameters: the family's own, see its docstring.

    Raises:
        ValueError: unknown name or parameter, bad range, or a family in log noise levels asked to end at level 0.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(FAMILIES)}")
    known = [p for p in inspect.signature(FAMILIES[name]).parameters if p not in ("process", "ramp", "ends", "steps")]
    if not set(parameters) <= set(known):
        raise ValueError(f"schedule {name!r} has the parameters {known}, not {sorted(set(parameters) - set(known))}")
    if final not in ("t_min", "zero"):
        raise ValueError(f"final must be 't_min' or 'zero', got {final!r}")
    replaces = final == "zero" and _ends_in_place(name, parameters)
    intervals = int(steps) - (final == "zero" and not replaces)
    if steps != int(steps) or intervals < 1:
        raise ValueError(f"{name} with final={final!r} needs at least {steps - intervals + 1} steps, got {steps}")
    described: dict[str, Any] = {"family": name, "final": final, **parameters}
    if name == "published":
        times = published(process, intervals, **parameters)
    else:
        if t_max is None or t_min is None:
            raise ValueError(f"{name} needs t_max and t_min, the noisiest and the cleanest time")
        ends = as_times([t_max, t_min])
        if not bool(process.contains(ends).all()) or t_min >= t_max:
            raise ValueError(
                f"t_max = {t_max:g} and t_min = {t_min:g} must be times of {process!r} "
                f"({process.t_clean:g} to {process.t_limit:g}) with t_max > t_min"
            )
        # from 0 at t_max to 1 at t_min; the ends are set, so that no rounding of a formula can leave the range
        inner = torch.linspace(0, 1, intervals + 1, dtype=torch.float64)[1:-1]
        times = torch.cat([ends[:1], FAMILIES[name](process, inner, ends, **parameters), ends[1:]])
        described |= {"t_max": t_max, "t_min": t_min}
    if final == "zero":
        times = torch.cat([times[:-1] if replaces else times, as_times([process.t_clean])])
    if not snap:
        return Schedule(times, process, metadata=described)
    return Schedule(times, process, metadata=described | {"snap": True}).snapped()


def _ends_in_place(name: str, parameters: Mapping[str, Any]) -> bool:
    """Do the family's authors put noise level 0 in the place of the formula's last time, rather than behind it?"""
    return name == "published" or (name == "beta" and parameters.get("of", "time") == "time")


def _between(ramp: Tensor, ends: Tensor) -> Tensor:
    return ends[0] + ramp * (ends[1] - ends[0])


def _levels(process: Process, ends: Tensor, family: str, positive: bool = False) -> Tensor:
    """Noise levels of the two ends; the largest finite one for an infinite one, as which the schedule starts all the
    same. Refused where the family's formula has no value for the cleanest."""
    levels = process.noise_level(as_times([min(float(ends[0]), process.t_finite), float(ends[1])]))
    if positive and levels[1].item() <= 0:
        raise ValueError(
            f"{family} is defined in log noise levels, and at t_min = {ends[1].item():g} the noise level is 0; choose "
            f"t_min with a positive one and final='zero' to end at noise level 0"
        )
    return levels


def edm(process: Process, ramp: Tensor, ends: Tensor, rho: float = 7.0) -> Tensor:
    """Uniform in noise_level^(1/rho) (Karras et al., arXiv:2206.00364, Eq. 5)."""
    if rho <= 0:
        raise ValueError(f"rho must be positive, got {rho}")
    return process.time_of_noise_level(_between(ramp, _levels(process, ends, "edm") ** (1 / rho)) ** rho)


def time_uniform(process: Process, ramp: Tensor, ends: Tensor) -> Tensor:
    """Uniform in the model's own time (DDIM's linear, Song et al., arXiv:2010.02502, App. D.2).

    Under a VP process of T timesteps, diffusers' "trailing" is t_max = T - 1, t_min = -1; its "linspace" is t_min = 0
    with final="zero"; its "leading" of n steps, which is DDIM's own, starts at (n - 1) T // n plus its offset.
    """
    return _between(ramp, ends)


def time_quadratic(process: Process, ramp: Tensor, ends: Tensor) -> Tensor:
    """Uniform in the square root of time (DDIM's quadratic, Song et al., arXiv:2010.02502, App. D.2, whose code has
    t_max = 0.8 T, t_min = 0 and final="zero")."""
    if ends[1] < 0:
        raise ValueError(f"time_quadratic needs t_min of at least 0, got {ends[1].item():g}; use final='zero'")
    return _between(ramp, ends.sqrt()) ** 2


def logsnr(process: Process, ramp: Tensor, ends: Tensor) -> Tensor:
    """Uniform in log-SNR (DPM-Solver, Lu et al., arXiv:2206.00927, Sec. 4; diffusers' `use_lu_lambdas`)."""
    return exponential(process, ramp, ends)


def exponential(process: Process, ramp: Tensor, ends: Tensor, rho: float = 1.0) -> Tensor:
    """Log noise level linear in (1 - i/n)^rho, k-diffusion's polyexponential; rho = 1 is `logsnr`."""
    if rho <= 0:
        raise ValueError(f"rho must be positive, got {rho}")
    log_levels = _levels(process, ends, "exponential" if rho != 1 else "logsnr", True).log()
    return process.time_of_noise_level((log_levels[1] + (1 - ramp) ** rho * (log_levels[0] - log_levels[1])).exp())


def cosine(process: Process, ramp: Tensor, ends: Tensor, scale: float = 1.0) -> Tensor:
    """Uniform in arctan(noise_level / scale).

    With scale 1 the signal falls as a cosine (Nichol & Dhariwal, arXiv:2102.09672); with scale the data's standard
    deviation it is optimal for Gaussian data under Euler (AYS, arXiv:2404.14507, Theorem 3.1).
    """
    if scale <= 0:
        raise ValueError(f"scale must be positive, got {scale}")
    angles = torch.atan(process.noise_level(ends) / scale)
    return process.time_of_noise_level(scale * torch.tan(_between(ramp, angles)))


def beta(
    process: Process,
    ramp: Tensor,
    ends: Tensor,
    alpha: float = 0.6,
    beta: float = 0.6,
    of: Literal["time", "noise_level"] = "time",
) -> Tensor:
    """Uniform quantiles of a Beta distribution (Lee et al., arXiv:2407.12173).

    of: what lies there: "time", as in the paper and in ComfyUI, where noise level 0 takes the place of the last time;
        "noise_level", as in diffusers (`use_beta_sigmas`) and A1111, where it is appended.
    """
    from scipy.stats import beta as beta_distribution

    if alpha <= 0 or beta <= 0:
        raise ValueError(f"alpha and beta must be positive, got {alpha} and {beta}")
    if of not in ("time", "noise_level"):
        raise ValueError(f"of must be 'time' or 'noise_level', got {of!r}")
    places = 1 - torch.from_numpy(beta_distribution.ppf(1 - ramp.numpy(), alpha, beta))
    if of == "time":
        return _between(places, ends)
    return process.time_of_noise_level(_between(places, _levels(process, ends, "beta of noise levels")))


def ddim(process: Process, ramp: Tensor, ends: Tensor) -> Tensor:
    """The noise levels of a DDPM with linear betas (Ho et al., arXiv:2006.11239) at uniform timesteps, for any process:
    what DDIM steps through (Song et al., arXiv:2010.02502, App. D.2). An end beyond its range stands for its last or
    first timestep."""
    ddpm = VP.linear()
    levels = process.noise_level(ends).clamp(*ddpm.noise_level([0.0, ddpm.t_limit]).tolist())
    return process.time_of_noise_level(ddpm.noise_level(_between(ramp, ddpm.time_of_noise_level(levels))))


def flow_shift(process: Process, ramp: Tensor, ends: Tensor, shift: float = 3.0) -> Tensor:
    """Flow times u = noise_level / (1 + noise_level), uniform before the shift u -> s u / (1 + (s - 1) u) (SD3, Esser
    et al., arXiv:2403.03206, Eq. 23), which multiplies noise levels by s. shift = 1 is uniform in flow time.

    From 1 to 0 it is FLUX's with shift e^mu. SD3 in diffusers stops short of 0 and appends it: its t_min is 1/1000,
    shifted twice, with final="zero".
    """
    if shift <= 0:
        raise ValueError(f"shift must be positive, got {shift}")
    alpha, sigma = process.alpha(ends), process.sigma(ends)
    flow_times = sigma / (alpha + sigma)
    unshifted = _between(ramp, flow_times / (shift - (shift - 1) * flow_times))
    shifted = shift * unshifted / (1 + (shift - 1) * unshifted)
    return process.time_of_noise_level(shifted / (1 - shifted))


# AYS's published noise levels (arXiv:2404.14507, released by its authors for 10 steps)
PUBLISHED_LEVELS = {
    "sd15": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
    "sdxl": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029],
    "deepfloyd_if": [160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006],
    "svd": [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002],
}


def published(process: Process, steps: int, model: str = "sd15") -> Tensor:
    """AYS's constants for `model`; other step counts by log-linear interpolation, as the paper does.

    Its users (diffusers, ComfyUI, A1111) step from the last level but one to noise level 0, for every step count:
    final="zero". The printed ends are rounded and may lie up to 2 % outside the process's range: they snap to it.

    Raises:
        ValueError: unknown model, or levels further outside the process.
    """
    if model not in PUBLISHED_LEVELS:
        raise ValueError(f"no published levels for {model!r}; known: {', '.join(PUBLISHED_LEVELS)}")
    log_levels = as_times(PUBLISHED_LEVELS[model]).log()
    place = torch.linspace(0, len(log_levels) - 1, steps + 1, dtype=torch.float64)
    below = place.floor().clamp(max=len(log_levels) - 2).long()
    levels = torch.lerp(log_levels[below], log_levels[below + 1], place - below).exp()
    within, outside = snap_levels(process, levels)
    if bool(outside.any()):
        low, high = process.noise_level([0.0, process.t_limit]).tolist()
        raise ValueError(
            f"the published levels of {model} run from {levels[0].item():g} to {levels[-1].item():g}, but "
            f"{process!r} covers {high:g} to {low:g}: they were made for another model"
        )
    return process.time_of_noise_level(within)


def snap_levels(process: Process, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Noise levels [n] moved into the range of a process that has a least and a greatest one, and which of them lay
    more than 2 % outside, further than digits printed explain [n]. 0 is the clean end's and stays."""
    if not (math.isfinite(process.t_limit) and process.t_clean < 0):
        return levels, torch.zeros_like(levels, dtype=torch.bool)
    within = torch.where(levels == 0, levels, levels.clamp(*process.noise_level([0.0, process.t_limit]).tolist()))
    return within, (levels != within) & ~((levels / within).log().abs() <= math.log(1.02))


FAMILIES: dict[str, Callable[..., Tensor]] = {
    "edm": edm,
    "time_uniform": time_uniform,
    "time_quadratic": time_quadratic,
    "logsnr": logsnr,
    "cosine": cosine,
    "exponential": exponential,
    "beta": beta,
    "ddim": ddim,
    "flow_shift": flow_shift,
    "published": published,
}
