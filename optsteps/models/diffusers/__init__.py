"""Pipelines of Hugging Face's diffusers as models: `from_pipeline(pipe)` for a loaded pipeline."""

from optsteps.models.diffusers.families import FAMILIES
from optsteps.models.diffusers.loading import load_pipeline, pretrained_pipeline, saved_pipeline
from optsteps.models.diffusers.wrapping import from_pipeline

__all__ = ["FAMILIES", "from_pipeline", "load_pipeline", "pretrained_pipeline", "saved_pipeline"]
