"""`apply` leaves a scheduler's own settings as they were: in its config, saved, copied, and when it is taken back."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from optsteps import Schedule, apply, build_schedule, restore
from optsteps.export.diffusers.scheduler_config import process_of
from optsteps.export.diffusers.schedulers import KINDS
from optsteps.processes import EDM, VP, Flow, Process

sys.path.append(str(Path(__file__).parents[1] / "models"))
diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()
from tiny_pipelines import PIPELINES  # noqa: E402

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
# settings that bend tables, in every pipeline
SCHEDULERS: dict[str, Any] = {
    "ddpm": lambda: diffusers.HeunDiscreteScheduler(use_karras_sigmas=True, beta_end=0.02, beta_start=1e-4),
    "dit": lambda: diffusers.DPMSolverMultistepScheduler(use_lu_lambdas=True, solver_order=3),
    "sd": lambda: diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="trailing", final_sigmas_type="sigma_min"),
    "sdxl": lambda: diffusers.EulerDiscreteScheduler(**SD, use_karras_sigmas=True, interpolation_type="log_linear"),
    "sd3": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, shift_terminal=0.02),
    "flux": lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
    "wan": lambda: diffusers.UniPCMultistepScheduler(**FLOW),
}


def schedule_for(process: Process) -> Schedule:
    if isinstance(process, Flow):
        return build_schedule("flow_shift", process, 4, t_max=1.0, t_min=0.0, shift=1.7)
    return Schedule([980.25, 613.7, 211.5, 90, -1], process)


def tables(scheduler: Any) -> tuple[list[float], list[float]]:
    """What it runs for five steps of its own."""
    mu = {"mu": 0.8} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(5, **mu)
    return scheduler.timesteps.tolist(), scheduler.sigmas.tolist()


def saved(pipe: Any, folder: Path) -> list[bytes]:
    pipe.save_pretrained(folder)
    return [(folder / name).read_bytes() for name in ("model_index.json", "scheduler/scheduler_config.json")]


@pytest.mark.parametrize("name", PIPELINES)
def test_the_settings_of_a_pipeline_stay(name: str, tmp_path: Path) -> None:
    pipe = PIPELINES[name]()
    pipe.scheduler = own = SCHEDULERS[name]()
    before, files = dict(own.config), saved(pipe, tmp_path / "before")
    schedule, runs = schedule_for(process_of(own)), tables(copy.deepcopy(own))
    kind = type(own)
    apply(pipe, schedule)
    assert type(pipe.scheduler).__name__ == kind.__name__
    assert isinstance(pipe.scheduler, kind)
    pipe.scheduler.set_timesteps(50)
    assert {k: v for k, v in pipe.scheduler.config.items() if k in before} == before
    assert saved(pipe, tmp_path / "applied") == files
    loaded = type(pipe).from_pretrained(tmp_path / "applied").scheduler
    derived = [kind.from_config(pipe.scheduler.config), type(pipe.scheduler).from_config(pipe.scheduler.config)]
    for scheduler in (loaded, *derived, pipe.scheduler.from_config(pipe.scheduler.config)):
        assert type(scheduler) is kind
        assert tables(scheduler) == runs
    pipe.scheduler.set_timesteps(50)
    assert pipe.scheduler.timesteps.shape != torch.Size([5])
    assert restore(pipe).scheduler is own
    assert {k: v for k, v in own.config.items() if k in before} == before
    assert saved(pipe, tmp_path / "after") == files
    assert tables(own) == runs


def scheduler_and_schedule(name: str) -> tuple[Any, Schedule]:
    kind, takes = getattr(diffusers, name), KINDS[name].takes
    if "flow" in takes:
        settings = FLOW if "vp" in takes else {}
        return kind(**settings), Schedule([0.9, 0.5, 0.25, 0.1], Flow(), initial_scale=1.0)
    if "vp" not in takes:
        return kind(), build_schedule("edm", EDM(), 4, t_max=70.0, t_min=0.01)
    last = 0 if name == "TCDScheduler" else -1
    return kind(**({} if name == "IPNDMScheduler" else SD)), Schedule([980, 613, 211, last], VP.scaled_linear())


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
@pytest.mark.parametrize("name", [name for name in KINDS if name != "LTXEulerAncestralRFScheduler"])  # not to 0.1
def test_a_copy_is_whole(name: str, way: str) -> None:
    own, schedule = scheduler_and_schedule(name)
    applied = apply(own, schedule)
    applied.set_timesteps(10)
    copied = pickle.loads(pickle.dumps(applied)) if way == "pickle" else copy.deepcopy(applied)
    assert type(copied) is type(applied)
    assert dict(copied.config) == dict(own.config)
    walks = []
    for scheduler in (applied, copied):
        scheduler.set_timesteps(30)
        x, noise = torch.ones(1, 1, 2, 2), torch.manual_seed(0)
        for t in scheduler.timesteps:
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, t)
            takes = "generator" in type(scheduler).step.__wrapped__.__code__.co_varnames
            x = scheduler.step(0.1 * x, t, x, **({"generator": noise} if takes else {}), return_dict=False)[0]
        walks.append(x)
    assert torch.equal(*walks)
    assert dict(restore(copied).config) == dict(own.config)


def test_a_pipeline_that_was_applied_to_can_be_copied() -> None:
    pipe = diffusers.AutoPipelineForImage2Image.from_pipe(PIPELINES["sd"]())
    schedule = schedule_for(process_of(pipe.scheduler))
    copied = copy.deepcopy(apply(pipe, schedule))
    assert copied.get_timesteps.args[0] is copied  # not the pipeline it was copied from
    restore(pipe)
    copied.scheduler.set_timesteps(50)
    assert copied.get_timesteps(50, 0.5, "cpu")[0].tolist() == pytest.approx([211.5, 90])
    restore(copied).scheduler.set_timesteps(50)
    assert len(copied.get_timesteps(50, 0.5, "cpu")[0]) == 25
