"""Families of pipelines: how each calls its network, the shape of its latents and what it passes beside them."""

from optsteps.models.diffusers.families.base import FAMILIES, Family, TextFamily, family_of

__all__ = ["FAMILIES", "Family", "TextFamily", "family_of"]
