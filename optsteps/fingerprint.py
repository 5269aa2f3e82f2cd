"""What a thing does, as a digest: the outputs of a denoiser on fixed inputs, and the tensors that it holds.

No list of files says what determines a model: its code may read weights, other modules and the environment as it likes.
What it answers and what it holds in memory are there to be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from optsteps.conditions import Cond, fingerprint, take
from optsteps.denoisers import Denoiser, expand
from optsteps.noise import unit_noise
from optsteps.processes import Process

# samples of the probe: several, so that several conditions are among them, but a batch that every machine has room for
PROBES = 8
_TIMES = 4
# seeds of their clean part and of their noise
_CLEAN, _NOISE = 0, 1
# the largest noise level among the inner times, where the range's own is infinite
_LARGE = 100.0


def probe_inputs(
    process: Process, shape: Sequence[int], time_range: tuple[float, float], cond_of: Callable[[range], Cond]
) -> tuple[Tensor, Tensor, Cond]:
    """Inputs x [8, *shape] (float32), t [8] (float64) and cond on which every denoiser of a kind is looked at.

    Sample k has the condition of the run's sample k. Times are both ends of the range and two between them, evenly in
    the logarithm of the noise level, and follow each other, so that a batch holds different ones. x is
    alpha(t) x_0 + sigma(t) eps with Gaussian x_0 of standard deviation 0.5. Tensors are on the CPU, cond where
    `cond_of` leaves it.

    Args:
        process: the denoiser's.
        shape: of one sample.
        time_range: the largest and the smallest time at which it is called.
        cond_of: the condition of the samples with these numbers.
    """
    ends = torch.tensor(time_range, dtype=torch.float64)
    high, low = process.noise_level(ends).tolist()
    high = high if math.isfinite(high) else max(_LARGE, 2 * low)
    times = process.time_of_noise_level(torch.logspace(math.log10(high), math.log10(low), _TIMES, dtype=torch.float64))
    times[0], times[-1] = ends
    t = times.repeat(PROBES // _TIMES)
    clean, noise = (unit_noise(seed, range(PROBES), shape) for seed in (_CLEAN, _NOISE))
    x = expand(process.alpha(t), clean) * clean / 2 + expand(process.sigma(t), noise) * noise
    return x, t, cond_of(range(PROBES))


def probed(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond, max_batch: int = PROBES) -> Tensor:
    """D(x [B, ...], t [B], cond) in batches of at most `max_batch`, without a graph."""
    parts = (slice(k, k + max_batch) for k in range(0, len(x), max_batch))
    with torch.no_grad():
        return torch.cat([denoiser(x[part], t[part].to(x.device), take(cond, part)) for part in parts])


def fingerprint_outputs(outputs: Tensor) -> str:
    """Digest of a denoiser's outputs on the probe's inputs.

    It is of their bits. Rounded values would not agree more often where two runs of a network differ in their last
    digits, because one of thousands always lies at an edge, and would hide a small change of the model.
    """
    return fingerprint(outputs)[:32]
