"""Wan 2.1: video from text."""

from __future__ import annotations

from typing import Any

from optsteps.models.diffusers.families.base import Size
from optsteps.models.diffusers.families.text import TextFamily


class Wan(TextFamily):
    """`WanPipeline` with one transformer: latents of video, [C, F, H, W]."""

    def __init__(self, pipeline: Any, size: Size) -> None:
        for option in ("boundary_ratio", "expand_timesteps"):
            if pipeline.config.get(option):
                raise ValueError(f"a WanPipeline with {option} (Wan 2.2) is not supported; Wan 2.1 is")
        super().__init__(pipeline, size)

    def shape_of(self, size: Size) -> tuple[int, ...]:
        factor, stride = self.pipeline.vae_scale_factor_spatial, self.pipeline.vae_scale_factor_temporal
        patch = self.network.config.patch_size
        height, width = self.pixels(size, (480, 832), max(16, factor * max(patch[1:])))
        frames = 81 if size[2] is None else size[2]
        if frames < 1 or (frames - 1) % stride:
            raise ValueError(f"num_frames must be 1 more than a multiple of {stride}, got {frames}")
        return (self.network.config.in_channels, (frames - 1) // stride + 1, height // factor, width // factor)

    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        embeddings = self.pipeline.encode_prompt(prompts, negative, guided, max_sequence_length=512, device=self.device)
        return {"encoder_hidden_states": embeddings[0]}, {"encoder_hidden_states": embeddings[1]}
