"""OptstepsScheduler: its steps against `sample`, in a plain loop and in the pipelines' own calls."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optsteps import OptstepsScheduler, Schedule, apply, restore, sample
from optsteps.denoisers import PREDICTIONS, expand
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.solvers import SOLVERS, Multistep, build_solver

sys.path.append(str(Path(__file__).parents[1] / "models"))
diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()
from test_diffusers import cond_of, noise_for, wrapped  # noqa: E402
from test_every_pipeline import own_call  # noqa: E402
from tiny_pipelines import PIPELINES, edited, record  # noqa: E402

SD = VP.scaled_linear()
TIMES: dict[str, tuple[Process, list[float]]] = {
    "vp": (SD, [999, 700.3, 400, 200, 90.5, -1]),
    "flow": (Flow(), [1, 0.8, 0.6, 0.3, 0.1, 0]),
    "edm": (EDM(), [80, 20, 5, 1, 0.2, 0]),
}
MODEL = GaussianMixture([[-1.0, 0.0, 0.3], [1.0, 0.5, -0.2]], [0.2, 0.4])
# by diffusers' names; an EDM network's output is none of these
NAMES = {"x0": "sample", "eps": "epsilon", "v": "v_prediction", "velocity": "flow_prediction"}


def noise(samples: int = 4) -> Tensor:
    return torch.randn(samples, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def walked(scheduler: Any, x: Tensor, prediction: str = "x0", generator: Any = None) -> Tensor:
    """What a pipeline's loop makes of unit noise with the exact network of `MODEL`."""
    process = scheduler.schedule.process
    denoiser = MODEL.denoiser(process)
    scheduler.set_timesteps(50)
    x = x * scheduler.init_noise_sigma
    for number, t in enumerate(scheduler.timesteps):
        told = torch.tensor(scheduler.calls[number].told, dtype=torch.float64)
        given = scheduler.scale_model_input(x, t)
        if isinstance(process, EDM):
            torch.testing.assert_close(given, x / (told**2 + 1) ** 0.5)
            assert float(t) == pytest.approx(float(told.log() / 4))
        of_x, of_output = PREDICTIONS[prediction](process.alpha(told), process.sigma(told))
        output = (denoiser(x, told.expand(len(x))) - expand(of_x, x) * x) / expand(of_output, x)
        x = scheduler.step(output, t, x, generator=generator).prev_sample
    return x


