"""Noising processes x_t = alpha(t) x_0 + sigma(t) eps, and the inverses of their clocks.

Nothing else in the package knows these formulas. A time is the model's own clock; every function takes a float or a
tensor of any shape, computes in float64, is differentiable and returns a tensor of the same shape on the same device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

Times = float | Sequence[float] | Tensor


def as_times(t: Times) -> Tensor:
    """`t` as a float64 tensor; gradients pass through."""
    return torch.as_tensor(t, dtype=torch.float64)


class Process(ABC):
    """A noising path. Times run from `t_clean` (noise level 0) up to `t_limit` (inclusive where finite)."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def t_clean(self) -> float:
        """The time of noise level 0: allowed as a schedule's last time, never evaluated."""

    @property
    @abstractmethod
    def t_limit(self) -> float:
        """The largest time; infinite where the process has none."""

    @property
    def t_finite(self) -> float:
        """The largest timestep of models whose noise level is finite.

        It is `t_limit`, except where alpha is 0 there, as at a flow's t = 1.
        """
        return self.t_limit

    @property
    def t_positive(self) -> float:
        """The smallest timestep of models whose noise level is positive; `t_clean` where there is no such custom."""
        return self.t_clean

    @abstractmethod
    def alpha(self, t: Times) -> Tensor:
        """Factor of the clean sample."""

    @abstractmethod
    def sigma(self, t: Times) -> Tensor:
        """Factor of the unit Gaussian noise."""

    @abstractmethod
    def noise_level(self, t: Times) -> Tensor:
        """sigma / alpha, Karras' sigma: 0 at `t_clean`, infinite where alpha is 0."""

    @abstractmethod
    def time_of_noise_level(self, noise_level: Times) -> Tensor:
        """Inverse of `noise_level`.

        Raises:
            ValueError: a level is negative, NaN or beyond the process's range.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Everything `process_from_dict` needs to rebuild the process exactly, as JSON data."""

    def log_snr(self, t: Times) -> Tensor:
        """lambda = log(alpha / sigma): +inf at `t_clean`, -inf where alpha is 0."""
        return -torch.log(self.noise_level(t))

    def time_of_log_snr(self, log_snr: Times) -> Tensor:
        """Inverse of `log_snr`."""
        return self.time_of_noise_level(torch.exp(-as_times(log_snr)))

    def time_range(self, noise_max: float, noise_min: float) -> tuple[float, float]:
        """The times of the largest and the smallest noise level of a model, as far as the process reaches.

        Raises:
            ValueError: a level is negative, NaN or beyond the process's range, or the largest is no larger than the
                smallest.
        """
        if noise_max <= noise_min:
            raise ValueError(
                f"the noise levels of a model are the largest and then the smallest, got {noise_max:g} and "
                f"{noise_min:g}: give them in that order"
            )
        if self.t_clean < 0:  # VP has a least and a greatest positive noise level
            least, greatest = self.noise_level([0.0, self.t_limit]).tolist()
            noise_max, noise_min = min(noise_max, greatest), max(noise_min, least)
        t_max, t_min = self.time_of_noise_level([noise_max, noise_min]).tolist()
        return t_max, t_min

    def prior_std(self, t: Times) -> Tensor:
        """The scale of the noise that sampling starts from at t."""
        return self.sigma(t)

    def contains(self, t: Times) -> Tensor:
        """Whether each t is a time of the process, `t_clean` included; booleans of the shape of t."""
        t = as_times(t)
        return torch.isfinite(t) & (t >= self.t_clean) & (t <= self.t_limit)


# so many betas, if they fall all along, are no betas
_MANY = 10


def _check_levels(noise_level: Tensor, low: float, high: float) -> None:
    bad = ~((noise_level >= low) & (noise_level <= high))
    if bool(bad.any()):
        raise ValueError(
            f"noise level {noise_level[bad].flatten()[0].item():g} is outside this process's range "
            f"[{low:g}, {high:g}]; choose a level inside it"
        )


@dataclass(frozen=True)
class EDM(Process):
    """alpha = 1, sigma = t (Karras et al., arXiv:2206.00364): a time *is* a noise level."""

    name: ClassVar[str] = "edm"
    t_clean: float = field(default=0.0, init=False, repr=False)
    t_limit: float = field(default=float("inf"), init=False, repr=False)

    def alpha(self, t: Times) -> Tensor:
        return torch.ones_like(as_times(t))

    def sigma(self, t: Times) -> Tensor:
        return as_times(t)

    def noise_level(self, t: Times) -> Tensor:
        return as_times(t)

    def time_of_noise_level(self, noise_level: Times) -> Tensor:
        level = as_times(noise_level)
        _check_levels(level, 0.0, torch.finfo(torch.float64).max)
        return level

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name}


