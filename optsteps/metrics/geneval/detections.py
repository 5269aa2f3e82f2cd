"""Objects found in images, and who finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from optsteps.datasets.geneval_prompts import Metadata


@dataclass(frozen=True)
class Detection:
    """An object found in an image.

    Attributes:
        name: of its class.
        score: confidence, in [0, 1].
        box: left, top, right and bottom in pixels.
        color: None where it was not asked for.
        mask: which pixels are its own, [H, W] of booleans; None where only the box is known.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]
    color: str | None = None
    mask: Tensor | None = None


class Detector(Protocol):
    """Finds objects.

    Raises:
        ValueError: a class or colour is asked for that it does not know.
    """

    def __call__(self, images: Tensor, asked: Sequence[Metadata]) -> list[list[Detection]]:
        """What is in images [B, 3, H, W] in [-1, 1], of which `asked` [B] says what matters; colours may be left out
        where none is asked for."""
        ...


@runtime_checkable
class Limited(Protocol):
    """What a detector may have beside: word of what it does not know before hours are spent on images."""

    def check(self, asked: Sequence[Metadata]) -> None:
        """Raises ValueError where a class or colour is asked for that it does not know."""
        ...
