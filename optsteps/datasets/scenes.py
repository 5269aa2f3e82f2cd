"""Scenes: 32x32 photos of one to four coloured shapes, drawn to fulfil a prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from optsteps.datasets.geneval_prompts import RELATIONS, TASKS, Metadata
from optsteps.datasets.scene_prompts import COLORS, SIZES, TONES, Split, all_prompts
from optsteps.datasets.shapes import SHAPES, coverage, half_extent
from optsteps.noise import FIRST_TEST_SAMPLE, sample_generator

PIXELS = 32
# red, green and blue, 0 to 255. Backgrounds are dull, and no nearer than 100 to a colour
RGB = {
    "red": (220, 30, 30),
    "yellow": (245, 225, 40),
    "green": (30, 170, 50),
    "blue": (30, 60, 220),
    "pink": (240, 100, 200),
    "cyan": (40, 210, 230),
    "white": (250, 250, 250),
    "black": (12, 12, 12),
}
TONE_RGB = {
    "grey": (128, 128, 128),
    "slate": (100, 112, 135),
    "sand": (170, 155, 125),
    "olive": (110, 112, 78),
    "mauve": (135, 112, 130),
    "brown": (115, 92, 75),
}
# sizes in pixels where a prompt names one, and where it does not, by the number of objects
_NAMED_SIZES = {"small": (4.2, 5.2), "large": (6.6, 8.4)}
_SIZES = {1: (4.5, 8.2), 2: (4.4, 7.2), 3: (4.3, 6.2), 4: (4.2, 5.6)}
_GRAIN = 4.0  # standard deviation of the pixels' noise, of 255
_HIDDEN = 0.2  # at most so much of an object lies under others
_STREAM = 4
_ATTEMPTS = 10_000


@dataclass(frozen=True)
class Thing:
    """An object of a scene.

    Attributes:
        shape: one of SHAPES.
        color: one of COLORS.
        rgb: as drawn, 0 to 255, near that colour.
        center: of its box, (x, y) in pixels from the upper left corner.
        size: in pixels; half the width of a circle.
    """

    shape: str
    color: str
    rgb: tuple[float, float, float]
    center: tuple[float, float]
    size: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels."""
        (x, y), (half_width, half_height) = self.center, half_extent(self.shape, self.size)
        return x - half_width, y - half_height, x + half_width, y + half_height


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn.

    Attributes:
        tone: of the background, one of TONES.
        slope: the rise of the background's brightness from the left to the right edge and from top to bottom, as a
            fraction; (0, 0) is plain.
        things: in the order of drawing; a later one may hide part of an earlier one.
    """

    tone: str
    slope: tuple[float, float]
    things: tuple[Thing, ...]


def scene_set(
    count: int, split: Split, seed: int = 0, tasks: Sequence[str] = TASKS
) -> tuple[Tensor, list[str], list[Metadata]]:
    """Scenes with their captions, task and caption drawn evenly from the split's grammar.

    Number k depends on (seed, k, tasks) alone.

    Args:
        count: of scenes.
        split: "train" or "test".
        seed: of everything random.
        tasks: to draw from; one that is named twice is drawn twice as often.

    Returns:
        Images uint8 [count, 3, 32, 32], captions [count], and the metadata of the captions [count].

    Raises:
        ValueError: the count is below 1, or a task or the split is not known.
    """
    if count < 1:
        raise ValueError(f"{count} scenes were asked for; ask for at least one")
    first = FIRST_TEST_SAMPLE if split == "test" else 0
    metadata, scenes = [], []
    for k in range(first, first + count):
        random = np.random.default_rng([seed, k, _STREAM])
        prompts = all_prompts(tasks[int(random.integers(len(tasks)))], split)
        metadata.append(prompts[random.integers(len(prompts))])
        scenes.append(scene_of(metadata[-1], random))
    images = render(scenes, seed, range(first, first + count))
    return images, [entry.prompt for entry in metadata], metadata


def scene_of(metadata: Metadata, random: np.random.Generator) -> Scene:
    """A random scene that shows what a prompt says and nothing else; what it leaves open is random.

    Objects of one colour do not touch. Of those of different colours, one may hide up to a fifth of another, whose rest
    stays in one piece.

    Raises:
        ValueError: the prompt asks for shapes or colours that cannot be drawn, or for more than four objects.
    """
    objects = [entry for entry in metadata.include for _ in range(entry.count)]
    _check(metadata, len(objects))
    low, high = _NAMED_SIZES.get(_named(metadata.prompt, SIZES) or "", _SIZES[len(objects)])
    tone = _named(metadata.prompt.partition(" on ")[2], TONES) or TONES[random.integers(len(TONES))]
    slope = (0.0, 0.0) if random.random() < 0.5 else (random.uniform(-0.12, 0.12), random.uniform(-0.12, 0.12))
    for _ in range(_ATTEMPTS):
        # colours too are drawn anew: for four large objects of one colour there is hardly ever room
        colors = [entry.color or COLORS[random.integers(len(COLORS))] for entry in objects]
        things = [
            _placed(entry.name, color, _jittered(RGB[color], random), random.uniform(low, high), random)
            for entry, color in zip(objects, colors, strict=True)
        ]
        if not _in_relation(things, [entry.position for entry in objects]):
            continue
        ordered = [things[k] for k in random.permutation(len(things))]
        if _all_seen(ordered):
            return Scene(tone, slope, tuple(ordered))
    raise ValueError(f"no room was found for {metadata.prompt!r} in {_ATTEMPTS} attempts; ask for fewer objects")


def render(scenes: Sequence[Scene], seed: int = 0, index: Sequence[int] | range | None = None) -> Tensor:
    """Draws scenes with antialiased edges and light noise.

    Args:
        scenes: to draw.
        seed: of the noise.
        index: numbers of the scenes; the noise of number k depends on (seed, k) alone. None counts from 0.

    Returns:
        Images uint8 [len(scenes), 3, 32, 32].
    """
    index = range(len(scenes)) if index is None else index
    middles = torch.arange(PIXELS) + 0.5
    ramp = (middles / PIXELS - 0.5).float()
    slope = torch.tensor([scene.slope for scene in scenes]).float().view(-1, 2)
    light = 1 + slope[:, 0, None, None] * ramp + slope[:, 1, None, None] * ramp[:, None]
    tones = torch.tensor([TONE_RGB[scene.tone] for scene in scenes]).float().view(-1, 3)
    images = tones[:, :, None, None] * light[:, None]
    for layer in range(max((len(scene.things) for scene in scenes), default=0)):
        for shape in SHAPES:
            where = [k for k, s in enumerate(scenes) if layer < len(s.things) and s.things[layer].shape == shape]
            if where:
                things = [scenes[k].things[layer] for k in where]
                paint = torch.tensor([thing.rgb for thing in things])[:, :, None, None]
                images[where] = torch.lerp(images[where], paint, _coverage(shape, things)[:, None])
    for image, k in zip(images, index, strict=True):
        image += _GRAIN * torch.randn(3, PIXELS, PIXELS, generator=sample_generator(seed, int(k), _STREAM))
    return images.round().clamp(0, 255).to(torch.uint8)


def _coverage(shape: str, things: Sequence[Thing]) -> Tensor:
    """The share of each pixel that things of one shape cover [len(things), 32, 32]."""
    center = torch.tensor([thing.center for thing in things])
    size = torch.tensor([thing.size for thing in things])[:, None, None]
    middles = torch.arange(PIXELS) + 0.5
    x = middles[None, None, :] - center[:, 0, None, None]
    y = middles[None, :, None] - center[:, 1, None, None]
    return coverage(shape, x, y, size)


def _jittered(rgb: tuple[int, int, int], random: np.random.Generator) -> tuple[float, float, float]:
    red, green, blue = np.clip(rgb + random.uniform(-9, 9, 3), 0, 255).tolist()
    return red, green, blue


def _placed(shape: str, color: str, rgb: tuple[float, float, float], size: float, random: np.random.Generator) -> Thing:
    """A thing somewhere in the picture, half a pixel off its edges or more."""
    half_width, half_height = (half + 0.5 for half in half_extent(shape, size))
    x, y = random.uniform(half_width, PIXELS - half_width), random.uniform(half_height, PIXELS - half_height)
    return Thing(shape, color, rgb, (x, y), size)


def _check(metadata: Metadata, count: int) -> None:
    for entry in metadata.include:
        if entry.name not in SHAPES:
            raise ValueError(f"{metadata.prompt!r} asks for a {entry.name!r}; known: {', '.join(SHAPES)}")
        if entry.color is not None and entry.color not in COLORS:
            raise ValueError(f"{metadata.prompt!r} asks for the colour {entry.color!r}; known: {', '.join(COLORS)}")
    if count not in _SIZES:
        raise ValueError(f"{metadata.prompt!r} asks for {count} objects; a scene has one to {max(_SIZES)}")


def _named(text: str, words: Sequence[str]) -> str | None:
    """The first word of the text that is in `words`."""
    return next((word for word in text.split() if word in words), None)


def _in_relation(things: Sequence[Thing], positions: Sequence[tuple[str, int] | None]) -> bool:
    """Whether the things lie as asked, by a margin over GenEval's rule.

    That rule shortens the offset of the boxes' middles by 0.1 of their summed sizes, divides it by its full length, and
    takes a direction from 0.5 on.
    """
    for thing, position in zip(things, positions, strict=True):
        if position is None:
            continue
        axis, sign = divmod(RELATIONS.index(position[0]), 2)
        other = things[position[1]]
        offset = [mine - theirs for mine, theirs in zip(thing.center, other.center, strict=True)]
        reach = half_extent(thing.shape, thing.size)[axis] + half_extent(other.shape, other.size)[axis]
        along = offset[axis] if sign else -offset[axis]
        if along - 0.2 * reach < 0.65 * math.hypot(*offset):
            return False
    return True


def _all_seen(things: Sequence[Thing]) -> bool:
    """Whether each of the things, drawn in this order, is still to be made out."""
    overlap = False
    for k, thing in enumerate(things):
        for other in things[:k]:
            box, near = thing.box, other.box
            gap = max(max(box[axis] - near[axis + 2], near[axis] - box[axis + 2]) for axis in (0, 1))
            if thing.color == other.color and gap < 2:
                return False
            overlap = overlap or gap < 1
    if not overlap:
        return True
    layers = [_coverage(thing.shape, [thing])[0].numpy() for thing in things]
    uncovered = np.ones((PIXELS, PIXELS), np.float32)
    for layer in reversed(layers):
        seen = layer * uncovered
        if seen.sum() < (1 - _HIDDEN) * layer.sum() or ndimage.label(seen > 0.5)[1] != 1:
            return False
        uncovered = uncovered * (1 - layer)
    return True