@dataclass(frozen=True)
class Flow(Process):
    """alpha = 1 - t, sigma = t, t in [0, 1] (rectified flow). At t = 1 the noise level is infinite."""

    name: ClassVar[str] = "flow"
    t_clean: float = field(default=0.0, init=False, repr=False)
    t_limit: float = field(default=1.0, init=False, repr=False)
    t_finite: float = field(default=0.999, init=False, repr=False)
    t_positive: float = field(default=0.001, init=False, repr=False)

    def alpha(self, t: Times) -> Tensor:
        return 1 - as_times(t)

    def sigma(self, t: Times) -> Tensor:
        return as_times(t)

    def noise_level(self, t: Times) -> Tensor:
        t = as_times(t)
        return t / (1 - t)

    def time_of_noise_level(self, noise_level: Times) -> Tensor:
        level = as_times(noise_level)
        _check_levels(level, 0.0, float("inf"))
        return 1 / (1 + 1 / level)

    def log_snr(self, t: Times) -> Tensor:
        t = as_times(t)
        return torch.log1p(-t) - torch.log(t)

    def time_of_log_snr(self, log_snr: Times) -> Tensor:
        log_snr = as_times(log_snr)
        _check_levels(torch.exp(-log_snr), 0.0, float("inf"))  # refuses NaN
        return torch.sigmoid(-log_snr)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name}


