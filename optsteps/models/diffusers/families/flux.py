"""FLUX.1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.models.diffusers.families.base import Size
from optsteps.models.diffusers.families.shift import dynamic_shift
from optsteps.models.diffusers.families.text import TextFamily


class Flux(TextFamily):
    """`FluxPipeline`: packed latents, guidance as an input of the network.

    FLUX's `forward` itself rounds its times to its latents' dtype, so a bfloat16 network keeps 8 bits of them in every
    sampler. It is handed float32 all the same.
    """

    timestep_unit = 1000.0
    guidance: float | None = None

    def __init__(self, pipeline: Any, size: Size) -> None:
        super().__init__(pipeline, size)
        self.embeds_guidance = bool(self.network.config.guidance_embeds)
        if not self.embeds_guidance:  # its pipeline ignores the scale then
            self.default_guidance = 1.0

    def shape_of(self, size: Size) -> tuple[int, ...]:
        factor = self.pipeline.vae_scale_factor
        side = self.pipeline.default_sample_size * factor
        height, width = self.pixels(size, (side, side), 2 * factor)
        self.size = (height, width)
        # the position of a token: 0, then row and column of its patch; all 0 for the prompt's tokens
        patches = (torch.arange(side // factor // 2) for side in self.size)
        rows, columns = torch.meshgrid(*patches, indexing="ij")
        self.positions = torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3)
        return (len(self.positions), self.network.config.in_channels)

    def guide(self, scale: float) -> None:
        self.guidance = scale

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        arguments = super().arguments(cond, batch)
        words = arguments["encoder_hidden_states"]
        arguments["img_ids"] = self.positions.to(words)
        arguments["txt_ids"] = words.new_zeros(words.shape[1], 3)
        if self.guidance is not None:
            arguments["guidance"] = torch.full([batch], self.guidance, device=words.device)
        return arguments

    def scheduler_arguments(self, steps: int) -> dict[str, Any]:
        config = self.pipeline.scheduler.config
        arguments: dict[str, Any] = {"mu": dynamic_shift(self.shape[0], config, 1.15)}
        if not config.get("use_flow_sigmas"):
            arguments["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        return arguments

    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        if guided:
            raise ValueError("this FLUX takes no guidance (guidance_embeds is false); use guidance 1")
        words, pooled, _ = self.pipeline.encode_prompt(prompts, None, device=self.device)
        return {"encoder_hidden_states": words, "pooled_projections": pooled}, None

    def _decoded(self, latents: Tensor) -> Tensor:
        return super()._decoded(self.pipeline._unpack_latents(latents, *self.size, self.pipeline.vae_scale_factor))
