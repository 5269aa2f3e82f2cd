"""Parts of a config that name a `_target_` have the fields of the function or class that they name."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from pydantic import ConfigDict, TypeAdapter, ValidationError

from optsteps.running.targets import target_nodes
from optsteps.text.suggestion import suggestion

_PLAIN = (int, float, str, bool, type(None))


def check_targets(content: Mapping[str, Any], supplied: Mapping[str, Sequence[str]]) -> None:
    """Hold the arguments of every `_target_` in a config to its signature.

    Those of this package are also held to their types where these are numbers, names or lists of them; of anybody
    else's it is asked only that they exist, and are not null where that is excluded.

    Args:
        content: the config as JSON data.
        supplied: by path, the arguments that the program gives itself.

    Raises:
        ValueError: an argument that there is not, with near names; one that is missing, null, or of another type.
    """
    for path, node in target_nodes(content):
        target = parameters = None
        with suppress(Exception):  # whatever an import raises: whoever instantiates it says what is wrong
            target = get_object(node["_target_"])
            parameters = inspect.signature(target).parameters
        if target is not None and parameters is not None:
            _check(path, node, target, parameters, supplied.get(path, ()))


def _check(
    path: str,
    node: Mapping[str, Any],
    target: Any,
    parameters: Mapping[str, inspect.Parameter],
    supplied: Sequence[str],
) -> None:
    name = getattr(target, "__name__", node["_target_"])
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    given = {key: value for key, value in node.items() if not (key.startswith("_") and key.endswith("_"))}
    own = [key for key in parameters if key not in supplied]
    for key in given:
        if key not in parameters and not free:
            raise ValueError(f"{path}.{key}: {name} takes {', '.join(own)}{suggestion(key, own)}")
    if not node.get("_partial_") and not node.get("_args_"):
        missing = [key for key in own if _is_required(parameters[key]) and key not in given]
        if missing:
            raise ValueError(f"{path}.{missing[0]} is missing: {name} needs it")
    hints = _hints(target)
    ours = node["_target_"].startswith("optsteps.")
    for key, value in given.items():
        if key not in parameters or key not in hints or (key == "max_batch" and value == "auto"):
            continue
        hint = hints[key]
        if value is None and parameters[key].default is not None and not _admits_none(hint):
            raise ValueError(f"{path}.{key}=null: {name} needs it, as {_named(hint)}")
        if ours and value is not None and _is_plain(hint) and not any(target_nodes(value)):
            try:
                TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(value)
            except ValidationError as error:
                said = dict.fromkeys(one["msg"].replace("Input should", "it should") for one in error.errors())
                raise ValueError(f"{path}.{key}={typed(value)}: {' or '.join(said)}, for {name}") from None


def typed(value: Any) -> str:
    """A value as one types it on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _is_required(parameter: inspect.Parameter) -> bool:
    variable = (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    return parameter.default is parameter.empty and parameter.kind not in variable


def _hints(target: Any) -> dict[str, Any]:
    """The types of a target's arguments; none where they cannot be found out."""
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # names that only a type checker sees, functions in C, ...
        return {}


def _admits_none(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(map(_admits_none, get_args(hint)))
    return hint in (Any, object, None, type(None)) or (get_origin(hint) is Literal and None in get_args(hint))


def _is_plain(hint: Any) -> bool:
    """Numbers, names, and lists of them: what a config says as it is meant."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType, list) or (inspect.isclass(origin) and issubclass(origin, Sequence)):
        return origin is not tuple and all(map(_is_plain, get_args(hint)))
    return origin is Literal or hint in _PLAIN


def _named(hint: Any) -> str:
    return (
        hint.__name__
        if inspect.isclass(hint) and get_origin(hint) is None
        else str(hint).replace("collections.abc.", "")
    )
