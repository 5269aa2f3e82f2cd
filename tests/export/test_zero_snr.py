"""Zero terminal SNR, where the last timestep has no finite noise level: sampled, exported and run by schedulers."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from optsteps import Schedule, SearchProblem, apply, build_schedule, sample
from optsteps.denoisers import NetworkDenoiser
from optsteps.export import to_diffusers
from optsteps.export.diffusers.scheduler_config import process_of
from optsteps.methods import OSS
from optsteps.models.analytic import GaussianMixture
from optsteps.models.diffusers import from_pipeline
from optsteps.solvers import build_solver

sys.path.append(str(Path(__file__).parents[1] / "models"))
diffusers = pytest.importorskip("diffusers")
from tiny_pipelines import PROMPTS, sd  # noqa: E402

BETAS: dict[str, dict[str, Any]] = {
    "scaled linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "linear": {"beta_schedule": "linear"},
}
ZERO = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
MIXTURE = GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), torch.tensor([0.3, 0.2]), torch.tensor([0.5, 0.5]))
NOISE = torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def exact_v(process: Any) -> Any:
    """The network that predicts v of the mixture: alpha eps - sigma x_0."""
    denoiser = MIXTURE.denoiser(process)

    def network(x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        clean = denoiser(x.double(), t.double())
        return (alpha * (x - alpha * clean) / sigma - sigma * clean).to(x.dtype)

    return network


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_sampling_from_the_last_timestep_converges(name: str) -> None:
    process = process_of(diffusers.DDIMScheduler(**BETAS["linear"], **ZERO))
    denoiser = NetworkDenoiser(exact_v(process), process, "v")
    dense = build_schedule("edm", process, 150, t_max=999.0, t_min=0.0)
    truth = sample(denoiser, dense, build_solver("dpmpp_2m"), NOISE)
    errors = []
    for steps in (10, 40, 160):
        schedule = build_schedule("edm", process, steps, t_max=999.0, t_min=0.0)
        assert schedule.times[0] == 999
        errors.append(float((sample(denoiser, schedule, build_solver(name), NOISE) - truth).abs().mean()))
    assert errors[2] < errors[1] / 2 < errors[0] / 4
    assert errors[2] < 0.02


@pytest.mark.parametrize("betas", BETAS)
def test_oss_begins_at_the_last_timestep(betas: str) -> None:
    process = process_of(diffusers.EulerDiscreteScheduler(**BETAS[betas], **ZERO))
    assert process.t_limit == 999
    denoiser = NetworkDenoiser(exact_v(process), process, "v")
    teacher = build_schedule("edm", process, 60, t_max=999.0, t_min=0.0, final="zero", snap=True)
    problem = SearchProblem(denoiser, process, build_solver("euler"), NOISE, teacher)
    found = OSS(average="pooled").search(problem, [4]).schedules[4]
    assert found.times[[0, -1]].tolist() == [999, -1]
    reference = sample(denoiser, teacher, build_solver("euler"), NOISE)
    theirs = build_schedule("time_uniform", process, 4, t_max=999.0, t_min=-1.0)
    found_error, uniform = (
        float((sample(denoiser, s, build_solver("euler"), NOISE) - reference).square().mean()) for s in (found, theirs)
    )
    assert found_error < uniform


SCHEDULERS = [
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "LCMScheduler",
    "TCDScheduler",
]


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_runs_it(name: str, betas: str) -> None:
    scheduler = getattr(diffusers, name)(**BETAS[betas], **ZERO)
    last = 0.0 if name == "TCDScheduler" else -1.0
    schedule = Schedule([999, 700, 400, 100, last], process_of(scheduler))
    applied = apply(scheduler, schedule)
    applied.set_timesteps(30)
    assert applied.timesteps.tolist() == [999, 700, 400, 100]
    if "Ancestral" not in name and "UniPC" not in name:  # these are told nothing
        told = to_diffusers(schedule, scheduler)
        assert told.arguments == {"timesteps": [999, 700, 400, 100]}
        assert to_diffusers(schedule, name).build({}).config.num_train_timesteps == 1000


def test_apply_begins_above_a_second_level_of_thousands() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS["linear"], **ZERO)
    schedule = Schedule([999, 998, 500, -1], process_of(scheduler))
    assert schedule.noise_levels[1] > 10_000
    with pytest.raises(ValueError, match="starts from level 4096"):
        to_diffusers(schedule, scheduler)
    applied = apply(scheduler, schedule)
    applied.set_timesteps(3)
    assert bool((applied.sigmas.diff() < 0).all())


def test_a_scheduler_of_other_betas_is_still_another_models() -> None:
    schedule = Schedule([999, 500, -1], process_of(diffusers.DDIMScheduler(**BETAS["linear"], **ZERO)))
    for settings in (BETAS["linear"], BETAS["scaled linear"] | ZERO):
        with pytest.raises(ValueError, match="belong to different models"):
            apply(diffusers.EulerDiscreteScheduler(**settings), schedule)


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_a_pipeline_samples_what_is_sampled_here(solver: str) -> None:
    name = {"euler": "EulerDiscreteScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler"}[solver]
    pipe = sd()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **ZERO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to be said of a network that predicts v
        model = from_pipeline(pipe)
    assert model.time_range[0] == 999
    assert model.noise_levels[0] == torch.inf
    schedule = Schedule([999, 800, 500, 200, -1], model.process)
    noise = torch.randn(3, *model.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = sample(model.denoiser, schedule, build_solver(solver), noise, model.encode(PROMPTS))
        theirs = apply(pipe, schedule)(PROMPTS, latents=noise.clone(), output_type="latent").images
    # a scheduler's 4096 for an infinite level
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-3 * float(ours.abs().max()))


def test_a_network_that_predicts_eps_starts_below() -> None:
    pipe = sd()
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    with pytest.warns(UserWarning, match=r"an eps-prediction says nothing.*start at 998, noise level 2\d\d\d"):
        model = from_pipeline(pipe)
    assert model.time_range[0] == 998
    assert model.own_schedule is not None
    own = model.own_schedule(4)
    assert own.times[0] == 998
    noise = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert bool(
            torch.isfinite(sample(model.denoiser, own, build_solver("euler"), noise, model.encode(["a"]))).all()
        )
