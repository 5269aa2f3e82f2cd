"""Criteria by which AYS chooses among schedules: functions of their samples and a reference, to be made small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from optsteps.metrics.teacher import mse
from optsteps.metrics.toy import sliced_wasserstein

# (samples [B, ...], reference [R, ...]) -> a number, the smaller the better
Criterion = Callable[[Tensor, Tensor], float]


@runtime_checkable
class Limited(Protocol):
    """A criterion that says what it cannot compare, before anything is spent."""

    def check(self, samples: int, shape: Sequence[int]) -> None:
        """Raises ValueError where so many samples of that shape are too few, or of no use to it."""
        ...


def _mean_squared(samples: Tensor, teacher: Tensor) -> float:
    return float(mse(samples, teacher).mean())


def _sliced(samples: Tensor, reference: Tensor) -> float:
    return sliced_wasserstein(samples.flatten(1), reference.flatten(1))


CRITERIA: dict[str, Criterion] = {"teacher": _mean_squared, "distribution": _sliced}
