"""A pipeline's own call as the sampler, against the wrapped pipeline and its own scheduler on the same times."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from driven_pipelines import DRIVEN
from test_diffusers import cond_of, wrapped
from tiny_pipelines import PIPELINES, PROMPTS, SIZES, diffusers, edited, steps_of
from torch import Tensor

from optsteps import OptstepsScheduler, Schedule, apply, sample, tune
from optsteps.denoisers import CountedDenoiser
from optsteps.export.diffusers.scheduler_config import is_edm
from optsteps.models import Model
from optsteps.models.diffusers.walks import PipelineWalks, walked_pipeline
from optsteps.noise import unit_noise
from optsteps.processes import Flow
from optsteps.solvers import Multistep, build_solver
from optsteps.walks import ends_together

sys.path.append(str(Path(__file__).parents[1] / "export"))
diffusers.utils.logging.set_verbosity_error()
WRAPPED = ("sd", "sdxl", "sd3", "flux", "wan", "dit")
# evaluations of a prediction: guidance doubles them; FLUX and HunyuanVideo take theirs as an input
NFE = {
    **dict.fromkeys((*WRAPPED, *DRIVEN), 2),
    "flux": 1,
    "flux img2img": 1,
    "flux inpainting": 1,
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
    given = {} if way == "added noise" else {"latents": noise}
    module = sys.modules[type(pipe).__module__]
    drawn = getattr(module, "randn_tensor", None)

    def noise_instead(*args: Any, **kwargs: Any) -> Tensor:
        drawn(*args, **kwargs)  # what is drawn after it stays as it is
        return noise.clone()

    with pytest.MonkeyPatch.context() as patch, steps_of(pipe.scheduler) as ends:
        if way == "added noise":
            patch.setattr(module, "randn_tensor", noise_instead)
        result = pipe(**call, **given, generator=torch.Generator().manual_seed(0), output_type="latent")
    # inpainting puts its known part back after the last step
    return result[0] if "mask_image" in call else ends[-1]


def take_own_steps(pipe: Any, schedule: Schedule, way: str) -> dict[str, Any]:
    """Have a scheduler of diffusers take Euler's steps down the schedule; returns arguments of a call that runs all of
    it."""
    if type(pipe.scheduler).__name__ == "CosineDPMSolverMultistepScheduler":
        pipe.scheduler = ArctanEuler(schedule.noise_levels.float())
        return {"num_inference_steps": 4}
    if way == "added noise":  # with a strength of a half, the last half of it runs
        first, limit = float(schedule.times[0]), schedule.process.t_limit
        earlier = torch.linspace(limit, first, 5, dtype=torch.float64)[:-1]
        schedule = replace(schedule, times=torch.cat([earlier, schedule.times]), initial_scale=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apply(pipe, schedule)
    return {"strength": 0.5, "num_inference_steps": 8} if way == "added noise" else {"num_inference_steps": 4}


class ArctanEuler(diffusers.EDMEulerScheduler):
    """EDM's Euler steps between given noise levels, the network being called with their arctangents."""

    def __init__(self, levels: Tensor) -> None:
        super().__init__(sigma_data=1.0, prediction_type="v_prediction")
        self.levels = levels

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(len(self.levels) - 1)
        self.sigmas, self.timesteps = self.levels, 2 / torch.pi * self.levels[:-1].atan()

    @property
    def init_noise_sigma(self) -> float:
        return float(self.levels[0])


@pytest.mark.parametrize("name", DRIVEN)
@pytest.mark.mostly_slow(3)
def test_it_walks_as_the_pipelines_own_scheduler_does(name: str) -> None:
    pipe, calls = DRIVEN[name]()
    if not isinstance(pipe.scheduler, diffusers.FlowMatchEulerDiscreteScheduler) and not is_edm(pipe.scheduler):
        settings = {"solver_order": 1, "lower_order_final": False}
        pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, **settings)
    model = walked_pipeline(pipe, calls)
    walks = model.denoiser
    assert isinstance(walks, PipelineWalks)
    assert walks.nfe == NFE[name]
    schedule, noise = of_model(model), unit_noise(0, range(2), model.shape)
    counted, cond = CountedDenoiser(walks), model.cond(range(2), noise.device)
    ends = ends_together(counted, build_solver("euler"), [schedule], noise, cond)[0]
    assert counted.evaluations == 2 * 4 * NFE[name]
    scale = schedule.scale.float() if isinstance(model.process, Flow) else 1
    whole = take_own_steps(pipe, schedule, walks.way)
    for k, end in enumerate(ends):
        start = noise[k : k + 1] * (1 if walks.way == "added noise" else scale)
        expected = own_end(pipe, {**calls[k % len(calls)], **whole}, start, walks.way)[0]
        assert float(expected.abs().max()) > 0.1
        torch.testing.assert_close(end, expected.float(), rtol=0, atol=1e-4 * max(1.0, float(expected.abs().max())))


def weighted(schedule: Schedule) -> Schedule:
    """With other weights than the solver's own."""
    solver = build_solver("dpmpp_2m")
    assert isinstance(solver, Multistep)
    return replace(schedule, weights=0.8 * solver.own_weights(schedule, 1))


# whose walks are more than steps with the network's answers: they begin with a picture, put a known part back, or have
# another network in their second half
OF_WALKS_ALONE = ("sd img2img", "flux img2img", "sd inpainting", "sdxl inpainting", "flux inpainting", "controlnet")


