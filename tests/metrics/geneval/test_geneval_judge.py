"""GenEval as a judge of rows: what is detected how often, and what is said of two methods."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from optsteps.comparison import Comparison, Row, verdicts
from optsteps.datasets.geneval_prompts import TASKS, Metadata, Objects
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.judge import GenEvalJudge
from optsteps.metrics.judges import DecodedJudge, Measurement
from optsteps.processes import EDM
from optsteps.schedules import build_schedule
from optsteps.solvers import build_solver

# four prompts a task, each of two samples
METADATA = [Metadata(task, f"{task} {k // 2}", (Objects("dog"),)) for task in TASKS for k in range(8)]


class Bright:
    """Sees a dog in every image that is bright on the whole."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, images: Tensor, asked: Sequence[Metadata]) -> list[list[Detection]]:
        assert len(images) == len(asked)
        assert images.abs().max() <= 1
        self.seen.append(len(images))
        dog = Detection("dog", 0.95, (0.0, 0.0, 3.0, 3.0))
        return [[dog] if bright else [] for bright in images.flatten(1).mean(1) > 0]


def _images(right: Tensor) -> Tensor:
    """Bright where `right` [B], beyond 1 as samples may be."""
    return (right.float() * 2.4 - 1.2)[:, None, None, None].expand(-1, 3, 4, 4)


def _right(*wrong: int) -> Tensor:
    return torch.tensor([k not in wrong for k in range(len(METADATA))])


def test_figures() -> None:
    teacher, student = _images(_right(0, 17)), _images(_right(0, 1, 16, 17))
    figures = GenEvalJudge(Bright(), METADATA).judge(student, teacher, None)
    assert list(figures) == ["geneval", *(f"geneval_{task}" for task in TASKS), "geneval_retention"]
    assert figures["geneval_single_object"].interval.value == 6 / 8
    assert figures["geneval_counting"].interval.value == 6 / 8
    assert figures["geneval_position"].interval.value == 1
    assert figures["geneval"].interval.value == pytest.approx(5.5 / 6)
    retention = figures["geneval_retention"]
    assert retention.interval.value == pytest.approx(5.5 / 5.75)
    assert retention.interval.low < retention.interval.value < retention.interval.high == 1
    assert all(figure.higher_is_better for figure in figures.values())


def test_the_teacher_is_looked_at_once_and_never_all_at_once() -> None:
    detector = Bright()
    judge = GenEvalJudge(detector, METADATA, max_batch=20)
    teacher = _images(_right(3))
    judge.judge(_images(_right(3, 5)), teacher, None)
    assert detector.seen == [20, 20, 8] * 2
    judge.judge(_images(_right(4)), teacher, None)
    assert detector.seen == [20, 20, 8] * 3
    own = judge.judge(teacher.clone(), teacher, None)
    assert detector.seen == [20, 20, 8] * 3
    assert own["geneval_retention"].interval.value == 1
    judge.judge(_images(_right(4)), teacher.clone(), None)  # another teacher, for all the judge knows
    assert detector.seen == [20, 20, 8] * 5


def test_latents_are_decoded() -> None:
    detector = Bright()
    judge = DecodedJudge(lambda latents: -latents, GenEvalJudge(detector, METADATA))
    assert judge.needs_many
    latents = -_images(_right())
    found = judge.judge(-_images(_right(9)), latents, None)
    assert found["pixel_geneval"].interval.value == pytest.approx(1 - 1 / 48)
    assert found["pixel_geneval_retention"].interval.value == pytest.approx(1 - 1 / 48)
    assert detector.seen == [32, 16] * 2
    judge.judge(latents, latents, None)
    assert detector.seen == [32, 16] * 2


def _row(method: str, figures: dict[str, Measurement]) -> Row:
    return Row(method, 5, 5, None, torch.zeros(0), figures)


def test_verdicts_are_paired_over_prompts() -> None:
    """One in four prompts is hard for all; the difference is in the others alone, so it is sure."""
    judge = GenEvalJudge(Bright(), METADATA)
    teacher = _images(_right())
    hard = [k for k in range(48) if k % 8 in (0, 1)]
    ours = judge.judge(_images(_right(*hard)), teacher, None)
    theirs = judge.judge(_images(_right(*hard, *range(2, 48, 8))), teacher, None)
    (said,) = verdicts([_row("oss", ours), _row("edm", theirs)], "oss", "geneval")
    assert said.verdict == "better"
    assert said.difference.value == pytest.approx(1 / 8)
    assert ours["geneval"].interval.low < theirs["geneval"].interval.value  # which the intervals alone would not say
    assert not verdicts([_row("oss", ours), _row("edm", theirs)], "oss", "geneval_retention")
    (task,) = verdicts([_row("oss", ours), _row("edm", ours)], "oss", "geneval_colors")
    assert task.verdict == "no better"


