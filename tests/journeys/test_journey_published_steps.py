"""Somebody wants eight good steps for SDXL in the tool at hand, and first sees what the published ones are worth."""

from __future__ import annotations

import json
from typing import Any

import pytest

from optsteps.schedules import PUBLISHED_LEVELS

pytestmark = pytest.mark.slow


def test_from_a_name_to_another_tool_and_back(desk: Any) -> None:
    run = "optsteps model=mnist process=vp teacher.final=zero steps=[8] rivals=[edm,logsnr] metric=teacher"
    run += " teacher.steps=30 search.samples=4 test.samples=16 test.oracle=0 logger=none hydra.run.dir=run"
    desk.types(f"{run} method=file method.path=published:sdlx", "sdxl", refused=True)
    desk.types(f"{run} method=file method.path=published:sdxl", "At 8 NFE file is", "report and schedules:")
    rows = [row for row in json.loads(desk.reads("run/metrics.json"))["rows"] if row["method"] == "file"]
    assert [row["search_nfe"] for row in rows] == [0]

    sigmas = desk.types("optsteps-export run/schedule_8.json --to comfyui")
    levels = [float(level) for level in sigmas.split(",")]
    assert len(levels) == 9
    # as the tools run these levels: the first and the middle one are the authors', noise level 0 ends them
    ten = PUBLISHED_LEVELS["sdxl"]
    assert levels[0] == pytest.approx(ten[0], rel=1e-3)
    assert levels[4] == pytest.approx(ten[5], rel=1e-9)
    assert levels[-1] == 0
    desk.types("optsteps-export run/schedule_8.json --to comfyui --output sigmas.txt")
    desk.types(
        "optsteps-export sigmas.txt --to kdiffusion",
        "sigmas.txt is not a schedule file, and looks like the form comfyui: read it with --from comfyui --process",
        refused=True,
    )
    for form in ("comfyui", "kdiffusion"):
        back = desk.types(f"optsteps-export sigmas.txt --from {form} --process sd --to kdiffusion")
        assert json.loads(back) == pytest.approx(levels, rel=1e-9)
    snippet = desk.types("optsteps-export run/schedule_8.json --to diffusers")
    assert "EulerDiscreteScheduler.from_config(" in snippet
    assert "    sigmas=[" in snippet
    # what was read back is judged as what was published
    desk.types("optsteps-export sigmas.txt --from comfyui --process sd --output back.json")
    desk.types(f"{run}_again method=file method.path=back.json", "At 8 NFE file is")
    [again] = [row for row in json.loads(desk.reads("run_again/metrics.json"))["rows"] if row["method"] == "file"]
    assert again["figures"]["psnr"]["value"] == pytest.approx(rows[0]["figures"]["psnr"]["value"], abs=1e-3)
