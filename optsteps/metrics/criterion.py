"""A judge's measurement as the criterion of a search."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from optsteps.metrics.base import Judge


class MeasurementCriterion:
    """A judge's figure as what a search makes small (`AYS(criterion=...)`), negative where higher is better.

    Args:
        judge: one that needs no condition; what it compares with is its own reference, or the search's.
        figure: one of its figures.
    """

    def __init__(self, judge: Judge, figure: str) -> None:
        self.judge, self.figure = judge, figure

    def check(self, samples: int, shape: Sequence[int]) -> None:
        """Refuse what the judge refuses, and a figure that it has not, before a search begins; see `Judge.check`."""
        self.judge.check(samples, shape)
        if self.judge.figures is not None:
            self._check_figure(self.judge.figures)

    def __call__(self, samples: Tensor, reference: Tensor) -> float:
        """Raises ValueError where the judge has no such figure."""
        figures = self.judge.judge(samples, reference, None)
        self._check_figure(figures)
        found = figures[self.figure]
        return -found.interval.value if found.higher_is_better else found.interval.value

    def _check_figure(self, figures: Collection[str]) -> None:
        if self.figure not in figures:
            raise ValueError(f"{type(self.judge).__name__} has no figure {self.figure!r}; it has {', '.join(figures)}")