def test_the_teachers_row_has_no_retention() -> None:
    judge = GenEvalJudge(Bright(), METADATA)
    comparison = Comparison(
        lambda x, t, cond: torch.ones_like(x),
        EDM(),
        build_solver("euler"),
        build_schedule("edm", EDM(), steps=4, t_max=80.0, t_min=0.002),
        torch.zeros(48, 3, 4, 4),
        None,
        [judge, DecodedJudge(lambda x: x, judge)],
    )
    figures = comparison.judge_teacher().measurements
    assert figures["geneval"].interval.value == figures["pixel_geneval"].interval.value == 1
    assert len(figures) == 14


class CatsInTheDark(Bright):
    """Sees a cat in every other image, which nobody asked for."""

    def __call__(self, images: Tensor, asked: Sequence[Metadata]) -> list[list[Detection]]:
        cat = Detection("cat", 0.95, (0.0, 0.0, 3.0, 3.0))
        return [found or [cat] for found in super().__call__(images, asked)]


def test_a_teacher_that_has_nothing_right_retains_nothing() -> None:
    nothing = _images(_right(*range(48)))
    figures = GenEvalJudge(CatsInTheDark(), METADATA).judge(_images(_right()), nothing, None)
    assert "geneval_retention" not in figures
    assert figures["geneval"].interval.value == 1


def test_a_detector_that_finds_nothing_at_all_is_a_fault_of_the_setting() -> None:
    nothing, one = _images(_right(*range(48))), _images(_right(*range(1, 48)))
    with pytest.raises(ValueError, match="Bright finds no object in any of the teacher's 48 images"):
        GenEvalJudge(Bright(), METADATA).judge(one, nothing, None)
    # students may well draw nothing
    assert GenEvalJudge(Bright(), METADATA).judge(nothing, one, None)["geneval"].interval.value == 0


def test_what_cannot_be_judged_is_known_before_anything_is_sampled() -> None:
    judge = GenEvalJudge(Bright(), METADATA)
    assert judge.figures is not None
    assert list(judge.figures) == ["geneval", *(f"geneval_{task}" for task in TASKS), "geneval_retention"]
    judge.check(48, (3, 4, 4))
    for samples, shape, message in ((49, None, "49 samples"), (48, (1, 4, 4), "colour images"), (1, None, "2 samples")):
        with pytest.raises(ValueError, match=message):
            judge.check(samples, shape)
    decoded = DecodedJudge(lambda latents: -latents, judge)
    assert list(decoded.figures or {}) == [f"pixel_{name}" for name in judge.figures]
    decoded.check(48, (4, 8, 8))


def test_missing_tasks_are_said_once() -> None:
    judge = GenEvalJudge(Bright(), METADATA)
    teacher = _images(_right())[:16]
    with pytest.warns(UserWarning, match="no prompt of counting, colors, position, color_attr: geneval is the mean"):
        figures = judge.judge(teacher + 0, teacher, None)
    assert list(figures) == ["geneval", "geneval_single_object", "geneval_two_object", "geneval_retention"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge.judge(teacher + 0, teacher, None)


def test_what_cannot_be_judged() -> None:
    judge = GenEvalJudge(Bright(), METADATA)
    for shape in ((2, 1, 4, 4), (2, 3)):
        with pytest.raises(ValueError, match="GenEval judges colour images"):
            judge.judge(torch.zeros(shape), torch.zeros(shape), None)
    many = torch.zeros(49, 3, 4, 4)
    with pytest.raises(ValueError, match="there are 49 samples, but metadata of 48"):
        judge.judge(many, many, None)
    silent = GenEvalJudge(lambda images, asked: [[]], METADATA)
    with pytest.raises(ValueError, match="answered 32 images with 1 lists"):
        silent.judge(many[:48], many[:48], None)

    def outside(images: Tensor, asked: Sequence[Metadata]) -> list[list[Detection]]:
        return [[]] * (len(images) - 1) + [[Detection("cat", 0.5, (0.0, 0.0, 9.0, 9.0))]]

    with pytest.raises(ValueError, match=r"image 31, detection 0 \(cat\) .*outside its image of 4 x 4"):
        GenEvalJudge(outside, METADATA).judge(many[:48], many[:48], None)


def test_what_cannot_be_judged_is_said_before_any_image_is() -> None:
    with pytest.raises(ValueError, match="the task 'single_object' has a single prompt"):
        GenEvalJudge(Bright(), METADATA[:2])

    class OnlyCats(Bright):
        def check(self, asked: Sequence[Metadata]) -> None:
            raise ValueError(f"no {asked[0].include[0].name} is known")

    with pytest.raises(ValueError, match="no dog is known"):
        GenEvalJudge(OnlyCats(), METADATA)
