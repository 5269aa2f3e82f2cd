"""U-Nets of pixels, without condition or with class labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.models.diffusers.families.base import Family, Size


class UNet2D(Family):
    """`UNet2DModel`, alone or in a `DDPMPipeline` or `DDIMPipeline`: pixels, without condition or with class labels."""

    component = "unet"
    sample_name = "sample"

    def __init__(self, pipeline: Any, size: Size) -> None:
        super().__init__(pipeline, size)
        self.num_classes = self.network.config.num_class_embeds or 0

    def shape_of(self, size: Size) -> tuple[int, ...]:
        config = self.network.config
        default = config.sample_size
        default = default if isinstance(default, list | tuple) else (default, default)
        pixels = tuple(side or usual for side, usual in zip(size[:2], default, strict=True))
        if None in pixels:
            raise ValueError("the U-Net's config names no sample_size; give height and width in pixels")
        return (config.in_channels, *pixels)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.network.device
        return device if self.pipeline is self.network else super().device

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        return {} if cond is None else {"class_labels": cond}

    def _decoded(self, latents: Tensor) -> Tensor:
        return latents.float().clamp(-1, 1)  # they are pixels
