"""Pipelines whose condition is a prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.models.diffusers.families.base import Family, Size


class TextFamily(Family):
    """A pipeline whose condition is a prompt.

    A condition is a dict of the tensors that its encoders make of a prompt, by the names of the network's arguments.
    """

    def encode(self, prompts: Sequence[str]) -> Cond:
        """The condition of every prompt, on the CPU in the network's dtype."""
        with torch.no_grad():
            return self._stored(self._encoded(list(prompts), None, False)[0])

    def null(self, negative: str | None) -> Cond:
        """The condition that guidance leads away from, with batch size 1.

        Args:
            negative: a prompt; None for the condition that the pipeline itself uses without one.
        """
        with torch.no_grad():
            return self._stored(self._encoded([""], None if negative is None else [negative], True)[1])

    @abstractmethod
    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        """The network's arguments for the prompts and, where guided, for the negative ones."""

    def _stored(self, encoded: dict[str, Tensor]) -> Cond:
        return {name: part.to("cpu", self.dtype) for name, part in encoded.items()}

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        if not isinstance(cond, dict):
            raise ValueError(f"a {type(self.pipeline).__name__} needs encoded prompts as its cond: encode(prompts)")
        return dict(cond)

    def pixels(self, size: Size, default: tuple[int, int], multiple: int) -> tuple[int, int]:
        """Height and width in pixels.

        Args:
            size: as asked for.
            default: height and width where `size` has None.
            multiple: divides both.

        Raises:
            ValueError: a side is no positive multiple of `multiple`.
        """
        height, width = size[0] or default[0], size[1] or default[1]
        if height % multiple or width % multiple or min(height, width) < multiple:
            raise ValueError(f"height and width must be multiples of {multiple}, got {height} and {width}")
        return height, width
