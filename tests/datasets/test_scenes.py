"""Scenes of coloured shapes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy import stats

from optsteps.datasets import captioned_scenes
from optsteps.datasets.geneval_prompts import TASKS, Metadata, Objects
from optsteps.datasets.scene_prompts import COLORS, LESSONS, TONES, all_prompts
from optsteps.datasets.scenes import RGB, TONE_RGB, Scene, Thing, render, scene_of, scene_set
from optsteps.datasets.shapes import SHAPES
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.rules import judge_image

PROMPTS = [metadata for task in LESSONS for split in ("train", "test") for metadata in all_prompts(task, split)[::17]]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PROMPTS), st.integers(0, 2**32))
def test_a_scene_shows_what_was_asked_and_nothing_else(asked: Metadata, seed: int) -> None:
    scene = scene_of(asked, np.random.default_rng(seed))
    drawn = [Detection(thing.shape, 1.0, thing.box, thing.color) for thing in scene.things]
    assert judge_image(asked, drawn).correct
    assert sorted(thing.shape for thing in scene.things) == sorted(
        entry.name for entry in asked.include for _ in range(entry.count)
    )
    said = asked.prompt.split()
    assert said[-2] != "on" or scene.tone == said[-1]
    if "small" in said or "large" in said:
        assert (scene.things[0].size < 6) == ("small" in said)
    for thing in scene.things:
        assert min(thing.box) >= 0
        assert max(thing.box) <= 32
        assert np.abs(np.subtract(thing.rgb, RGB[thing.color])).max() < 10


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(all_prompts("counting", "train")))
def test_every_object_can_be_made_out(seed: int, asked: Metadata) -> None:
    """Of each object that is drawn alone, more than half of the pixels stay when the others are drawn too: a fifth may
    be hidden, and the rims that they share, a fifth of a small cross, count as lost; objects of one colour keep
    apart."""
    scene = scene_of(asked, np.random.default_rng(seed))
    alone = [replace(scene, things=(thing,)) for thing in scene.things]
    whole, empty, *single = render([scene, replace(scene, things=()), *alone]).float()
    for picture in single:
        own = (picture - empty).norm(dim=0) > 60
        stays = (picture - whole).norm(dim=0) < 40
        assert (own & stays).sum() > 0.5 * own.sum()
    for k, one in enumerate(scene.things):
        for other in scene.things[:k]:
            if one.color == other.color:
                apart = [
                    max(one.box[axis] - other.box[axis + 2], other.box[axis] - one.box[axis + 2]) for axis in (0, 1)
                ]
                assert max(apart) >= 2


def test_number_k_of_a_seed_depends_on_both_alone() -> None:
    images, captions, asked = scene_set(12, "train", seed=4)
    again, _, _ = scene_set(5, "train", seed=4)
    assert images.dtype == torch.uint8
    assert images.shape == (12, 3, 32, 32)
    assert torch.equal(images[:5], again)
    assert captions == [metadata.prompt for metadata in asked]
    assert not torch.equal(images[:5], scene_set(5, "train", seed=5)[0])
    scenes = [scene_of(metadata, np.random.default_rng(1)) for metadata in asked]
    assert torch.equal(render(scenes, 3, range(12))[[7, 2]], render([scenes[7], scenes[2]], 3, [7, 2]))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_captions_of_a_set_are_those_of_its_split_and_all_tasks(split: str) -> None:
    _, _, asked = scene_set(60, split)  # type: ignore[arg-type]
    assert {metadata.tag for metadata in asked} == set(TASKS)
    assert all(metadata in all_prompts(metadata.tag, split) for metadata in asked)  # type: ignore[arg-type]


def test_what_is_drawn() -> None:
    under = Thing("square", "red", (220.0, 30.0, 30.0), (12.0, 16.0), 6.0)
    over = Thing("circle", "blue", (30.0, 60.0, 220.0), (20.0, 16.0), 6.0)
    image, turned, empty = render(
        [
            Scene("sand", (0.0, 0.0), (under, over)),
            Scene("sand", (0.0, 0.0), (over, under)),
            Scene("sand", (0.2, 0), ()),
        ]
    ).float()
    for picture, (x, y), rgb in (
        (image, (9, 16), under.rgb),
        (image, (16, 16), over.rgb),
        (turned, (15, 16), under.rgb),
        (turned, (22, 16), over.rgb),
        (image, (2, 2), TONE_RGB["sand"]),
    ):
        patch = picture[:, y - 1 : y + 2, x - 1 : x + 2].mean((1, 2))
        assert patch.tolist() == pytest.approx(rgb, abs=7)  # five standard deviations of a mean of nine pixels
    assert empty[:, :, -4:].mean() / empty[:, :, :4].mean() == pytest.approx((1 + 0.0875) / (1 - 0.0875), abs=0.02)


def test_colours_and_backgrounds_lie_well_apart() -> None:
    colors = torch.tensor([RGB[color] for color in COLORS]).float()
    tones = torch.tensor([TONE_RGB[tone] for tone in TONES]).float()
    assert torch.pdist(colors).min() > 100
    assert torch.cdist(colors, tones).min() > 100


def test_nothing_that_cannot_be_drawn() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"'a photo of a dog' asks for a 'dog'; known: circle, square"):
        scene_of(Metadata("single_object", "a photo of a dog", (Objects("dog"),)), random)
    with pytest.raises(ValueError, match=r"asks for the colour 'beige'; known: red, yellow"):
        scene_of(Metadata("colors", "a photo of a beige star", (Objects("star", color="beige"),)), random)
    with pytest.raises(ValueError, match=r"asks for 5 objects; a scene has one to 4"):
        scene_of(Metadata("counting", "a photo of five stars", (Objects("star", 5),)), random)
    with pytest.raises(ValueError, match="0 scenes were asked for"):
        scene_set(0, "train")
    assert set(SHAPES) == {entry.name for metadata in PROMPTS for entry in metadata.include}
    assert render([]).shape == (0, 3, 32, 32)


def test_training_scenes_are_of_the_tasks_that_are_named() -> None:
    tasks = OmegaConf.create(["position", "position", "position", "colors"])
    data = captioned_scenes(80, 30, train=True, train_tasks=tasks)
    drawn = [TASKS[label] for label in data.labels]
    assert set(drawn) == {"position", "colors"}
    assert stats.binomtest(drawn.count("position"), 80, 0.75).pvalue > 1e-4
    assert set(captioned_scenes(80, 30, train=False, train_tasks=tasks).labels.tolist()) == set(range(len(TASKS)))
    with pytest.raises(ValueError, match="there is no task 'shape'"):
        captioned_scenes(80, 30, train_tasks=["shape"])
