"""TORS: steps of constant total rotation along the teacher's curve (arXiv:2603.00763)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optsteps.methods.base import SearchProblem
from optsteps.methods.monitors.base import TeacherTableMonitor, flow_clock
from optsteps.methods.monitors.curvature import acceleration
from optsteps.methods.paths.base import flow_coordinates
from optsteps.methods.paths.teacher_table import TeacherTable

# squared extent of a curve off a line, relative to that along it, which is taken for rounding
_STRAIGHT = 1e-12


class TORS(TeacherTableMonitor):
    """Equal angles of rotation of the moving frame: Theta = integral of sqrt(kappa^2 + tau^2) ds.

    Every sample's curve of states is reduced to its first three principal components. Its curvature kappa and torsion
    tau at a state come from the derivatives of a cubic in arc length s, fitted by least squares to the states around
    it. kappa, |tau| and the arc lengths of the intervals are averaged over samples, index by index. (A torsion has no
    sign here, because the principal components have none.) The authors take 100 samples and 100 Euler steps on the
    model's own times, and windows of a tenth of the steps.

    The coordinates are a flow's, x / (alpha + sigma): the model's own under a flow, as the authors have it, and finite
    for every process. Torsion is the noisy part, and stands for much of the angle where a curve is nearly straight. The
    rotation does not see how fast a curve is run through. Where no curve rotates, as with one Gaussian around 0 or in
    one dimension, the density is that of `Curvature` in flow coordinates without smoothing.

    Args:
        window: share of a flow's time whose states a cubic is fitted to; at least the 7 nearest states.
        max_batch, shard_size, channels, frames: see `TeacherTableMethod`.

    Raises:
        ValueError: a window that is not above 0 and at most 1; in `check` as `TeacherTableMonitor`.
    """

    name = "tors"

    def __init__(
        self,
        window: float = 0.1,
        max_batch: int = 512,
        shard_size: int = 64,
        channels: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> None:
        super().__init__(max_batch, shard_size, channels, frames)
        if not 0 < window <= 1:
            raise ValueError(f"window must be a share of the clock, above 0 and at most 1, got {window}")
        self.window = window

    def profile(self, problem: SearchProblem, table: TeacherTable) -> dict[str, Tensor]:
        rows = table.states() / flow_coordinates(table.process, table.times)[:, None]
        points = principal_components(rows - rows.mean(0), table.products)
        near = neighbourhoods(flow_clock(table.process, table.times), self.window)
        length, curvature, torsion = rotation(points, near)
        return {
            "length": length.sum(0),
            "curvature": curvature.sum(0),
            "torsion": torsion.abs().sum(0),
            "acceleration": acceleration(table, "flow"),
        }

    def increments(self, problem: SearchProblem, profile: dict[str, Tensor]) -> Tensor:
        rate = torch.hypot(profile["curvature"], profile["torsion"])
        angles = (rate[1:] + rate[:-1]) / 2 * profile["length"]
        if bool((angles > 0).any()):
            return angles
        clock = flow_clock(problem.process, problem.teacher.times)
        unknown = angles.new_full((1,), torch.nan)
        return torch.cat([profile["acceleration"].sqrt() * clock[:-1].diff().abs(), unknown])


def principal_components(rows: Tensor, products: Tensor) -> Tensor:
    """Points [B, n, 3] of curves in their first three principal components, without those that are but rounding.

    Args:
        rows: coefficients [n, K] of the points, whose mean is 0.
        products: [B, K, K], the basis vectors' products.
    """
    values, vectors = torch.linalg.eigh(torch.stack([rows @ product @ rows.T for product in products]))
    values, vectors = values[:, -3:].flip(1), vectors[..., -3:].flip(2)
    values = values.masked_fill(values <= _STRAIGHT * values[:, :1], 0.0)
    return vectors * values.clamp(min=0).sqrt()[:, None]


def rotation(points: Tensor, near: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Arc lengths [B, n-1] of the intervals, curvature and torsion [B, n] of curves of the points [B, n, 3].

    At every point a cubic through it is fitted to those that are near, boolean [n, n]. Torsion is 0 where there is no
    curvature.
    """
    length = points.diff(dim=1).norm(dim=2)
    arc = torch.cat([length.new_zeros(len(points), 1), length.cumsum(1)], 1)
    offset = (arc[:, None] - arc[..., None]) * near
    # in units of the window's extent, so that the powers are of one size
    unit = offset.abs().amax(2, keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)
    share = offset / unit
    powers = torch.stack([share, share**2 / 2, share**3 / 6], 2)  # 0 where not near
    inverse = torch.linalg.pinv(powers @ powers.mT, hermitian=True, rtol=1e-12)
    solved = inverse @ (powers @ points[:, None] - powers.sum(3, keepdim=True) * points[:, :, None])
    first, second, third = (solved[:, :, k] / unit ** (k + 1) for k in range(3))
    normal = torch.linalg.cross(first, second)
    # r' has length 1 in arc length; to divide by the fitted one's would let a cusp stand for any number of turns
    curvature = normal.norm(dim=2)
    torsion = _ratio((normal * third).sum(2), curvature.square())
    return length, curvature, torsion.masked_fill(curvature * arc[:, -1:] < 1e-6, 0.0)


def neighbourhoods(clock: Tensor, window: float) -> Tensor:
    """Boolean [n, n], which points of the clock [n] are in the window around each, a share of the clock's extent: at
    least the 7 nearest."""
    apart = (clock[:, None] - clock).abs()
    nearest = apart.topk(min(7, len(clock)), dim=1, largest=False).values[:, -1:]
    return apart <= torch.maximum(nearest, window / 2 * (clock[0] - clock[-1]).abs())


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0)
