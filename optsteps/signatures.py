"""What functions and networks of a user's say that they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from torch import nn


def accepted(function: Callable[..., Any], arguments: Mapping[str, Any], optional: Collection[str]) -> dict[str, Any]:
    """The arguments without those of the optional ones that the function does not take; all where it does not say.

    A decorated function takes what its wrapper takes, and where that hands on all keywords, what the function takes.
    """
    parameters = _parameters(function, follow_wrapped=False)
    if parameters is None:
        return dict(arguments)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        wrapped = _wrapped(function)
        return dict(arguments) if wrapped is None else accepted(wrapped, arguments, optional)
    return {name: value for name, value in arguments.items() if name in parameters or name not in optional}


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The function that a decorator made this one of, with the same arguments bound; None where there is none."""
    if isinstance(function, partial):
        wrapped = _wrapped(function.func)
        return None if wrapped is None else partial(wrapped, *function.args, **function.keywords)
    return getattr(function, "__wrapped__", None)


def takes_two(network: Callable[..., Any]) -> bool:
    """Whether a network, by its `forward`, or a function takes two positional arguments, and no third."""
    network = getattr(network, "_orig_mod", network)  # of one that torch.compile made
    parameters = _parameters(network.forward if isinstance(network, nn.Module) else network) or {}
    kinds = [parameter.kind for parameter in parameters.values()]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Parameter.VAR_POSITIONAL not in kinds and sum(kind in positional for kind in kinds) == 2


def _parameters(function: Callable[..., Any], follow_wrapped: bool = True) -> Mapping[str, inspect.Parameter] | None:
    """A function's parameters by name; None where it does not say."""
    try:
        return inspect.signature(function, follow_wrapped=follow_wrapped).parameters
    except (TypeError, ValueError):  # functions in C, ...
        return None
