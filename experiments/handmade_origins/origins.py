"""Every hand-made family against the numbers of its origin: its authors' code, or the tools that people run it in.

    python experiments/handmade_origins/origins.py > experiments/handmade_origins/origins.md

The origins' numbers are computed by diffusers and k-diffusion as installed. ComfyUI, A1111 and DDIM's own code are no
packages: their formulas are written out here, from ComfyUI's nodes `AlignYourStepsScheduler` and `beta_scheduler` and
from DDIM's `runners/diffusion.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from optsteps import Schedule, build_schedule
from optsteps.processes import EDM, VP, Flow
from optsteps.reporting.markdown import markdown_lines

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # k-diffusion imports packages that warn of their own deprecations
    import diffusers
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift
    from diffusers.schedulers import AysSchedules
    from k_diffusion import sampling as k_diffusion

STEPS = (2, 5, 8, 10, 20, 50)
SD_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SD, DDPM = VP.scaled_linear(), VP.linear()
# float32 of the origins: of levels up to 157 made from products of a thousand factors, and of times up to 999
FLOAT32_LEVELS, FLOAT32_TIMES, ROUNDING = 2e-4, 1e-3, 0.5


@dataclass(frozen=True)
class Case:
    """A family in one setting and its origin's numbers, both with the last one that is not noise level 0 as their end.

    Attributes:
        family, origin, setting: what is compared.
        measure: "levels", the largest relative difference of noise levels, or "times", the largest difference of times.
        ours, theirs: [n] or [n+1].
        allowed: the largest difference that the origin's own precision explains.
    """

    family: str
    origin: str
    setting: str
    measure: str
    ours: np.ndarray
    theirs: np.ndarray
    allowed: float

    @property
    def difference(self) -> float:
        """The largest one; infinite where there are more numbers on one side."""
        if self.ours.shape != self.theirs.shape:
            return float("inf")
        gaps = np.abs(self.ours - self.theirs)
        return float((gaps / np.where(self.theirs > 0, self.theirs, 1) if self.measure == "levels" else gaps).max())


def levels(
    family: str, origin: str, setting: str, schedule: Schedule, theirs: Any, allowed: float = FLOAT32_LEVELS
) -> Case:
    """Noise levels against the origin's, a last 0 included."""
    return Case(family, origin, setting, "levels", schedule.noise_levels.numpy(), np.asarray(theirs, float), allowed)


def timesteps(
    family: str, origin: str, setting: str, schedule: Schedule, theirs: Any, allowed: float = FLOAT32_TIMES
) -> Case:
    """The times that the network is called at; the schedule ends at noise level 0, as the origin does."""
    assert schedule.ends_clean
    return Case(family, origin, setting, "times", schedule.times[:-1].numpy(), np.asarray(theirs, float), allowed)


def cases() -> Iterator[Case]:
    """All of them."""
    for n in STEPS:
        yield from edm(n)
        yield from exponential(n)
        yield from beta(n)
        yield from flow_shift(n)
        yield from uniform(n)
        yield from quadratic(n)
        yield from ddim(n)
        yield from cosine(n)
        yield from published(n)


def told(name: str, n: int, **options: Any) -> Any:
    """A scheduler of diffusers with its tables set for n steps."""
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(n)
    return scheduler


def edm(n: int) -> Iterator[Case]:
    schedule = build_schedule("edm", EDM(), n, 80.0, 0.002, final="zero")
    setting = f"n = {n}, 80 to 0.002, then 0"
    yield levels(
        "edm", "k-diffusion, get_sigmas_karras", setting, schedule, k_diffusion.get_sigmas_karras(n, 0.002, 80.0)
    )
    scheduler = told("EDMEulerScheduler", n, sigma_min=0.002, sigma_max=80.0)
    yield levels("edm", "diffusers, EDMEuler", setting, schedule, scheduler.sigmas)
    whole = build_schedule("edm", SD, n, 999.0, 0.0, final="zero")
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
        scheduler = told(name, n, use_karras_sigmas=True, **SD_BETAS)
        origin = f"diffusers, {name.removesuffix('Scheduler')}, use_karras_sigmas"
        yield levels("edm", origin, f"n = {n}, Stable Diffusion", whole, scheduler.sigmas)


