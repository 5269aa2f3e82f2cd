"""Batches of images for training and validation.

Batch number b of a training, and everything that is drawn for it, are functions of (seed, b) alone: a training that was
interrupted goes on with the batches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor

from optsteps.datasets import ImageSet


class Batch(NamedTuple):
    """Images as bytes with the condition of each.

    Attributes:
        number: 0, 1, ... from the start of the training (or of the validation).
        images: uint8 [B, C, H, W].
        cond: [B, ...], class labels or the words of captions.
    """

    number: int
    images: Tensor
    cond: Tensor


class TrainingBatches:
    """Batches number `first`, `first` + 1, ... of a training.

    Every epoch has a new order of the images. The images that do not fill a batch at an epoch's end are left out.

    Args:
        images, cond: of the whole training set, see `Batch`.
        size: of a batch, on all ranks together; at most the number of images is used.
        seed: of the orders.
        first: number of the first batch.
        total: number of all batches of the training.
        rank, ranks: this process takes every `ranks`-th of a batch's images, beginning with number `rank`.
    """

    def __init__(
        self, images: Tensor, cond: Tensor, size: int, seed: int, first: int, total: int, rank: int, ranks: int
    ) -> None:
        self.images, self.cond, self.size, self.seed = images, cond, min(size, len(images)), seed
        self.first, self.total, self.rank, self.ranks = first, total, rank, ranks

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Batch]:
        batches_per_epoch = len(self.images) // self.size
        order = self._order(self.first // batches_per_epoch)
        for number in range(self.first, self.total):
            epoch, position = divmod(number, batches_per_epoch)
            if position == 0:
                order = self._order(epoch)
            chosen = order[position * self.size : (position + 1) * self.size][self.rank :: self.ranks]
            yield Batch(number, self.images[chosen], self.cond[chosen])

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch, 0, 0))
        return torch.randperm(len(self.images), generator=generator).to(self.images.device)


class ValidationBatches:
    """Batches of all images in their order; the last may be smaller."""

    def __init__(self, images: Tensor, cond: Tensor, size: int) -> None:
        self.images, self.cond, self.size = images, cond, size

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        for number, parts in enumerate(zip(self.images.split(self.size), self.cond.split(self.size), strict=True)):
            yield Batch(number, *parts)


class ImageData(L.LightningDataModule):
    """Training batches and validation batches of images that lie on the device as bytes.

    To Lightning the whole training is a single epoch, so the interval between validations is a fraction of it.

    Args:
        train, test: the images to train and to validate on.
        batch_size: on all ranks together.
        seed: of the order of the training images.
        conditions: of every image of a set [N, ...], see `Task.conditions`.
    """

    def __init__(
        self, train: ImageSet, test: ImageSet, batch_size: int, seed: int, conditions: Callable[[ImageSet], Tensor]
    ) -> None:
        super().__init__()
        self.train, self.test, self.batch_size, self.seed = train, test, batch_size, seed
        self.conditions = conditions

    def _on_device(self, data: ImageSet) -> tuple[Tensor, Tensor]:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        return data.images.to(device), self.conditions(data).to(device)

    def train_dataloader(self) -> TrainingBatches:
        trainer = self.trainer
        assert trainer is not None
        first, total = (steps * trainer.accumulate_grad_batches for steps in (trainer.global_step, trainer.max_steps))
        rank, ranks = trainer.global_rank, trainer.world_size
        return TrainingBatches(*self._on_device(self.train), self.batch_size, self.seed, first, total, rank, ranks)

    def val_dataloader(self) -> ValidationBatches:
        return ValidationBatches(*self._on_device(self.test), self.batch_size)


def mixed_seed(*numbers: int) -> int:
    """A seed of 64 bits that is a function of the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
