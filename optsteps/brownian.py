"""Brownian paths that depend on (seed, sample number) alone, whatever times they are asked for.

Two schedules are compared on the same noise when the solver reads its increments off one path: refining a schedule then
splits increments instead of drawing others. torchsde's BrownianTree, which k-diffusion uses, needs the ends of the
interval beforehand and its tolerance in absolute terms; the clocks here run over twelve orders of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LOWEST = -80  # the path starts as one normal number at the clock's 2^LOWEST
DEPTH = 16  # the clock is resolved to this many bits within an octave


class BrownianPaths:
    """Standard Brownian motions W_k(c), c >= 0, one per sample.

    The clock is cut into octaves [2^(e-1), 2^e) with independent increments, each of them bisected by Lévy's
    construction (Karatzas & Shreve, Sec. 2.3); every normal number is keyed by (seed, k, octave, node), so nothing is
    stored and no order of asking matters.

    Args:
        seed: non-negative.
        index: numbers of the samples [B].
        shape: shape of one sample.
    """

    def __init__(self, seed: int, index: Sequence[int] | Tensor, shape: Sequence[int]) -> None:
        self.keys = [np.random.SeedSequence([seed, int(k), 1]).generate_state(2, np.uint64) for k in index]
        self.shape = tuple(shape)
        # a walk goes up the clock: the sum of the octaves below the one last asked for, and the last end
        self._below: list[tuple[int, np.ndarray] | None] = [None] * len(self.keys)
        self._last: list[tuple[float, tuple[np.ndarray, float]] | None] = [None] * len(self.keys)

    def take(self, index: Tensor) -> BrownianPaths:
        """The paths of some of the samples, by their place in the batch [b]."""
        chosen = BrownianPaths(0, [], self.shape)
        chosen.keys = [self.keys[int(i)] for i in index]
        chosen._below = [self._below[int(i)] for i in index]
        chosen._last = [self._last[int(i)] for i in index]
        return chosen

    def increments(self, clock: Tensor, clock_next: Tensor) -> Tensor:
        """(W(clock_next) - W(clock)) / sqrt(clock_next - clock): unit Gaussian, independent over disjoint intervals.

        Args:
            clock, clock_next: scalar or [B], non-negative, the second later. Where they agree to 16 bits, or the second
                is infinite, the answer is 0.

        Returns:
            float64 [B, *shape] on the CPU.
        """
        ends = [part.detach().cpu().double().expand(len(self.keys)).tolist() for part in (clock, clock_next)]
        return torch.from_numpy(np.stack([self._increment(k, *pair) for k, pair in enumerate(zip(*ends, strict=True))]))

    def _increment(self, k: int, start: float, end: float) -> np.ndarray:
        if not math.isfinite(end):
            return np.zeros(self.shape)
        last = self._last[k]
        before, at = last[1] if last is not None and last[0] == start else self._value(k, start)
        after, at_next = self._value(k, end)
        self._last[k] = end, (after, at_next)
        return (after - before) / math.sqrt(at_next - at) if at_next > at else np.zeros(self.shape)

    def _value(self, k: int, clock: float) -> tuple[np.ndarray, float]:
        """W_k at the clock rounded down to the resolution, and that time."""
        if clock < math.ldexp(1.0, LOWEST):
            return np.zeros(self.shape), 0.0
        mantissa, octave = math.frexp(clock)
        place = int((2 * mantissa - 1) * 2**DEPTH)
        left, length = self._octaves_below(k, octave), math.ldexp(1.0, octave - 1)
        right = left + math.sqrt(length) * self._normal(k, octave, 0)
        node = 1
        for bit in range(DEPTH - 1, -1, -1):
            if place & ((2 << bit) - 1) == 0:
                break  # the rest of the way keeps to the left end
            middle = (left + right) / 2 + math.sqrt(length) / 2 * self._normal(k, octave, node)
            later = (place >> bit) & 1
            left, right = (middle, right) if later else (left, middle)
            node, length = 2 * node + later, length / 2
        return left, math.ldexp(0.5 + place / 2 ** (DEPTH + 1), octave)

    def _octaves_below(self, k: int, octave: int) -> np.ndarray:
        """W_k at 2^(octave-1)."""
        known = self._below[k]
        if known is not None and known[0] <= octave:
            first, total = known
        else:
            first, total = LOWEST + 1, math.sqrt(math.ldexp(1.0, LOWEST)) * self._normal(k, LOWEST, 0)
        for lower in range(first, octave):
            total = total + math.sqrt(math.ldexp(1.0, lower - 1)) * self._normal(k, lower, 0)
        self._below[k] = (octave, total)
        return total

    def _normal(self, k: int, octave: int, node: int) -> np.ndarray:
        bits = np.random.Philox(key=self.keys[k], counter=[0, 0, node, octave - LOWEST])
        return np.random.Generator(bits).standard_normal(self.shape)
