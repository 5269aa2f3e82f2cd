"""Denoisers D(x, t, cond) -> estimate of x_0, from networks of every parameterisation.

A denoiser is any callable `(x: Tensor[B, ...], t: Tensor[B], cond) -> Tensor[B, ...]`; `cond` is None or a nest of
batch-leading tensors. Times arrive in float64; a network is handed at least float32 of them, never half precision.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from optsteps.conditions import Cond, concatenate, form, moved, take
from optsteps.deprecation import old_names
from optsteps.processes import Process
from optsteps.signatures import takes_two


class Denoiser(Protocol):
    """D(x, t, cond): the estimate of x_0 given x_t."""

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor: ...


class ModelError(ValueError):
    """A model fails, or returns something that is no estimate of x_0; one paragraph says when, and what to do."""


class NoPredictionError(ModelError):
    """A model that samples by walks of its own alone was asked for a prediction."""


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient (scalar or [B]) in the dtype and on the device of x, shaped to multiply x [B, ...]."""
    coefficient = coefficient.to(device=x.device, dtype=x.dtype)
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - 1)) if coefficient.ndim else coefficient


def _network_time(t: Tensor, x: Tensor) -> Tensor:
    return t.to(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))


def network_output(network: Callable[..., Tensor], x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """What a network returns; one of two arguments (x, t) is not handed a cond that is None."""
    return network(x, t) if cond is None and takes_two(network) else network(x, t, cond)


# D = c_skip x + c_out output for every prediction of a network, with (c_skip, c_out) functions of (alpha, sigma)
PREDICTIONS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "x0": lambda alpha, sigma: (torch.zeros_like(alpha), torch.ones_like(alpha)),
    # eps = (x - alpha x_0) / sigma (Ho et al., arXiv:2006.11239)
    "eps": lambda alpha, sigma: (1 / alpha, -sigma / alpha),
    # v = alpha eps - sigma x_0 (Salimans & Ho, arXiv:2202.00512)
    "v": lambda alpha, sigma: (alpha / (alpha**2 + sigma**2), -sigma / (alpha**2 + sigma**2)),
    # u = eps - x_0, the velocity of rectified flow (Liu et al., arXiv:2209.03003)
    "velocity": lambda alpha, sigma: (1 / (alpha + sigma), -sigma / (alpha + sigma)),
}


@dataclass(frozen=True)
class NetworkDenoiser:
    """The denoiser of a network that predicts `prediction`: "x0", "eps", "v" or "velocity".

    Args:
        network: (x [B, ...], t [B], cond) -> [B, ...], or of two arguments (x, t) where there is no cond. x is of the
            noise's dtype. Weights of half precision are handed theirs by a function of yours, such as lambda x, t,
            cond: network(x.bfloat16(), t, cond).float().
        process: the noising process the network was trained on.
        prediction: what the network's output estimates.
        time_scale: the network's clock: at time t of the process it is called with time_scale * t. Many flows were
            trained with 1000 t.

    Raises:
        ValueError: unknown prediction, or a time scale that is not positive and finite; at a call, eps-prediction at a
            time where alpha = 0 (a flow's t = 1), or an output that is no tensor of the input's shape.
    """

    network: Callable[..., Tensor]
    process: Process
    prediction: str = "eps"
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction {self.prediction!r}; known: {', '.join(PREDICTIONS)}")
        if not (math.isfinite(self.time_scale) and self.time_scale > 0):
            raise ValueError(
                f"time_scale must be a positive number, got {self.time_scale!r}: 1 for a network that is called at the "
                "process's own times, 1000 for a flow that was trained with 1000 t"
            )

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        if self.prediction == "eps" and bool((alpha == 0).any()):
            raise ValueError(
                f"an eps-prediction says nothing about x_0 at t = {t[alpha == 0].flatten()[0].item():g}, where alpha "
                "is 0: start below it"
            )
        c_skip, c_out = PREDICTIONS[self.prediction](alpha, sigma)
        output = network_output(self.network, x, _network_time(self.time_scale * t, x), cond)
        check_output(output, x, t, "network")
        return expand(c_skip, x) * x + expand(c_out, x) * output


@dataclass(frozen=True)
class EDMDenoiser:
    """The denoiser of an EDM-preconditioned network (Karras et al., arXiv:2206.00364, Table 1), under any process.

    With y = x / alpha and noise level s = sigma / alpha:
    D = c_skip(s) y + c_out(s) F(c_in(s) y, c_noise(s), cond).

    Args:
        network: F, (x [B, ...], c_noise [B], cond) -> [B, ...], or without cond as in `NetworkDenoiser`.
        process: the process to sample under; an EDM network depends on the noise level alone.
        sigma_data: standard deviation of the training data.
    """

    network: Callable[..., Tensor]
    process: Process
    sigma_data: float = 0.5

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        level = self.process.noise_level(t)
        total = level**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        c_out = level * self.sigma_data / total.sqrt()
        c_noise = level.log() / 4
        y = x / expand(self.process.alpha(t), x)
        # 1 / sqrt(total) overflows nothing, but alpha = 0 does: EDM networks are defined at finite noise levels
        output = network_output(self.network, y * expand(total.rsqrt(), x), _network_time(c_noise, x), cond)
        check_output(output, x, t, "network")
        return expand(c_skip, x) * y + expand(c_out, x) * output


