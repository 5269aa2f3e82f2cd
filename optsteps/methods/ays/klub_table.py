"""Table of the denoiser's outputs along coupled noising paths, which gives KLUB of every schedule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import Denoiser, expand, in_batches
from optsteps.methods.ays.klub import TabulatedKlub
from optsteps.processes import Process
from optsteps.storage.shards import storable


@storable
@dataclass(frozen=True, eq=False)
class CoupledTable:
    """E|D_s - D_t|^2 for all pairs of K+1 noise levels, each level evaluated once per data sample.

    Every sample's noise follows one path through all levels, so that K+1 evaluations estimate all pairs. The
    differences are inner products, in float64, of outputs minus the output at the cleanest level.

    Args:
        levels: [K+1], falling.
        sums: [blocks, K+1, K+1] over the samples of each block.
        errors: [blocks, K+1], sums of |x_0 - D_t|^2.
        counts: [blocks], samples in each.
    """

    levels: Tensor
    sums: Tensor
    errors: Tensor
    counts: Tensor

    @classmethod
    def measure(
        cls,
        denoiser: Denoiser,
        process: Process,
        data: Tensor,
        cond: Cond,
        levels: Tensor,
        generators: list[torch.Generator],
        max_batch: int = 512,
    ) -> CoupledTable:
        """One block of the samples data [b, ...]; sample k's path is drawn from generators[k] alone."""
        count = len(levels)
        sums, errors = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        rising = levels.flip(0)
        scale = torch.cat([rising[:1] ** 2, (rising**2).diff()]).sqrt()
        times = process.time_of_noise_level(levels)
        for some in torch.arange(len(data)).split(max(1, max_batch // count)):
            clean = data[some.to(data.device), None]
            draws = [torch.randn(count, *data.shape[1:], generator=generators[k]) for k in some.tolist()]
            increments = torch.stack(draws).to(data)
            path = clean + (expand(scale, increments[0]) * increments).cumsum(1).flip(1)
            x = (expand(process.alpha(times), path[0]) * path).flatten(0, 1)
            t, conds = times.repeat(len(some)).to(x.device), take(cond, some.repeat_interleave(count))
            outputs = in_batches(denoiser, x, t, conds, max_batch).unflatten(0, path.shape[:2])
            flat = (outputs - outputs[:, -1:]).flatten(2).double()
            products = flat @ flat.mT
            squares = products.diagonal(dim1=1, dim2=2)
            sums += (squares[:, :, None] + squares[:, None, :] - 2 * products).clamp(min=0).sum(0).cpu()
            errors += (outputs - clean).flatten(2).double().square().sum((0, 2)).cpu()
        return cls(levels, sums[None], errors[None], torch.tensor([len(generators)]))

    @classmethod
    def joined(cls, tables: list[CoupledTable]) -> CoupledTable:
        """All blocks of tables on the same levels."""
        parts = ([getattr(table, name) for table in tables] for name in ("sums", "errors", "counts"))
        return cls(tables[0].levels, *(torch.cat(part) for part in parts))

    def klub(self, order: int = 1, exact: bool = False) -> TabulatedKlub:
        """The bound by all samples.

        Args:
            exact: of the mean squared errors alone: for an exact denoiser D_t is a martingale along the noising path,
                so that E|D_s - D_t|^2 = mmse(s) - mmse(t) for s above t. A cross-check.
        """
        total = self.counts.sum()
        if not exact:
            return TabulatedKlub(self.levels, self.sums.sum(0) / total, order)
        mmse = self.errors.sum(0) / total
        later = (mmse[:, None] - mmse[None, :]).triu()
        return TabulatedKlub(self.levels, later + later.T, order)

    def estimate(self, schedule: Tensor, order: int = 1) -> tuple[float, float, float]:
        """The bound of a schedule [n+1] at the table's nearest levels, its standard error, and its quadrature error.

        The standard error is over the blocks (jackknife, leaving out one at a time; NaN for one block). The quadrature
        error is the change of the bound when the levels are halved: the trapezoidal rule loses less.
        """
        left = self.counts.sum() - self.counts
        without = (self.sums.sum(0) - self.sums) / left[:, None, None]
        values = TabulatedKlub(self.levels, without, order).of(schedule)
        blocks = len(values)
        spread = (values - values.mean()).square().sum() if blocks > 1 else torch.tensor(torch.nan)
        error = ((blocks - 1) / blocks * spread).sqrt()
        whole = self.klub(order)
        coarse = TabulatedKlub(self.levels, whole.differences, order, stride=2)
        value = float(whole.of(schedule))
        return value, float(error), abs(value - float(coarse.of(schedule)))
