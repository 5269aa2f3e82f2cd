"""Brownian paths that depend on (seed, sample number) alone, whatever the order and number of the times.

Two schedules are compared on the same noise when the solver reads its increments off one path: refining a schedule then
splits increments instead of drawing others. torchsde's BrownianTree, which k-diffusion uses, needs the ends of the
interval beforehand and its tolerance in absolute terms; the clocks here run over twelve orders of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from optsteps.solvers.philox import philox

LOWEST = -80  # the path starts as one normal number at the clock's 2^LOWEST
DEPTH = 16  # the clock is resolved to this many bits within an octave
# normal numbers that are drawn at once, about: in a processor's cache, or so many that a device is kept busy
_ON_CPU, _ON_DEVICE = 2**16, 2**25


class BrownianPaths:
    """Standard Brownian motions W_k(c), c >= 0, one per sample.

    The clock is cut into octaves [2^(e-1), 2^e) with independent increments, each of them bisected by Lévy's
    construction (Karatzas & Shreve, Sec. 2.3). Every normal number is keyed by (seed, octave, node) and stands at a
    position of its own for k in that stream. So nothing is stored, the order of calls does not matter, and neighbouring
    samples are drawn together.

    Args:
        seed: non-negative.
        index: numbers of the samples [B], non-negative.
        shape: shape of one sample.
        device: where increments are drawn. The words are the same everywhere, and normal numbers but for the rounding
            of their logarithms and cosines.
    """

    def __init__(
        self,
        seed: int,
        index: Sequence[int] | Tensor,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.seed, self.index, self.shape = seed, torch.as_tensor(index), tuple(shape)
        self.device = torch.device(device)
        self._key = np.random.SeedSequence([seed, 1]).generate_state(2, np.uint64)
        numbers = self.index.tolist()
        cuts = [k for k in range(1, len(numbers)) if numbers[k] != numbers[k - 1] + 1]
        self._runs = [(numbers[a], b - a) for a, b in pairwise([0, *cuts, len(numbers)])]
        # a walk goes up the clock, so these are kept: the sum of the octaves below the latest one, and the latest end
        self._below: tuple[int, Tensor] | None = None
        self._last: tuple[float, tuple[Tensor, float]] | None = None

    def take(self, index: Tensor) -> BrownianPaths:
        """The paths of some of the samples, by their positions in the batch [b]."""
        return BrownianPaths(self.seed, self.index[index.to(self.index.device)], self.shape, self.device)

    def increments(self, clock: Tensor, clock_next: Tensor) -> Tensor:
        """(W(clock_next) - W(clock)) / sqrt(clock_next - clock): unit Gaussian, independent over disjoint intervals.

        Args:
            clock, clock_next: scalar or [B], non-negative, the second later. Where they agree to 16 bits, or the second
                is infinite, the increment is 0.

        Returns:
            float64 [B, *shape] on the paths' device.
        """
        ends = torch.stack([part.detach().cpu().double().expand(len(self.index)) for part in (clock, clock_next)], 1)
        different, which = ends.unique(dim=0, return_inverse=True)
        if len(different) == 1:
            return self._increments(*different[0].tolist())
        increments = self._zeros()
        for number, pair in enumerate(different.tolist()):
            samples = (which == number).nonzero()[:, 0]
            increments[samples.to(self.device)] = self.take(samples)._increments(*pair)
        return increments

    def _zeros(self) -> Tensor:
        return torch.zeros(len(self.index), *self.shape, dtype=torch.float64, device=self.device)

    def _increments(self, start: float, end: float) -> Tensor:
        if not math.isfinite(end):
            return self._zeros()
        before, at = self._last[1] if self._last is not None and self._last[0] == start else self._values(start)
        after, at_next = self._values(end)
        self._last = end, (after, at_next)
        return (after - before) / math.sqrt(at_next - at) if at_next > at else self._zeros()

    def _values(self, clock: float) -> tuple[Tensor, float]:
        """W [B, *shape] at the clock rounded down to the resolution, and that time."""
        if clock < math.ldexp(1.0, LOWEST):
            return self._zeros(), 0.0
        mantissa, octave = math.frexp(clock)
        position = int((2 * mantissa - 1) * 2**DEPTH)
        turns = [(position >> bit) & 1 for bit in range(DEPTH - 1, -1, -1)]
        while turns and not turns[-1]:
            turns.pop()  # the rest of the way keeps to the left end
        nodes, node = [0], 1
        for later in turns:
            nodes.append(node)
            node = 2 * node + later
        whole, *middles = self._normals([octave] * (1 + len(turns)), nodes)
        left, length = self._octaves_below(octave), math.ldexp(1.0, octave - 1)
        right = left + math.sqrt(length) * whole
        for later, normal in zip(turns, middles, strict=True):
            middle = (left + right) / 2 + math.sqrt(length) / 2 * normal
            left, right = (middle, right) if later else (left, middle)
            length /= 2
        return left, math.ldexp(0.5 + position / 2 ** (DEPTH + 1), octave)

    def _octaves_below(self, octave: int) -> Tensor:
        """W [B, *shape] at 2^(octave-1)."""
        if self._below is not None and self._below[0] <= octave:
            first, total = self._below
        else:
            first, total = LOWEST, self._zeros()
        octaves = range(first, octave)
        for lower, normal in zip(octaves, self._normals(octaves, [0] * len(octaves)), strict=True):
            # the path starts at the lowest clock: all of what is below it is one octave
            total = total + math.sqrt(math.ldexp(1.0, max(lower - 1, LOWEST))) * normal
        self._below = (octave, total)
        return total

    def _normals(self, octaves: Sequence[int], nodes: Sequence[int]) -> list[Tensor]:
        """Unit Gaussians [B, *shape], one for each node of an octave, by Box and Muller's transform of Philox' words.
        Every sample has words of its own."""
        size = math.prod(self.shape)
        blocks = -(-size // 8)  # a block of four words of 64 bits makes eight normal numbers
        draw, most = (self._on_cpu, _ON_CPU) if self.device.type == "cpu" else (self._on_device, _ON_DEVICE)
        some = max(1, most // max(1, len(self.index) * size))
        parts = [slice(k, k + some) for k in range(0, len(nodes), some)]
        drawn = [draw(octaves[part], nodes[part], blocks)[..., :size].double() for part in parts]
        return [normal.reshape(-1, *self.shape) for part in drawn for normal in part]

    def _on_cpu(self, octaves: Sequence[int], nodes: Sequence[int], blocks: int) -> Tensor:
        """Unit Gaussians [nodes, B, 8 * blocks]."""
        words = np.empty((len(nodes), len(self.index), 4 * blocks), dtype=np.uint64)
        for rows, octave, node in zip(words, octaves, nodes, strict=True):
            row = 0
            for first, count in self._runs:
                stream = np.random.Philox(key=self._key, counter=[first * blocks, node, octave - LOWEST, 0])
                rows[row : row + count] = stream.random_raw(count * 4 * blocks).reshape(count, -1)
                row += count
        # float32 suffices: what matters is the law and that it is the same every time
        uniform = (words.view(np.uint32).astype(np.float32) + np.float32(0.5)) * np.float32(2**-32)  # in (0, 1]
        half = 4 * blocks
        radius, angle = np.sqrt(-2 * np.log(uniform[..., :half])), np.float32(2 * math.pi) * uniform[..., half:]
        return torch.from_numpy(np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], -1))

    def _on_device(self, octaves: Sequence[int], nodes: Sequence[int], blocks: int) -> Tensor:
        """The same in tensors."""
        places = torch.tensor([[*octaves], [*nodes]], device=self.device)[:, :, None, None]
        numbers = self.index.to(self.device)[:, None] * blocks
        # NumPy's stream moves its counter on before every block
        counter = (numbers + torch.arange(1, blocks + 1, device=self.device), places[1], places[0] - LOWEST)
        words = philox((*counter, torch.zeros_like(numbers)), self._key.tolist())
        halves = torch.stack([part for word in words for part in (word & 0xFFFFFFFF, (word >> 32) & 0xFFFFFFFF)], -1)
        uniform = (halves.flatten(2).float() + 0.5) * 2**-32
        radius, angle = uniform.chunk(2, 2)
        radius, angle = (-2 * radius.log()).sqrt(), 2 * math.pi * angle
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 2)
