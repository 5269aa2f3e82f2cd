"""Stable Diffusion 1, 2, XL and 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.models.diffusers.families.base import Size
from optsteps.models.diffusers.families.shift import dynamic_shift
from optsteps.models.diffusers.families.text import TextFamily


class StableDiffusion(TextFamily):
    """`StableDiffusionPipeline`: SD 1 and 2 and their fine-tunes, also those distilled with guidance as an input."""

    component = "unet"
    sample_name = "sample"
    published = "sd15"
    guidance_embedding: Tensor | None = None

    def __init__(self, pipeline: Any, size: Size) -> None:
        super().__init__(pipeline, size)
        self.embeds_guidance = self.network.config.time_cond_proj_dim is not None

    def shape_of(self, size: Size) -> tuple[int, ...]:
        factor, side = self.pipeline.vae_scale_factor, self.network.config.sample_size
        rows, columns = side if isinstance(side, list | tuple) else (side, side)
        self.size = self.pixels(size, (rows * factor, columns * factor), max(8, factor))
        return (self.network.config.in_channels, self.size[0] // factor, self.size[1] // factor)

    def guide(self, scale: float) -> None:
        embedding = self.pipeline.get_guidance_scale_embedding(
            torch.tensor([scale - 1.0]), embedding_dim=self.network.config.time_cond_proj_dim
        )
        self.guidance_embedding = embedding.to(self.device, self.dtype)

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        arguments = super().arguments(cond, batch)
        if self.guidance_embedding is not None:
            arguments["timestep_cond"] = self.guidance_embedding.expand(batch, -1)
        return arguments

    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        embeddings = self.pipeline.encode_prompt(prompts, self.device, 1, guided, negative)
        return {"encoder_hidden_states": embeddings[0]}, {"encoder_hidden_states": embeddings[1]}


class StableDiffusionXL(StableDiffusion):
    """`StableDiffusionXLPipeline`: a pooled embedding and the sizes, of the image alone, as further conditions."""

    published = "sdxl"

    def shape_of(self, size: Size) -> tuple[int, ...]:
        shape = super().shape_of(size)
        pipeline = self.pipeline
        encoder = pipeline.text_encoder_2
        pooled = None if encoder is None else encoder.config.projection_dim
        self.time_ids = pipeline._get_add_time_ids(
            self.size, (0, 0), self.size, dtype=self.dtype, text_encoder_projection_dim=pooled
        )
        return shape

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        arguments = super().arguments(cond, batch)
        added = {
            "text_embeds": arguments.pop("text_embeds"),
            "time_ids": self.time_ids.to(arguments["encoder_hidden_states"].device).repeat(batch, 1),
        }
        return {**arguments, "added_cond_kwargs": added}

    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        embeddings = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=guided, negative_prompt=negative
        )
        return _paired(embeddings, "encoder_hidden_states", "text_embeds")


class StableDiffusion3(TextFamily):
    """`StableDiffusion3Pipeline`: a rectified flow, with a pooled embedding as a further condition."""

    def shape_of(self, size: Size) -> tuple[int, ...]:
        factor = self.pipeline.vae_scale_factor
        side = self.pipeline.default_sample_size * factor
        height, width = self.pixels(size, (side, side), factor * self.pipeline.patch_size)
        return (self.network.config.in_channels, height // factor, width // factor)

    def scheduler_arguments(self, steps: int) -> dict[str, Any]:
        if not self.pipeline.scheduler.config.get("use_dynamic_shifting"):
            return {}
        patch = self.network.config.patch_size
        tokens = (self.shape[1] // patch) * (self.shape[2] // patch)
        return {"mu": dynamic_shift(tokens, self.pipeline.scheduler.config, 1.16)}

    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        embeddings = self.pipeline.encode_prompt(
            prompts, None, None, device=self.device, do_classifier_free_guidance=guided, negative_prompt=negative
        )
        return _paired(embeddings, "encoder_hidden_states", "pooled_projections")


def _paired(embeddings: Sequence[Any], sequence: str, pooled: str) -> tuple[Any, Any]:
    """Arguments for the prompt and the negative one, from embeddings (prompt, negative, pooled, pooled negative)."""
    return {sequence: embeddings[0], pooled: embeddings[2]}, {sequence: embeddings[1], pooled: embeddings[3]}
