"""Judge of images, applied to samples that are latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from optsteps.conditions import Cond
from optsteps.metrics.base import Judge, Measurement


class DecodedJudge(Judge):
    """Another judge's measurements of decoded images, each named `pixel_` and the other judge's name.

    Args:
        decode: makes images of samples that are latents.
        judge: of images.
    """

    def __init__(self, decode: Callable[[Tensor], Tensor], judge: Judge) -> None:
        self.decode, self.judge_of_images, self.needs_many = decode, judge, judge.needs_many
        self._teacher: tuple[Tensor, Tensor] | None = None

    @property
    def figures(self) -> dict[str, bool | None] | None:
        of_images = self.judge_of_images.figures
        return None if of_images is None else {f"pixel_{name}": higher for name, higher in of_images.items()}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        self.judge_of_images.check(samples, None)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        if self._teacher is None or self._teacher[0] is not teacher:  # the same for every row
            self._teacher = (teacher, self.decode(teacher).cpu())
        measurements = self.judge_of_images.judge(self.decode(x).cpu(), self._teacher[1], cond)
        return {f"pixel_{name}": measurement for name, measurement in measurements.items()}
