"""A model for optsteps: a network, the noising process that it was trained with, and the shape of its samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optsteps.denoisers import NetworkDenoiser
from optsteps.models import Model
from optsteps.processes import VP

# of one sample, without the batch
SHAPE = (1, 8, 8)
# VP.from_betas(betas) takes the betas of any DDPM; Flow() is a rectified flow's process, and EDM() Karras'
PROCESS = VP.linear()


def load_network() -> nn.Module:
    """Your network with its trained weights goes here: a module that is called with (x, t) or (x, t, cond)."""
    return StandIn()


def my_model(name: str, device: torch.device, noise_levels: Sequence[float]) -> Model:
    """The model of `model=my_model`; every further field of its YAML is an argument."""
    network = load_network().to(device).eval()
    # what the network predicts: "eps", "v", "x0", or a flow's "velocity", often called with time_scale=1000
    denoiser = NetworkDenoiser(network, PROCESS, "eps")
    highest, lowest = noise_levels  # the range that it was trained on
    return Model(name, denoiser, PROCESS, SHAPE, (highest, lowest))  # num_classes=10: of a network that takes labels


class StandIn(nn.Module):
    """The exact noise prediction for data whose pixels are normal with standard deviation 0.5; delete it."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (part.to(x).view(-1, 1, 1, 1) for part in (PROCESS.alpha(t), PROCESS.sigma(t)))
        return sigma * x / (0.25 * alpha**2 + sigma**2)
