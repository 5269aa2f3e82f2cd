"""Distributions with exact denoiser, score and noisy log-density: the truth that tests compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.denoisers import Denoiser
from optsteps.processes import Process, as_times

# float64, because a list must not pass through float32
Numbers = Tensor | Sequence[float] | Sequence[Sequence[float]]


class GaussianMixture:
    """A mixture of isotropic Gaussians in d dimensions.

    Under x_t = alpha x_0 + sigma eps it stays one, with means alpha m_k and variances v_k = alpha^2 s_k^2 + sigma^2.

    Args:
        means: [K, d].
        stds: [K], non-negative (0 is a point).
        weights: [K], positive; normalised here. None for equal ones.

    Raises:
        ValueError: shapes that do not fit, no component, numbers that are not finite, negative stds or non-positive
            weights.
    """

    def __init__(self, means: Numbers, stds: Numbers, weights: Numbers | None = None) -> None:
        self.means = torch.as_tensor(means, dtype=torch.float64)
        self.stds = torch.as_tensor(stds, dtype=torch.float64)
        count = len(self.means)
        self.weights = torch.ones(count).double() if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        if self.means.ndim != 2 or count == 0 or self.stds.shape != (count,) or self.weights.shape != (count,):
            raise ValueError(
                f"a mixture needs means [K, d], stds [K] and weights [K]; got {tuple(self.means.shape)}, "
                f"{tuple(self.stds.shape)} and {tuple(self.weights.shape)}"
            )
        if not all(bool(part.isfinite().all()) for part in (self.means, self.stds, self.weights)):
            raise ValueError("means, stds and weights of a mixture must be finite")
        if bool((self.stds < 0).any()) or bool((self.weights <= 0).any()):
            raise ValueError("stds must be non-negative and weights positive")
        self.weights = self.weights / self.weights.sum()

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n samples, float64 [n, d]."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        eps = torch.randn(n, self.dimension, dtype=torch.float64, generator=generator)
        return self.means[component] + self.stds[component, None] * eps

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of clean samples x [B, d] -> [B], nats."""
        return self._log_joint(x, as_times(1.0), as_times(0.0)).logsumexp(1)

    def noisy_log_prob(self, process: Process, x: Tensor, t: Tensor) -> Tensor:
        """Log-density of x_t [B, d] at times t (scalar or [B]) -> [B], nats."""
        return self._log_joint(x, process.alpha(t), process.sigma(t)).logsumexp(1)

    def score(self, process: Process, x: Tensor, t: Tensor) -> Tensor:
        """Gradient of the noisy log-density with respect to x [B, d] -> [B, d]."""
        alpha, sigma = process.alpha(t), process.sigma(t)
        responsibility = self._log_joint(x, alpha, sigma).softmax(1)
        means, variances = self._noisy(x, alpha, sigma)
        return (responsibility[..., None] * (means - x[:, None]) / variances[..., None]).sum(1)

    def denoiser(self, process: Process) -> Denoiser:
        """The exact D(x, t) = E[x_0 | x_t = x] under `process`, at every time, a flow's t = 1 included."""

        def denoise(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            alpha, sigma = process.alpha(t), process.sigma(t)
            responsibility = self._log_joint(x, alpha, sigma).softmax(1)
            noisy_means, variances = self._noisy(x, alpha, sigma)
            # the posterior mean of component k is m_k + alpha s_k^2 / v_k (x - alpha m_k)
            gain = (alpha.reshape(-1, 1) * self.stds**2).to(x) / variances
            posterior_means = self.means.to(x) + gain[..., None] * (x[:, None] - noisy_means)
            return (responsibility[..., None] * posterior_means).sum(1)

        return denoise

    def _noisy(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Means [B or 1, K, d] and variances [B or 1, K] of the noisy components, in the dtype of x."""
        alpha, sigma = alpha.reshape(-1, 1), sigma.reshape(-1, 1)
        means = alpha[..., None] * self.means.to(alpha.device)
        variances = (alpha * self.stds.to(alpha.device)) ** 2 + sigma**2
        return means.to(x), variances.to(x)

    def _log_joint(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log weight_k + log N(x; component k) [B, K]."""
        means, variances = self._noisy(x, alpha, sigma)
        squares = ((x[:, None] - means) ** 2).sum(-1) / variances
        return self.weights.log().to(x) - 0.5 * (squares + self.dimension * (2 * math.pi * variances).log())


class Gaussian(GaussianMixture):
    """An isotropic Gaussian N(mean, std^2) in d dimensions.

    Args:
        mean: [d].
        std: positive.
    """

    def __init__(self, mean: Numbers, std: float) -> None:
        super().__init__(torch.as_tensor(mean, dtype=torch.float64)[None], [std])

    def flow_map(self, process: Process, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """The exact solution at t_next of the probability-flow ODE from x [B, d] at t: deviations from the mean keep
        their size in units of the noisy standard deviation sqrt(alpha^2 std^2 + sigma^2)."""

        def moments(time: Tensor) -> tuple[Tensor, Tensor]:
            alpha, sigma = process.alpha(time), process.sigma(time)
            return alpha * self.means[0], torch.sqrt((alpha * self.stds[0]) ** 2 + sigma**2)

        (mean, std), (mean_next, std_next) = moments(t), moments(t_next)
        return (mean_next + std_next / std * (x.double() - mean)).to(x)
