"""Somebody has a pipeline of diffusers in a folder, and wants better pictures of as many steps."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image, ImageChops
from reader import tiny_pipeline

pytestmark = pytest.mark.slow

LOADED = """
import optsteps
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("my_pipeline")
pipe.set_progress_bar_config(disable=True)
"""
WITH_APPLY = """
optsteps.apply(pipe, optsteps.Schedule.load("run/schedule_4.json"))
torch.manual_seed(0)
images = pipe("a photo of a cat")[0]
"""


def test_from_a_folder_to_a_picture(desk: Any) -> None:
    tiny_pipeline("sd").save_pretrained(desk.folder / "my_pipeline")
    desk.has("prompts.txt", "a photo of a cat\nthe red dog\n")
    run = "optsteps model=diffusers model.path=my_pipeline hydra.run.dir=run steps=[4]"
    desk.types(f"{run} model.prompts=prompt.txt", "prompt.txt", refused=True)
    # a network of random weights removes no noise, which the run would remark
    desk.types(
        f"{run} model.prompts=prompts.txt teacher.steps=20 search.samples=4 test.samples=8 test.oracle=0 logger=none"
        " check_model=false",
        "At 8 NFE (4 steps) oss is",
        "how to sample with them:",
    )
    report = desk.reads("run/report.md")
    for row in ("own", "published", "flow_shift"):
        assert (f"| {row} |" in report) == (row != "flow_shift"), "the pipeline's process is no flow"

    pasted = desk.reads("run/use_in_diffusers.py")
    assert "# 4 steps\n" in pasted
    start = f"import torch\n{LOADED}torch.manual_seed(0)\n"
    desk.has("pasted.py", f'{start}{pasted.replace("your prompt", "a photo of a cat")}images[0].save("pasted.png")\n')
    desk.has("applied.py", f'{start}{WITH_APPLY}images[0].save("applied.png")\n')
    for script in ("pasted", "applied"):
        desk.types(f"python {script}.py")
    pictures = [Image.open(desk.folder / f"{script}.png") for script in ("pasted", "applied")]
    assert pictures[0].size == pictures[1].size
    extremes = ImageChops.difference(*pictures).getextrema()
    assert max(high for _, high in extremes) <= 1, "both ways sample the same picture"
    assert max(high - low for low, high in pictures[0].getextrema()) > 10, "no picture of one colour"
