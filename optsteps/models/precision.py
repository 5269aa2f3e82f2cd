"""The precision of a network's arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def in_precision(network: Callable[..., Tensor], precision: str, device: torch.device) -> Callable[..., Tensor]:
    """The network computing in "float32" or, by autocast, in "bfloat16"; what it is given and returns is float32.

    Raises:
        ValueError: an unknown precision.
    """
    if precision == "float32":
        return network
    if precision != "bfloat16":
        raise ValueError(f"precision must be 'float32' or 'bfloat16', got {precision!r}")

    def in_bfloat16(*inputs: Any) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return network(*inputs).float()

    return in_bfloat16
