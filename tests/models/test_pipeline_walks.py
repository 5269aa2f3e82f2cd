"""A pipeline's own call as the sampler, against the wrapped pipeline and its own scheduler on the same times."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from driven_pipelines import DRIVEN
from test_diffusers import cond_of, wrapped
from tiny_pipelines import PIPELINES, PROMPTS, SIZES, diffusers
from torch import Tensor

from optsteps import OptstepsScheduler, Schedule, apply, restore, sample, tune
from optsteps.denoisers import CountedDenoiser
from optsteps.models import Model
from optsteps.models.diffusers.walks import PipelineWalks, walked_pipeline
from optsteps.noise import unit_noise
from optsteps.processes import Flow
from optsteps.solvers import build_solver
from optsteps.walks import ends_together

sys.path.append(str(Path(__file__).parents[1] / "export"))
diffusers.utils.logging.set_verbosity_error()
WRAPPED = ("sd", "sdxl", "sd3", "flux", "wan", "dit")
# evaluations of a prediction: guidance doubles them; FLUX and HunyuanVideo take theirs as an input
NFE = {
    **dict.fromkeys((*WRAPPED, *DRIVEN), 2),
    "flux": 1,
    "flux img2img": 1,
    "hunyuan video": 1,
}


def calls_of(name: str) -> list[dict[str, Any]]:
    if name == "dit":
        return [{"class_labels": [label]} for label in range(2)]
    return [{"prompt": prompt, **SIZES.get(name, {})} for prompt in PROMPTS]


def of_model(model: Model, solver: str = "euler") -> Schedule:
    """Four steps that are no nearer to each other than a network in float32 can tell."""
    high, low = model.time_range
    high = min(high, model.process.t_finite)
    times = [high - (high - low) * part for part in (0.0, 0.2, 0.5, 0.8)]
    found = Schedule([*times, model.process.t_clean], model.process, metadata=build_solver(solver).described)
    return found.snapped() if model.snap else found


@pytest.mark.parametrize("name", WRAPPED)
def test_it_walks_and_answers_as_the_wrapped_pipeline(name: str) -> None:
    pipe, theirs = wrapped(name)
    before, config = pipe.scheduler, dict(pipe.scheduler.config)
    model = walked_pipeline(pipe, calls_of(name))
    schedule, noise = of_model(model), unit_noise(0, range(3), model.shape)
    assert model.shape == theirs.shape
    assert model.process == theirs.process
    cond = model.cond(range(3), noise.device)
    their_cond = torch.tensor([0, 1, 0]) if name == "dit" else cond_of(theirs)
    for solver in ("euler", "dpmpp_2m", "heun"):
        counted, expected = CountedDenoiser(model.denoiser), CountedDenoiser(theirs.denoiser)
        found = sample(counted, schedule, build_solver(solver), noise, cond, return_trajectory=True)
        with torch.no_grad():
            right = sample(expected, schedule, build_solver(solver), noise, their_cond, return_trajectory=True)
        torch.testing.assert_close(found, right, rtol=0, atol=1e-4 * max(1.0, float(right.abs().max())))
        assert counted.evaluations == expected.evaluations
    t = torch.tensor([schedule.times[1], schedule.times[2], schedule.times[1]])
    with torch.no_grad():
        right = theirs.denoiser(noise, t, their_cond)
    torch.testing.assert_close(model.denoiser(noise, t, cond), right, rtol=1e-4, atol=1e-4)
    assert pipe.scheduler is before
    assert dict(before.config) == config


def own_end(pipe: Any, call: dict[str, Any], noise: Tensor, way: str) -> Tensor:
    """The last state of the pipeline's own call, with a scheduler whose table was loaded."""
    last: list[Tensor] = []
    step = pipe.scheduler.step

    def noted(*args: Any, **kwargs: Any) -> Any:
        found = step(*args, **kwargs)
        last.append(found[0])
        return found

    pipe.scheduler.step = noted
    kind, scheduler = type(pipe.scheduler), pipe.scheduler
    if way == "added noise" and hasattr(kind, "add_noise"):
        scheduler.add_noise = lambda x, _, t: kind.add_noise(scheduler, x, noise, t)
    elif way == "added noise":
        scheduler.scale_noise = lambda x, t, _: kind.scale_noise(scheduler, x, t, noise)
    given = {} if way == "added noise" else {"latents": noise}
    pipe(**call, **given, generator=torch.Generator().manual_seed(0), output_type="latent")
    return last[-1]


