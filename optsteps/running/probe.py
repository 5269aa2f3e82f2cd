"""A check of the model before anything is spent on it: it answers the same twice, and for every sample by itself."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from optsteps.conditions import Cond, copied, fingerprint, take
from optsteps.denoisers import Denoiser, ModelError, call_nfe, evaluate
from optsteps.fingerprint import PROBES

# differences beyond rounding, in parts of a sample's scale: twice the same call, in float32 and in half precision
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# seconds of a call that is timed, and how often it is
_TIMED, _CALLS = 0.1, 3


@dataclass(frozen=True)
class Probe:
    """The outcome of a probe.

    Attributes:
        outputs: D(x, t, cond) of the inputs [B, ...].
        evaluations: network evaluations in all.
    """

    outputs: Tensor
    evaluations: int


def probe(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond = None, max_batch: int = PROBES) -> Probe:
    """Call the denoiser three times on x [B, ...], t [B] and cond, and refuse one whose answers cannot be relied on.

    The second call repeats the first. The third has the first sample among copies of itself, in a batch of the same
    size, where neither kernels nor their rounding differ. Searches rely on answers that depend on their own sample,
    time and condition alone: they evaluate one sample in different batches, and keep the answers.

    Args:
        max_batch: most samples in one call.

    Raises:
        ModelError: the denoiser fails or returns what is no estimate of x_0 (see `evaluate`); it changes x, t or cond
            in place; it returns the same memory at every call; it answers differently the second time, or differently
            with other samples in the batch. The message names the cause and what to do.
    """
    size = min(len(x), max_batch)
    batches = list(torch.arange(len(x)).split(size))
    batches += [batches[0], torch.zeros(size, dtype=torch.long)]
    answers, copies = [], []
    with torch.no_grad():
        for part in batches:
            answers.append(_unchanging(denoiser, x[part.to(x.device)], t[part.to(t.device)], take(cond, part)))
            copies.append(answers[-1].clone())
    if not all(map(torch.equal, answers, copies)):
        raise ModelError(
            "the denoiser returns the same memory at every call, so that a later answer overwrites an earlier one: "
            "return a copy, out.clone()"
        )
    *outputs, again, alone = copies
    _compare_calls(outputs[0], again, x[:size])
    _compare_batches(outputs[0][0], alone, x[0])
    return Probe(torch.cat(outputs), call_nfe(denoiser) * (len(x) + 2 * size))


def measured_rate(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond = None, max_batch: int = PROBES) -> float:
    """Network evaluations per second, guidance counted as 2: about, because they depend on the size of the batch.

    Warm calls of one sample are timed, of which the quickest counts, and then calls of as many as take a tenth of a
    second.

    Args:
        x, t, cond: inputs [B, ...], [B] of which batches are made.
        max_batch: most samples in one call.
    """

    def seconds(size: int) -> float:
        part = torch.arange(size) % len(x)
        batch = x[part.to(x.device)], t[part.to(t.device)].to(x.device), take(cond, part)
        taken = []
        for _ in range(1 + _CALLS):
            begun = time.perf_counter()
            with torch.no_grad():
                out = evaluate(denoiser, *batch)
            out.flatten()[:1].cpu()  # waits for a GPU
            taken.append(time.perf_counter() - begun)
        return max(min(taken[1:]), 1e-9)

    size, taken = 1, seconds(1)
    larger = min(max_batch, int(_TIMED / taken))
    if larger > 1:
        size, taken = larger, seconds(larger)
    return call_nfe(denoiser) * size / taken


def _unchanging(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The answer to copies of the inputs, which the denoiser must leave as they are."""
    copies = (x.clone(), t.clone(), copied(cond))
    out = evaluate(denoiser, *copies)
    for name, before, after in zip(("x", "t", "cond"), (x, t, cond), copies, strict=True):
        if fingerprint(before) != fingerprint(after):
            raise ModelError(
                f"the denoiser changes its input {name} in place, which its caller still needs: work on a copy, "
                f"or replace operations in place (such as {name} *= 2) by others ({name} = {name} * 2)"
            )
    return out


def _scale(out: Tensor, x: Tensor) -> Tensor:
    """The unit of differences between outputs of a sample: the size of the output and of the input, from which a
    denoiser subtracts the noise."""
    return out.float().square().mean().sqrt() + x.float().square().mean().sqrt()


def _compare_calls(first: Tensor, second: Tensor, x: Tensor) -> None:
    for k in range(len(first)):
        part = rms(second[k] - first[k]) / _scale(first[k], x[k])
        if part > _TOLERANCE.get(first.dtype, 1e-2):
            raise ModelError(
                f"the denoiser does not answer the same twice (by {part:.2g} of the sample's size): turn off what is "
                "random in it, such as dropout, by model.eval(), and let no call depend on the calls before it"
            )


def _compare_batches(first: Tensor, alone: Tensor, x: Tensor) -> None:
    """Compare the first sample's answer among others with those among copies of itself [B, ...]. The copies differ by
    the rounding of kernels."""
    rounding = max(float(rms(copy - alone[0])) for copy in alone)
    difference = float(rms(alone[0] - first))
    part = difference / float(_scale(first, x))
    if difference > 4 * rounding and part > _TOLERANCE.get(first.dtype, 1e-2):
        raise ModelError(
            f"the denoiser's answer for a sample depends on the others in the batch (by {part:.2g} of the sample's "
            "size): put batch normalisation into evaluation mode by model.eval(), and compute nothing over dimension 0"
        )


def rms(difference: Tensor) -> Tensor:
    """The root of the mean square of all entries, a float32 scalar."""
    return difference.float().square().mean().sqrt()
