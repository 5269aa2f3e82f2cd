"""Score of many images by GenEval, and the part of a teacher's score that a student retains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optsteps.datasets.geneval_prompts import TASKS, Metadata
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.rules import PUBLISHED, Judgement, Rules, check_detections, judge_image
from optsteps.metrics.statistics import Interval, percentile_interval, stratified_sums
from optsteps.storage.shards import storable


def score_images(
    metadata: Sequence[Metadata],
    detections: Iterable[Sequence[Detection]],
    size: tuple[int, int],
    rules: Rules = PUBLISHED,
) -> GenEvalScore:
    """The score of images by the objects detected in them.

    Args:
        metadata: what the prompt of each image asks for [B]; images of one prompt have the same.
        detections: of each image [B].
        size: height and width of the images in pixels.
        rules: the published ones by default.

    Raises:
        ValueError: no images, not as many detections as metadata, or impossible detections (`check_detections`).
    """
    judgements: list[Judgement] = []
    for number, objects in enumerate(detections):
        if number == len(metadata):
            raise ValueError(f"there are detections of more than {len(metadata)} images, but metadata of no more")
        check_detections(objects, size, f"image {number}")
        judgements.append(judge_image(metadata[number], objects, rules))
    return GenEvalScore(tuple(metadata), tuple(judgements))


def check_prompts(metadata: Sequence[Metadata]) -> None:
    """Raises ValueError where a task has a single prompt, so that there is no interval."""
    tags = [prompt.tag for prompt in dict.fromkeys(metadata)]
    for task in TASKS:
        if tags.count(task) == 1:
            raise ValueError(f"the task {task!r} has a single prompt; an interval needs two or more of every task")


@storable
@dataclass(frozen=True)
class GenEvalScore:
    """The judgements on many images, and the scores that follow from them.

    Intervals come from a bootstrap over prompts, drawn anew within each task; the images of a prompt stay together.

    Attributes:
        metadata: what the prompt of each image asks for [B].
        judgements: of each image [B].

    Raises:
        ValueError: no images, or not one judgement for each.
    """

    metadata: tuple[Metadata, ...]
    judgements: tuple[Judgement, ...]

    def __post_init__(self) -> None:
        if len(self.metadata) != len(self.judgements) or not self.metadata:
            raise ValueError(
                f"GenEval needs one judgement per image, and an image: there are {len(self.judgements)} for metadata "
                f"of {len(self.metadata)}"
            )

    @property
    def correct(self) -> Tensor:
        """1 or 0 of each image, float64 [B]."""
        return torch.tensor([judgement.correct for judgement in self.judgements], dtype=torch.float64)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that occur, in the order of the paper's table."""
        return tuple(task for task in TASKS if any(prompt.tag == task for prompt in self.metadata))

    @property
    def missing(self) -> tuple[str, ...]:
        """The tasks that do not occur, and so are no part of the overall score."""
        return tuple(task for task in TASKS if task not in self.tasks)

    def of(self, task: str) -> GenEvalScore:
        """The score of one task's images alone. Raises ValueError where it has none."""
        if task not in self.tasks:
            raise ValueError(f"no image has the task {task!r}; there are {', '.join(self.tasks)}")
        kept = [k for k, prompt in enumerate(self.metadata) if prompt.tag == task]
        return GenEvalScore(tuple(self.metadata[k] for k in kept), tuple(self.judgements[k] for k in kept))

    @property
    def task_scores(self) -> dict[str, float]:
        """The part of each task's images that is right."""
        return {task: self.of(task).correct.mean().item() for task in self.tasks}

    @property
    def prompt_scores(self) -> dict[Metadata, float]:
        """The part of each prompt's images that is right."""
        prompts = list(dict.fromkeys(self.metadata))
        right, images = self._per_prompt().unbind(1)
        return dict(zip(prompts, (right / images).tolist(), strict=True))

    @property
    def overall(self) -> float:
        """The mean of the scores of the tasks that occur."""
        scores = self.task_scores.values()
        return sum(scores) / len(scores)

    def interval(self, level: float = 0.95) -> Interval:
        """The overall score with its interval. Raises ValueError where a task has a single prompt."""
        return percentile_interval(self.overall, self._resampled()[:, 0], level)

    def difference(self, rival: GenEvalScore, level: float = 0.95) -> Interval:
        """Overall score minus that of a rival on the same prompts, paired prompt by prompt.

        Raises:
            ValueError: the rival has other prompts, or a task has a single prompt.
        """
        ours, theirs = self._resampled(rival).unbind(1)
        return percentile_interval(self.overall - rival.overall, ours - theirs, level)

    def retention(self, teacher: GenEvalScore, level: float = 0.95) -> Interval:
        """Overall score as a part of the teacher's on the same prompts, paired prompt by prompt.

        Resamples in which the teacher has nothing right have no ratio and are left out.

        Raises:
            ValueError: the teacher has nothing right, or as in `difference`.
        """
        if teacher.overall == 0:
            raise ValueError("the teacher has no image right, so there is nothing that a student could retain")
        ours, theirs = self._resampled(teacher).unbind(1)
        some = theirs > 0
        return percentile_interval(self.overall / teacher.overall, ours[some] / theirs[some], level)

    def _resampled(self, *others: GenEvalScore) -> Tensor:
        """Overall scores of bootstrap samples of the prompts, this one's and the others' [R, 1 + others]."""
        for other in others:
            if other.metadata != self.metadata:
                raise ValueError("scores can be paired only where the same prompts were asked in the same order")
        check_prompts(self.metadata)
        tasks = torch.tensor([TASKS.index(prompt.tag) for prompt in dict.fromkeys(self.metadata)])
        sums = stratified_sums(self._per_prompt(*others), tasks)
        return (sums[..., :-1] / sums[..., -1:]).mean(1)

    def _per_prompt(self, *others: GenEvalScore) -> Tensor:
        """Right images of each prompt, in this score and the others, and all its images, counted [P, 2 + others]."""
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(self.metadata))}
        prompt_of_image = torch.tensor([numbers[prompt] for prompt in self.metadata])
        columns = [self.correct, *(other.correct for other in others), torch.ones_like(self.correct)]
        values = torch.stack(columns, 1)
        return values.new_zeros(len(numbers), values.shape[1]).index_add(0, prompt_of_image, values)
