"""Bayesian optimisation of the gaps, in the manner of OYS (arXiv:2608.18040)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optsteps.methods.base import Method, Orders, SearchProblem, checked_orders
from optsteps.methods.blackbox.search import BlackBox
from optsteps.methods.blackbox.spaces import Space, at_share, share_of
from optsteps.methods.blackbox.step_orders import gaps
from optsteps.methods.blackbox.trials import Trials
from optsteps.schedules import Schedule

# points of which the one of most expected improvement is asked for: spread over the box, and about the best so far
_SPREAD, _NEAR, _BEST, _DISTANCE = 2048, 1024, 5, 0.05
# the least noise of a value, in standard deviations of all values: of a figure that is exact
_LEAST_NOISE = 1e-3


class Bayesian(BlackBox):
    """A Gaussian process over the box (Matern 5/2, a length for every number), and expected improvement in batches.

    The noise of a value is the figure's own: the standard error of its paired difference to the first candidate's. The
    improvement is expected over the best posterior mean among what was asked, since the least measured number is partly
    luck. A batch is chosen one by one: the process is told its own mean for those that are chosen already (Ginsbourger
    et al. 2010, "kriging believer"). The first rounds, which ask for twice as many points as the box has dimensions,
    take Sobol points of the box.

    Needs scikit-learn (`pip install optsteps[blackbox]`).

    Args:
        criterion, pool, free_ends, rounds, seed, max_batch: see `BlackBox`.
        orders: "fixed": the solver's own. "chosen": those of the steps are searched too (`StepOrders`).
        batch: schedules that a round asks for.

    Raises:
        ValueError: a batch below 1; otherwise as `BlackBox`.
        ImportError: scikit-learn is not installed.
    """

    def __init__(
        self,
        criterion: str,
        pool: Mapping[str, Method],
        free_ends: bool = True,
        orders: Orders = "fixed",
        rounds: int = 24,
        batch: int = 4,
        seed: int = 0,
        max_batch: int = 512,
    ) -> None:
        super().__init__(criterion, pool, free_ends, rounds, seed, max_batch)
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.batch, self.orders = batch, checked_orders(orders)

    @property
    def asked_per_round(self) -> int:
        return self.batch

    def space(self, problem: SearchProblem, steps: int, candidates: Sequence[Schedule]) -> Space:
        return gaps(problem, steps, self.free_ends, self.orders, candidates)

    def ask(self, space: Space, trials: Trials, number: int) -> Tensor:
        size, before = len(space.lower), number * self.batch
        sobol = torch.quasirandom.SobolEngine(size, scramble=True, seed=self.seed)
        if before < 2 * size:
            return at_share(sobol.fast_forward(before).draw(self.batch, dtype=torch.float64), space)
        rng = np.random.default_rng([self.seed, number])
        told, values, noise = _finite(share_of(trials.numbers, space).numpy(), trials)
        process = _fitted(told, values, noise, self.seed)
        spread = sobol.fast_forward(2 * size).draw(_SPREAD, dtype=torch.float64).numpy()
        spread = (spread + rng.random(size)) % 1  # another shift in every round
        chosen = list[np.ndarray]()
        for _ in range(self.batch):
            means = process.predict(told)
            best = told[np.argsort(means)[:_BEST]]
            near = best[rng.integers(len(best), size=_NEAR)] + _DISTANCE * rng.standard_normal((_NEAR, size))
            points = np.concatenate([spread, near.clip(0, 1)])
            mean, deviation = process.predict(points, return_std=True)
            chosen.append(points[np.argmax(_expected_improvement(means.min() - mean, deviation))])
            told = np.concatenate([told, chosen[-1][None]])
            values = np.append(values, process.predict(chosen[-1][None]))
            noise = np.append(noise, np.median(noise))
            process = _refitted(process, told, values, noise)
        return at_share(torch.from_numpy(np.stack(chosen)), space)

    def ranked(self, space: Space, trials: Trials) -> list[int]:
        """By the posterior mean, in which neighbours vouch for each other."""
        told, values, noise = _finite(share_of(trials.numbers, space).numpy(), trials)
        means = _fitted(told, values, noise, self.seed).predict(told)
        return [k for k in np.argsort(means, kind="stable").tolist() if trials.values[k].isfinite()]


def _finite(shares: np.ndarray, trials: Trials) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares, values in units of their spread, and variances of their noise. Values that are not finite, or far worse
    than the rest, say no more than that they are bad."""
    values, errors = trials.values.numpy().copy(), trials.errors.numpy().copy()
    finite = np.isfinite(values)
    quartiles = np.quantile(values[finite], [0.25, 0.5, 0.75])
    worst = quartiles[2] + 3 * (quartiles[2] - quartiles[0])
    values = np.where(finite, np.minimum(values, worst), worst)
    scale = values.std() or 1.0
    errors = np.where(np.isfinite(errors), errors, 0.0) / scale
    return shares, (values - quartiles[1]) / scale, errors**2 + _LEAST_NOISE**2


def _fitted(shares: np.ndarray, values: np.ndarray, noise: np.ndarray, seed: int) -> Any:
    """The Gaussian process of most likely lengths and amplitude."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    lengths = Matern(np.full(shares.shape[1], 0.5), (0.05, 20.0), nu=2.5)
    kernel = ConstantKernel(1.0, (0.05, 50.0)) * lengths
    process = GaussianProcessRegressor(kernel, alpha=noise, n_restarts_optimizer=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is one that does not matter
        return process.fit(shares, values)


def _refitted(process: Any, shares: np.ndarray, values: np.ndarray, noise: np.ndarray) -> Any:
    """The process of the same lengths with more values."""
    from sklearn.gaussian_process import GaussianProcessRegressor

    return GaussianProcessRegressor(process.kernel_, alpha=noise, optimizer=None).fit(shares, values)


def _expected_improvement(gain: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    from scipy.stats import norm

    deviation = np.maximum(deviation, 1e-12)
    return gain * norm.cdf(gain / deviation) + deviation * norm.pdf(gain / deviation)
