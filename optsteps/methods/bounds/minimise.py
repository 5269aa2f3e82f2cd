"""Minima of smooth and of nearly smooth functions of a schedule's inner places, from several starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def least(
    objective: Callable[[Tensor], Tensor],
    starts: Sequence[Tensor],
    least_gap: float = 0.0,
    iterations: int = 200,
) -> tuple[Tensor, float]:
    """The places of least objective of all that were met from the starts, and its value.

    The gaps between the places are a softmax of free numbers, so that the places ascend between fixed ends whatever the
    optimiser (L-BFGS, in float64 with the gradient of autograd) does.

    Args:
        objective: of ascending places [n+1], with a graph; a scalar.
        starts: places [n+1] with the same ends.
        least_gap: no gap is smaller than this share of the mean gap; below 1.
        iterations: of the optimiser from every start, at most.

    Returns:
        Places [n+1] with the starts' ends, and the objective there.
    """
    from scipy.optimize import minimize

    first, last = starts[0][0], starts[0][-1]
    floor = least_gap / (len(starts[0]) - 1)

    def places(free: Tensor) -> Tensor:
        shares = floor + (1 - least_gap) * torch.softmax(free, 0)
        inner = first + (last - first) * shares[:-1].cumsum(0)
        return torch.cat([first[None], inner, last[None]])

    best, value = starts[0], torch.inf

    def evaluate(numbers: object) -> tuple[float, object]:
        nonlocal best, value
        free = torch.tensor(numbers, dtype=torch.float64, requires_grad=True)
        tried = places(free)
        found = objective(tried)
        (gradient,) = torch.autograd.grad(found, free)
        if found.item() < value:
            best, value = tried.detach(), found.item()
        return found.item(), gradient.numpy()

    for start in starts:
        shares = ((start.diff() / (last - first) - floor) / (1 - least_gap)).clamp(min=1e-9)
        minimize(evaluate, shares.log().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    return best, value
