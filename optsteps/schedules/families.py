"""Hand-made families of schedules: formulas between two times, and `build_schedule`, which makes one by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from optsteps.processes import VP, Process, as_times
from optsteps.schedules.published import published
from optsteps.schedules.schedule import Schedule

Final = Literal["t_min", "zero"]
# the times (process, ramp, ends, **parameters) -> [len(ramp)] between two ends, where ramp is uniform inside (0, 1)
Family = Callable[..., Tensor]

# families whose formula runs between two finite and positive noise levels
_BETWEEN_LEVELS = ("edm", "exponential", "logsnr")


def build_schedule(
    name: str | Family,
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
        name: one of `FAMILIES`, or a formula like those.
        process: the process whose clock the times are read on.
        steps: number of solver steps, at least 1.
        t_max, t_min: the noisiest and the cleanest time of the formula (not used by `published`). Where the noise level
            at t_max is infinite (a flow's t = 1), families in noise levels start at t_max and continue as if they had
            started at `t_finite`. Where it is 0 at t_min (a flow's t = 0), `edm`, `exponential` and `logsnr` run to
            `t_positive` and end with a step to noise level 0, as with final="zero". The metadata then holds the noise
            levels between which the formula runs ("formula_levels").
        final: "t_min" ends at t_min. "zero" ends at noise level 0 (`process.t_clean`) as the family's authors do. Most
            append that time, so that the last of the `steps` goes from t_min to noise level 0, as in EDM's own sampler.
            `published`, and `beta` in times, compute one time more and put noise level 0 in the place of the last.
        snap: round the times to timesteps (`Schedule.snapped`), so that every sampler can run a choice of these times.
            A dense schedule loses steps by it.
        parameters: the family's own parameters; its docstring lists them.

    Raises:
        ValueError: unknown name or parameter, bad range, or a family in log noise levels asked to end at level 0.
    """
    if isinstance(name, str) and name not in FAMILIES:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(FAMILIES)}")
    family, name = (FAMILIES[name], name) if isinstance(name, str) else (name, name.__name__)
    accepted = [p for p in inspect.signature(family).parameters if p not in ("process", "ramp", "ends", "steps")]
    if not set(parameters) <= set(accepted):
        raise ValueError(
            f"schedule {name!r} has the parameters {accepted}, not {sorted(set(parameters) - set(accepted))}"
        )
    if final not in ("t_min", "zero"):
        raise ValueError(f"final must be 't_min' or 'zero', got {final!r}")
    heads_to_clean = name in _BETWEEN_LEVELS and t_min == process.t_clean < process.t_positive < (t_max or 0)
    if heads_to_clean:
        t_min, final = process.t_positive, "zero"
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
        times = torch.cat([ends[:1], family(process, inner, ends, **parameters), ends[1:]])
        described |= {"t_max": t_max, "t_min": t_min}
        if heads_to_clean or (name in _BETWEEN_LEVELS and t_max > process.t_finite):
            described["formula_levels"] = finite_levels(process, ends, name).tolist()
    if final == "zero":
        times = torch.cat([times[:-1] if replaces else times, as_times([process.t_clean])])
    if not snap:
        return Schedule(times, process, metadata=described)
    return Schedule(times, process, metadata=described | {"snap": True}).snapped()


def _ends_in_place(name: str, parameters: Mapping[str, Any]) -> bool:
    """Whether the family's authors put noise level 0 in the place of the formula's last time, not behind it."""
    return name == "published" or (name == "beta" and parameters.get("of", "time") == "time")


def _between(ramp: Tensor, ends: Tensor) -> Tensor:
    return ends[0] + ramp * (ends[1] - ends[0])


def finite_levels(process: Process, ends: Tensor, family: str, positive: bool = False) -> Tensor:
    """Noise levels of the two ends; in place of an infinite one the largest finite one.

    Raises:
        ValueError: with `positive`, a noise level of 0 at the clean end, where the family's formula has no value.
    """
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
    return process.time_of_noise_level(_between(ramp, finite_levels(process, ends, "edm") ** (1 / rho)) ** rho)


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
    log_levels = finite_levels(process, ends, "exponential" if rho != 1 else "logsnr", True).log()
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

    Args:
        of: the quantity that has these quantiles. "time": as in the paper and in ComfyUI, where noise level 0 takes the
            place of the last time. "noise_level": as in diffusers (`use_beta_sigmas`) and A1111, which append it.
    """
    from scipy.stats import beta as beta_distribution

    if alpha <= 0 or beta <= 0:
        raise ValueError(f"alpha and beta must be positive, got {alpha} and {beta}")
    if of not in ("time", "noise_level"):
        raise ValueError(f"of must be 'time' or 'noise_level', got {of!r}")
    places = 1 - torch.from_numpy(beta_distribution.ppf(1 - ramp.numpy(), alpha, beta))
    if of == "time":
        return _between(places, ends)
    return process.time_of_noise_level(_between(places, finite_levels(process, ends, "beta of noise levels")))


def ddim(process: Process, ramp: Tensor, ends: Tensor) -> Tensor:
    """Noise levels of a DDPM with linear betas (Ho et al., arXiv:2006.11239) at uniform timesteps, for any process.

    DDIM steps through these (Song et al., arXiv:2010.02502, App. D.2). An end outside the DDPM's range counts as its
    last or first timestep.
    """
    ddpm = VP.linear()
    levels = process.noise_level(ends).clamp(*ddpm.noise_level([0.0, ddpm.t_limit]).tolist())
    return process.time_of_noise_level(ddpm.noise_level(_between(ramp, ddpm.time_of_noise_level(levels))))


def flow_shift(process: Process, ramp: Tensor, ends: Tensor, shift: float = 3.0) -> Tensor:
    """Flow times u = noise_level / (1 + noise_level), uniform before the shift u -> s u / (1 + (s - 1) u) (SD3, Esser
    et al., arXiv:2403.03206, Eq. 23). The shift multiplies noise levels by s; shift = 1 is uniform in flow time.

    From t = 1 to 0 with shift e^mu this is FLUX's schedule. SD3 in diffusers stops before 0 and appends 0: its t_min is
    1/1000, shifted twice, with final="zero".
    """
    if shift <= 0:
        raise ValueError(f"shift must be positive, got {shift}")
    alpha, sigma = process.alpha(ends), process.sigma(ends)
    flow_times = sigma / (alpha + sigma)
    unshifted = _between(ramp, flow_times / (shift - (shift - 1) * flow_times))
    shifted = shift * unshifted / (1 + (shift - 1) * unshifted)
    return process.time_of_noise_level(shifted / (1 - shifted))


FAMILIES: dict[str, Family] = {
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
