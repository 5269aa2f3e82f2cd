"""Exponential moving averages of a network's weights."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averages(nn.Module):
    """Exponential moving averages of a network's weights, one for each decay.

    After step n the decay is (n - 1) / (n + 9) at most. So an average is over about the last tenth of the steps until
    it has reached its own length, and it forgets the weights that the training began with. In a training of n steps,
    decays above 1 - 10 / n cannot be told apart.

    Args:
        network: to be averaged.
        decays: in (0, 1), different from each other.

    Raises:
        ValueError: there is no decay, one lies outside (0, 1), or two are equal.
    """

    def __init__(self, network: nn.Module, decays: Sequence[float]) -> None:
        super().__init__()
        if not decays or not all(0 < decay < 1 for decay in decays) or len(set(decays)) < len(decays):
            raise ValueError(f"ema_decays must be different numbers between 0 and 1, at least one; got {list(decays)}")
        self.decays = tuple(decays)
        self.networks = nn.ModuleList(deepcopy(network).eval().requires_grad_(False) for _ in decays)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after step number `step` = 1, 2, ..."""
        latest = [*network.parameters(), *network.buffers()]
        floating = [value for value in latest if value.is_floating_point()]
        for decay, average in self.by_decay().items():
            means = [*average.parameters(), *average.buffers()]
            average_into = get_ema_multi_avg_fn(min(decay, (step - 1) / (step + 9)))
            average_into([mean for mean in means if mean.is_floating_point()], floating, step)
            for mean, value in zip(means, latest, strict=True):
                if not value.is_floating_point():
                    mean.copy_(value)

    def by_decay(self) -> dict[float, nn.Module]:
        """The averaged networks, in evaluation mode."""
        return dict(zip(self.decays, self.networks, strict=True))
