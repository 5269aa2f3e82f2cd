"""Clean samples for methods that need data."""

from __future__ import annotations

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.datasets import ImageSet, to_unit_range
from optsteps.models import Model
from optsteps.noise import sample_generator

# of a data set, where the config names no number
_OF_A_DATASET = 1024


def clean_samples(config: DictConfig, model: Model, device: torch.device) -> tuple[Tensor | None, Cond]:
    """`search.data` clean samples [S, ...] with their condition; (None, None) where the config names neither a data
    set nor a number.

    Raises:
        ValueError: the data set is of another shape or too small, or there is neither a data set nor a model whose
            distribution is known.
    """
    dataset = config.get("dataset")
    count = config.search.data or (_OF_A_DATASET if dataset else 0)
    if count == 0:
        return None, None
    generator = sample_generator(config.seed, 0, stream=3)
    if dataset:
        return _of_dataset(instantiate(dataset), count, model, device, generator)
    if model.distribution is None:
        raise ValueError(f"search.data={count} needs data: choose a dataset (dataset=mnist), or leave it null")
    return model.distribution.sample(count, generator).to(device), None


def _of_dataset(
    images: ImageSet, count: int, model: Model, device: torch.device, generator: torch.Generator
) -> tuple[Tensor, Cond]:
    shape = tuple(images.images.shape[1:])
    if shape != model.shape:
        raise ValueError(
            f"{images.name} has images of shape {shape}, {model.name} makes {model.shape}; choose the dataset that "
            "the model was trained on"
        )
    if count > len(images):
        raise ValueError(f"search.data={count}, but {images.name} has {len(images)} images")
    numbers = torch.randperm(len(images), generator=generator)[:count]  # files may be sorted by class
    labels = images.labels[numbers].to(device) if model.num_classes else None
    return to_unit_range(images.images[numbers]).to(device), labels