SOLVERS = [pytest.param("dpmpp_2m", marks=pytest.mark.slow), "dpmpp_2m with weights", "sde_dpmpp_2m"]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", DRIVEN)
@pytest.mark.mostly_slow(4)
def test_every_solver(name: str, solver: str) -> None:
    """Against the steps of `sample` with the pipeline's answers, and the pipeline's own call with what is given out."""
    pipe, calls = DRIVEN[name]()
    model = walked_pipeline(pipe, calls)
    walks = model.denoiser
    assert isinstance(walks, PipelineWalks)
    schedule, rule = of_model(model, solver.split()[0]), build_solver(solver.split()[0])
    if "weights" in solver:
        schedule = weighted(schedule)
    noise, cond = unit_noise(0, range(1), model.shape), model.cond(range(1), torch.device("cpu"))
    end = sample(walks, schedule, rule, noise, cond, seed=5)
    size = max(1.0, float(end.abs().max()))
    assert size < float("inf")
    if name not in OF_WALKS_ALONE:
        asked = sample(lambda x, t, cond: walks(x, t, cond), schedule, rule, noise, cond, seed=5)
        torch.testing.assert_close(end, asked, rtol=0, atol=1e-4 * size)
    adds = walks.way == "added noise"
    pipe.scheduler = OptstepsScheduler.from_pipeline(pipe, schedule, rule, whole=adds, seed=5)
    start = noise * (1 if adds or not isinstance(model.process, Flow) else schedule.scale.float())
    own = own_end(pipe, calls[0], start, walks.way)
    torch.testing.assert_close(own.float(), end, rtol=0, atol=1e-4 * size)


def test_what_cannot_be_driven() -> None:
    with pytest.raises(ValueError, match="calls holds nothing"):
        PipelineWalks(PIPELINES["sd"](), [])
    with pytest.raises(ValueError, match="DDPMPipeline draws the state"):
        PipelineWalks(PIPELINES["ddpm"](), [{"batch_size": 1}])
    pipe, calls = DRIVEN["flux img2img"]()
    walks = PipelineWalks(pipe, calls)
    with pytest.raises(ValueError, match="asked for walks alone"):
        walks(torch.zeros(1, 16, 16), torch.tensor([0.5]), torch.tensor([0]))


def test_parts_of_a_sampling() -> None:
    """SDXL's base and refiner: a call for one of the two parts is refused, and not taken for a walk of the whole."""
    base = PIPELINES["sdxl"]()
    first = walked_pipeline(base, [{"prompt": PROMPTS[0], "denoising_end": 0.5}])
    with pytest.raises(ValueError, match="denoising_end cuts them; leave that out"):
        walk_once(first)
    latents = base(PROMPTS[0], denoising_end=0.5, num_inference_steps=5, output_type="latent").images
    refiner, _ = edited("sdxl", "img2img")
    call = {"prompt": PROMPTS[0], "image": latents, "denoising_start": 0.5, "num_inference_steps": 5}
    with pytest.raises(ValueError, match="begins within its schedule, at timestep 401, and adds no noise"):
        walked_pipeline(refiner, [call])


def test_a_state_of_its_own_is_noticed() -> None:
    pipe, (call, *_) = DRIVEN["stable audio"]()
    sound = {**call, "initial_audio_waveforms": torch.randn(1, 2, 40), "initial_audio_sampling_rate": 4}
    model = walked_pipeline(pipe, [sound])
    with pytest.raises(ValueError, match="does not begin with the state that it is given"):
        walk_once(model)


def walk_once(model: Model) -> Tensor:
    noise = unit_noise(0, range(1), model.shape)
    cond = model.cond(range(1), noise.device)
    return sample(model.denoiser, of_model(model), build_solver("euler"), noise, cond)


def test_a_callback_of_the_users_counts() -> None:
    """It is called at every step, and what it makes of the state is what the walk has, at the last step too."""
    steps: list[int] = []

    def halved(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        return {"latents": 0.5 * tensors["latents"]}

    pipe, call = PIPELINES["sd3"](), {"prompt": PROMPTS[0], **SIZES["sd3"]}
    plain = walked_pipeline(pipe, [call])
    called = walked_pipeline(pipe, [{**call, "callback_on_step_end": halved}])
    schedule, noise, euler = of_model(plain), unit_noise(0, range(1), plain.shape), build_solver("euler")
    cond = plain.cond(range(1), noise.device)
    x = noise * schedule.scale.float()
    for k in range(4):
        x = 0.5 * sample(plain.denoiser, replace(schedule.part(k, k + 1), initial_scale=1.0), euler, x, cond)
    torch.testing.assert_close(sample(called.denoiser, schedule, euler, noise, cond), x, rtol=0, atol=1e-4)
    assert steps == [0, 1, 2, 3]


SEARCHED = ["flux", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd", *DRIVEN))]


@pytest.mark.parametrize("name", SEARCHED)
def test_tune(name: str) -> None:
    pipe, calls = DRIVEN[name]() if name in DRIVEN else (PIPELINES[name](), calls_of(name))
    before, config = pipe.scheduler, dict(pipe.scheduler.config)
    found = tune(pipe, calls, nfe=3 * NFE[name], budget=800 * NFE[name], samples=14, teacher=6)
    assert found.schedule.steps == 3
    assert "unseen samples" in found.answer
    assert pipe.scheduler is before
    assert dict(pipe.scheduler.config) == config
    pipe.scheduler = found.scheduler
    latents = pipe(**calls[0], output_type="latent")[0]
    assert bool(torch.isfinite(torch.as_tensor(latents)).all())
    assert found.scheduler.step_index == found.scheduler.schedule.steps
    with pytest.raises(ValueError, match="no time"):
        tune(pipe, calls, nfe=3 * NFE[name], budget="soon", samples=14, teacher=6)
