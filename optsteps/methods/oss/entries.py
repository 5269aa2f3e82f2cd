"""What of a sample a search compares: all of it, or some channels and frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entries:
    """The entries of a sample that costs are taken over; None for all of them.

    Args:
        channels: of dimension 0, numbers from 0.
        frames: of dimension 1 of a video [C, F, H, W].

    Raises:
        ValueError: in `of`, frames of something that is no video, or numbers that a sample has not.
    """

    channels: Sequence[int] | None = None
    frames: Sequence[int] | None = None

    def of(self, x: Tensor, leading: int = 1) -> Tensor:
        """x [..., C, ...] -> [..., D], with so many leading dimensions kept."""
        if self.frames is not None and x.ndim - leading != 4:
            raise ValueError(
                f"frames of the cost are those of a video [C, F, H, W]; these samples are {list(x.shape[leading:])}"
            )
        for dim, (name, chosen) in enumerate((("channels", self.channels), ("frames", self.frames)), leading):
            if chosen is not None:
                if not chosen or min(chosen) < 0 or max(chosen) >= x.shape[dim]:
                    raise ValueError(f"{name} {list(chosen)} of the cost must lie between 0 and {x.shape[dim] - 1}")
                x = x.index_select(dim, torch.tensor(list(chosen), device=x.device))
        return x.flatten(leading)


ALL = Entries()
