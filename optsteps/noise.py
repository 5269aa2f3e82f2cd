"""Noise whose sample number k depends on (seed, k) alone: not on batch size, device count or order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# samples from this number on are for the comparison: no search sees them
FIRST_TEST_SAMPLE = 1_000_000


def sample_generator(seed: int, index: int, stream: int = 0) -> torch.Generator:
    """A CPU generator for sample `index` under `seed`; those of different samples and streams are independent.

    Streams: 0 initial noise, 2 noising paths of AYS and Timestep Aligner, 3 the choice of data, 4 drawn scenes,
    5 searches by evolution.
    """
    entropy = [seed, index, stream] if stream else [seed, index]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def unit_noise(seed: int, index: Sequence[int] | range | Tensor, shape: Sequence[int]) -> Tensor:
    """Unit Gaussian noise [len(index), *shape], float32 on the CPU.

    Args:
        seed: non-negative; one seed is one experiment.
        index: numbers of the samples, non-negative.
        shape: shape of one sample.
    """
    if len(index) == 0:
        raise ValueError("noise was asked for no samples; ask for at least one")
    return torch.stack([torch.randn(tuple(shape), generator=sample_generator(seed, int(k))) for k in index])
