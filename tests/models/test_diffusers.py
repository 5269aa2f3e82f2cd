"""A wrapped pipeline calls its network as the pipeline does, and samples what the pipeline samples."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_pipelines import PIPELINES, PROMPTS, SIZES, diffusers, flux, sd, unet2d
from torch import Tensor

from optsteps import Schedule, SearchProblem, build_schedule, sample
from optsteps.conditions import batch_size, take
from optsteps.datasets.geneval_prompts import Metadata, Objects
from optsteps.denoisers import CountedDenoiser
from optsteps.export.diffusers.scheduler_config import own_schedule, prediction_of, process_of
from optsteps.methods import AYS, OSS
from optsteps.models import Model
from optsteps.models.diffusers import from_pipeline
from optsteps.models.prompts import PromptConditions
from optsteps.noise import FIRST_TEST_SAMPLE
from optsteps.processes import EDM, VP, Flow
from optsteps.solvers import build_solver

CPU = torch.device("cpu")
STEPS = 4
NAMES = sorted(PIPELINES)


def wrapped(name: str, pipeline: Any = None, **options: Any) -> tuple[Any, Model]:
    pipeline = pipeline or PIPELINES[name]()
    return pipeline, from_pipeline(pipeline, **SIZES.get(name, {}), **options)


def network_of(pipeline: Any) -> Any:
    return getattr(pipeline, "transformer", None) or pipeline.unet


def cond_of(model: Model) -> Any:
    return model.encode(PROMPTS) if model.encode else model.cond(range(3), CPU)


@contextmanager
def watched(network: Any) -> Iterator[list[dict[str, Any]]]:
    """The arguments of every call of a network, by name; those that say nothing left out."""
    calls: list[dict[str, Any]] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        said = {name: value for name, value in given.items() if name not in ("self", "return_dict")}
        calls.append({name: value for name, value in said.items() if value is not None and value != {}})

    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@dataclasses.dataclass
class Step:
    """A step of a pipeline's own loop: the network's calls, and what its scheduler was given and returned."""

    calls: list[dict[str, Any]]
    output: Tensor
    timestep: Tensor
    x: Tensor
    x_next: Tensor


def walk(pipeline: Any, name: str, noise: Tensor, guidance: float | None = None) -> list[Step]:
    """The pipeline's own call from unit noise."""
    scheduler, steps = pipeline.scheduler, []
    with watched(network_of(pipeline)) as calls:
        step = scheduler.step

        def noted(output: Tensor, t: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            found = step(output, t, x, *args, **kwargs)
            steps.append(Step(calls[:], output, t, x, found[0]))
            calls.clear()
            return found

        scheduler.step = noted
        try:
            options = {} if guidance is None else {"guidance_scale": guidance}
            if name in ("ddpm", "dit"):  # they take no latents: hand them a generator that makes these
                randn = torch.manual_seed(0)
                first = {"ddpm": {"batch_size": len(noise)}, "dit": {"class_labels": list(range(len(noise)))}}[name]
                with torch.no_grad():
                    pipeline(**first, generator=randn, num_inference_steps=STEPS, output_type="pt", **options)
            else:
                pipeline(
                    PROMPTS,
                    latents=noise,
                    num_inference_steps=STEPS,
                    output_type="latent",
                    **SIZES.get(name, {}),
                    **options,
                )
        finally:
            del scheduler.step
    return steps


def noise_for(model: Model) -> Tensor:
    return torch.randn(3, *model.shape, generator=torch.manual_seed(0))


def in_order(name: str, calls: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """A step's arguments as one batch, the condition first, as the wrapped network is called."""

    def joined(*parts: Any) -> Any:
        if isinstance(parts[0], dict):
            return {key: joined(*(part[key] for part in parts)) for key in parts[0]}
        if len(parts) == 2:  # Wan's calls its network twice
            return torch.cat(parts)
        (part,) = parts
        if isinstance(part, Tensor) and part.ndim and len(part) == 2 * batch and name in ("sd", "sdxl", "sd3"):
            null, condition = part.chunk(2)
            return torch.cat([condition, null])
        return part

    return {key: joined(*(call[key] for call in calls)) for key in calls[0]}


def flat(arguments: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in arguments.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_network_receives_what_its_pipeline_gives_it(name: str) -> None:
    pipeline, model = wrapped(name)
    noise = noise_for(model)
    cond = cond_of(model)
    steps = walk(pipeline, name, noise)
    assert len(steps) == STEPS
    for i, step in enumerate(steps):
        theirs = flat(in_order(name, step.calls, len(noise)))
        x = next(theirs[key] for key in ("sample", "hidden_states") if key in theirs)[: len(noise)]
        t = step.timestep.double() / (1000 if isinstance(model.process, Flow) else 1)
        with watched(network_of(pipeline)) as calls, torch.no_grad():
            denoised = model.denoiser(x, t.expand(len(noise)), cond)
        assert len(calls) == 1, "one batch, guided or not"
        ours = flat(calls[0])
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            expected = theirs[key]
            if expected.ndim == 0:
                expected = expected.expand(len(value))
            assert value.shape == expected.shape, key
            assert torch.allclose(value.double(), expected.double(), rtol=1e-6, atol=1e-6), key
        # x_0 from the (guided) prediction that the scheduler was given
        prediction = step.output[: len(noise)].double()
        if isinstance(model.process, Flow):
            expected = x - pipeline.scheduler.sigmas[i].double() * prediction
        else:
            alpha_bar = pipeline.scheduler.alphas_cumprod[int(step.timestep)].double()
            expected = (x - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()
        assert (denoised - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_euler_ends_where_the_pipelines_own_call_does(name: str) -> None:
    pipeline, model = wrapped(name)
    noise = noise_for(model)
    theirs = walk(pipeline, name, noise)[-1].x_next[: len(noise)]
    assert model.own_schedule is not None
    schedule = model.own_schedule(STEPS)
    ours = sample(model.denoiser, schedule, build_solver("euler"), noise, cond_of(model))
    assert ours.dtype == torch.float32
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max().clamp(min=1)


@pytest.mark.parametrize(
    "config",
    [
        {"timestep_spacing": "trailing"},
        {"timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"timestep_spacing": "trailing", "prediction_type": "sample", "beta_schedule": "linear"},
        {"timestep_spacing": "leading", "beta_schedule": "squaredcos_cap_v2"},
    ],
)
def test_euler_agrees_for_every_prediction_and_beta_schedule(config: dict[str, Any]) -> None:
    pipeline = sd()
    pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config, **config)
    _, model = wrapped("sd", pipeline)
    noise = noise_for(model)
    theirs = walk(pipeline, "sd", noise)[-1].x_next
    assert model.own_schedule is not None
    own = model.own_schedule(STEPS)
    if (
        config["timestep_spacing"] == "trailing"
    ):  # starts from sigma_max times the noise, in the scheduler's coordinates
        own = Schedule(own.times, own.process, initial_scale=float(own.process.sigma(own.times[0])))
    ours = sample(model.denoiser, own, build_solver("euler"), noise, cond_of(model))
    # a scheduler takes an infinite noise level for 4096
    tolerance = 1e-3 if config.get("rescale_betas_zero_snr") else 1e-4
    assert (ours - theirs).abs().max() < tolerance * theirs.abs().max().clamp(min=1)


def test_guidance_costs_what_it_costs() -> None:
    for name in NAMES:
        _, model = wrapped(name)
        embedded = name == "flux"
        expected = 1 if name == "ddpm" or embedded else 2
        counted = CountedDenoiser(model.denoiser)
        with torch.no_grad():
            counted(noise_for(model), torch.full((3,), 0.5, dtype=torch.float64), cond_of(model))
        assert counted.evaluations == 3 * expected, name
        pipeline, plain = wrapped(name, guidance=1.0)
        with watched(network_of(pipeline)) as calls, torch.no_grad():
            plain.denoiser(noise_for(model), torch.full((3,), 0.5, dtype=torch.float64), cond_of(model))
        assert [len(flat(call)["timestep"]) for call in calls] == [3]
        assert CountedDenoiser(plain.denoiser).nfe == 1


def test_negative_prompts_reach_the_network() -> None:
    pipeline, model = wrapped("sd", guidance=3.0, negative_prompt="the dog")
    assert model.encode is not None
    with watched(network_of(pipeline)) as calls, torch.no_grad():
        model.denoiser(noise_for(model), torch.full((3,), 500.0, dtype=torch.float64), cond_of(model))
    expected = model.encode(["the dog"])["encoder_hidden_states"]
    assert torch.equal(calls[0]["encoder_hidden_states"][3:], expected.expand(3, -1, -1))


def test_guidance_that_is_an_input_of_an_sd_network() -> None:
    pipeline, model = wrapped("sd", sd(time_cond_proj_dim=8), guidance=5.0)
    noise = noise_for(model)
    theirs = walk(pipeline, "sd", noise, guidance=5.0)[-1].x_next
    assert model.own_schedule is not None
    ours = sample(model.denoiser, model.own_schedule(STEPS), build_solver("euler"), noise, cond_of(model))
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max().clamp(min=1)
    assert CountedDenoiser(model.denoiser).nfe == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_bfloat16_network_gets_unrounded_times_and_states_stay_float32(name: str) -> None:
    pipeline, model = wrapped(name, PIPELINES[name]().to(torch.bfloat16))
    t = 0.9987 if isinstance(model.process, Flow) else 998.7
    x, times = noise_for(model), torch.full((3,), t, dtype=torch.float64)
    with watched(network_of(pipeline)) as calls, torch.no_grad():
        out = model.denoiser(x, times, cond_of(model))
    given = flat(calls[0])
    assert given["timestep"].dtype == torch.float32
    scale = 1000 if name in ("sd3", "wan") else 1
    assert torch.allclose(given["timestep"].double(), torch.tensor(t * scale).double(), rtol=1e-7)
    latents = given.get("sample", given.get("hidden_states"))
    assert latents is not None
    assert latents.dtype == torch.bfloat16
    assert out.dtype == torch.float32
    assert bool(out.isfinite().all())


def test_an_offloaded_network_is_called_through_its_hooks() -> None:
    accelerate = pytest.importorskip("accelerate")
    pipeline = sd()
    _, model = wrapped("sd", pipeline)
    x, t, cond = noise_for(model), torch.full((3,), 500.0, dtype=torch.float64), cond_of(model)
    with torch.no_grad():
        expected = model.denoiser(x, t, cond)
    accelerate.cpu_offload(pipeline.unet, execution_device=CPU)
    assert pipeline.unet.device.type == "meta"  # its weights are there during a call alone
    _, offloaded = wrapped("sd", pipeline)
    with torch.no_grad():
        assert torch.equal(offloaded.denoiser(x, t, cond), expected)
    assert pipeline.unet.device.type == "meta"


def test_a_pipeline_without_hooks_is_asked_for_its_device_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accelerate = pytest.importorskip("accelerate")
    pipeline, asked = sd(), list[int]()
    _, model = wrapped("sd", pipeline)
    x, t, cond = noise_for(model), torch.full((3,), 500.0, dtype=torch.float64), cond_of(model)
    monkeypatch.setattr(type(pipeline), "_execution_device", property(lambda _: asked.append(1) or CPU))

    def call_thrice() -> None:
        with torch.no_grad():
            for _ in range(3):
                model.denoiser(x, t, cond)

    call_thrice()
    assert len(asked) == 0  # it was asked when it was wrapped
    accelerate.cpu_offload(pipeline.unet, execution_device=CPU)
    call_thrice()
    assert len(asked) == 3  # hooks may say another device at any time


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.mostly_slow(3)
def test_oss_and_ays_search_end_to_end(name: str) -> None:
    _, model = wrapped(name)
    t_max, t_min = model.time_range
    teacher = build_schedule("time_uniform", model.process, 6, t_max, t_min, final="zero")
    noise, cond = noise_for(model)[:2], take(cond_of(model), slice(0, 2))
    problem = SearchProblem(model.denoiser, model.process, build_solver("euler"), noise, teacher, cond)
    for method in (OSS(), AYS(levels=8, max_sweeps=1)):
        found = method.search(problem, [2, 3])
        for n, schedule in found.schedules.items():
            assert schedule.steps == n
            assert schedule.times[-1] == model.process.t_clean
        assert found.nfe > 0
    assert bool(sample(model.denoiser, found.schedules[3], build_solver("dpmpp_2m"), noise, cond).isfinite().all())


def test_decoding_is_the_pipelines_own() -> None:
    for name in ("sd", "sdxl", "sd3", "flux"):
        pipeline, model = wrapped(name)
        latents = noise_for(model)[:1] * 0.3
        size = SIZES.get(name, {"height": 16, "width": 16})
        pipeline.scheduler.step = lambda output, t, x, *args, _latents=latents, **kwargs: (_latents,)
        found = pipeline(PROMPTS[0], num_inference_steps=1, output_type="pt", **size).images
        del pipeline.scheduler.step
        assert model.decode is not None
        images = model.decode(latents)
        assert images.shape == (1, 3, 16, 16)
        assert torch.allclose((images + 1) / 2, found, atol=1e-5), name
    assert wrapped("wan")[1].decode(torch.randn(1, 16, 2, 4, 4)).shape == (1, 3, 5, 32, 32)  # type: ignore[misc]
    ddpm = wrapped("ddpm")[1]
    assert ddpm.decode is not None
    assert torch.equal(ddpm.decode(torch.full((2, 1, 8, 8), 3.0)), torch.ones(2, 1, 8, 8))


@pytest.mark.parametrize(
    "make",
    [
        lambda: diffusers.DDPMScheduler(),
        lambda: diffusers.DDIMScheduler(beta_schedule="scaled_linear"),
        lambda: diffusers.EulerDiscreteScheduler(beta_schedule="squaredcos_cap_v2"),
        lambda: diffusers.DDPMScheduler(beta_schedule="sigmoid"),
        lambda: diffusers.PNDMScheduler(trained_betas=[0.1, 0.2, 0.3]),
    ],
)
def test_the_process_has_the_schedulers_noise_levels(make: Callable[[], Any]) -> None:
    scheduler = make()
    alpha_bar = scheduler.alphas_cumprod.double()
    process = process_of(scheduler)
    found = process.noise_level(torch.arange(len(alpha_bar)).double())
    # the scheduler's float32 products lose digits where alpha_bar is nearly 1
    assert torch.allclose(found, ((1 - alpha_bar) / alpha_bar).sqrt(), rtol=1e-3)


@pytest.mark.parametrize("schedule", ["scaled_linear", "squaredcos_cap_v2", "linear"])
def test_zero_terminal_snr_has_an_infinite_last_level(schedule: str) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule=schedule, rescale_betas_zero_snr=True)
    process = process_of(scheduler)
    assert process == process_of(diffusers.DDIMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=True))
    assert (process.t_limit, process.t_finite) == (999, 998)
    levels = process.noise_level(torch.arange(1000).double())
    assert levels[-1] == math.inf
    expected = scheduler.sigmas.flip(0)[1:-1].double()  # but for its 4096 at the last
    assert torch.allclose(levels[:-1], expected, rtol=1e-3)


def test_what_a_scheduler_says_of_its_network() -> None:
    assert prediction_of(diffusers.DDIMScheduler(prediction_type="v_prediction")) == "v"
    assert prediction_of(diffusers.DDPMScheduler(prediction_type="sample")) == "x0"
    assert prediction_of(diffusers.FlowMatchEulerDiscreteScheduler()) == "velocity"
    flow = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    assert (prediction_of(flow), process_of(flow)) == ("velocity", Flow())
    assert own_schedule(flow, Flow(), 5).steps == 5
    pndm = diffusers.PNDMScheduler(skip_prk_steps=True)
    assert own_schedule(pndm, process_of(pndm), 5).steps == 5  # one of its six timesteps is there twice


def test_every_sample_has_its_prompt_whatever_is_asked_together() -> None:
    asked: list[list[str]] = []

    def encode(prompts: list[str]) -> dict[str, Tensor]:
        asked.append(list(prompts))
        return {"words": torch.tensor([[float(p)] for p in prompts])}

    prompts, tested = [str(k) for k in range(10)], [str(k) for k in range(100, 103)]
    conditions = PromptConditions(encode, prompts, tested)
    assert conditions([0, 9, 10, 23])["words"].flatten().tolist() == [0, 9, 0, 3]
    assert conditions([FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + 4])["words"].flatten().tolist() == [100, 101]
    assert [prompt for some in asked for prompt in some] == [*prompts, *tested], "each encoded once"
    same = PromptConditions(encode, prompts)
    assert same([FIRST_TEST_SAMPLE + 3])["words"].flatten().tolist() == [3]
    assert batch_size(conditions(range(7))) == 7
    assert conditions.metadata([0]) is None


def test_what_images_are_held_to_comes_with_the_prompts() -> None:
    asked = [Metadata("single_object", f"a photo of a {name}", (Objects(name),)) for name in ("cat", "dog")]
    conditions = PromptConditions(lambda prompts: torch.zeros(len(prompts), 1), ["a cow"], asked)
    judged = [FIRST_TEST_SAMPLE + 1, FIRST_TEST_SAMPLE + 2]
    assert conditions.metadata(judged) == [asked[1], asked[0]]
    assert conditions.words([0, *judged]) == ["a cow", "a photo of a dog", "a photo of a cat"]
    assert conditions.metadata([0, *judged]) is None, "the cow's images are held to nothing"


def test_a_u_net_alone_and_class_labels() -> None:
    network = unet2d(classes=3)
    model = from_pipeline(network, process=VP.linear())
    assert model.num_classes == 3
    assert model.own_schedule is None
    x, labels = noise_for(model), model.cond([0, 1, 5], CPU)
    assert labels.tolist() == [0, 1, 2]
    with torch.no_grad():
        out = model.denoiser(x, torch.full((3,), 400.0, dtype=torch.float64), labels)
        eps = network(x, 400, class_labels=labels).sample
    alpha, sigma = VP.linear().alpha(400.0), VP.linear().sigma(400.0)
    assert torch.allclose(out, ((x - sigma * eps) / alpha).float(), atol=1e-5)
    assert from_pipeline(unet2d(), process=Flow(), time_scale=1000).noise_levels == (math.inf, 1 / 999)


@pytest.mark.parametrize("timesteps", [1000, 500])
def test_a_flow_u_net_is_called_at_its_schedulers_timesteps(timesteps: int) -> None:
    """As a pipeline that runs it with that scheduler calls it; alone, it must be said."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=timesteps)
    network = unet2d()
    scheduler.set_timesteps(4)
    for given, options in (
        (diffusers.DDPMPipeline(network, scheduler), {}),
        (network, {"process": Flow(), "time_scale": float(timesteps)}),
    ):
        model = from_pipeline(given, **options)
        t = scheduler.sigmas[:-1].double()
        with watched(network) as calls, torch.no_grad():
            model.denoiser(torch.zeros(len(t), *model.shape), t)
        torch.testing.assert_close(calls[0]["timestep"], scheduler.timesteps, rtol=1e-6, atol=0)
        assert model.facts["network"] == f"called with {timesteps} t, predicts velocity"


def test_an_sd_flow_is_called_at_its_schedulers_timesteps() -> None:
    pipeline = sd()
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    model = from_pipeline(pipeline, guidance=1.0)
    with watched(pipeline.unet) as calls, torch.no_grad():
        model.denoiser(noise_for(model), torch.tensor([0.25, 0.5, 0.75]).double(), cond_of(model))
    assert calls[0]["timestep"].tolist() == pytest.approx([250, 500, 750])


def test_a_u_net_that_embeds_numbered_timesteps() -> None:
    """With an embedding for each of them, its config says how many there are."""
    network = unet2d()
    network.register_to_config(num_train_timesteps=200)
    assert from_pipeline(network, process=Flow()).facts["network"] == "called with 200 t, predicts velocity"


def test_limits_are_the_schedulers_unless_given() -> None:
    _, model = wrapped("sd3", noise_max=math.inf, noise_min=0.01)
    assert model.time_range == (1.0, pytest.approx(0.01 / 1.01))
    assert wrapped("sd")[1].time_range == (999.0, 0.0)


class Unknown:
    """No pipeline."""


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (Unknown, {}, "no Unknown is supported; known: UNet2DModel"),
        (unet2d, {}, r"does not say what noising process.*process=ddpm"),
        (unet2d, {"process": EDM()}, "does not say what noising process"),
        (unet2d, {"process": Flow()}, r"at which times .* time_scale=1000 .* time_scale=1 if"),
        (unet2d, {"process": Flow(), "time_scale": 0.0}, "time_scale must be a positive number, got 0.0"),
        (unet2d, {"process": VP.linear(), "guidance": 2.0}, "guidance 2 .* no condition; use 1"),
        (lambda: unet2d(3), {"process": VP.linear(), "guidance": 2.0}, "no label of no class"),
        (PIPELINES["ddpm"], {"guidance": 4.0}, "guidance 4"),
        (PIPELINES["ddpm"], {"prompts": ["a cat"]}, "takes no prompts, and 1 were given"),
        (PIPELINES["ddpm"], {"process": Flow()}, r"trained on VP.*not on Flow"),
        (PIPELINES["dit"], {"height": 32}, r"16 x 16 pixels only, got .*32"),
        (PIPELINES["dit"], {"negative_prompt": "a dog"}, "takes no prompts"),
        (PIPELINES["sd"], {"guidance": 0.5}, "guidance 0.5: pipelines guide"),
        (PIPELINES["sd"], {"height": 20}, "multiples of 8, got 20 and 16"),
        (PIPELINES["sd"], {"guidance": 1.0, "negative_prompt": "dog"}, "'dog' does nothing without guidance"),
        (PIPELINES["sd"], {"test_prompts": ["dog"]}, "give prompts for the search as well"),
        (PIPELINES["flux"], {"negative_prompt": "dog"}, "takes its guidance as an input"),
        (lambda: flux(guidance_embeds=False), {"guidance": 3.5}, "takes no guidance"),
        (PIPELINES["wan"], {"num_frames": 6}, "1 more than a multiple of 4, got 6"),
    ],
)
def test_what_cannot_be_is_said(make: Callable[[], Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_pipeline(make(), **options)


def test_networks_of_noise_levels_are_not_wrapped() -> None:
    continuous = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    edm = diffusers.EulerDiscreteScheduler(**continuous)
    for scheduler in (diffusers.EDMEulerScheduler(), edm, diffusers.CosineDPMSolverMultistepScheduler()):
        assert process_of(scheduler) == EDM()
        pipe = PIPELINES["sd"]()
        pipe.scheduler = scheduler
        with pytest.raises(ValueError, match=f"under {type(scheduler).__name__} is called with a function of"):
            from_pipeline(pipe)
    # an eps-prediction is called at timesteps, whatever the scheduler is told
    assert isinstance(process_of(diffusers.EulerDiscreteScheduler(timestep_type="continuous")), VP)
    with pytest.raises(ValueError, match="no process is known for"):
        process_of(diffusers.CMStochasticIterativeScheduler())


def test_a_cond_of_the_wrong_kind_is_named() -> None:
    t = torch.full((3,), 0.5, dtype=torch.float64)
    for name, said in (("sd", r"needs encoded prompts as its cond: encode\(prompts\)"), ("dit", "needs class labels")):
        _, model = wrapped(name, guidance=1.0)
        with pytest.raises(ValueError, match=said):
            model.denoiser(noise_for(model), t, None)
