"""Subset of a sample's entries that a search compares: all of them, or those of some channels and frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optsteps.deprecation import old_names


@dataclass(frozen=True)
class EntrySubset:
    """The entries of a sample that costs are taken over. None: all channels, all frames.

    Args:
        channels: indices of dimension 0.
        frames: indices of dimension 1 of a video [C, F, H, W].

    Raises:
        ValueError: in `of`, frames of something that is no video, or indices that a sample does not have.
    """

    channels: Sequence[int] | None = None
    frames: Sequence[int] | None = None

    @property
    def facts(self) -> dict[str, list[int] | None]:
        """The subset as JSON data."""
        return {name: None if (some := getattr(self, name)) is None else list(some) for name in ("channels", "frames")}

    def of(self, x: Tensor, leading: int = 1) -> Tensor:
        """x [..., C, ...] -> [..., D], with the first `leading` dimensions kept."""
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


ALL = EntrySubset()


__getattr__ = old_names(__name__, Entries="EntrySubset")