def exponential(n: int) -> Iterator[Case]:
    for family in ("exponential", "logsnr"):
        schedule = build_schedule(family, EDM(), n, 80.0, 0.002, final="zero")
        theirs = k_diffusion.get_sigmas_exponential(n, 0.002, 80.0)
        yield levels(family, "k-diffusion, get_sigmas_exponential", f"n = {n}, 80 to 0.002, then 0", schedule, theirs)
    schedule = build_schedule("exponential", EDM(), n, 80.0, 0.002, final="zero", rho=0.6)
    theirs = k_diffusion.get_sigmas_polyexponential(n, 0.002, 80.0, rho=0.6)
    yield levels("exponential", "k-diffusion, get_sigmas_polyexponential", f"n = {n}, rho 0.6", schedule, theirs)
    for family, option in (("exponential", "use_exponential_sigmas"), ("logsnr", "use_lu_lambdas")):
        scheduler = told("DPMSolverMultistepScheduler", n, **{option: True}, **SD_BETAS)
        schedule = build_schedule(family, SD, n, 999.0, 0.0, final="zero")
        yield levels(family, f"diffusers, {option}", f"n = {n}, Stable Diffusion", schedule, scheduler.sigmas)


def beta(n: int) -> Iterator[Case]:
    schedule = build_schedule("beta", SD, n, 999.0, 0.0, final="zero")
    theirs = np.rint(999 * stats.beta.ppf(1 - np.arange(n) / n, 0.6, 0.6))
    yield timesteps("beta", "ComfyUI, beta", f"n = {n}, Stable Diffusion", schedule, theirs, ROUNDING)
    schedule = build_schedule("beta", SD, n, 999.0, 0.0, final="zero", of="noise_level")
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
        scheduler = told(name, n, use_beta_sigmas=True, **SD_BETAS)
        origin = f"diffusers, {name.removesuffix('Scheduler')}, use_beta_sigmas"
        yield levels("beta", origin, f"n = {n}, of=noise_level", schedule, scheduler.sigmas)


def flow_shift(n: int) -> Iterator[Case]:
    once = 3 * 0.001 / (1 + 2 * 0.001)
    twice = 3 * once / (1 + 2 * once)
    schedule = build_schedule("flow_shift", Flow(), n, 1.0, twice, final="zero", shift=3.0)
    theirs = told("FlowMatchEulerDiscreteScheduler", n, shift=3.0).sigmas
    yield flow_times("flow_shift", "diffusers, SD3", f"n = {n}, shift 3", schedule, theirs)
    # 512 x 512 and 1024 x 1024 pixels
    for tokens in (1024, 4096):
        mu = calculate_shift(tokens)
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / n, n), mu=mu)
        schedule = build_schedule("flow_shift", Flow(), n, 1.0, 0.0, shift=float(np.exp(mu)))
        setting = f"n = {n}, {tokens} tokens, mu {mu:.3f}"
        yield flow_times("flow_shift", "diffusers, FLUX", setting, schedule, scheduler.sigmas)
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    theirs = told("UniPCMultistepScheduler", n, **flow).sigmas
    times = build_schedule("flow_shift", Flow(), n, 1.0, once, shift=3.0).times.tolist()
    schedule = Schedule([*times[:-1], 0.0], Flow())
    # it keeps its first level 1e-6 below 1
    setting = f"n = {n}, shift 3, 0 in the place of 1/1000"
    yield flow_times("flow_shift", "diffusers, Wan's UniPC", setting, schedule, theirs, 2e-6)


def flow_times(family: str, origin: str, setting: str, schedule: Schedule, theirs: Any, allowed: float = 1e-6) -> Case:
    """A flow's times, which tools call sigmas, its last 0 included."""
    return Case(family, origin, setting, "times", schedule.times.numpy(), np.asarray(theirs, float), allowed)


def uniform(n: int) -> Iterator[Case]:
    trailing = build_schedule("time_uniform", SD, n, 999.0, -1.0)
    linspace = build_schedule("time_uniform", SD, n, 999.0, 0.0, final="zero")
    leading = build_schedule("time_uniform", SD, n, (n - 1) * (1000 // n) + 1.0, 1.0, final="zero")
    for spacing, schedule in (("trailing", trailing), ("linspace", linspace), ("leading", leading)):
        for name in ("DDIMScheduler", "EulerDiscreteScheduler"):
            scheduler = told(name, n, timestep_spacing=spacing, steps_offset=1, **SD_BETAS)
            origin = f"diffusers, {name.removesuffix('Scheduler')}"
            yield timesteps("time_uniform", origin, f"n = {n}, {spacing}", schedule, scheduler.timesteps, ROUNDING)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / n, n))
    schedule = build_schedule("time_uniform", Flow(), n, 1.0, 0.0)
    yield flow_times("time_uniform", "diffusers, FlowMatchEuler", f"n = {n}", schedule, scheduler.sigmas)


