"""Averages of weights, against the recursion in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optsteps.models.training import Averages


def test_averages_are_exponential_and_forget_the_beginning() -> None:
    network = torch.nn.BatchNorm1d(2)  # has an integer buffer too
    averages = Averages(network, [0.5, 0.99])
    rng = np.random.default_rng(0)
    expected = dict.fromkeys(averages.decays, np.full(2, np.nan))
    for step in range(1, 41):
        weights = rng.standard_normal(2)
        for decay in expected:
            kept = min(decay, (step - 1) / (step + 9))
            expected[decay] = weights if step == 1 else kept * expected[decay] + (1 - kept) * weights
        with torch.no_grad():
            network.weight.copy_(torch.from_numpy(weights))
            network.num_batches_tracked.fill_(step)
        averages.update(network, step)
    for decay, average in averages.by_decay().items():
        np.testing.assert_allclose(average.weight, expected[decay], rtol=1e-5)
        assert average.num_batches_tracked == 40
        assert not average.training
        assert not any(parameter.requires_grad for parameter in average.parameters())


@pytest.mark.parametrize("decays", [[], [1.0], [0.9, 0.9]])
def test_averages_need_decays(decays: list[float]) -> None:
    with pytest.raises(ValueError, match="ema_decays must be different numbers between 0 and 1, at least one; got"):
        Averages(torch.nn.Linear(1, 1), decays)
