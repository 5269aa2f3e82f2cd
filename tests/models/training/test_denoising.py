"""The objectives of denoisers and flows: losses of networks whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from optsteps.datasets import captioned_scenes
from optsteps.datasets.geneval_prompts import TASKS
from optsteps.datasets.scene_prompts import vocabulary
from optsteps.datasets.scenes import scene_set
from optsteps.models.text_unet import TextUNet
from optsteps.models.training import Batch, DenoiserTraining, FlowTraining
from optsteps.models.unet import UNet


def test_mirrored_images_are_told_of() -> None:
    network = UNet(1, [8], embedding=16, num_classes=4, augmentations=2)
    task = DenoiserTraining(network, 0.6, -0.9, 1.3, 0.0, 1e-3, 0.0, 10, [0.9], 0, mirrored=0.5)
    images = torch.randint(0, 256, (400, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augmented, seen = task._augmented(images)
    labels = augmented.keywords["augmentation"]  # type: ignore[attr-defined]
    assert labels.shape == (400, 2)
    mirrored = labels[:, 0] == 1
    assert stats.binomtest(int(mirrored.sum()), 400, 0.5).pvalue > 1e-4
    assert torch.equal(seen[mirrored], images[mirrored].flip(-1))
    assert torch.equal(seen[~mirrored], images[~mirrored])
    assert not labels[:, 1].any()
    with pytest.raises(ValueError, match=r"mirrored = 0\.5 needs a network that can be told.*augmentations = 1"):
        DenoiserTraining(UNet(1, [8]), 0.6, -0.9, 1.3, 0.0, 1e-3, 0.0, 10, [0.9], 0, mirrored=0.5)


def _denoiser_task(label_dropout: float = 0.0) -> DenoiserTraining:
    network = UNet(1, [8], embedding=16, num_classes=4)
    return DenoiserTraining(network, 0.6, -0.9, 1.3, label_dropout, 1e-3, 0.0, 10, [0.9], 0)


def test_denoising_loss_of_a_network_that_returns_zero() -> None:
    rng = np.random.default_rng(0)
    images, eps = rng.integers(0, 256, (5, 1, 4, 4)), rng.standard_normal((5, 1, 4, 4))
    quantiles = np.array([0.1, 0.3, 0.5, 0.7, 0.95])
    # EDM's loss with F = 0: D = c_skip (y + n), weighed by 1 / c_out^2
    sigma = np.exp(stats.norm(-0.9, 1.3).ppf(quantiles)).reshape(-1, 1, 1, 1)
    clean = images / 127.5 - 1
    c_skip = 0.6**2 / (sigma**2 + 0.6**2)
    c_out = sigma * 0.6 / np.sqrt(sigma**2 + 0.6**2)
    expected = ((c_skip * (clean + sigma * eps) - clean) ** 2 / c_out**2).mean()
    task = _denoiser_task()
    loss = task._loss(
        task.network,
        torch.from_numpy(images).to(torch.uint8),
        torch.zeros(5).long(),
        torch.from_numpy(quantiles),
        torch.from_numpy(eps).float(),
    )
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("dropout", "label"), [(0.0, 2), (1.0, 4)])
def test_one_noise_level_per_stratum_and_dropped_labels(dropout: float, label: int) -> None:
    task, seen = _denoiser_task(dropout), {}

    def loss(_network: Any, images: Tensor, labels: Tensor, quantiles: Tensor, eps: Tensor) -> Tensor:
        seen.update(labels=labels, quantiles=quantiles, eps=eps)
        return torch.zeros(())

    with mock.patch.object(task, "_loss", loss), mock.patch.object(task, "log"):
        task.training_step(Batch(0, torch.zeros(64, 1, 4, 4, dtype=torch.uint8), torch.full((64,), 2)), 0)
    assert sorted((seen["quantiles"] * 64).floor().tolist()) == list(range(64))
    assert set(seen["labels"].tolist()) == {label}
    assert seen["eps"].shape == (64, 1, 4, 4)


class Velocity(torch.nn.Module):
    """Exact for images that are all of one grey; remembers what it was asked."""

    def __init__(self, grey: float) -> None:
        super().__init__()
        self.grey = grey
        self.asked: list[tuple[Tensor, Tensor]] = []

    @property
    def no_prompt(self) -> Tensor:
        return torch.zeros(1, 4, dtype=torch.long)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        self.asked.append((t, tokens))
        return (x - self.grey) / t[:, None, None, None]


def _flow_training(network: Any) -> FlowTraining:
    task = FlowTraining(network, 0.3, 1.2, 0.25, 1e-3, 0.0, warmup_steps=1, ema_decays=[0.9], seed=0)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    return task


def test_the_exact_velocity_has_no_flow_matching_loss() -> None:
    batch = Batch(0, torch.full((64, 3, 8, 8), 51, dtype=torch.uint8), torch.ones(64, 4, dtype=torch.long))
    torch.manual_seed(0)
    # eps - x_0 from x_t in float32: nearly nothing is left where t is small
    assert _flow_training(Velocity(-0.6)).training_step(batch, 0).item() < 1e-6
    # a velocity that is off by 0.2 / t
    network = Velocity(-0.4)
    loss = _flow_training(network).training_step(batch, 0).item()
    assert loss == pytest.approx((0.2 / network.asked[0][0]).square().mean().item(), rel=1e-3)


def test_times_of_flow_matching_are_logit_normal_and_some_prompts_are_dropped() -> None:
    batch = Batch(0, torch.zeros(4096, 3, 1, 1, dtype=torch.uint8), torch.ones(4096, 4, dtype=torch.long))
    network = Velocity(-1.0)
    torch.manual_seed(0)
    _flow_training(network).training_step(batch, 0)
    t, tokens = network.asked[0]
    # one time in each of 4096 strata of the distribution: quantiles are nearer than those of independent draws
    assert stats.kstest(torch.logit(t.double()).numpy(), stats.norm(0.3, 1.2).cdf).statistic < 1 / 4096 + 1e-4
    dropped = (tokens == 0).all(1)
    assert torch.equal(dropped, (tokens == 0).any(1)), "whole prompts"
    assert stats.binomtest(int(dropped.sum()), 4096, 0.25).pvalue > 1e-4


def test_a_captioned_set_is_told_in_words(tmp_path: Path) -> None:
    data = captioned_scenes(5, 3, train=True)
    assert data.images.shape == (5, 3, 32, 32)
    network = TextUNet(vocabulary(), 12, text_width=32, widths=(8,), embedding=16)
    tokens = _flow_training(network).conditions(data)
    assert torch.equal(tokens, network.tokenizer(data.captions))
    assert [TASKS[label] for label in data.labels] == [one.tag for one in scene_set(5, "train")[2]]
    assert len(captioned_scenes(5, 3, train=False)) == 3
