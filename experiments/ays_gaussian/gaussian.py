"""Gaussian data N(0, c^2): Theorem 3.1 of Align Your Steps, and KLUB's optimum against the KL optimum (its App. A.3).

python experiments/ays_gaussian/gaussian.py

Everything is in closed form: Euler's and Stochastic-DDIM's steps are linear in the state, so samples are Gaussian and
their divergence from N(0, c^2 + t_min^2) is known. Minima are scipy's, from several starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.optimize import minimize
from torch import Tensor

from optsteps.methods.ays.coordinate_search import descend
from optsteps.methods.ays.klub import TabulatedKlub
from optsteps.methods.ays.klub_monte_carlo import gaussian_term
from optsteps.processes import EDM
from optsteps.reporting.markdown import markdown_lines
from optsteps.reporting.panels import panels, to_png
from optsteps.reporting.plot_style import looks
from optsteps.schedules import build_schedule

T_MAX, T_MIN = 80.0, 0.002
FOLDER = Path(__file__).parent


def variance(levels: Tensor, c: float, stochastic: bool) -> Tensor:
    """Of the samples at t_min, for schedules [..., n+1], started from the true marginal at t_max."""
    v = c**2 + levels[..., 0] ** 2
    for rho, low in zip(levels[..., :-1].unbind(-1), levels[..., 1:].unbind(-1), strict=True):
        kept = (low / rho) ** 2 if stochastic else low / rho
        factor = kept + (1 - kept) * c**2 / (c**2 + rho**2)
        v = factor**2 * v + (low**2 - (kept * rho) ** 2 if stochastic else 0)
    return v


def divergence(levels: Tensor, c: float, stochastic: bool) -> Tensor:
    """KL(true || samples) at t_min, nats per dimension."""
    ratio = (c**2 + levels[..., -1] ** 2) / variance(levels, c, stochastic)
    return 0.5 * (ratio - 1 - ratio.log())


def klub(levels: Tensor, c: float) -> Tensor:
    """The bound per dimension."""
    return c**4 * gaussian_term(c, levels[..., :-1], levels[..., 1:]).sum(-1)


def least(objective: Callable[[Tensor], Tensor], starts: list[Tensor]) -> Tensor:
    """The schedule of least objective that scipy finds from the starts, over the logs of the gaps in log level."""

    def levels_of(gaps: Tensor) -> Tensor:
        falls = torch.softmax(gaps, 0) * math.log(T_MAX / T_MIN)
        return torch.cat([torch.zeros(1, dtype=torch.float64), -falls.cumsum(0)]).exp() * T_MAX

    def value_and_gradient(x: list[float]) -> tuple[float, list[float]]:
        gaps = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        value = objective(levels_of(gaps)).log()
        value.backward()
        assert gaps.grad is not None
        return value.item(), gaps.grad.tolist()

    found = []
    for start in starts:
        gaps = (-start.log().diff()).log()
        answer = minimize(value_and_gradient, gaps.tolist(), jac=True, method="BFGS", options={"gtol": 1e-10})
        found.append(levels_of(torch.tensor(answer.x, dtype=torch.float64)))
    return min(found, key=lambda levels: float(objective(levels)))


def arctan_uniform(c: float, steps: int) -> Tensor:
    """Theorem 3.1's schedule."""
    ends = torch.tensor([T_MAX, T_MIN], dtype=torch.float64) / c
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return c * torch.tan(torch.lerp(*ends.atan(), share))


def hand_made(family: str, steps: int) -> Tensor:
    return build_schedule(family, EDM(), steps, t_max=T_MAX, t_min=T_MIN).noise_levels


def theorem() -> str:
    """How far scipy's minimum of the KL of Euler's samples lies from the theorem's schedule."""
    lines = []
    for c in (0.25, 0.5, 1.0):
        for n in (3, 5, 10, 20):
            theirs = arctan_uniform(c, n)
            found = least(lambda s, c=c: divergence(s, c, False), [hand_made(f, n) for f in ("edm", "logsnr")])
            apart = ((found - theirs).abs() / theirs).max().item()
            values = [f"{divergence(s, c, False).item():.6e}" for s in (theirs, found)]
            lines.append([f"{c:g}", str(n), *values, f"{apart:.1e}"])
    head = ["c", "steps", "KL of arctan-uniform", "KL of scipy's minimum", "largest relative difference of a time"]
    return markdown_lines(head, lines, left=2)


def descent(c: float, steps: int) -> Tensor:
    """Coordinate descent of the closed-form bound from EDM's schedule, on 512 levels [S+1, n+1]."""
    levels = torch.logspace(math.log10(T_MAX), math.log10(T_MIN), 513, dtype=torch.float64)
    curve = c**4 / (levels**2 + c**2)
    return descend(TabulatedKlub(levels, (curve[:, None] - curve).abs()), hand_made("edm", steps))


def optima() -> str:
    """KL and KLUB of Stochastic-DDIM at the optimum of either, at hand-made schedules and along the descent."""
    lines, curves = [], {}
    for c in (0.25, 0.5, 1.0):
        for n in (5, 10, 20):
            families = ["edm", "logsnr"]
            starts = [hand_made(family, n) for family in families]
            path = descent(c, n)
            along = divergence(path, c, True)
            stop = int(along.argmin())
            schedules = {
                **dict(zip(families, starts, strict=True)),
                "KL optimum": least(lambda s, c=c: divergence(s, c, True), starts),
                "KLUB optimum": least(lambda s, c=c: klub(s, c), starts),
                f"descent, best of {len(path) - 1} sweeps: {stop}": path[stop],
            }
            curves[f"c = {c:g}, {n} steps"] = {
                "KL": along.tolist(),
                "KLUB": klub(path, c).tolist(),
                "least KL": [divergence(schedules["KL optimum"], c, True).item()] * len(path),
            }
            for name, s in schedules.items():
                lines.append(
                    [f"{c:g}", str(n), name, *(f"{f.item():.3e}" for f in (divergence(s, c, True), klub(s, c)))]
                )
    (FOLDER / "descent.png").write_bytes(drawn(curves))
    return markdown_lines(["c", "steps", "schedule", "KL", "KLUB"], lines, left=3)


def drawn(curves: dict[str, dict[str, list[float]]]) -> bytes:
    """KL and KLUB against sweep, a panel for each data width and step count."""
    figure, axes = panels(list(curves), (3.8, 2.8))
    style = looks(list(next(iter(curves.values()))))
    for axis, lines in zip(axes, curves.values(), strict=True):
        for name, values in lines.items():
            axis.plot(values, style[name].dashes, color=style[name].colour, label=name)
        axis.set(xlabel="sweeps from EDM's schedule", yscale="log")
    axes[0].legend(frameon=False, fontsize=8)
    return to_png(figure)


def main() -> None:
    torch.set_default_dtype(torch.float64)
    print(f"**Theorem 3.1**: Euler on the probability-flow ODE, t from {T_MAX:g} to {T_MIN:g}\n")
    print(theorem())
    print("\n**Stochastic-DDIM**: nats per dimension\n")
    print(optima())


if __name__ == "__main__":
    main()
