"""GenEval as a judge: do the samples show what their prompts ask for, as often as the teacher's?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.datasets.geneval_prompts import TASKS, Metadata
from optsteps.metrics.geneval.detections import Detection, Detector, Limited
from optsteps.metrics.geneval.rules import PUBLISHED, Rules
from optsteps.metrics.geneval.score import GenEvalScore, check_prompts, score_images
from optsteps.metrics.judges import Judge, Measurement
from optsteps.metrics.statistics import Interval


@dataclass(frozen=True)
class ScoreFigure(Measurement):
    """An overall score; two of the same prompts are compared prompt by prompt."""

    score: GenEvalScore = field(kw_only=True)

    def difference(self, rival: Measurement) -> Interval | None:
        return self.score.difference(rival.score) if isinstance(rival, ScoreFigure) else None


class GenEvalJudge(Judge):
    """GenEval's overall score ("geneval"), those of its tasks ("geneval_counting", ...), and the part of the teacher's
    overall score that is retained ("geneval_retention"; absent where the teacher has nothing right).

    Args:
        detector: of the objects.
        metadata: what the samples are held to, in their order.
        rules: the published ones by default.
        max_batch: images that the detector gets at once.

    Raises:
        ValueError: a task has a single prompt, of which there is no interval; a class or colour is asked for that the
            detector says it does not know (`Limited`); in `check` and `judge`, samples that are no colour images or
            more than there is metadata of; in `judge`, a detector that finds no object in any image of the teacher's,
            impossible detections, and as the detector does.
    """

    needs_many = True

    def __init__(
        self, detector: Detector, metadata: Sequence[Metadata], rules: Rules = PUBLISHED, max_batch: int = 32
    ) -> None:
        check_prompts(metadata)
        if isinstance(detector, Limited):
            detector.check(metadata)
        self.detector, self.metadata, self.rules, self.max_batch = detector, list(metadata), rules, max_batch
        self._teacher: tuple[Tensor, GenEvalScore] | None = None

    @property
    def figures(self) -> dict[str, bool | None]:
        tasks = [task for task in TASKS if any(asked.tag == task for asked in self.metadata)]
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
        theirs = self._teacher[1]
        ours = theirs if torch.equal(x, teacher) else self.score(x)
        parts = {"geneval": ours, **{f"geneval_{task}": ours.of(task) for task in ours.tasks}}
        figures: dict[str, Measurement] = {
            name: ScoreFigure(score.interval(), True, score=score) for name, score in parts.items()
        }
        if theirs.overall > 0:
            figures["geneval_retention"] = Measurement(ours.retention(theirs), True)
        return figures

    def score(self, images: Tensor) -> GenEvalScore:
        """Of images [B, 3, H, W] in [-1, 1]; raises as `judge`."""
        _check_colour(images.shape[1:])
        if len(images) > len(self.metadata):
            raise ValueError(f"there are {len(images)} samples, but metadata of {len(self.metadata)}")
        height, width = images.shape[2:]
        return score_images(self.metadata[: len(images)], self._detections(images), (height, width), self.rules)

    def _detections(self, images: Tensor) -> Iterator[list[Detection]]:
        """Of each image in turn; masks of many images would fill the memory."""
        for k in range(0, len(images), self.max_batch):
            part = images[k : k + self.max_batch].float().cpu().clamp(-1, 1)
            found = self.detector(part, self.metadata[k : k + len(part)])
            if len(found) != len(part):
                raise ValueError(f"{type(self.detector).__name__} answered {len(part)} images with {len(found)} lists")
            yield from found


def _check_colour(shape: Sequence[int]) -> None:
    if len(shape) != 3 or shape[0] != 3:
        raise ValueError(f"GenEval judges colour images [B, 3, H, W]; these samples are {list(shape)}")
