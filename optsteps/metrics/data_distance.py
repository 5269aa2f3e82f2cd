"""Distance of images to a data set, in their pixels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from optsteps.conditions import Cond
from optsteps.datasets import ImageSet, to_unit_range
from optsteps.metrics.base import Judge, Measurement
from optsteps.metrics.toy import TrueSamples

_LEAST = 16  # samples


class DataJudge(Judge):
    """Sliced Wasserstein distance of images to clean ones, pixels being the coordinates.

    It needs no network that knows the images, so it is there for every model with data. It sees a wrong spread or
    brightness, and little of what an image shows.

    Args:
        data: the clean images.
    """

    needs_many = True

    def __init__(self, data: ImageSet) -> None:
        self._shape = tuple(data.images.shape[1:])
        self._truth = TrueSamples(to_unit_range(data.images).flatten(1))

    @property
    def figures(self) -> dict[str, bool | None]:
        return {"sliced_wasserstein": False}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        if samples < _LEAST:
            raise ValueError(f"the distance of {samples} samples to the data says nothing: take at least {_LEAST}")
        if shape is not None and tuple(shape) != self._shape:
            raise ValueError(f"samples of shape {tuple(shape)} cannot be compared with images of shape {self._shape}")

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        return {"sliced_wasserstein": self._truth.distance(x.flatten(1))}
