"""Judge of images, applied to samples that are latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from optsteps.conditions import Cond
from optsteps.metrics.base import Judge, Measurement
from optsteps.metrics.prefixed import PrefixedJudge


class DecodedJudge(PrefixedJudge):
    """Another judge's measurements of decoded images, each named `pixel_` and the other judge's name.

    Args:
        decode: makes images of samples that are latents.
        judge: of images.
    """

    prefix = "pixel_"

    def __init__(self, decode: Callable[[Tensor], Tensor], judge: Judge) -> None:
        super().__init__(judge)
        self.decode = decode
        self._teacher: tuple[Tensor, Tensor] | None = None

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, None)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        if self._teacher is None or self._teacher[0] is not teacher:  # the same for every row
            self._teacher = (teacher, self.decode(teacher).cpu())
        return super().judge(self.decode(x).cpu(), self._teacher[1], cond)
