"""Batches as functions of (seed, number)."""

from __future__ import annotations

import torch

from optsteps.models.training import Batch, TrainingBatches


def _batches(first: int, rank: int = 0, ranks: int = 1, seed: int = 0) -> list[Batch]:
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None]
    return list(TrainingBatches(images, torch.arange(10) * 10, 3, seed, first, 11, rank, ranks))


def test_batches_depend_on_seed_and_number_alone() -> None:
    batches = _batches(0)
    assert [batch.number for batch in batches] == list(range(11))
    for first in range(11):  # also in the middle of an epoch of three batches
        for left, right in zip(_batches(first), batches[first:], strict=True):
            assert left.number == right.number
            assert torch.equal(left.images, right.images)
            assert torch.equal(left.cond, right.cond)
    for epoch in range(3):
        seen = torch.cat([batch.images.flatten() for batch in batches[3 * epoch : 3 * epoch + 3]]).tolist()
        assert len(set(seen)) == 9
    assert not torch.equal(batches[0].cond, batches[3].cond), "every epoch has its own order"
    assert not torch.equal(batches[0].cond, _batches(0, seed=1)[0].cond)
    assert all(torch.equal(batch.cond, batch.images.flatten().long() * 10) for batch in batches)


def test_ranks_share_a_batch() -> None:
    for whole, first, second in zip(_batches(0), _batches(0, 0, 2), _batches(0, 1, 2), strict=True):
        assert torch.equal(torch.cat([first.cond, second.cond]).sort()[0], whole.cond.sort()[0])
        assert (len(first.cond), len(second.cond)) == (2, 1)