@dataclass(frozen=True)
class GuidedDenoiser:
    """Classifier-free guidance (Ho & Salimans, arXiv:2207.12598): D_null + scale (D_cond - D_null), in one batch.

    Linear in D, so the same whether stated for D, eps, v or velocity. Counts 2 network evaluations.

    Args:
        denoiser: takes cond or the null cond.
        scale: guidance scale; 1 is the conditional model (and still costs 2).
        null_cond: cond of the unconditional model, with batch size 1.

    Raises:
        ValueError: at a call, without a cond, or with one of another form than `null_cond`.
    """

    denoiser: Denoiser
    scale: float
    null_cond: Any
    nfe: int = 2

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        if cond is None:
            raise ValueError("guidance weighs a condition against none, so it needs a cond; got None")
        expected = form(take(cond, slice(0, 1)))
        if len(x) and form(self.null_cond) != expected:
            raise ValueError(
                f"null_cond must be the cond of one sample without a condition, of the form {expected} with the batch "
                f"dimension first, as the samples' are; got {form(self.null_cond)}"
            )
        null = concatenate([self.null_cond] * len(x))
        both = self.denoiser(torch.cat([x, x]), torch.cat([t, t]), concatenate([cond, null]))
        check_output(both, torch.cat([x, x]), t, "denoiser")
        conditional, unconditional = both.chunk(2)
        return unconditional + self.scale * (conditional - unconditional)


class DeviceDenoiser:
    """A denoiser evaluated on another device than that of the states.

    So the states of a search that is larger than a GPU's memory can stay on the CPU.

    Args:
        denoiser: on `device`.
        device: where states and cond are brought for a call; the result returns to the device of the states.
    """

    def __init__(self, denoiser: Denoiser, device: torch.device) -> None:
        self.denoiser, self.device = denoiser, device
        self.nfe = call_nfe(denoiser)

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.denoiser(x.to(self.device), t.to(self.device), moved(cond, self.device)).to(x.device)


