"""A pipeline whose network accelerate keeps on several devices, one of them the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import PIPELINES

from optsteps import Schedule, SearchProblem, build_schedule
from optsteps.fingerprint import fingerprint_held
from optsteps.methods import OSS
from optsteps.models.diffusers import from_pipeline
from optsteps.solvers import build_solver

accelerate = pytest.importorskip("accelerate")


def searched(pipe: Any) -> tuple[Schedule, torch.Tensor]:
    """A schedule for the pipeline, and its predictions for some latents."""
    model = from_pipeline(pipe, guidance=1.0)
    assert model.encode is not None
    teacher = build_schedule("logsnr", model.process, 6, *model.time_range)
    noise, cond = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0)), model.encode(["a", "cat"])
    problem = SearchProblem(model.denoiser, model.process, build_solver("euler"), noise, teacher, cond)
    with torch.no_grad():
        prediction = model.denoiser(noise, torch.tensor([500.0, 100.0], dtype=torch.float64), cond)
    assert fingerprint_held(model.denoiser)
    return OSS().search(problem, [3]).schedules[3], prediction


def test_a_dispatched_network_finds_what_a_whole_one_finds(tmp_path: Path) -> None:
    """To the last bit, with half of its weights on the disk between calls."""
    expected, prediction = searched(PIPELINES["sd"]())
    pipe = PIPELINES["sd"]()
    places = {name: "disk" if "blocks" in name else "cpu" for name, _ in pipe.unet.named_children()}
    pipe.unet = accelerate.dispatch_model(pipe.unet, places, main_device="cpu", offload_dir=str(tmp_path))
    assert any(weight.is_meta for weight in pipe.unet.parameters())
    found, same = searched(pipe)
    assert torch.equal(same, prediction)
    assert found == expected
