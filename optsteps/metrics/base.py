"""Judges, which measure samples, and measurements, which they answer with. This needs torch alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from optsteps.conditions import Cond
from optsteps.metrics.statistics import Interval, bootstrap, paired_difference, spread
from optsteps.storage.shards import storable


@storable
@dataclass(frozen=True)
class Measurement:
    """One measured number.

    Attributes:
        interval: value with its 95 % interval.
        higher_is_better: direction; None where neither is.
        values: one number per sample [B], None where single samples have none.
        sets: S numbers whose mean has the noise of the measured one [S]: those of disjoint sets of samples, or a
            jackknife's pseudo-values; the samples are split alike in every row. None where there are values, or nothing
            that could be paired.
        compares_with_teacher: the number says how near the samples are to the teacher's, so the teacher's own row
            leaves it out.
    """

    interval: Interval
    higher_is_better: bool | None
    values: Tensor | None = None
    sets: Tensor | None = None
    compares_with_teacher: bool = False

    def difference(self, rival: Measurement) -> Interval | None:
        """This number minus that of a rival on the same noise, with the 95 % interval that their pairing gives.

        None where nothing can be paired: one of the two has neither values nor sets, or not as many sets.
        """
        if self.values is not None and rival.values is not None:
            return paired_difference(self.values, rival.values)
        if self.sets is not None and rival.sets is not None and len(self.sets) == len(rival.sets):
            return spread(self.sets - rival.sets, center=self.interval.value - rival.interval.value)
        return None


def sample_wise(values: Tensor, higher_is_better: bool | None, compares_with_teacher: bool = False) -> Measurement:
    """The mean of per-sample values [B] with its bootstrap interval."""
    return Measurement(bootstrap(values), higher_is_better, values.cpu(), compares_with_teacher=compares_with_teacher)


def set_wise(value: float, sets: Tensor, higher_is_better: bool | None) -> Measurement:
    """A number of all samples, with the interval that numbers of disjoint sets of them, or pseudo-values, [S] give."""
    return Measurement(spread(sets, center=value), higher_is_better, sets=sets)


class Judge(ABC):
    """Measures final samples.

    Attributes:
        needs_many: the judge compares distributions, so an oracle's handful of samples is not shown to it.
    """

    needs_many: bool = False

    @property
    def figures(self) -> dict[str, bool | None] | None:
        """The names of all that it may measure, with whether higher is better (None: neither is).

        They are needed before anything is sampled. None where they are not known before `judge`.
        """
        return None

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        """Refuse, before anything is sampled, samples that `judge` would refuse for their number or shape.

        Args:
            samples: how many will be judged together.
            shape: of one of them; None where it is not known yet, as that of decoded images.

        Raises:
            ValueError: too few or too many samples, or of a shape that cannot be judged.
        """
        if samples < 2:
            raise ValueError(f"an interval needs at least 2 samples, and there are to be {samples}")

    @abstractmethod
    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        """The measurements of samples, by name.

        Args:
            x: final samples [B, ...].
            teacher: the teacher's samples from the same noise [B, ...].
            cond: the condition of both.
        """
