"""A grammar of captions of scenes: GenEval's six tasks in GenEval's words, asked of coloured shapes.

    single_object  a photo of a [small|large] circle [on sand]
    two_object     a photo of a circle and a star [on sand]
    counting       a photo of three squares [on sand]                    (two to four)
    colors         a photo of a [small|large] red circle [on sand]
    position       a photo of a star left of a square [on sand]
    color_attr     a photo of a red circle and a blue star [on sand]     (two shapes, two colours)

What is in brackets may be missing: then any size and any background will do. Size and background make prompts many;
GenEval's rules do not judge them.

A lesson besides, for training alone: one colour shows what left and right are long before shapes can be made out.

    colored_position  a photo of a red star left of a square [on sand]

Training and test prompts are disjoint in what they combine, while every word is seen in training:

- Each shape has one partner: the k-th of SHAPES and the k-th from the end. No training caption names both.
- Each shape has two colours, the k-th of SHAPES those of COLORS whose number is k modulo 4. No training caption names
  both.
- The test prompts of two_object, position, colors and color_attr are those that name one of these pairs.
- single_object and counting combine too little for that. A quarter of the combinations of shape, count, size and
  background are test prompts; training knows each shape with each count, on other backgrounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import permutations, product
from typing import Literal

import numpy as np

from optsteps.datasets.geneval_prompts import RELATIONS, TASKS, Metadata, Objects, in_turn
from optsteps.datasets.shapes import SHAPES

COLORS = ("red", "yellow", "green", "blue", "pink", "cyan", "white", "black")
TONES = ("grey", "slate", "sand", "olive", "mauve", "brown")
SIZES = ("small", "large")
_COUNTS = {2: "two", 3: "three", 4: "four"}
_PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}

# tasks of training captions
LESSONS = (*TASKS, "colored_position")

Split = Literal["train", "test"]


def prompts(task: str, count: int, split: Split, seed: int = 0) -> list[Metadata]:
    """`count` prompts of a lesson in random order, each as often as any other: distinct where there are so many.

    Raises:
        ValueError: the task or the split is not known, or the count is negative.
    """
    if count < 0:
        raise ValueError(f"{count} prompts were asked for; ask for 0 or more")
    candidates = all_prompts(task, split)
    random = np.random.default_rng([seed, LESSONS.index(task)])
    rounds = -(-count // len(candidates))
    order = [int(k) for _ in range(rounds) for k in random.permutation(len(candidates))]
    return [candidates[k] for k in order[:count]]


def prompts_of_all_tasks(each: int, split: Split, seed: int = 0) -> list[Metadata]:
    """`each` prompts of every task, as of `prompts`, in turn: the first of all tasks, the second of all tasks, ..."""
    return in_turn(prompts(task, each, split, seed) for task in TASKS)


@cache
def all_prompts(task: str, split: Split) -> tuple[Metadata, ...]:
    """All prompts of a lesson; the errors are those of `prompts`."""
    if task not in LESSONS:
        raise ValueError(f"there is no task {task!r}; known: {', '.join(LESSONS)}")
    if split not in ("train", "test"):
        raise ValueError(f"there is no split {split!r}; known: train, test")
    return tuple(metadata for metadata, is_test in _grammar(task) if is_test == (split == "test"))


@cache
def vocabulary() -> tuple[str, ...]:
    """The words of all prompts, sorted."""
    words = {word for task in TASKS for metadata, _ in _grammar(task) for word in metadata.prompt.split()}
    return tuple(sorted(words))


def _grammar(task: str) -> Iterator[tuple[Metadata, bool]]:
    """Every prompt of a task with whether it is a test prompt."""
    for place, tone in enumerate((None, *TONES)):
        for phrase, include, exclude, is_test in _phrases(task, place):
            prompt = f"a photo of {phrase}" + (f" on {tone}" if tone else "")
            yield Metadata("position" if task == "colored_position" else task, prompt, include, exclude), is_test


def _phrases(task: str, tone: int) -> Iterator[tuple[str, tuple[Objects, ...], tuple[Objects, ...], bool]]:
    """Every phrase of a task with what it includes and excludes, and whether it is for the test on background `tone`,
    0 where none is named."""
    sizes = ("", *(f"{size} " for size in SIZES))
    pairs = list(permutations(SHAPES, 2))
    include: tuple[Objects, ...]
    if task == "single_object":
        for (k, shape), (s, size) in product(enumerate(SHAPES), enumerate(sizes)):
            yield f"a {size}{shape}", (Objects(shape),), (), (k + s + tone) % 4 == 0
    elif task == "counting":
        for (k, shape), (count, word) in product(enumerate(SHAPES), _COUNTS.items()):
            more = (Objects(shape, count + 1),)
            yield f"{word} {_PLURALS[shape]}", (Objects(shape, count),), more, (k + count + tone) % 4 == 0
    elif task == "colors":
        for color, shape, size in product(COLORS, SHAPES, sizes):
            yield f"a {size}{color} {shape}", (Objects(shape, color=color),), (), _strange(shape, color)
    elif task == "two_object":
        for first, second in pairs:
            yield f"a {first} and a {second}", (Objects(first), Objects(second)), (), _partners(first, second)
    elif task == "position":
        for (first, second), relation in product(pairs, RELATIONS):
            include = (Objects(second), Objects(first, position=(relation, 0)))
            yield f"a {first} {relation} a {second}", include, (), _partners(first, second)
    elif task == "colored_position":
        for (first, second), color, relation in product(pairs, COLORS, RELATIONS):
            include = (Objects(second), Objects(first, color=color, position=(relation, 0)))
            is_test = _partners(first, second) or _strange(first, color)
            yield f"a {color} {first} {relation} a {second}", include, (), is_test
    else:
        for (first, second), (color, tint) in product(pairs, permutations(COLORS, 2)):
            include = (Objects(first, color=color), Objects(second, color=tint))
            is_test = _partners(first, second) or _strange(first, color) or _strange(second, tint)
            yield f"a {color} {first} and a {tint} {second}", include, (), is_test


def _partners(first: str, second: str) -> bool:
    """Whether no training caption names both shapes."""
    return SHAPES.index(first) + SHAPES.index(second) == len(SHAPES) - 1


def _strange(shape: str, color: str) -> bool:
    """Whether no training caption names the shape and the colour as one object's."""
    return SHAPES.index(shape) % 4 == COLORS.index(color) % 4
