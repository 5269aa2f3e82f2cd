"""Real pipelines of diffusers with random weights: when they call their network, and what comes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optsteps import Schedule, apply, build_schedule, restore, sample
from optsteps.denoisers import GuidedDenoiser, NetworkDenoiser
from optsteps.export import to_diffusers
from optsteps.processes import VP, Flow
from optsteps.solvers import build_solver

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
VP_TIMES = Schedule([980.25, 800, 613.7, 400, 211.5, 90, -1], VP.scaled_linear())
VP_WHOLE = VP_TIMES.snapped()
FLOW_TIMES = build_schedule("flow_shift", Flow(), 6, t_max=1.0, t_min=0.0, shift=1.7)
WHAT_EVER = 9  # steps the pipelines are asked for


def close(found: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def record(network: torch.nn.Module) -> list[float]:
    """The times that the network is called with from now on."""
    times: list[float] = []

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        t = kwargs["timestep"] if "timestep" in kwargs else args[1]
        times.append(float(torch.as_tensor(t).flatten()[0]))

    network.register_forward_pre_hook(hook, with_kwargs=True)
    return times


def vae(channels: int = 4) -> Any:
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": channels}
    return diffusers.AutoencoderKL(**sizes, use_quant_conv=False, use_post_quant_conv=False).eval()


@pytest.fixture
def stable_diffusion() -> Any:
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()
    scheduler = diffusers.PNDMScheduler(**SD, skip_prk_steps=True, steps_offset=1)
    absent = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor", "image_encoder")
    return diffusers.StableDiffusionPipeline(
        vae=vae(), unet=unet, scheduler=scheduler, requires_safety_checker=False, **dict.fromkeys(absent)
    )


def sd_call(pipe: Any, **arguments: Any) -> Tensor:
    embeds = {"prompt_embeds": normal(2, 5, 16, seed=1), "negative_prompt_embeds": normal(2, 5, 16, seed=2)}
    latents = normal(2, 4, 8, 8) * arguments.pop("scale", 1.0)
    pipe.set_progress_bar_config(disable=True)
    return pipe(latents=latents, output_type="latent", guidance_scale=3.0, **embeds, **arguments).images


def sd_ours(pipe: Any, schedule: Schedule, solver: str) -> Tensor:
    def network(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return pipe.unet(x, t, encoder_hidden_states=cond).sample

    null = normal(2, 5, 16, seed=2)

    def guided(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        plain = NetworkDenoiser(network, schedule.process, "eps")
        wanted, unwanted = plain(x, t, normal(2, 5, 16, seed=1)), plain(x, t, null)
        return unwanted + 3.0 * (wanted - unwanted)

    return sample(guided, schedule, build_solver(solver), normal(2, 4, 8, 8))


CLASSES = {"euler": "EulerDiscreteScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler"}


@pytest.mark.parametrize("solver", CLASSES)
@pytest.mark.parametrize("schedule", [VP_TIMES, VP_WHOLE], ids=["between", "whole"])
def test_stable_diffusion_by_apply(stable_diffusion: Any, solver: str, schedule: Schedule) -> None:
    pipe = stable_diffusion
    pipe.scheduler = getattr(diffusers, CLASSES[solver]).from_config(pipe.scheduler.config, use_karras_sigmas=True)
    expected, times, before = sd_ours(pipe, schedule, solver), record(pipe.unet), pipe.scheduler
    assert apply(pipe, schedule) is pipe
    close(sd_call(pipe, num_inference_steps=WHAT_EVER), expected)
    assert times == schedule.times[:-1].float().tolist()
    close(sd_call(pipe, sigmas=[3.0, 1.0]), expected)
    assert restore(pipe).scheduler is before
    sd_call(pipe, num_inference_steps=WHAT_EVER)
    assert len(times) == 2 * schedule.steps + WHAT_EVER


@pytest.mark.parametrize("solver", CLASSES)
def test_stable_diffusion_by_arguments(stable_diffusion: Any, solver: str) -> None:
    pipe, schedule = stable_diffusion, VP_TIMES if solver == "euler" else VP_WHOLE
    expected = sd_ours(pipe, schedule, solver)
    told = to_diffusers(schedule, CLASSES[solver])
    pipe.scheduler, times = told.build(pipe.scheduler.config), record(pipe.unet)
    close(sd_call(pipe, scale=told.noise_ratio, **told.arguments), expected)
    assert times == pytest.approx(schedule.times[:-1].tolist(), abs=1e-3)


def test_a_pipeline_is_saved_as_what_it_was(stable_diffusion: Any, tmp_path: Path) -> None:
    pipe = stable_diffusion
    with pytest.raises(ValueError, match=r"PNDMScheduler computes .* EulerDiscreteScheduler"):
        apply(pipe, VP_TIMES)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    apply(apply(pipe, VP_WHOLE), VP_TIMES)  # the last one holds
    assert pipe.scheduler.timesteps.tolist() == VP_TIMES.times[:-1].float().tolist()
    copied = copy.deepcopy(pipe.scheduler)
    copied.set_timesteps(1)
    assert copied.timesteps.tolist() == pipe.scheduler.timesteps.tolist()
    assert to_diffusers(VP_TIMES, pipe.scheduler).build(pipe.scheduler.config).timesteps.shape == (1000,)
    pipe.scheduler.save_pretrained(tmp_path)
    assert type(diffusers.EulerDiscreteScheduler.from_pretrained(tmp_path)) is diffusers.EulerDiscreteScheduler
    assert type(restore(pipe).scheduler) is diffusers.EulerDiscreteScheduler


def test_dit() -> None:
    torch.manual_seed(0)
    process, scheduler = VP.linear(), diffusers.DPMSolverMultistepScheduler()
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8, num_layers=1, attention_head_dim=8, num_attention_heads=2, in_channels=4, out_channels=8
    )
    for part in transformer.parameters():  # some of its weights begin as zeros
        torch.nn.init.normal_(part, std=0.1)
    pipe = diffusers.DiTPipeline(transformer.eval(), vae(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    schedule = Schedule(VP_TIMES.times, process)

    def network(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return transformer(x, timestep=t, class_labels=cond).sample[:, :4]

    denoiser = GuidedDenoiser(NetworkDenoiser(network, process, "eps"), 4.0, torch.tensor([1000]))
    with torch.no_grad():
        latents = sample(denoiser, schedule, build_solver("dpmpp_2m"), normal(2, 4, 8, 8), torch.tensor([3, 7]))
        expected = (pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    times = record(transformer)
    apply(pipe, schedule)
    found = pipe([3, 7], generator=torch.Generator().manual_seed(0), num_inference_steps=WHAT_EVER, output_type="pt")
    assert times == schedule.times[:-1].float().tolist()
    close(found.images, expected)


SHIFTS = {"1": {}, "3": {"shift": 3.0}, "dynamic": {"use_dynamic_shifting": True, "shift": 3.0}}


def flow_pair(which: str, options: dict[str, Any]) -> tuple[Any, Callable[..., Tensor], Tensor, dict[str, Any], float]:
    """A pipeline, its velocity (x, t), latents, the arguments of a call, and the number its network has for t = 1."""
    torch.manual_seed(0)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    absent = ["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"]
    if which == "flux":
        transformer = diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ).eval()
        pipe = diffusers.FluxPipeline(scheduler=scheduler, vae=vae(1), transformer=transformer, **dict.fromkeys(absent))
        embeds, pooled = normal(2, 5, 32, seed=1), normal(2, 32, seed=2)
        ids = pipe._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32)

        def velocity(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            return transformer(
                hidden_states=x,
                timestep=t,
                guidance=torch.full((2,), 3.5),
                pooled_projections=pooled,
                encoder_hidden_states=embeds,
                txt_ids=torch.zeros(5, 3),
                img_ids=ids,
            ).sample

        latents, count, size = normal(2, 16, 4), 1.0, {"height": 8, "width": 8, "guidance_scale": 3.5}
    else:
        transformer = diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            pooled_projection_dim=64,
            out_channels=4,
            pos_embed_max_size=16,
        ).eval()
        pipe = diffusers.StableDiffusion3Pipeline(
            transformer, scheduler, vae(), **dict.fromkeys([*absent, "text_encoder_3", "tokenizer_3"])
        )
        embeds, pooled = normal(2, 5, 32, seed=1), normal(2, 64, seed=2)

        def velocity(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            return transformer(x, timestep=1000 * t, encoder_hidden_states=embeds, pooled_projections=pooled).sample

        latents, count, size = normal(2, 4, 8, 8), 1000.0, {"height": 8, "width": 8, "guidance_scale": 1.0}
    pipe.set_progress_bar_config(disable=True)
    given = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "latents": latents, "output_type": "latent"}
    return pipe, velocity, latents, {**given, **size}, count


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("which", ["flux", "sd3"])
def test_flow_pipelines(which: str, shift: str) -> None:
    pipe, velocity, latents, arguments, count = flow_pair(which, SHIFTS[shift])
    denoiser = NetworkDenoiser(velocity, Flow(), "velocity")
    with torch.no_grad():
        expected = sample(denoiser, FLOW_TIMES, build_solver("euler"), latents)
    times, before = record(pipe.transformer), pipe.scheduler
    called = pytest.approx((count * FLOW_TIMES.times[:-1]).tolist(), rel=1e-6)
    told = to_diffusers(FLOW_TIMES, before)
    pipe.scheduler = told.build(before.config)
    close(pipe(**told.arguments, **arguments).images, expected)
    assert times == called
    times.clear()
    pipe.scheduler = before
    apply(pipe, FLOW_TIMES)
    close(pipe(num_inference_steps=WHAT_EVER, **arguments).images, expected)
    assert times == called
    restore(pipe)(num_inference_steps=WHAT_EVER, **arguments)
    assert len(times) == FLOW_TIMES.steps + WHAT_EVER


@pytest.mark.parametrize("which", ["flux", "sd3"])
@pytest.mark.parametrize(("solver", "name"), [("dpmpp_2m", CLASSES["dpmpp_2m"]), ("unipc", "UniPCMultistepScheduler")])
def test_multistep_solvers_of_flow_pipelines(which: str, solver: str, name: str) -> None:
    pipe, velocity, latents, arguments, count = flow_pair(which, {})
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    pipe.scheduler = getattr(diffusers, name)(**flow)
    # UniPC corrects the state that arrives from t = 1, and sample() does not
    schedule = Schedule([0.999, *FLOW_TIMES.times[1:].tolist()], Flow()) if solver == "unipc" else FLOW_TIMES
    scale = float(schedule.scale)
    with torch.no_grad():
        denoiser = NetworkDenoiser(velocity, Flow(), "velocity")
        expected = sample(denoiser, schedule, build_solver(solver), latents)
    times = record(pipe.transformer)
    if scale != 1:
        with pytest.warns(UserWarning, match=r"noise times 0\.999"):
            apply(pipe, schedule)
    else:
        apply(pipe, schedule)
    found = pipe(num_inference_steps=WHAT_EVER, **{**arguments, "latents": scale * latents}).images
    close(found, expected)
    assert times == pytest.approx((count * schedule.times[:-1]).tolist(), rel=1e-6)
