"""Fingerprints of denoisers and solvers: digests of their outputs on fixed inputs, and of the tensors they hold.

No list of files determines a model: its code may read weights, other modules and the environment as it likes. Its
outputs and the tensors that it holds in memory can be looked at.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optsteps.conditions import Cond, fingerprint
from optsteps.denoisers import Denoiser, expand, in_batches
from optsteps.noise import unit_noise
from optsteps.processes import Process
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver
from optsteps.storage.sources import code_facts, is_local

# samples of the probe: several, so that several conditions are among them, but a batch that every machine has room for
PROBES = 8
_TIMES = 4
# seeds of their clean part and of their noise
_CLEAN, _NOISE = 0, 1
# noise levels in the place of a range's ends: of an infinite one, where inner times are chosen, and of 0, where no
# denoiser is evaluated
_LARGE, _SMALL = 100.0, 1e-3
# types that hold no tensor of the thing itself
_PLAIN = (str, bytes, int, float, complex, type, ModuleType, CodeType, type(None))


def probe_inputs(
    process: Process, shape: Sequence[int], time_range: tuple[float, float], cond_of: Callable[[range], Cond]
) -> tuple[Tensor, Tensor, Cond]:
    """Inputs x [8, *shape] (float32), t [8] (float64) and cond on which all denoisers of a kind are compared.

    Sample k has the condition of the run's sample k. Times are both ends of the range (at the clean end a time shortly
    before it) and two between them, evenly in the logarithm of the noise level, and follow each other, so that a batch
    holds different ones. x is
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
    if low == 0:
        low = min(_SMALL, high / 2)
        ends[1] = process.time_of_noise_level(low)
    levels = torch.logspace(math.log10(high), math.log10(low), _TIMES, dtype=torch.float64)
    t = torch.cat([ends[:1], process.time_of_noise_level(levels[1:-1]), ends[1:]]).repeat(PROBES // _TIMES)
    clean, noise = (unit_noise(seed, range(PROBES), shape) for seed in (_CLEAN, _NOISE))
    x = expand(process.alpha(t), clean) * clean / 2 + expand(process.sigma(t), noise) * noise
    return x, t, cond_of(range(PROBES))


def probed(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond, max_batch: int = PROBES) -> Tensor:
    """D(x [B, ...], t [B], cond) in batches of at most `max_batch`, without a graph."""
    with torch.no_grad():
        return in_batches(denoiser, x, t.to(x.device), cond, max_batch)


def fingerprint_outputs(outputs: Tensor) -> str:
    """Digest of a denoiser's outputs on the probe's inputs.

    It is of their bits. Rounded values would not agree more often where two runs of a network differ in their last
    digits, because one of thousands always lies at an edge, and would hide a small change of the model.
    """
    return fingerprint(outputs)[:32]


def fingerprint_held(thing: Any, read: dict[int, tuple[Any, str]] | None = None) -> str:
    """Digest of all tensors and arrays that a thing holds, in whatever order: parameters and buffers, attributes, the
    variables that functions close over, and the globals that a user's functions name.

    So weights count that no probe reaches, such as the embedding of a class, and they count as they are in memory.

    Args:
        read: tensors and their digests by id, of other things that may hold the same; it is added to.
    """
    read = {} if read is None else read
    seen: set[int] = set()
    digests: set[str] = set()
    waiting = [thing]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, _PLAIN):
            continue
        seen.add(id(part))
        if type(part) in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
            # its values wait elsewhere, held by whatever fetches them
            if part.is_meta or part.untyped_storage().nbytes() < part.nbytes:
                continue
            if id(part) not in read:
                # of a copy: memory that NumPy has seen cannot be given up by `fully_shard`, which gathers weights there
                read[id(part)] = (part, fingerprint(part.to("cpu", copy=True)))
            digests.add(read[id(part)][1])
        elif isinstance(part, np.ndarray) and part.dtype != object:
            digests.add(fingerprint(torch.from_numpy(np.ascontiguousarray(part).reshape(-1).view(np.uint8))))
        elif isinstance(part, FunctionType):
            waiting += [part.__closure__, part.__defaults__, part.__kwdefaults__, part.__dict__]
            if is_local(part.__module__):
                waiting += [part.__globals__.get(name) for name in part.__code__.co_names]
        elif not (isinstance(part, dict) and "__builtins__" in part):  # a module's globals
            waiting += gc.get_referents(part)
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:32]


def plain_settings(thing: Any) -> dict[str, str]:
    """The attributes of a thing that are JSON data or dataclasses of it, as text: JSON has no infinite numbers."""

    def as_data(value: Any) -> Any:
        if not is_dataclass(value):
            raise TypeError("no JSON data")
        return [type(value).__qualname__, {field.name: getattr(value, field.name) for field in fields(value)}]

    settings = {}
    for name, value in getattr(thing, "__dict__", {}).items():
        with suppress(TypeError, ValueError):  # it holds other things
            settings[name] = json.dumps(value, sort_keys=True, default=as_data)
    return settings


def solver_facts(solver: Solver, schedule: Schedule, noise: Tensor) -> dict[str, Any]:
    """Facts that determine a solver's steps on `schedule`, as JSON data.

    A user's solver is also represented by the states of its walk with the exact denoiser of data that are -1 or 1
    everywhere, D = tanh(alpha x / sigma^2), for two samples like `noise` [B, ...].
    """
    module = type(solver).__module__
    facts: dict[str, Any] = {"source": code_facts([module])}
    if module.startswith("optsteps."):
        return {**solver.facts, **facts}

    def two_points(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        alpha, sigma = schedule.process.alpha(t), schedule.process.sigma(t)
        return torch.tanh(expand(alpha / sigma**2, x) * x)

    x = unit_noise(_NOISE, range(2), noise.shape[1:]).to(noise)
    walk = sample(two_points, schedule, solver, x, return_trajectory=True)
    return {**plain_settings(solver), "held": fingerprint_held(solver), "walk": fingerprint(walk.detach()), **facts}
