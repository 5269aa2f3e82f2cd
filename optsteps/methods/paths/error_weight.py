"""What an error made at one noise level weighs at the end of the walk: guesses, of which none fits every model."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

Weight = float | Literal["edm", "flow"]


def check_weight(weight: Weight) -> None:
    """ValueError unless it is "edm", "flow" or a positive number."""
    if weight not in ("edm", "flow") and not (isinstance(weight, (int, float)) and 0 < weight < math.inf):
        raise ValueError(f"a weight is 'edm', 'flow' or a positive number, got {weight!r}")


def error_weight(alpha: Tensor, sigma: Tensor, weight: Weight, size: float) -> Tensor:
    """What an error in the model's own coordinates is multiplied by where its process has these alpha and sigma.

    In EDM's coordinates it is 1 for "edm" and 1 / (1 + s) for "flow", at noise level s. For a number m it is
    sigma_d / sqrt(s^2 + sigma_d^2), the part of an error that reaches the end where the data are Gaussian, with the
    deviation sigma_d = m times `size`.

    Args:
        size: root mean square of the teacher's samples.
    """
    if weight == "edm":
        return 1 / alpha
    if weight == "flow":
        return 1 / (alpha + sigma)
    deviation = weight * size
    return deviation / (sigma**2 + (alpha * deviation) ** 2).sqrt()
