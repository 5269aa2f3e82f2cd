"""Families of pipelines: how each calls its network, the shape of its latents and what it passes beside them.

A pipeline belongs to a family by the name of its class, or of a class that it derives from. A further family is a
subclass of `Family`, or of `TextFamily` where the condition is a prompt, with a row in `FAMILIES`.
"""

from __future__ import annotations

from typing import Any

from optsteps.models.diffusers.families.base import Family, Size
from optsteps.models.diffusers.families.dit import DiT
from optsteps.models.diffusers.families.flux import Flux
from optsteps.models.diffusers.families.stable_diffusion import StableDiffusion, StableDiffusion3, StableDiffusionXL
from optsteps.models.diffusers.families.text import TextFamily
from optsteps.models.diffusers.families.unet2d import UNet2D
from optsteps.models.diffusers.families.wan import Wan

FAMILIES: dict[str, type[Family]] = {
    "UNet2DModel": UNet2D,
    "DDPMPipeline": UNet2D,
    "DDIMPipeline": UNet2D,
    "DiTPipeline": DiT,
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "WanPipeline": Wan,
}


def family_of(pipeline: Any, size: Size) -> Family:
    """The family of a loaded pipeline or `UNet2DModel`.

    Args:
        pipeline: loaded.
        size: height and width in pixels and the number of frames; None for the pipeline's own.

    Raises:
        ValueError: it belongs to no family, or cannot make this size.
    """
    family = next((FAMILIES[kind.__name__] for kind in type(pipeline).__mro__ if kind.__name__ in FAMILIES), None)
    if family is None:
        raise ValueError(f"no {type(pipeline).__name__} is supported; known: {', '.join(FAMILIES)}")
    return family(pipeline, size)


__all__ = ["FAMILIES", "Family", "TextFamily", "family_of"]
