"""The bound that DM-NonUniform minimises (Xue et al., arXiv:2402.17376): how the errors of predictions add up.

D is assumed to err by w = sigma^p / alpha. A multistep exponential integrator in log-SNR adds to the last sample a
combination of the D's, with the orders 1, 2, 3, ..., 3, 2, 1 and the weights

    J = integral of e^lambda l(lambda) over the step,   l the Lagrange polynomial of the D's log-SNR.

Everything is a function of the log-SNR. In w, alpha and sigma are those of a variance-preserving process with that
log-SNR, as the authors have them, whatever the model's process: a model's error does not depend on how its clock is
written, and EDM's own sigma^2 would give noise levels of 80 all the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor


def prediction_error(log_snr: Tensor, p: float) -> Tensor:
    """The assumed error of D, sigma^p / alpha, at log-SNRs of any shape."""
    return torch.exp(-log_snr) * torch.sigmoid(-2 * log_snr) ** ((p - 1) / 2)


def error_bound(log_snr: Tensor, errors: Tensor, truncated: int) -> Tensor:
    """The bound of walks through the log-SNRs [..., n+1] whose predictions err by `errors` [..., n]; [...].

    A prediction's weights in all steps that use it are added with their signs before the absolute value is taken. The
    first `truncated` steps, and the very first and last in any case, count by themselves: with the root of the sum of
    their squares.
    """
    weights = integral_weights(log_snr)
    steps = weights.shape[-2]
    number = torch.arange(steps)
    alone = (number < truncated) | (number == 0) | (number == steps - 1)
    # the errors of the predictions that a step uses, and the bound of steps by themselves
    used = torch.nn.functional.pad(errors, (2, 0)).unfold(-1, 3, 1)
    by_itself = (weights * used)[..., alone, :].square().sum(-1).clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    # the total weight of a prediction: in its own step, the next and the one after
    shared = torch.nn.functional.pad(weights.masked_fill(alone[:, None], 0.0), (0, 0, 0, 2))
    total = shared[..., :-2, 2] + shared[..., 1:-1, 1] + shared[..., 2:, 0]
    return by_itself.sum(-1) + (total * errors).abs().sum(-1)


def integral_weights(log_snr: Tensor) -> Tensor:
    """J of the steps of walks through the log-SNRs [..., n+1].

    Returns:
        [..., n, 3], for the predictions two and one times before a step and at its start; 0 for those that its order
        does not reach. Those of a step sum to e^lambda' - e^lambda.
    """
    length, start = log_snr.diff(dim=-1), log_snr[..., :-1].exp()
    steps = length.shape[-1]
    # integrals over a step of e^x x^k, x counted from its start
    zeroth = torch.expm1(length)
    first = length * (zeroth + 1) - zeroth
    second = length**2 * (zeroth + 1) - 2 * first
    before = torch.nn.functional.pad(length, (2, 0), value=1.0)
    f, g = before[..., :steps], before[..., 1 : steps + 1]
    none = torch.zeros_like(length)
    by_order = [
        torch.stack([none, none, zeroth], -1),
        torch.stack([none, -first / g, (first + g * zeroth) / g], -1),
        torch.stack(
            [
                (second + g * first) / (f * (f + g)),
                -(second + (f + g) * first) / (f * g),
                (second + (2 * g + f) * first + g * (f + g) * zeroth) / (g * (f + g)),
            ],
            -1,
        ),
    ]
    number = torch.arange(steps)
    order = torch.minimum(number, steps - 1 - number).clamp(max=2)
    weights = torch.stack(by_order)[order, ..., number, :].movedim(0, -2)
    return start[..., None] * weights