@pytest.mark.parametrize("name", DRIVEN)
def test_it_walks_as_the_pipelines_own_scheduler_does(name: str) -> None:
    pipe, calls = DRIVEN[name]()
    if not isinstance(pipe.scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        settings = {"solver_order": 1, "lower_order_final": False}
        pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, **settings)
    model = walked_pipeline(pipe, calls)
    walks = model.denoiser
    assert isinstance(walks, PipelineWalks)
    assert walks.nfe == NFE[name]
    schedule, noise = of_model(model), unit_noise(0, range(2), model.shape)
    counted, cond = CountedDenoiser(walks), model.cond(range(2), noise.device)
    euler = build_solver("euler")
    ends = ends_together(counted, euler, [schedule], noise, cond)[0]
    assert counted.evaluations == 2 * 4 * NFE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apply(pipe, schedule)
    pipe.__dict__.pop("get_timesteps", None)
    for k, end in enumerate(ends):
        start = noise[k : k + 1]
        if walks.way == "added noise":  # of which the whole schedule runs
            call = {**calls[k % len(calls)], "strength": 1.0, "num_inference_steps": 4}
        else:
            call, start = dict(calls[k % len(calls)]), start * schedule.scale.float()
        expected = own_end(pipe, call, start, walks.way)[0]
        size = max(1.0, float(expected.abs().max()))
        assert float(expected.abs().max()) > 0.1
        torch.testing.assert_close(end, expected.float(), rtol=0, atol=1e-4 * size)
    restore(pipe)
    if walks.answers and walks.way != "added noise":
        pipe.scheduler = OptstepsScheduler.from_pipeline(pipe, schedule, "euler")
        start = noise[:1] * (schedule.scale.float() if isinstance(model.process, Flow) else 1)
        own = own_end(pipe, calls[0], start, "latents")
        torch.testing.assert_close(own[0].float(), ends[0], rtol=0, atol=1e-4 * max(1.0, float(own.abs().max())))


def test_what_cannot_be_driven() -> None:
    with pytest.raises(ValueError, match="calls holds nothing"):
        PipelineWalks(PIPELINES["sd"](), [])
    with pytest.raises(ValueError, match="DDPMPipeline draws the state"):
        PipelineWalks(PIPELINES["ddpm"](), [{"batch_size": 1}])
    pipe, calls = DRIVEN["flux img2img"]()
    walks = PipelineWalks(pipe, calls)
    with pytest.raises(ValueError, match="asked for walks alone"):
        walks(torch.zeros(1, 16, 16), torch.tensor([0.5]), torch.tensor([0]))


SEARCHED = ["flux", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd", *DRIVEN))]


@pytest.mark.parametrize("name", SEARCHED)
def test_tune(name: str) -> None:
    pipe, calls = DRIVEN[name]() if name in DRIVEN else (PIPELINES[name](), calls_of(name))
    before, config = pipe.scheduler, dict(pipe.scheduler.config)
    found = tune(pipe, calls, nfe=3 * NFE[name], budget=1500 * NFE[name], samples=14, teacher=8)
    assert found.schedule.steps == 3
    assert "unseen samples" in found.answer
    assert pipe.scheduler is before
    assert dict(pipe.scheduler.config) == config
    pipe.scheduler = found.scheduler
    latents = pipe(**calls[0], output_type="latent")[0]
    assert bool(torch.isfinite(torch.as_tensor(latents)).all())
    assert found.scheduler.step_index == found.scheduler.schedule.steps
    with pytest.raises(ValueError, match="no time"):
        tune(pipe, calls, nfe=3 * NFE[name], budget="soon", samples=14, teacher=8)
