"""Monte Carlo estimate of KLUB with fresh samples for every interval, as in the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import Denoiser, expand
from optsteps.methods.ays.klub import Klub, check_order
from optsteps.processes import Process


class MonteCarloKlub(Klub):
    """Algorithm 2 of the paper: fresh noise for every interval, times drawn by importance.

    Order 1 draws rho with density pi proportional to rho^-3 w(rho), w = 1 / (rho^2 + c^2) - 1 / (rho_i^2 + c^2). This
    is the integrand for Gaussian data of standard deviation c, up to a constant. The estimate is the mean of
    |D_rho - D_i|^2 / w times the integral of rho^-3 w over the interval. The printed pseudocode leaves out this
    normaliser, without which every interval of Gaussian data costs the same, and the printed lemma squares w. Order 2
    draws uniformly in 1 / rho^2, because its integrand does not vanish where w does.

    Args:
        denoiser, process: of the model.
        data, cond: clean samples [N, ...] with their condition, all of them used for every interval.
        c: the data's standard deviation for pi, 0.5 in the paper.
        order: of the bound.
        max_batch: most samples in one call of the denoiser.
        seed: of the noise.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        process: Process,
        data: Tensor,
        cond: Cond = None,
        c: float = 0.5,
        order: int = 1,
        max_batch: int = 512,
        seed: int = 0,
    ) -> None:
        if c <= 0:
            raise ValueError(f"c is a standard deviation and must be positive, got {c}")
        check_order(order)
        self.denoiser, self.process, self.data, self.cond = denoiser, process, data, cond
        self.c, self.order, self.max_batch = c, order, max_batch
        self.generator = torch.Generator().manual_seed(seed)

    def snap(self, levels: Tensor) -> Tensor:
        return levels

    def snap_apart(self, levels: Tensor) -> Tensor:
        return levels

    def terms(self, before: Tensor, noisy: Tensor, clean: Tensor) -> Tensor:
        walks = zip(before.tolist(), noisy.tolist(), clean.tolist(), strict=True)
        return torch.stack([self.samples(*walk).mean() for walk in walks])

    def samples(self, before: float, noisy: float, clean: float) -> Tensor:
        """One unbiased estimate of a term per data sample [N], float64."""
        count = len(self.data)
        share = torch.rand(count, generator=self.generator, dtype=torch.float64)
        if self.order == 1:
            levels, factor = _by_importance(share, noisy, clean, self.c)
        else:
            ends = torch.tensor([noisy, clean], dtype=torch.float64) ** -2
            levels, factor = torch.lerp(ends[0], ends[1], share).rsqrt(), (ends[1] - ends[0]) / 2
        visited = [levels, torch.full_like(levels, noisy)]
        r = 0.0
        if self.order == 2 and before == before:
            visited.append(torch.full_like(levels, before))
            r = float(torch.tensor(noisy / clean).log() / (2 * torch.tensor(before / noisy).log()))
        parts = range(0, count, self.max_batch)
        outputs = [self._outputs(torch.stack(visited), slice(k, k + self.max_batch)) for k in parts]
        inner, start, *earlier = torch.cat(outputs, 1).double()
        held = start + r * (start - earlier[0]) if earlier else start
        return factor * (inner - held).square().flatten(1).sum(1).cpu()

    @torch.no_grad()
    def _outputs(self, levels: Tensor, part: slice) -> Tensor:
        """D along one noising path at rising levels [m, N], of some of the samples -> [m, b, ...]."""
        y, cond, outputs = self.data[part], take(self.cond, part), []
        reached = torch.zeros(len(y), dtype=torch.float64)
        for level in levels[:, part]:
            noise = torch.randn(y.shape, generator=self.generator).to(y)
            y = y + expand((level**2 - reached**2).sqrt(), y) * noise
            reached = level
            t = self.process.time_of_noise_level(level)
            outputs.append(self.denoiser(expand(self.process.alpha(t), y) * y, t.to(y.device), cond))
        return torch.stack(outputs)


def _by_importance(share: Tensor, noisy: float, clean: float, c: float) -> tuple[Tensor, Tensor]:
    """Levels [N] at the quantiles `share` [N] of pi, and what their |D - D_i|^2 are multiplied by [N]."""
    nodes = torch.logspace(0, 1, 2049, base=noisy / clean, dtype=torch.float64) * clean
    mass = gaussian_term(c, nodes[-1], nodes)  # from each node up to the noisy end
    # the mass falls from the clean end to 0; linear in between, at 2049 nodes
    place = torch.searchsorted(-mass, -(1 - share) * mass[0]).clamp(1, len(nodes) - 1)
    upper, lower = mass[place - 1], mass[place]
    levels = torch.lerp(nodes[place - 1], nodes[place], ((upper - (1 - share) * mass[0]) / (upper - lower)).clamp(0, 1))
    drawn = (upper - lower) / (nodes[place] - nodes[place - 1]) / mass[0]  # density of what was drawn, exactly
    return levels, levels**-3 / drawn


def gaussian_term(c: float | Tensor, noisy: Tensor, clean: Tensor) -> Tensor:
    """integral from clean to noisy of rho^-3 (1 / (rho^2 + c^2) - 1 / (noisy^2 + c^2)) d rho.

    Times d c^4 it is the term of order 1 for d-dimensional Gaussian data of standard deviation c, for which
    E|D_rho - D_i|^2 = d c^4 (1 / (rho^2 + c^2) - 1 / (rho_i^2 + c^2)).
    """
    v, top, square = clean**2, noisy**2, torch.as_tensor(c, dtype=torch.float64) ** 2

    def primitive(v: Tensor) -> Tensor:
        return (torch.log1p(square / v) / square - 1 / v) / square + 1 / (v * (top + square))

    return (primitive(top) - primitive(v)) / 2
