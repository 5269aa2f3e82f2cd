"""Pipelines that begin within a schedule: img2img and inpainting at a strength, SDXL's split of a sampling in two."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from optsteps import Schedule, apply, restore
from optsteps.processes import VP, Flow

sys.path.append(str(Path(__file__).parents[1] / "models"))
diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()
from tiny_pipelines import edited, record  # noqa: E402

STEPS = 8
STRENGTHS = [0.3, 0.5, 0.8, 0.95, 1.0]
VP_TIMES = Schedule([999, 850.25, 736, 645, 545.5, 343, 233, 24, -1], VP.scaled_linear())
FLOW_TIMES = Schedule([1.0, 0.95, 0.87, 0.71, 0.55, 0.4, 0.22, 0.09, 0.0], Flow())
# of a network's time, whatever its pipeline's units
UNITS = {"sd": 1.0, "sdxl": 1.0, "sd3": 1e-3, "flux": 1.0}


def steps_left(name: str, strength: float) -> int:
    """Of 8 steps, by the rules of the pipelines: SD and SDXL round the steps that run down, SD3 and FLUX up."""
    kept = STEPS * strength
    return min(int(kept), STEPS) if name in ("sd", "sdxl") else STEPS - int(max(STEPS - kept, 0))


def schedule_of(name: str) -> Schedule:
    return VP_TIMES if name in ("sd", "sdxl") else FLOW_TIMES


@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
@pytest.mark.parametrize("name", ["sd", "flux", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sdxl", "sd3"))])
def test_a_strength_runs_the_last_part_of_the_schedule(name: str, kind: str) -> None:
    pipe, call = edited(name, kind)
    schedule, times = schedule_of(name), record(pipe)
    apply(pipe, schedule)
    for strength in STRENGTHS:
        expected = schedule.times[-1 - steps_left(name, strength) : -1]
        images = []
        for number in ({}, {"num_inference_steps": STEPS}, {"num_inference_steps": 5}):  # by default it is 28 or 50
            times.clear()
            images.append(call(strength=strength, **number))
            found = UNITS[name] * torch.tensor(times, dtype=torch.float64)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
            assert bool(torch.isfinite(images[-1]).all())
        assert all(torch.equal(image, images[0]) for image in images)
    times.clear()
    restore(pipe)
    call(strength=0.5, num_inference_steps=10)
    assert len(times) == 5


@pytest.mark.parametrize(
    ("scheduler", "orders"),
    [
        ("DPMSolverMultistepScheduler", None),
        ("DPMSolverMultistepScheduler", [1, 2, 3, 3, 3, 2, 2, 1]),
        ("DEISMultistepScheduler", None),
        ("UniPCMultistepScheduler", [1, 2, 2, 2, 2, 2, 2, 1]),
        ("DPMSolverSinglestepScheduler", None),
        ("HeunDiscreteScheduler", None),
    ],
)
def test_every_solver_can_begin_within(scheduler: str, orders: list[int] | None) -> None:
    pipe, call = edited("sd", "img2img")
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    last = [12.0] if scheduler == "DEISMultistepScheduler" else [-1.0]
    schedule = Schedule([*VP_TIMES.times[:-1].tolist(), *last], VP_TIMES.process, orders)
    times = record(pipe)
    apply(pipe, schedule)
    assert bool(torch.isfinite(call(strength=0.5)).all())
    walked = schedule.times[4:-1].tolist()
    if scheduler == "HeunDiscreteScheduler":
        walked = [walked[0], *(t for t in walked[1:] for _ in range(2))]
    assert times == pytest.approx(walked, abs=1e-3)


def test_a_pipeline_that_shares_the_scheduler() -> None:
    pipe, call = edited("sd", "img2img")
    whole = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    apply(whole, VP_TIMES)
    pipe.scheduler = whole.scheduler
    times = record(pipe)
    with pytest.raises(ValueError, match=r"one of 50 steps, .*has 8: pass num_inference_steps=8, or apply"):
        call(strength=0.5)
    call(strength=0.5, num_inference_steps=8)
    assert times == pytest.approx([545.5, 343, 233, 24])


def test_two_parts_of_sdxl() -> None:
    pipe, call = edited("sdxl", "img2img")
    whole = diffusers.StableDiffusionXLPipeline(**pipe.components)
    whole.set_progress_bar_config(disable=True)
    times = record(pipe)
    apply(whole, VP_TIMES)
    half = whole("a red dog", denoising_end=0.4, output_type="latent", num_inference_steps=30).images
    assert times == pytest.approx([999, 850.25, 736, 645])
    times.clear()
    apply(pipe, VP_TIMES)
    call(denoising_start=0.4, image=half, num_inference_steps=30)
    assert times == pytest.approx([545.5, 343, 233, 24])
