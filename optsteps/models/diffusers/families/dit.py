"""Transformers of latents with class labels."""

from __future__ import annotations

from typing import Any

from optsteps.conditions import Cond
from optsteps.models.diffusers.families.base import Family, Size


class DiT(Family):
    """`DiTPipeline`: latents of fixed size, class labels; the network may have learned its variance."""

    def __init__(self, pipeline: Any, size: Size) -> None:
        super().__init__(pipeline, size)
        self.num_classes = self.null_label = self.network.config.num_embeds_ada_norm

    def shape_of(self, size: Size) -> tuple[int, ...]:
        config = self.network.config
        pixels = config.sample_size * 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)
        if any(side not in (None, pixels) for side in size[:2]):
            raise ValueError(f"this DiT makes {pixels} x {pixels} pixels only, got height and width {size[:2]}")
        return (config.in_channels, config.sample_size, config.sample_size)

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        if cond is None:
            raise ValueError("a DiT needs class labels [B] as its cond; got None")
        return {"class_labels": cond}
