"""Which shape, where and how large: the best of a bank of drawn shapes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from optsteps.datasets.shapes import SHAPES, coverage, half_extent

WINDOW = 28  # pixels; the largest shape of the bank fits in, wherever the bank puts it
_OFFSETS = torch.arange(-5, 6) * 0.5  # pixels
_SIZES = 3.6 * 1.06 ** torch.arange(16)  # pixels
_REFINED = 3  # shapes worth a closer look


@dataclass(frozen=True)
class Fits:
    """The best fit of every shape to every blob.

    Attributes:
        likeness: [M, shapes], in [0, 1].
        box: of the fitted shape, hidden parts too: left, top, right and bottom [M, shapes, 4], in pixels from the
            window's middle.
        area: of the fitted shape in pixels [M, shapes].
    """

    likeness: Tensor
    box: Tensor
    area: Tensor


def fit_shapes(alpha: Tensor, weight: Tensor) -> Fits:
    """Fits every shape to blobs.

    The likeness of a blob a and a drawn shape t is their weighted Tanimoto coefficient, sum(w a t) / sum(w a^2 + w t^2
    - w a t): intersection over union of what need not be black or white. The likeliest shapes are refined, by half a
    pixel and a step in size at a time; the others keep the likeness of the coarse search.

    Args:
        alpha: how much of a pixel is the blob's, [M, WINDOW, WINDOW] in [0, 1].
        weight: how much a pixel is to count, [M, WINDOW, WINDOW].
    """
    bank, (coarse, coarse_square) = _bank(), _coarse_bank()
    weighted = (weight * alpha).flatten(1)
    weight = weight.flatten(1)
    square = (weighted * alpha.flatten(1)).sum(1)
    common = weighted @ coarse.T
    found = common / (square[:, None] + weight @ coarse_square.T - common)
    likeness, best = found.view(len(alpha), len(SHAPES), -1).max(2)
    steps = [len(range(0, length, 2)) for length in bank.shape[1:4]]
    place = 2 * torch.stack(torch.unravel_index(best, steps), -1)  # [M, shapes, 3]: size, y, x
    rows = torch.arange(len(alpha))[:, None].expand(-1, _REFINED)
    shapes = likeness.topk(_REFINED).indices
    limits = torch.tensor(bank.shape[1:4]) - 1
    for _ in range(2):
        near = (place[rows, shapes][:, :, None] + _NEIGHBOURS).clamp(min=0).minimum(limits)
        drawn = bank[shapes[:, :, None], near[..., 0], near[..., 1], near[..., 2]]
        common = torch.einsum("mskp,mp->msk", drawn, weighted)
        own = torch.einsum("mskp,mp->msk", drawn.square(), weight)
        closer, best = (common / (square[:, None, None] + own - common)).max(2)
        likeness[rows, shapes] = closer
        place[rows, shapes] = near.gather(2, best[:, :, None, None].expand(-1, -1, 1, 3)).squeeze(2)
    return Fits(likeness, _boxes(place), _areas()[torch.arange(len(SHAPES)), place[..., 0]])


_NEIGHBOURS = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3)  # [27, 3]


def _boxes(place: Tensor) -> Tensor:
    half = torch.tensor([half_extent(shape, 1) for shape in SHAPES]) * _SIZES[place[..., 0]][..., None]
    middle = torch.stack((_OFFSETS[place[..., 2]], _OFFSETS[place[..., 1]]), -1)
    return torch.cat((middle - half, middle + half), -1)


@cache
def _bank() -> Tensor:
    """Every shape in every size at every offset, [shapes, sizes, y, x, WINDOW * WINDOW]."""
    pixels = torch.arange(WINDOW) - WINDOW / 2 + 0.5
    x = pixels - _OFFSETS[:, None, None]
    y = pixels[:, None] - _OFFSETS[:, None, None, None]
    return torch.stack([torch.stack([coverage(shape, x, y, size) for size in _SIZES]).flatten(-2) for shape in SHAPES])


@cache
def _coarse_bank() -> tuple[Tensor, Tensor]:
    """Every other size and offset of the bank, and its square, [shapes * sizes * y * x, WINDOW * WINDOW]."""
    coarse = _bank()[:, ::2, ::2, ::2].flatten(0, 3)
    return coarse, coarse.square()


@cache
def _areas() -> Tensor:
    """Of every shape in every size, [shapes, sizes] in pixels."""
    middle = len(_OFFSETS) // 2
    return _bank()[:, :, middle, middle].sum(-1)
