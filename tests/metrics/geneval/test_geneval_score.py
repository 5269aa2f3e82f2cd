"""GenEval's score of many images, its intervals and what a student retains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optsteps.datasets.geneval_prompts import TASKS, Metadata, Objects
from optsteps.metrics import Interval
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.rules import Judgement
from optsteps.metrics.geneval.score import GenEvalScore, score_images
from optsteps.metrics.statistics import stratified_sums

DOG = Detection("dog", 0.9, (0.0, 0.0, 4.0, 4.0))


def _prompt(task: str, number: int) -> Metadata:
    return Metadata(task, f"{task} {number}", (Objects("dog"),))


def _score(correct: dict[str, list[list[int]]]) -> GenEvalScore:
    """Of the verdicts on each image of each prompt of each task."""
    images = [
        (_prompt(task, k), bool(one))
        for task, prompts in correct.items()
        for k, all in enumerate(prompts)
        for one in all
    ]
    return GenEvalScore(tuple(asked for asked, _ in images), tuple(Judgement(one) for _, one in images))


def _random(
    chance: np.random.Generator, prompts: int, images: int, shift: float = 0.0
) -> tuple[GenEvalScore, GenEvalScore]:
    """A student and a teacher whose images of a prompt go together: some prompts are hard."""
    ease = {task: chance.beta(1, 1, prompts) for task in TASKS}
    found = [
        {task: (chance.random((prompts, images)) < (ease[task] - s)[:, None]).astype(int).tolist() for task in TASKS}
        for s in (shift, 0.0)
    ]
    return _score(found[0]), _score(found[1])


def test_tasks_weigh_the_same_whatever_their_number_of_images() -> None:
    score = _score({"counting": [[1, 1], [0, 1]], "single_object": [[1, 0]], "colors": [[0], [0, 0, 0]]})
    assert score.tasks == ("single_object", "counting", "colors")
    assert score.task_scores == {"single_object": 0.5, "counting": 0.75, "colors": 0.0}
    assert score.overall == pytest.approx(1.25 / 3)
    assert score.missing == ("two_object", "position", "color_attr")
    assert score.prompt_scores[_prompt("counting", 1)] == 0.5
    assert list(score.prompt_scores.values()) == [1.0, 0.5, 0.5, 0.0, 0.0]
    assert score.correct.tolist() == [1, 1, 0, 1, 1, 0, 0, 0, 0, 0]
    assert score.of("counting").overall == 0.75
    with pytest.raises(ValueError, match="no image has the task 'position'; there are single_object, counting, colors"):
        score.of("position")


def test_the_interval_is_that_of_prompts_drawn_within_tasks() -> None:
    """By the standard error of a mean of independent prompts, which a bootstrap approaches."""
    score, _ = _random(np.random.default_rng(0), prompts=80, images=4)
    variances = [torch.tensor(list(score.of(t).prompt_scores.values())).var(unbiased=False) / 80 for t in TASKS]
    error = float(sum(variances)) ** 0.5 / 6
    found = score.interval()
    assert found.value == score.overall
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    # images drawn one by one would hide how prompts differ
    alone = (0.25 / 320 / 6) ** 0.5
    assert found.high - found.low > 1.2 * 2 * 1.96 * alone


def test_retention_agrees_with_a_bootstrap_by_hand() -> None:
    chance = np.random.default_rng(1)
    student, teacher = _random(chance, prompts=60, images=2, shift=0.05)
    ours, theirs = (np.array(list(one.prompt_scores.values())).reshape(6, 60) for one in (student, teacher))
    ratios, differences = [], []
    for _ in range(10_000):
        drawn = chance.integers(60, size=(6, 60))
        s, t = (np.take_along_axis(one, drawn, 1).mean() for one in (ours, theirs))
        ratios.append(s / t)
        differences.append(s - t)
    for found, value, drawn in (
        (student.retention(teacher), ours.mean() / theirs.mean(), ratios),
        (student.difference(teacher), ours.mean() - theirs.mean(), differences),
    ):
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert found.value == pytest.approx(value)
        assert found.low == pytest.approx(low, abs=0.06 * (high - low))
        assert found.high == pytest.approx(high, abs=0.06 * (high - low))


def test_pairing_takes_out_what_prompts_share() -> None:
    student, teacher = _random(np.random.default_rng(2), prompts=40, images=4)
    difference, alone = student.difference(teacher), student.interval()
    assert difference.high - difference.low < 0.9 * 2**0.5 * (alone.high - alone.low)
    assert student.difference(student) == Interval(0.0, 0.0, 0.0)
    assert student.retention(student) == Interval(1.0, 1.0, 1.0)


def test_prompts_with_different_numbers_of_images() -> None:
    """Images weigh the same within a task, so that the interval covers the score."""
    score = _score({"colors": [[1], [0, 0, 0, 0, 0], [1, 1]], "position": [[1], [0]]})
    assert score.overall == pytest.approx((3 / 8 + 1 / 2) / 2)
    assert score.overall in score.interval()
    sums = stratified_sums(torch.tensor([[1.0, 1], [0, 5], [2, 2], [1, 1], [0, 1]]), torch.tensor([0, 0, 0, 1, 1]))
    assert sums.shape == (10_000, 2, 2)
    assert set(sums[:, 1, 1].tolist()) == {2.0}  # two prompts of one image in every sample
    assert sums.mean(0).flatten().tolist() == pytest.approx([3, 8, 1, 2], abs=0.1)


def test_resamples_without_anything_to_retain_are_left_out() -> None:
    teacher = _score({"colors": [[1], [0]]})
    assert _score({"colors": [[1], [0]]}).retention(teacher) == Interval(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="the teacher has no image right"):
        teacher.retention(_score({"colors": [[0], [0]]}))


def test_what_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="one judgement per image"):
        score_images([], [], (8, 8))
    with pytest.raises(ValueError, match="there are 1 for metadata of 2"):
        score_images([_prompt("colors", 0), _prompt("colors", 1)], [[DOG]], (8, 8))
    with pytest.raises(ValueError, match="detections of more than 1 images"):
        score_images([_prompt("colors", 0)], [[DOG], []], (8, 8))
    alone = _score({"colors": [[1], [0]], "position": [[1, 0]]})
    with pytest.raises(ValueError, match="the task 'position' has a single prompt"):
        alone.interval()
    with pytest.raises(ValueError, match="same prompts were asked in the same order"):
        alone.difference(_score({"colors": [[1], [0]]}))
