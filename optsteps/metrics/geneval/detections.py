"""Detections, the objects found in images, and the detectors that find them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from optsteps.datasets.geneval_prompts import Metadata
from optsteps.deprecation import old_names


@dataclass(frozen=True)
class Detection:
    """An object found in an image.

    Attributes:
        name: of its class.
        score: confidence, in [0, 1].
        box: left, top, right and bottom in pixels.
        color: None where nobody asks for it.
        mask: which pixels belong to it, [H, W] of booleans; None where only the box is known.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]
    color: str | None = None
    mask: Tensor | None = None


class Detector(Protocol):
    """Finds objects.

    Raises:
        ValueError: a prompt asks for a class or a colour that the detector does not know.
    """

    def __call__(self, images: Tensor, metadata: Sequence[Metadata]) -> list[list[Detection]]:
        """The objects in each image.

        Args:
            images: [B, 3, H, W] in [-1, 1].
            metadata: what the prompt of each image asks for [B]. Classes that no prompt asks for may be left out, and
                so may colours.
        """
        ...


@runtime_checkable
class LimitedDetector(Protocol):
    """A detector of certain classes and colours, which checks the prompts before hours are spent on images."""

    def check(self, metadata: Sequence[Metadata]) -> None:
        """Raises ValueError where a prompt asks for a class or a colour that the detector does not know."""
        ...


__getattr__ = old_names(__name__, Limited="LimitedDetector")
