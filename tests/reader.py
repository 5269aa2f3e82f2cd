"""A reader's own things, as the guides speak of them: files, networks, samples and pipelines, all of them tiny."""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optsteps import build_schedule
from optsteps.metrics.geneval.detections import Detection
from optsteps.processes import VP
from optsteps.schedules import PUBLISHED_LEVELS

sys.path.append(str(Path(__file__).parent / "models"))

NETWORKS = '''
import torch

from optsteps.processes import VP


class Network(torch.nn.Module):
    """Predicts the eps of pixels that are Gaussian, of standard deviation 0.5."""

    def forward(self, x, t, cond):
        alpha, sigma = (c.to(x).reshape(-1, 1, 1, 1) for c in (VP.linear().alpha(t), VP.linear().sigma(t)))
        return sigma * x / (0.25 * alpha**2 + sigma**2)


load_network = Network
'''
# the repositories and folders whose pipelines the guides sample
HUB = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "black-forest-labs/FLUX.1-dev": "flux",
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": "wan",
}
CLASSES = ("cat", "dog")
TASKS = ("single_object", "counting")


def bring_files(folder: Path, write_run: Callable[..., Path]) -> None:
    """Everything but pipelines.

    Args:
        folder: where the reader works.
        write_run: writes a made-up run.
    """
    (folder / "my_networks.py").write_text(NETWORKS)
    process = VP.scaled_linear()
    build_schedule("time_uniform", process, 10, t_max=999, t_min=0, final="zero", snap=True).save(
        folder / "schedule_10.json"
    )
    (folder / "ays.txt").write_text(", ".join(map(str, PUBLISHED_LEVELS["sd15"])))
    (folder / "list.txt").write_text("1.0, 0.8, 0.5, 0.2")
    for name in ("prompts.txt", "others.txt"):
        (folder / name).write_text("a photo of a cat\nthe red dog\n")
    asked = [
        {"tag": task, "include": [{"class": name, "count": 1}], "prompt": f"{article} {name}"}
        for task, article in zip(TASKS, ("a", "the"), strict=True)
        for name in CLASSES
    ]
    for name in ("geneval_metadata.jsonl", "evaluation_metadata.jsonl"):
        (folder / name).write_text("".join(json.dumps(one) + "\n" for one in asked))
    for number, place in enumerate(("sweeps/1", "sweeps/2", "other/1")):
        write_run(folder / "outputs" / place, seed=number)
    for kind, shape in (("images-idx3", (20, 28, 28)), ("labels-idx1", (20,))):  # a start of MNIST
        head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        body = bytes(k % 10 for k in range(math.prod(shape)))
        (folder / f"train-{kind}-ubyte.gz").write_bytes(gzip.compress(head + body))


def bring_pipeline(folder: Path, name: str) -> None:
    """The saved pipeline, or network of one, that is called `name` in the guides."""
    from tiny_pipelines import PIPELINES, unet2d

    if not (folder / name).exists():
        kind = "sd" if name == "my_pipeline" else HUB.get(name)
        (unet2d() if kind is None else PIPELINES[kind]()).save_pretrained(folder / name)


def tiny_pipeline(kind: str) -> Any:
    """A loaded pipeline of random weights: "sd", "sdxl", ...; skips the test where diffusers is missing."""
    from tiny_pipelines import PIPELINES

    return PIPELINES[kind]()


def bring_detector(folder: Path) -> list[str]:
    """GenEval's networks, and the overrides that name them."""
    from tiny_pipelines import tiny_clip, tiny_mask2former

    parts = {"path": tiny_mask2former(folder / "mask2former"), "clip": tiny_clip(folder / "clip")}
    return [f"metric.judges.2.judge.detector.{part}={path}" for part, path in parts.items()]


def sizes(name: str) -> list[str]:
    """The overrides of the smallest sample that the pipeline called `name` makes."""
    from tiny_pipelines import SIZES

    return [f"model.{key}={value}" for key, value in SIZES.get(HUB.get(name, ""), {}).items()]


def denoiser(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    """The exact one, under EDM, of data that are Gaussian of standard deviation 0.5."""
    level = t.to(x).reshape(-1, *[1] * (x.ndim - 1))
    return x * 0.25 / (0.25 + level**2)


def names(page: str) -> dict[str, Any]:
    """What the Python of a page finds there already, by name."""

    def normal(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    labels = torch.arange(16) % 10
    images = {"denoiser": denoiser, "noise": normal(16, 1, 28, 28), "labels": labels}
    images |= {"new_noise": normal(16, 1, 28, 28, seed=1), "new_labels": labels}
    if page == "README.md":
        return {
            **images,
            **pipeline(),
            "network": lambda x, t, cond: x,
            "betas": torch.linspace(1e-4, 0.02, 1000),
            "null": torch.tensor([10]),
        }
    if page in ("conf/README.md", "optsteps/solvers/README.md"):
        return images
    if page == "optsteps/methods/ays/README.md":
        return {"denoiser": denoiser, "noise": normal(16, 2), "data": 0.5 * normal(64, 2, seed=1)}
    if page == "optsteps/metrics/README.md":
        right = [[Detection(name, 0.9, (0, 0, 200, 200))] for _ in TASKS for name in CLASSES]
        return {"teacher_detections": right, "student_detections": [*right[:3], []]}
    if page in ("optsteps/export/README.md", "optsteps/models/diffusers/README.md"):
        return pipeline()
    return {}


def pipeline() -> dict[str, Any]:
    """A loaded pipeline and prompts for it."""
    from tiny_pipelines import PIPELINES, PROMPTS

    return {"pipe": PIPELINES["sd"](), "prompts": PROMPTS}