def quadratic(n: int) -> Iterator[Case]:
    schedule = build_schedule("time_quadratic", DDPM, n, 800.0, 0.0, final="zero")
    theirs = (np.linspace(0, np.sqrt(1000 * 0.8), n) ** 2)[::-1]
    yield timesteps("time_quadratic", "DDIM's code, before it cuts to integers", f"n = {n}", schedule, theirs)


def ddim(n: int) -> Iterator[Case]:
    scheduler = told("EulerDiscreteScheduler", n, timestep_spacing="linspace", beta_start=1e-4, beta_end=0.02)
    first, last = (EDM().time_of_noise_level(DDPM.noise_level(t)).item() for t in (999.0, 0.0))
    schedule = build_schedule("ddim", EDM(), n, first, last, final="zero")
    ours = DDPM.time_of_noise_level(schedule.noise_levels[:-1]).numpy()
    theirs = scheduler.timesteps.double().numpy()
    yield Case("ddim", "diffusers, Euler with DDPM's betas", f"n = {n}, linspace", "times", ours, theirs, FLOAT32_TIMES)


def cosine(n: int) -> Iterator[Case]:
    schedule = build_schedule("cosine", EDM(), n, 80.0, 0.002, scale=0.5)
    theirs = 0.5 * np.tan(np.linspace(np.arctan(80 / 0.5), np.arctan(0.002 / 0.5), n + 1))
    yield levels("cosine", "AYS, Theorem 3.1, written out", f"n = {n}, scale 0.5", schedule, theirs, 1e-12)
    # alpha_bar = f(t) / f(0) with f the squared cosine: but for the factor 1 / f(0), 1.00015, uniform in the angle
    alpha_bar = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod.double()
    process = VP.from_log_alpha_bar(alpha_bar.log())
    at = np.linspace(990, 10, n + 1)
    schedule = build_schedule("cosine", process, n, 990.0, 10.0)
    theirs = process.noise_level(torch.from_numpy(at)).numpy()
    setting = f"n = {n}, timesteps 990 to 10"
    yield levels("cosine", "diffusers, squaredcos_cap_v2", setting, schedule, theirs, 3e-2)


def published(n: int) -> Iterator[Case]:
    for model, name, process in (
        ("sd15", "StableDiffusion", SD),
        ("sdxl", "StableDiffusionXL", SD),
        ("svd", "StableDiffusionVideo", EDM()),
    ):
        schedule = build_schedule("published", process, n, model=model, final="zero")
        if n == 10:
            sigmas = AysSchedules[f"{name}Sigmas"]
            # the printed end is rounded beyond the process's
            yield levels("published", f"diffusers, {name}Sigmas", "n = 10", schedule, sigmas, 1e-4)
            if f"{name}Timesteps" in AysSchedules:
                steps = AysSchedules[f"{name}Timesteps"]
                yield timesteps("published", f"diffusers, {name}Timesteps", "n = 10", schedule, steps, 1.0)
        known = [*AysSchedules[f"{name}Sigmas"][:-1], {"svd": 0.002}.get(model, 0.029)]
        yield levels("published", f"ComfyUI, {model}", f"n = {n}", schedule, comfyui_ays(known, n), 1e-4)
    known = [160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006]
    schedule = build_schedule("published", EDM(), n, model="deepfloyd_if", final="zero")
    yield levels("published", "AYS's project page, DeepFloyd-IF", f"n = {n}", schedule, comfyui_ays(known, n), 1e-12)


def comfyui_ays(known: Sequence[float], n: int) -> np.ndarray:
    """What its node makes of the released levels: interpolated in the logarithm, the last one then set to 0."""
    found = np.exp(np.interp(np.linspace(0, 1, n + 1), np.linspace(0, 1, len(known)), np.log(known)))
    found[-1] = 0
    return found


def main() -> None:
    worst: dict[tuple[str, str, str], Case] = {}
    for case in cases():
        key = (case.family, case.origin, case.setting.split(",", 1)[1] if "," in case.setting else "")
        if key not in worst or case.difference > worst[key].difference:
            worst[key] = case
    print(
        f"The largest difference over {', '.join(map(str, STEPS))} steps, and what the origin explains: float32, times "
        "rounded to integers, or cosine's factor 1 / f(0).\n"
    )
    rows = []
    for (family, origin, setting), case in worst.items():
        unit = "relative, of noise levels" if case.measure == "levels" else "of times"
        rows.append([family, origin, setting.strip(), f"{case.difference:.1e}", f"{case.allowed:.0e}", unit])
    print(markdown_lines(["family", "origin", "setting", "difference", "allowed", ""], rows, left=3))


if __name__ == "__main__":
    main()
