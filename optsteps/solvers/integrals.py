"""Integrals over a step, of which exponential integrators and Adams-Bashforth weights are made."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from optsteps.processes import Process

# Gauss-Legendre quadrature on [0, 1]: nodes and weights
_POINTS, _SHARES = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(24))
QUADRATURE = ((_POINTS + 1) / 2, _SHARES / 2)


def phi(k: int, z: Tensor) -> Tensor:
    """The exponential integrators' phi_k(z) = integral over [0, 1] of e^((1 - s) z) s^(k-1) / (k-1)! ds, k >= 1.

    By quadrature, exact to rounding for |z| < 30, where the closed forms lose all digits as z goes to 0.
    """
    nodes, weights = (part.to(z.device) for part in QUADRATURE)
    return (torch.exp((1 - nodes) * z[..., None]) * (weights * nodes ** (k - 1))).sum(-1) / math.factorial(k - 1)


def log_snr_steps(process: Process, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """alpha(t_next) [...], h [...] and h_k / h [..., m-1] for times [..., m+1] = (t_next, t, t_1, ...)."""
    log_snr = process.log_snr(times)
    h = log_snr[..., 0] - log_snr[..., 1]
    return process.alpha(times[..., 0]), h, (log_snr[..., 1:2] - log_snr[..., 2:]) / h[..., None]
