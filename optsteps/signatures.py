"""What networks and functions of the user's say that they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn


def takes_two(network: Callable[..., Any]) -> bool:
    """Whether a network, by its `forward`, or a function takes two positional arguments, and no third."""
    network = getattr(network, "_orig_mod", network)  # of one that torch.compile made
    parameters = _parameters(network.forward if isinstance(network, nn.Module) else network) or {}
    kinds = [parameter.kind for parameter in parameters.values()]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Parameter.VAR_POSITIONAL not in kinds and sum(kind in positional for kind in kinds) == 2


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """A function's parameters by name; None where it does not say."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # functions in C, ...
        return None
