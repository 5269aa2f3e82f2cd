"""How often the exact detector sees what was drawn, and what the benchmark says of pictures of something else.

python experiments/geneval_scenes/detector_accuracy.py --scenes 2000 > experiments/geneval_scenes/detector_accuracy.md

Test scenes are drawn for test prompts and judged by GenEval's rules: against their own prompts, and against those of
other scenes, of the same task and of any task; rows are the pictures' tasks. There the truth is the judgement of the
objects as drawn: pictures of something else may happen to be right.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from optsteps.datasets.geneval_prompts import TASKS, Metadata
from optsteps.datasets.images import to_unit_range
from optsteps.datasets.scene_prompts import prompts
from optsteps.datasets.scenes import Scene, render, scene_of
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.rules import judge_image
from optsteps.metrics.geneval.scene_detector import SceneDetector

HEAD = """| task | scenes | own prompt | another of the task | as drawn | one of any task | as drawn |
|---|---|---|---|---|---|---|"""


def as_drawn(scene: Scene) -> list[Detection]:
    return [Detection(thing.shape, 1.0, thing.box, thing.color) for thing in scene.things]


def judged(asked: Sequence[Metadata], found: Sequence[Sequence[Detection]]) -> np.ndarray:
    return np.array([judge_image(metadata, one).correct for metadata, one in zip(asked, found, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=2000, help="in all, at least as many, the same for every task")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    each = -(-arguments.scenes // len(TASKS))
    asked = [metadata for task in TASKS for metadata in prompts(task, each, "test", arguments.seed)]
    scenes = [scene_of(metadata, np.random.default_rng([arguments.seed, k])) for k, metadata in enumerate(asked)]
    images = to_unit_range(render(scenes, arguments.seed))
    detector = SceneDetector()
    detector(images[:1], asked[:1])  # draws its bank of shapes
    start = time.perf_counter()
    found = detector(images, asked)
    seconds = time.perf_counter() - start
    truth = [as_drawn(scene) for scene in scenes]

    random = np.random.default_rng(arguments.seed)
    same = np.arange(len(asked)).reshape(len(TASKS), each)
    same = np.stack([row[_moved(each, random)] for row in same]).ravel()
    columns = [judged(asked, found)]
    for order in (same, _moved(len(asked), random)):
        others = [asked[k] for k in order]
        columns += [judged(others, found), judged(others, truth)]
    table = 100 * np.array(columns).reshape(len(columns), len(TASKS), each).mean(2).T
    print(HEAD)
    for task, row in zip((*TASKS, "**mean**"), (*table, table.mean(0)), strict=True):
        scenes_told = each if task in TASKS else len(asked)
        print(f"| {task} | {scenes_told} | " + " | ".join(f"{value:.1f} %" for value in row) + " |")
    print(f"{len(images) / seconds:.0f} images a second on one core", file=sys.stderr)


def _moved(count: int, random: np.random.Generator) -> np.ndarray:
    """A random order of `count` in which nothing is where it was."""
    order = random.permutation(count)
    moved = np.empty(count, int)
    moved[order] = np.roll(order, 1)
    return moved


if __name__ == "__main__":
    main()
