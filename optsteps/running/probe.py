"""What a model must be before anything is spent on it: it answers the same twice, and for every sample by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optsteps.conditions import Cond, copied, fingerprint, take
from optsteps.denoisers import Denoiser, ModelError, call_nfe, evaluate
from optsteps.fingerprint import PROBES

# differences beyond rounding, in parts of a sample's scale: twice the same call, in float32 and in half precision
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Probe:
    """What came of a probe.

    Attributes:
        outputs: D(x, t, cond) of the inputs [B, ...].
        evaluations: network evaluations in all.
    """

    outputs: Tensor
    evaluations: int


def probe(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond = None, max_batch: int = PROBES) -> Probe:
    """Call the denoiser three times on x [B, ...], t [B] and cond, and refuse one whose answers cannot be relied on.

    It is asked the same twice, and then for the first sample among copies of itself, in a batch of the same size, where
    neither kernels nor their rounding differ. Searches take it for granted that an answer depends on its own sample,
    time and condition alone: they ask for the same sample in different batches, and keep what they were answered.

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


def _unchanging(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The answer to copies of the inputs, which the denoiser must leave as they are."""
    given = (x.clone(), t.clone(), copied(cond))
    out = evaluate(denoiser, *given)
    for name, before, after in zip(("x", "t", "cond"), (x, t, cond), given, strict=True):
        if fingerprint(before) != fingerprint(after):
            raise ModelError(
                f"the denoiser changes its input {name} in place, which its caller still needs: work on a copy, "
                f"or replace operations in place (such as {name} *= 2) by others ({name} = {name} * 2)"
            )
    return out


def _scale(out: Tensor, x: Tensor) -> Tensor:
    """What differences of a sample's output are measured by: its own size and that of the input, which a denoiser
    subtracts the noise from."""
    return out.float().square().mean().sqrt() + x.float().square().mean().sqrt()


def _compare_calls(first: Tensor, second: Tensor, x: Tensor) -> None:
    for k in range(len(first)):
        part = _rms(second[k] - first[k]) / _scale(first[k], x[k])
        if part > _TOLERANCE.get(first.dtype, 1e-2):
            raise ModelError(
                f"the denoiser does not answer the same twice (by {part:.2g} of the sample's size): turn off what is "
                "random in it, such as dropout, by model.eval(), and let no call depend on the calls before it"
            )


def _compare_batches(first: Tensor, alone: Tensor, x: Tensor) -> None:
    """The first sample's answer among others, and those among copies of itself [B, ...]: what the copies differ by is
    the rounding of kernels."""
    rounding = max(float(_rms(one - alone[0])) for one in alone)
    difference = float(_rms(alone[0] - first))
    part = difference / float(_scale(first, x))
    if difference > 4 * rounding and part > _TOLERANCE.get(first.dtype, 1e-2):
        raise ModelError(
            f"the denoiser's answer for a sample depends on the others in the batch (by {part:.2g} of the sample's "
            "size): put batch normalisation into evaluation mode by model.eval(), and compute nothing over dimension 0"
        )


def _rms(difference: Tensor) -> Tensor:
    return difference.float().square().mean().sqrt()