class VP(Process):
    """The variance-preserving process of a discrete DDPM, alpha^2 + sigma^2 = 1.

    A time is the model's timestep 0 ... T-1 (Ho et al., arXiv:2006.11239), made continuous by interpolating the log
    noise level linearly between timesteps, the convention of diffusers' schedulers. Time -1 stands for noise level 0:
    it is allowed as a schedule's last time, and nothing lies between -1 and 0.

    Under zero terminal SNR (Lin et al., arXiv:2305.08891) the last timestep has alpha 0 and an infinite noise level, as
    t = 1 has under a flow; before it, from T-2 on, alpha / sigma falls linearly to 0.
    """

    name: ClassVar[str] = "vp"
    t_clean: float = -1.0
    t_positive: float = 0.0

    def __init__(self, log_noise_levels: Times) -> None:
        """Use `VP.from_betas`. `log_noise_levels`: [T], log(sigma / alpha) at the integer timesteps, increasing; the
        last may be infinite.

        Raises:
            ValueError: fewer than two levels, or not finite and strictly increasing.
        """
        levels = as_times(log_noise_levels).detach().cpu().clone()
        if levels.ndim != 1 or len(levels) < 2:
            raise ValueError(f"a VP process needs a list of at least 2 noise levels, got shape {tuple(levels.shape)}")
        if not bool(torch.isfinite(levels[:-1]).all()) or not bool((levels.diff() > 0).all()):
            raise ValueError(
                "the noise levels of a VP process must be finite and strictly increasing (the last may be infinite: "
                "zero terminal SNR); betas must lie strictly between 0 and 1"
            )
        self._log_levels = levels

    @property
    def t_limit(self) -> float:
        """The last timestep, T - 1."""
        return float(len(self._log_levels) - 1)

    @property
    def t_finite(self) -> float:
        return self.t_limit if math.isfinite(self._log_levels[-1]) else self.t_limit - 1

    @classmethod
    def from_betas(cls, betas: Times) -> VP:
        """From the [T] noise variances beta_t of a DDPM, each strictly between 0 and 1.

        The last may be 1, for zero terminal SNR.

        Raises:
            ValueError: no numbers, one out of range, or ten and more that fall all along, as alphas_cumprod do.
        """
        if isinstance(betas, str):
            raise ValueError(f"betas are numbers, got {betas!r}: VP.linear() and VP.scaled_linear() make usual ones")
        betas = as_times(betas).detach().cpu()
        bad = ~((betas > 0) & (betas < 1))
        if betas.numel() > 1 and betas.flatten()[-1] == 1:
            bad.view(-1)[-1] = False
        if bool(bad.any()):
            step = int(bad.flatten().nonzero()[0])
            raise ValueError(
                f"beta {betas.flatten()[step].item():g} at timestep {step} is not strictly between 0 and 1"
            )
        if len(betas) >= _MANY and bool((betas.diff() < 0).all()):
            raise ValueError(
                f"the betas fall from {betas[0].item():g} to {betas[-1].item():g}, and those of a DDPM grow: give them "
                "from the cleanest timestep on; of alphas_cumprod take "
                "VP.from_log_alpha_bar(alphas_cumprod.double().log())"
            )
        # log alpha_bar as a sum of log1p keeps full precision at the clean end, where alpha_bar is nearly 1
        return cls.from_log_alpha_bar(torch.log1p(-betas).cumsum(0))

    @classmethod
    def from_log_alpha_bar(cls, log_alpha_bar: Times) -> VP:
        """From [T] logarithms of alpha_bar_t = alpha(t)^2, negative and strictly decreasing; the last may be -inf."""
        log_alpha_bar = as_times(log_alpha_bar).detach().cpu()
        return cls(0.5 * (torch.log(-torch.expm1(log_alpha_bar)) - log_alpha_bar))

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, timesteps: int = 1000) -> VP:
        """The betas of Stable Diffusion: linear in sqrt(beta)."""
        return cls.from_betas(torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2)

    @classmethod
    def linear(cls, beta_start: float = 1e-4, beta_end: float = 0.02, timesteps: int = 1000) -> VP:
        """The betas of DDPM (Ho et al. 2020)."""
        return cls.from_betas(torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64))

    def _log_level(self, t: Tensor) -> Tensor:
        """log noise level at times >= 0; times below 0 are clamped, and the caller must mask them."""
        table = self._log_levels.to(t.device)
        below = t.detach().floor().clamp(0, len(table) - 2).long()
        low, high, passed = table[below], table[below + 1], t.clamp(min=0) - below
        if torch.isfinite(table[-1]):
            return torch.lerp(low, high, passed)
        last = ~torch.isfinite(high)  # there alpha / sigma is linear; elsewhere the logarithm that is subtracted is 0
        return torch.lerp(low, torch.where(last, low, high), passed) - torch.log1p(-passed * last)

    def _or_clean(self, t: Tensor, noisy: Tensor, clean: float) -> Tensor:
        return torch.where(t < 0, torch.full_like(noisy, clean), noisy)

    def alpha(self, t: Times) -> Tensor:
        t = as_times(t)
        return self._or_clean(t, torch.sigmoid(-2 * self._log_level(t)).sqrt(), 1.0)

    def sigma(self, t: Times) -> Tensor:
        t = as_times(t)
        return self._or_clean(t, torch.sigmoid(2 * self._log_level(t)).sqrt(), 0.0)

    def noise_level(self, t: Times) -> Tensor:
        t = as_times(t)
        return self._or_clean(t, self._log_level(t).exp(), 0.0)

    def log_snr(self, t: Times) -> Tensor:
        t = as_times(t)
        return self._or_clean(t, -self._log_level(t), float("inf"))

    def time_of_log_snr(self, log_snr: Times) -> Tensor:
        log_level = -as_times(log_snr)
        table = self._log_levels.to(log_level.device)
        clean = log_level == -torch.inf
        # one part in 10^12 of slack: a level computed from t_limit must come back
        slack = 1e-12
        inside = (log_level >= table[0] - slack) & (log_level <= table[-1] + slack)
        _check_levels(log_level[~(inside | clean)].exp(), *table[[0, -1]].exp().tolist())
        below = torch.searchsorted(table, log_level.detach(), right=True).sub(1).clamp(0, len(table) - 2)
        low, high = table[below], table[below + 1]
        passed = torch.where(torch.isfinite(high), (log_level - low) / (high - low), -torch.expm1(low - log_level))
        t = below + passed
        return torch.where(clean, torch.full_like(log_level, self.t_clean), t.clamp(0, self.t_limit))

    def time_of_noise_level(self, noise_level: Times) -> Tensor:
        level = as_times(noise_level)
        _check_levels(level, 0.0, float("inf"))
        return self.time_of_log_snr(-torch.log(level))

    def prior_std(self, t: Times) -> Tensor:
        """1: a VP sample has unit variance at every time, so its noise is not scaled."""
        return torch.ones_like(as_times(t))

    def contains(self, t: Times) -> Tensor:
        t = as_times(t)
        return (t == self.t_clean) | ((t >= 0) & (t <= self.t_limit))

    def to_dict(self) -> dict[str, Any]:
        levels = self._log_levels.tolist()
        return {
            "name": self.name,
            "log_noise_levels": [*levels[:-1], levels[-1] if math.isfinite(levels[-1]) else None],
        }

    def __repr__(self) -> str:
        low, high = self._log_levels[[0, -1]].exp().tolist()
        return f"VP({len(self._log_levels)} timesteps, noise levels {low:g} to {high:g})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VP) and torch.equal(self._log_levels, other._log_levels)

    def __hash__(self) -> int:
        return hash(tuple(self._log_levels[:: max(1, len(self._log_levels) // 8)].tolist()))


def process_from_dict(data: Mapping[str, Any]) -> Process:
    """Inverse of `Process.to_dict`.

    Raises:
        ValueError: the process's name is unknown.
    """
    if data["name"] == EDM.name:
        return EDM()
    if data["name"] == Flow.name:
        return Flow()
    if data["name"] == VP.name:
        *levels, last = data["log_noise_levels"]
        return VP([*levels, math.inf if last is None else last])  # JSON has no infinity
    raise ValueError(f"unknown process {data['name']!r}; known: edm, flow, vp")
