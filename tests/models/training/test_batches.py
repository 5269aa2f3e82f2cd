"""Batches as functions of (seed, number)."""

from __future__ import annotations

import torch

from optsteps.models.training import Batch, TrainingBatches


def _batches(first: int, rank: int = 0, ranks: int = 1, seed: int = 0) -> list[Batch]:
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None]
    return list(TrainingBatches(images, torch.arange(10) * 10, 3, seed, first, 11, rank, ranks))


def test_ranks_share_a_batch() -> None:
    for whole, first, second in zip(_batches(0), _batches(0, 0, 2), _batches(0, 1, 2), strict=True):
        assert torch.equal(torch.cat([first.cond, second.cond]).sort()[0], whole.cond.sort()[0])
        assert (len(first.cond), len(second.cond)) == (2, 1)
