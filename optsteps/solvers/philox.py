"""Philox on any device: random words that are a function of a counter and a key."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_HALF = 0xFFFFFFFF


def philox(counter: Sequence[Tensor], key: Sequence[int]) -> tuple[Tensor, ...]:
    """Philox-4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), as NumPy has it on the
    CPU, where that is faster.

    Words are of 64 bits, those of an unsigned integer in an int64.

    Args:
        counter: its four words, int64 tensors of one device whose shapes broadcast.
        key: its two words, from 0 to 2^64 - 1.

    Returns:
        Four int64 tensors of the broadcast shape.
    """
    a, b, c, d = torch.broadcast_tensors(*counter)
    first, second = key
    for _ in range(_ROUNDS):
        (left, low_left), (right, low_right) = _product(a, _MULTIPLIERS[0]), _product(c, _MULTIPLIERS[1])
        a, b, c, d = right ^ b ^ _signed(first), low_right, left ^ d ^ _signed(second), low_left
        first, second = first + _WEYL[0], second + _WEYL[1]
    return a, b, c, d


def _product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The upper and the lower word of x times a factor, by the products of their halves."""
    low, high = x & _HALF, _upper(x)
    low_factor, high_factor = factor & _HALF, factor >> 32
    crossed, other = low * high_factor, high * low_factor
    carried = _upper(low * low_factor) + (crossed & _HALF) + (other & _HALF)
    return high * high_factor + _upper(crossed) + _upper(other) + _upper(carried), x * _signed(factor)


def _upper(word: Tensor) -> Tensor:
    return (word >> 32) & _HALF


def _signed(word: int) -> int:
    """The integer from -2^63 to 2^63 - 1 with the last 64 bits of `word`."""
    return (word + 2**63) % 2**64 - 2**63