@pytest.mark.filterwarnings("ignore:the pipeline asks")
@pytest.mark.parametrize("process", TIMES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.mostly_slow(3)
def test_every_solver_walks_as_sample_does(solver: str, process: str, tmp_path: Path) -> None:
    schedule = Schedule(TIMES[process][1], TIMES[process][0])
    expected = sample(MODEL.denoiser(schedule.process), schedule, build_solver(solver), noise(), seed=3)
    made = OptstepsScheduler.from_schedule(schedule, solver, prediction_type="sample", seed=3)
    made.save_pretrained(tmp_path)
    copies = {
        "itself": made,
        "again": made,
        "saved": OptstepsScheduler.from_pretrained(tmp_path),
        "config": OptstepsScheduler.from_config(made.config),
        "pickled": pickle.loads(pickle.dumps(made)),
        "copied": copy.deepcopy(made),
    }
    for scheduler in copies.values():
        torch.testing.assert_close(walked(scheduler, noise()), expected, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:the pipeline asks")
@pytest.mark.parametrize(("process", "start"), [("vp", 900.0), ("flow", 0.95)])
@pytest.mark.parametrize("prediction", NAMES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_whatever_a_schedule_carries(prediction: str, process: str, start: float, data: st.DataObject) -> None:
    kind, times = TIMES[process]
    carried: dict[str, Any] = {"initial_scale": data.draw(st.none() | st.floats(0.5, 2))}
    numbers = st.lists(st.floats(0.5, 1.5), min_size=5, max_size=5)
    if data.draw(st.booleans()):
        carried["weights"] = (torch.tensor(data.draw(numbers))[:, None] * torch.ones(5, 2)).tril(-1)
        solver = data.draw(st.sampled_from(["dpmpp_2m", "ipndm", "unipc"]))
    else:
        carried["orders"] = data.draw(st.lists(st.integers(1, 3), min_size=5, max_size=5))
        solver = data.draw(st.sampled_from(["dpmpp_3m", "deis"]))
    if data.draw(st.booleans()):
        carried["told_times"] = [
            start,
            *(t * min(f, 1.0) for t, f in zip(times[1:-1], data.draw(numbers), strict=False)),
        ]
        carried["told_as"] = data.draw(st.sampled_from(["x0", "slope"]))
    if data.draw(st.booleans()):
        carried["amplitude"] = torch.tensor(data.draw(numbers))[:, None, None] * torch.tensor([[1.0, 0.1]] * 3)
    schedule = Schedule([start, *times[1:]], kind, **carried)
    made = OptstepsScheduler.from_schedule(schedule, solver, prediction_type=NAMES[prediction])
    expected = sample(MODEL.denoiser(kind), schedule, build_solver(solver), noise())
    torch.testing.assert_close(walked(made, noise(), prediction), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:the pipeline asks")
@pytest.mark.parametrize("solver", ["ddim_stochastic", "sde_dpmpp_2s"])
def test_noise_of_the_generator(solver: str) -> None:
    schedule = Schedule(TIMES["vp"][1], SD)
    made = OptstepsScheduler.from_schedule(schedule, solver, prediction_type="sample")
    drawn = torch.randint(2**31, (4,), generator=torch.Generator().manual_seed(5))
    expected = sample(MODEL.denoiser(SD), schedule, build_solver(solver), noise(), index=drawn)
    found = walked(made, noise(), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not torch.equal(walked(made, noise(), generator=torch.Generator().manual_seed(6)), expected)
    alone = [torch.Generator().manual_seed(k) for k in range(4)]
    torch.testing.assert_close(
        walked(made, noise(), generator=alone)[2:],
        walked(made, noise()[2:], generator=[torch.Generator().manual_seed(k) for k in (2, 3)]),
    )


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "dpmpp_3m", "unipc", "heun", "dpmpp_2s"])
@pytest.mark.parametrize("process", ["vp", "flow"])
def test_a_walk_may_begin_within(solver: str, process: str) -> None:
    """The part from a step on is a schedule of its own: nothing is remembered from before."""
    kind, times = TIMES[process]
    schedule, part = Schedule(times, kind), Schedule(times[2:], kind)
    made = OptstepsScheduler.from_schedule(schedule, build_solver(solver), prediction_type="sample")
    clean, eps = noise(), noise().flip(0)
    made.set_timesteps(schedule.steps)
    rest = made.timesteps[2 * made.order :]
    made.set_begin_index(2 * made.order)
    x = made.add_noise(clean, eps, rest[:1].repeat(4))
    torch.testing.assert_close(x, made.scale_noise(clean, rest[:1], eps))
    start = torch.tensor(times[2])
    torch.testing.assert_close(x, kind.alpha(start) * clean + kind.sigma(start) * eps)
    expected = sample(MODEL.denoiser(kind), part, build_solver(solver), x / part.scale)
    for number, t in enumerate(rest, len(made.calls) - len(rest)):
        told = torch.tensor(made.calls[number].told, dtype=torch.float64)
        x, _ = made.step(MODEL.denoiser(kind)(x, told.expand(4)), t, x, return_dict=False)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)


@given(steps=st.integers(1, 12), asked=st.integers(1, 60), data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_share_of_the_steps_that_is_run(steps: int, asked: int, data: st.DataObject) -> None:
    """Whatever number of steps a pipeline counts with, the same share of the schedule's runs, and at least one."""
    solver, left = data.draw(st.sampled_from(["euler", "heun"])), data.draw(st.integers(1, asked))
    schedule = Schedule(torch.linspace(1, 0, steps + 1), Flow())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = OptstepsScheduler.from_schedule(schedule, solver)
        made.set_timesteps(asked)
    begin = (asked - left) * made.order
    entry = made.entry(begin)
    ran = steps - made.calls[entry].step
    assert made.calls[entry].first
    assert abs(ran - steps * left / asked) <= 0.5 or ran == 1
    assert made.timesteps[begin:].tolist() == made.timesteps.tolist()[entry:]
    if asked == steps:
        assert ran == left


def test_it_says_once_that_it_runs_its_own_steps() -> None:
    made = OptstepsScheduler.from_schedule(Schedule(TIMES["flow"][1], Flow()))
    made.set_timesteps(5)
    made.set_timesteps(sigmas=[1.0, 0.8, 0.6, 0.4, 0.2], mu=0.7)
    with pytest.warns(UserWarning, match="asks for 28 steps, and its scheduler runs the 5 steps"):
        made.set_timesteps(28)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.set_timesteps(30)


def test_what_is_refused() -> None:
    flow = Schedule(TIMES["flow"][1], Flow())
    with pytest.raises(ValueError, match="from_schedule"):
        OptstepsScheduler()
    with pytest.raises(ValueError, match=r"'noise' is none of epsilon"):
        OptstepsScheduler.from_schedule(flow, prediction_type="noise")
    with pytest.raises(ValueError, match="process of the kind vp, and the schedule is for Flow"):
        OptstepsScheduler.from_pipeline(diffusers.DDIMScheduler(), flow)
    with pytest.raises(ValueError, match="which heun does not take"):
        OptstepsScheduler.from_schedule(Schedule([1, 0.5, 0], Flow(), weights=[[0.0], [1.0]]), "heun")
    with pytest.raises(ValueError, match=r"orders \[1, 3, 1\], and euler has none above 1"):
        OptstepsScheduler.from_schedule(Schedule([1, 0.5, 0.2, 0], Flow(), [1, 3, 1]))

    class Own(type(build_solver("euler"))):  # type: ignore[misc]
        name = "own"

    with pytest.raises(ValueError, match="own is none of this package's solvers"):
        OptstepsScheduler.from_schedule(flow, Own())
    made = OptstepsScheduler.from_schedule(flow)
    for t in made.timesteps:
        made.step(noise(), t, noise())
    with pytest.raises(IndexError, match="all 5 calls"):
        made.step(noise(), 1.0, noise())


def schedule_for(process: Process, solver: str) -> Schedule:
    times = [1, 0.9, 0.7, 0.45, 0.2, 0] if isinstance(process, Flow) else [980, 800, 601, 310, 90, -1]
    built = build_solver(solver.removesuffix(" with weights"))
    schedule = Schedule(times, process, metadata=built.described)
    if not solver.endswith("weights"):
        return schedule
    assert isinstance(built, Multistep)
    return Schedule(times, process, metadata=built.described, weights=1.3 * built.own_weights(schedule))


@pytest.mark.filterwarnings("ignore:the pipeline asks")
@pytest.mark.parametrize(
    "solver",
    ["dpmpp_2m", "dpmpp_2m with weights", *(pytest.param(s, marks=pytest.mark.slow) for s in ("sde_dpmpp_2m", "heun"))],
)
@pytest.mark.parametrize("name", PIPELINES)
def test_the_pipelines_own_call(name: str, solver: str, tmp_path: Path) -> None:
    pipe, model = wrapped(name)
    schedule, plain = schedule_for(model.process, solver), build_solver(solver.removesuffix(" with weights"))
    made = OptstepsScheduler.from_pipeline(pipe, schedule, seed=0)
    made.save_pretrained(tmp_path)
    x, cond = noise_for(model), cond_of(model)
    with torch.no_grad():
        expected = sample(model.denoiser, schedule, plain, x, cond)
    size = max(1.0, float(expected.abs().max()))  # random weights make latents of up to hundreds
    for scheduler in (made, pickle.loads(pickle.dumps(OptstepsScheduler.from_pretrained(tmp_path)))):
        pipe.scheduler = scheduler
        torch.testing.assert_close(own_call(pipe, name, x), expected, rtol=0, atol=1e-4 * size)
    theirs = PIPELINES[name]().scheduler
    assert dict(type(theirs).from_config(made.config).config).items() >= settings_of(theirs).items()


def settings_of(scheduler: Any) -> dict[str, Any]:
    return {key: value for key, value in scheduler.config.items() if not key.startswith("_")}


def steps_left(name: str, steps: int, strength: float) -> int:
    """SD and SDXL round the steps that run down, SD3 and FLUX up."""
    kept = steps * strength
    return int(kept) if name in ("sd", "sdxl") else steps - int(steps - kept)


@pytest.mark.parametrize("solver", ["dpmpp_2m", pytest.param("heun", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_a_strength_runs_the_last_part(name: str, solver: str) -> None:
    pipe, call = edited(name, "img2img")
    flow = name in ("sd3", "flux")
    times = [1.0, 0.95, 0.87, 0.71, 0.55, 0.4, 0.22, 0.09, 0.0] if flow else [999, 850, 736, 645, 545, 343, 233, 24, -1]
    schedule = Schedule(times, Flow() if flow else SD, metadata={"solver": solver})
    pipe.scheduler = OptstepsScheduler.from_pipeline(pipe, schedule)
    unit, seen = (1e-3 if name == "sd3" else 1.0), record(pipe)
    for strength in (0.3, 0.5, 1.0):
        first = schedule.steps - steps_left(name, schedule.steps, strength)
        expected = [called.told for called in pipe.scheduler.calls if called.step >= first]
        for steps in (8, 16) if (16 * strength) % 2 == 0 else (8,):  # 16 steps are halved without a rest
            seen.clear()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = call(strength=strength, num_inference_steps=steps)
            assert [unit * t for t in seen] == pytest.approx(expected, rel=1e-6)
            assert bool(torch.isfinite(image).all())


@pytest.mark.filterwarnings("ignore:the pipeline asks")
def test_two_parts_of_sdxl() -> None:
    pipe, call = edited("sdxl", "img2img")
    whole = diffusers.StableDiffusionXLPipeline(**pipe.components)
    whole.set_progress_bar_config(disable=True)
    schedule = Schedule([999, 850.25, 736, 645, 545.5, 343, 233, 24, -1], SD)
    whole.scheduler = pipe.scheduler = OptstepsScheduler.from_pipeline(pipe, schedule)
    times = record(pipe)
    half = whole("a red dog", denoising_end=0.4, output_type="latent", num_inference_steps=30).images
    assert times == pytest.approx([999, 850.25, 736, 645])
    times.clear()
    call(denoising_start=0.4, image=half, num_inference_steps=30)
    assert times == pytest.approx([545.5, 343, 233, 24])


def test_a_whole_pipeline_is_saved_with_it_and_without_it(tmp_path: Path) -> None:
    pipe = PIPELINES["sd"]()
    pipe.save_pretrained(tmp_path / "before")
    before, config = (tmp_path / "before/scheduler/scheduler_config.json").read_bytes(), dict(pipe.scheduler.config)
    index = (tmp_path / "before/model_index.json").read_bytes()
    schedule = Schedule(TIMES["vp"][1], SD, metadata={"solver": "dpmpp_2s"}, told_times=None, amplitude=None)
    amplified = Schedule([999, 500, -1], SD, amplitude=torch.tensor([[[0.9, 0.0]] * 4] * 2))
    for applied in (schedule, amplified):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            apply(pipe, applied)
        assert dict(pipe.scheduler.config) == config
        pipe.save_pretrained(tmp_path / "applied")
        assert (tmp_path / "applied/scheduler/scheduler_config.json").read_bytes() == before
        assert (tmp_path / "applied/model_index.json").read_bytes() == index
    restore(pipe)
    assert dict(pipe.scheduler.config) == config
    pipe.scheduler = OptstepsScheduler.from_pipeline(pipe, schedule)
    pipe.save_pretrained(tmp_path / "ours")
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "ours", trust_remote_code=False)
    assert loaded.scheduler.schedule == schedule
    assert type(diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config).betas) is Tensor
