"""GenEval as a judge: how often the samples show what their prompts ask for, beside the teacher's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.datasets.geneval_prompts import TASKS, Metadata
from optsteps.metrics.base import Judge, Measurement
from optsteps.metrics.geneval.detections import Detection, Detector, LimitedDetector
from optsteps.metrics.geneval.rules import PUBLISHED, Rules
from optsteps.metrics.geneval.score import GenEvalScore, check_prompts, score_images
from optsteps.metrics.statistics import Interval
from optsteps.storage.shards import storable


@storable
@dataclass(frozen=True)
class ScoreMeasurement(Measurement):
    """A GenEval score; two scores of the same prompts are compared prompt by prompt."""

    score: GenEvalScore = field(kw_only=True)

    def difference(self, rival: Measurement) -> Interval | None:
        return self.score.difference(rival.score) if isinstance(rival, ScoreMeasurement) else None


class GenEvalJudge(Judge):
    """GenEval's scores of the samples.

    It measures the overall score ("geneval"), the score of each task ("geneval_counting", ...), and the overall score
    as a part of the teacher's ("geneval_retention"), which is absent where the teacher has nothing right.

    Args:
        detector: finds the objects.
        metadata: what the prompt of each sample asks for, in the order of the samples.
        rules: the published ones by default.
        max_batch: most images that the detector gets at once.

    Raises:
        ValueError: a task has a single prompt, so that it has no interval, or a prompt asks for a class or a colour
            that a `LimitedDetector` does not know. In `check` and `judge`: the samples are no colour images, or more
            than there is metadata of. In `judge`: the detector finds no object in any image of the teacher, a detection
            is impossible, or the detector raises it.
    """

    needs_many = True

    def __init__(
        self, detector: Detector, metadata: Sequence[Metadata], rules: Rules = PUBLISHED, max_batch: int = 32
    ) -> None:
        check_prompts(metadata)
        if isinstance(detector, LimitedDetector):
            detector.check(metadata)
        self.detector, self.metadata, self.rules, self.max_batch = detector, list(metadata), rules, max_batch
        self._teacher: tuple[Tensor, GenEvalScore] | None = None

    @property
    def figures(self) -> dict[str, bool | None]:
        tasks = [task for task in TASKS if any(metadata.tag == task for metadata in self.metadata)]
        return dict.fromkeys(["geneval", *(f"geneval_{task}" for task in tasks), "geneval_retention"], True)

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        check_prompts(self.metadata[:samples])
        if samples > len(self.metadata):
            raise ValueError(f"there are {samples} samples, but metadata of {len(self.metadata)}")
        if shape is not None:
            _check_colour(shape)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        if self._teacher is None or self._teacher[0] is not teacher:  # the same for every row
            self._teacher = (teacher, self.score(teacher))
            if not any(judgement.objects for judgement in self._teacher[1].judgements):
                raise ValueError(
                    f"{type(self.detector).__name__} finds no object in any of the teacher's {len(teacher)} images. "
                    "That is no score of 0 but a fault of the setting: see whether the detector's weights and classes "
                    "are those it needs, and whether the model draws what its prompts say"
                )
            if missing := self._teacher[1].missing:
                warnings.warn(
                    f"no prompt of {', '.join(missing)}: geneval is the mean of the other tasks", stacklevel=2
                )
        teacher_score = self._teacher[1]
        score = teacher_score if torch.equal(x, teacher) else self.score(x)
        scores = {"geneval": score, **{f"geneval_{task}": score.of(task) for task in score.tasks}}
        measurements: dict[str, Measurement] = {
            name: ScoreMeasurement(part.interval(), True, score=part) for name, part in scores.items()
        }
        if teacher_score.overall > 0:
            retention = score.retention(teacher_score)
            measurements["geneval_retention"] = Measurement(retention, True, compares_with_teacher=True)
        return measurements

    def score(self, images: Tensor) -> GenEvalScore:
        """The score of images [B, 3, H, W] in [-1, 1]; raises as `judge`."""
        _check_colour(images.shape[1:])
        if len(images) > len(self.metadata):
            raise ValueError(f"there are {len(images)} samples, but metadata of {len(self.metadata)}")
        height, width = images.shape[2:]
        return score_images(self.metadata[: len(images)], self._detections(images), (height, width), self.rules)

    def _detections(self, images: Tensor) -> Iterator[list[Detection]]:
        """The detections of each image in turn: the masks of all images at once would fill the memory."""
        for k in range(0, len(images), self.max_batch):
            part = images[k : k + self.max_batch].float().cpu().clamp(-1, 1)
            detections = self.detector(part, self.metadata[k : k + len(part)])
            if len(detections) != len(part):
                raise ValueError(
                    f"{type(self.detector).__name__} answered {len(part)} images with {len(detections)} lists"
                )
            yield from detections


def _check_colour(shape: Sequence[int]) -> None:
    if len(shape) != 3 or shape[0] != 3:
        raise ValueError(f"GenEval judges colour images [B, 3, H, W]; these samples are {list(shape)}")
