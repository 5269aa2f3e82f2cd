"""Every class of pipeline, wrapped and sampled here, against its own call with what is exported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optsteps import Schedule, apply, build_schedule, sample
from optsteps.export import to_diffusers
from optsteps.processes import Flow
from optsteps.solvers import build_solver

sys.path.append(str(Path(__file__).parents[1] / "models"))
diffusers = pytest.importorskip("diffusers")
from test_diffusers import cond_of, noise_for, wrapped  # noqa: E402
from tiny_pipelines import PROMPTS, SIZES, steps_of  # noqa: E402

# pipelines that take latents and either timesteps or sigmas; DDPM's and DiT's draw their noise, Wan's has its own steps
TOLD = ("sd", "sdxl", "sd3", "flux")
FLOWS = ("sd3", "flux", "wan")
SHIFTS: dict[str, dict[str, Any]] = {
    "shift 1": {"shift": 1.0},
    "shift 3": {"shift": 3.0},
    "dynamic": {"use_dynamic_shifting": True, "shift": 1.0, "base_shift": 0.5, "max_shift": 1.15},
}
OF_FLOWS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def own_call(pipe: Any, name: str, noise: Tensor, **arguments: Any) -> Tensor:
    """The latents at the end of the pipeline's own loop."""
    arguments = arguments or {"num_inference_steps": 9}  # `apply` heeds no number of steps
    with steps_of(pipe.scheduler) as ends:
        if name == "ddpm":
            pipe(batch_size=len(noise), generator=torch.manual_seed(0), output_type="pt", **arguments)
        elif name == "dit":
            pipe(list(range(len(noise))), generator=torch.manual_seed(0), output_type="pt", **arguments)
        else:
            pipe(PROMPTS, latents=noise.clone(), output_type="latent", **SIZES.get(name, {}), **arguments)
    return ends[-1][: len(noise)]


def schedule_for(process: Any, whole: bool) -> Schedule:
    if isinstance(process, Flow):
        return build_schedule("flow_shift", process, 6, t_max=1.0, t_min=0.0, shift=1.7)
    found = Schedule([980.25, 800, 613.7, 400, 211.5, 90, process.t_clean], process)
    return found.snapped() if whole else found


def compare(name: str, scheduler: str, settings: dict[str, Any], solver: str, by_arguments: bool) -> None:
    """`scheduler` in the place of the pipeline's own."""
    pipe, model = wrapped(name)
    schedule = schedule_for(model.process, whole=by_arguments)
    kind = getattr(diffusers, scheduler)
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **settings)
    noise, cond = noise_for(model), cond_of(model)
    with torch.no_grad():
        expected = sample(model.denoiser, schedule, build_solver(solver), noise, cond)
        if by_arguments:
            told = to_diffusers(schedule, pipe.scheduler)
            pipe.scheduler = told.build(pipe.scheduler.config)
            found = own_call(pipe, name, noise, **told.arguments)
        else:
            found = own_call(apply(pipe, schedule), name, noise)
    largest = float(expected.abs().max())  # random weights make latents of up to hundreds
    assert largest > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * max(1.0, largest))


def ways(*names: str) -> list[Any]:
    """Each by `apply`, and by arguments where its pipeline takes them."""
    return [pytest.param(n, by, id=f"{n}-{'arguments' if by else 'apply'}") for n in names for by in {False, n in TOLD}]


@pytest.mark.parametrize(("name", "by_arguments"), ways("sd", "sdxl"))
def test_euler(name: str, by_arguments: bool) -> None:
    compare(name, "EulerDiscreteScheduler", {}, "euler", by_arguments)


@pytest.mark.parametrize("name", ["ddpm", "dit"])
def test_first_order(name: str) -> None:
    """These pipelines do not scale what they draw, as EulerDiscrete needs it: Euler's steps in DPM-Solver++'s form."""
    compare(name, "DPMSolverMultistepScheduler", {"solver_order": 1}, "euler", False)


@pytest.mark.parametrize(("name", "by_arguments"), ways("ddpm", "dit", "sd", "sdxl"))
def test_dpmpp_2m(name: str, by_arguments: bool) -> None:
    compare(name, "DPMSolverMultistepScheduler", {"solver_order": 2}, "dpmpp_2m", by_arguments)


@pytest.mark.parametrize("name", FLOWS)
def test_dpmpp_2m_of_a_flow(name: str) -> None:
    compare(name, "DPMSolverMultistepScheduler", {"solver_order": 2, **OF_FLOWS}, "dpmpp_2m", False)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize(("name", "by_arguments"), ways(*FLOWS))
def test_euler_of_a_flow(name: str, shift: str, by_arguments: bool) -> None:
    settings = {"use_dynamic_shifting": False, **SHIFTS[shift]}
    compare(name, "FlowMatchEulerDiscreteScheduler", settings, "euler", by_arguments)
