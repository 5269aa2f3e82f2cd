"""The shift of a flow's times that grows with the number of tokens."""

from __future__ import annotations

from typing import Any


def dynamic_shift(tokens: int, config: Any, max_shift: float) -> float:
    """mu, the logarithm of a flow's shift, linear in the number of tokens, as FLUX's and SD3's pipelines compute it.

    Args:
        tokens: of one sample's latents.
        config: of the scheduler.
        max_shift: mu at the largest number of tokens, where the config names none.
    """
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (high - low) / (many - few)
    return float(tokens * slope + low - slope * few)