class CountedDenoiser:
    """A denoiser whose network evaluations are counted and whose outputs are checked.

    Attributes:
        evaluations: network evaluations so far, one per sample (two under classifier-free guidance).
        nfe: network evaluations of one call on one sample.

    Raises:
        ModelError: a denoiser whose `nfe` is no positive integer; at a call, as `evaluate`.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.nfe = call_nfe(denoiser)
        self.evaluations = 0

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        out = evaluate(self.denoiser, x, t, cond)
        self.evaluations += self.nfe * len(x)
        return out


@contextmanager
def counting(denoiser: Denoiser) -> Iterator[CountedDenoiser]:
    """A counter for a part of the work, which starts at 0. When the part is done, its count is added to that of
    `denoiser` where this is a counter too."""
    outer = denoiser if isinstance(denoiser, CountedDenoiser) else None
    counter = CountedDenoiser(denoiser if outer is None else outer.denoiser)
    yield counter
    if outer is not None:
        outer.evaluations += counter.evaluations


def call_nfe(denoiser: Denoiser) -> int:
    """Network evaluations that one call of the denoiser costs for a sample: its attribute `nfe`, 1 without one.

    Raises:
        ModelError: it is no integer of at least 1.
    """
    nfe = getattr(denoiser, "nfe", 1)
    try:
        count = operator.index(nfe)
    except TypeError:
        count = 0
    if count < 1 or isinstance(nfe, bool):
        raise ModelError(
            f"the denoiser's nfe is {nfe!r}; it is how many network evaluations a call costs for each sample, an "
            "integer of at least 1: set it right, or leave it out for 1"
        )
    return count


def evaluate(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
    """D(x [B, ...], t [B], cond), checked to be an estimate of x_0.

    Raises:
        ModelError: the denoiser raised something, its own error being the cause; it returned something else than a
            floating tensor of the shape and on the device of x, or NaN or inf.
    """
    first = f"{t[0].item():g}" if len(t) else "(none)"
    with model_errors(f"called with {len(x)} samples of shape {tuple(x.shape[1:])} at time {first}"):
        out = denoiser(x, t, cond)
    check_output(out, x, t, "denoiser")
    # a sum is finite only if all its terms are, and needs no memory; where it overflowed, look closer
    if not math.isfinite(out.detach().sum()) and not bool(torch.isfinite(out).all()):
        sample = int((~torch.isfinite(out)).reshape(len(out), -1).any(1).nonzero()[0])
        raise ModelError(
            f"the denoiser returned NaN or inf at time {t[sample].item():g} (sample {sample} of the batch); check "
            "the model's precision and that this time lies in the range it was trained on"
        )
    return out


def in_batches(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond, max_batch: int) -> Tensor:
    """D(x [B, ...], t [B], cond), for any B, at most `max_batch` samples at a time."""
    parts = [slice(k, k + max_batch) for k in range(0, len(x), max_batch)]
    return torch.cat([denoiser(x[part], t[part], take(cond, part)) for part in parts])


def check_output(out: object, x: Tensor, t: Tensor, what: str) -> None:
    """Raises ModelError unless `out`, returned by a network or a denoiser, is a floating tensor like x [B, ...]."""
    if not isinstance(out, Tensor):
        raise ModelError(f"the {what} returned {_kind(out)}")
    if out.shape != x.shape:
        raise ModelError(
            f"the {what} returned shape {tuple(out.shape)} for an input of shape {tuple(x.shape)} at time "
            f"{t.flatten()[0].item():g}; it must return {'an estimate of x_0' if what == 'denoiser' else 'a tensor'} "
            "of the input's shape"
        )
    if not out.is_floating_point():
        raise ModelError(
            f"the {what} returned numbers of {out.dtype} for an input of {x.dtype}; return floating point numbers, "
            "such as the output before it is rounded, compared or taken for complex"
        )
    if out.device != x.device:
        raise ModelError(
            f"the {what} returned a tensor on {out.device} for an input on {x.device}; return it where the input is: "
            "out.to(x.device)"
        )


def _kind(out: object) -> str:
    """Words for an output that is no tensor, and for what to return instead."""
    name = type(out).__name__
    kind = name if name.startswith("None") else f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
    if isinstance(getattr(out, "sample", None), Tensor):  # as diffusers' networks do
        return f"{kind}; return its tensor: .sample, or call the network with return_dict=False and take [0]"
    if isinstance(out, dict):
        return f"{kind} with the keys {', '.join(map(repr, list(out)[:8]))}; return the one tensor that is meant"
    if isinstance(out, list | tuple):
        return f"{kind} of {len(out)}; return the one tensor that is meant, mostly its first entry [0]"
    if name == "ndarray":
        return f"{kind}; return a tensor: torch.from_numpy(out).to(x)"
    return f"{kind}; return a tensor of the input's shape" + ("" if out is not None else ": is there no return?")


@contextmanager
def model_errors(doing: str) -> Iterator[None]:
    """Turn whatever a model's own code raises in the body, `sys.exit` too, into a `ModelError` of one paragraph.

    Args:
        doing: a description of the call of the model.
    """
    try:
        yield
    except ModelError:
        raise
    except SystemExit as error:
        raise ModelError(f"the model called sys.exit({error.code!r}), {doing}; it must answer, or raise") from error
    except Exception as error:
        message = " ".join(str(error).split()) or "it says no more"
        if _out_of_memory(error):
            remedy = f"give a smaller max_batch, or max_batch=auto ({message})"
            raise ModelError(f"the model ran out of memory, {doing}: {remedy}") from error
        kind = type(error).__name__
        hint = _DTYPE_HINT if _DTYPES.search(message) else ""
        raise ModelError(f"the model raised {kind}, {doing}: {message}{hint}; OPTSTEPS_DEBUG=1 shows where") from error


# what torch says where a tensor has another dtype than a layer needs
_DTYPES = re.compile(r"scalar type|dtype|\) should be the same|used as indices|type LongTensor")
_DTYPE_HINT = (
    "; a network is given t in float32 at least, and x in float32 unless runner.precision says otherwise. One that "
    "needs other types is called through a function, such as lambda x, t: network(x, t.round().long()) with "
    "teacher.snap=true, or lambda x, t: network(x.half(), t.half()).float()"
)


def _out_of_memory(error: BaseException | None) -> bool:
    message = str(error).lower()
    phrases = ("out of memory", "not enough memory", "can't allocate")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in message for phrase in phrases)
    )


def fitting_batch(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond = None) -> int:
    """The number of the samples x [B, ...] with t [B] and cond that can be evaluated at once in the memory there is.

    It is tried with all of them, half of them, a quarter, ...

    Raises:
        ModelError: a single sample does not fit, or as `evaluate`.
    """
    size = len(x)
    while True:
        try:
            with torch.no_grad():
                evaluate(denoiser, x[:size], t[:size], take(cond, slice(0, size)))
            return size
        except ModelError as error:
            if size == 1 or not _out_of_memory(error.__cause__):
                raise
        torch.cuda.empty_cache()
        size = (size + 1) // 2


__getattr__ = old_names(__name__, ElsewhereDenoiser="DeviceDenoiser")
