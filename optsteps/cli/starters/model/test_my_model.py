"""The model removes noise."""

from __future__ import annotations

import torch
from my_model import my_model


def test_little_noise_is_removed() -> None:
    model = my_model("my_model", torch.device("cpu"), (150.0, 0.01))
    clean, noise = torch.randn(2, 4, *model.shape, generator=torch.Generator().manual_seed(0)) / 2
    t = model.process.time_of_noise_level(0.02)
    noisy = model.process.alpha(t).float() * clean + model.process.sigma(t).float() * noise
    with torch.no_grad():
        denoised = model.denoiser(noisy, t.expand(4), model.cond(range(4), torch.device("cpu")))
    assert denoised.shape == clean.shape
    assert (denoised - clean).abs().max() < 0.1
