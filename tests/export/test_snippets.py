"""Generated snippets, run on real pipelines with random weights: when their networks are called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from optsteps import Schedule
from optsteps.export import diffusers_snippet, to_diffusers
from optsteps.processes import VP, Flow

sys.path.append(str(Path(__file__).parents[1] / "models"))
diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()
from tiny_pipelines import PIPELINES, SIZES, record  # noqa: E402

WHOLE = Schedule([999, 700, 420, 150, -1], VP.scaled_linear(), metadata={"solver": "dpmpp_2m"})
BETWEEN = Schedule([999, 700.25, 420.5, 150.75, -1], VP.scaled_linear())
FLOW = Schedule([1.0, 0.83, 0.52, 0.21, 0.0], Flow(), metadata={"solver": "euler"})


@pytest.mark.parametrize(
    ("name", "scheduler", "schedule", "expected", "applies"),
    [
        ("sd", None, WHOLE, "DPMSolverMultistepScheduler", False),
        ("sd", "EulerAncestralDiscreteScheduler", WHOLE, "EulerAncestralDiscreteScheduler", True),
        ("sd", "DPMSolverMultistepScheduler", BETWEEN, "DPMSolverMultistepScheduler", True),
        ("sd", "folder", BETWEEN, "EulerDiscreteScheduler", False),
        ("sdxl", "HeunDiscreteScheduler", WHOLE, "HeunDiscreteScheduler", False),
        ("sd3", "FlowMatchHeunDiscreteScheduler", FLOW, "FlowMatchHeunDiscreteScheduler", True),
        ("sd3", "DPMSolverSinglestepScheduler", FLOW, "DPMSolverSinglestepScheduler", True),
        ("flux", None, FLOW, "FlowMatchEulerDiscreteScheduler", False),
        ("flux", "UniPCMultistepScheduler", FLOW, "UniPCMultistepScheduler", True),
        ("wan", "UniPCMultistepScheduler", FLOW, "UniPCMultistepScheduler", True),
    ],
)
def test_a_pasted_snippet_runs_the_schedule(
    name: str, scheduler: str | None, schedule: Schedule, expected: str, applies: bool, tmp_path: Path
) -> None:
    pipe = PIPELINES[name]()
    if scheduler == "folder":
        pipe.save_pretrained(tmp_path / "pipe")
        scheduler = str(tmp_path / "pipe")
    schedule.save(tmp_path / "s.json")
    snippet = diffusers_snippet(schedule, scheduler, tmp_path / "s.json")
    assert ("optsteps.apply(pipe" in snippet) is applies
    assert "latents=" not in snippet  # every pipeline starts where the schedule does
    times = record(pipe)
    size = "".join(f", {key}={value}" for key, value in SIZES.get(name, {}).items())
    found: dict[str, Any] = {"pipe": pipe}
    exec(snippet.replace('"your prompt"', f'"a red dog"{size}'), found)
    assert type(pipe.scheduler).__name__ == expected
    assert len(found["images"]) == 1
    wanted = schedule.times[:-1] * (1000 if name in ("sd3", "wan") else 1)
    if "Heun" in expected:
        wanted = torch.cat([wanted[:1], wanted[1:].repeat_interleave(2)])
    if name == "wan":  # with and without the prompt, one after the other
        wanted = wanted.repeat_interleave(2)
    assert times == pytest.approx(wanted.tolist(), rel=1e-6, abs=1e-3)


def test_a_scheduler_in_its_own_place_stays_its_own(tmp_path: Path) -> None:
    """The settings that a snippet names are changes of the pipeline's, whichever way it takes."""
    pipe = PIPELINES["sd3"]()
    assert to_diffusers(FLOW, pipe.scheduler).settings == {"shift": 1.0}
    FLOW.save(tmp_path / "s.json")
    snippet = diffusers_snippet(FLOW, "FlowMatchHeunDiscreteScheduler", tmp_path / "s.json")
    exec(snippet.replace('"your prompt"', '"a red dog", height=16, width=16'), {"pipe": pipe})
    assert pipe.scheduler.config.shift == 3.0
