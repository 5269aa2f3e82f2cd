"""How far a student's samples lie from the teacher's, sample by sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mse(x: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error of each sample.

    Args:
        x, reference: samples [B, ...] of one shape, any dtype.

    Returns:
        float64 [B], in the squared unit of the samples.

    Raises:
        ValueError: the shapes differ, there is no batch dimension or nothing in it.
    """
    if x.shape != reference.shape:
        raise ValueError(
            f"samples and reference must have one shape, got {tuple(x.shape)} and {tuple(reference.shape)}"
        )
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(f"expected a batch [B, ...] with values in it, got shape {tuple(x.shape)}")
    error = x.to(torch.float64) - reference.to(torch.float64)
    return error.square().reshape(len(x), -1).mean(1)


def psnr(x: Tensor, reference: Tensor, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio of each sample, 10 log10(data_range^2 / mse).

    Args:
        x, reference: samples [B, ...] of one shape.
        data_range: largest minus smallest value a sample can take: 2.0 for images in [-1, 1], 255 for bytes.

    Returns:
        float64 [B], in dB. A sample equal to its reference has +inf; statistics refuse that value, so decide what it
        should mean (clamp it, or report `mse`) before averaging.

    Raises:
        ValueError: as `mse`, or `data_range` is not positive and finite.
    """
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range must be positive and finite (2.0 for images in [-1, 1]), got {data_range}")
    return 20 * math.log10(data_range) - 10 * mse(x, reference).log10()
