"""The check of the parts of a config that name a `_target_`: their fields are its arguments."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import types
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from optsteps.running.targets import target_nodes
from optsteps.text.suggestion import suggestion

# of packages that only some choices need
_EXTRAS = {"sklearn": "digits", "tensorboard": "tensorboard", "diffusers": "diffusers", "transformers": "diffusers"}
# what a target needs when it is called, and does not import with its module
_NEEDED = {
    "lightning.pytorch.loggers.TensorBoardLogger": "tensorboard",
    "optsteps.loggers.wandb.FallbackWandbLogger": "wandb",
    "optsteps.datasets.digits": "sklearn",
    "optsteps.models.diffusers.pretrained_pipeline": "diffusers",
}
# their import takes seconds; whoever instantiates them says what is wrong
_LATER = "lightning.pytorch.loggers."
_PLAIN = (int, float, str, bool, type(None))


def check_packages(content: Mapping[str, Any]) -> None:
    """Refuse a config (JSON data) that needs packages which are not there; nothing is imported for the answer.

    Raises:
        ValueError: the package of a `_target_` cannot be found, or one that it needs when it is called.
    """
    for path, node in target_nodes(content):
        name = node["_target_"]
        package, needed = name.partition(".")[0], _NEEDED.get(name)
        if package and not _is_there(package):
            raise ValueError(f"{path}._target_={name}: {_missing(None, package)}")
        if needed is not None and not _is_there(needed):
            raise ValueError(f"{path}._target_={name}: it needs {needed}, which is not installed{_extra(needed)}")


def _is_there(package: str) -> bool:
    """Whether a package is loaded or can be found."""
    return sys.modules[package] is not None if package in sys.modules else find_spec(package) is not None


def check_targets(content: Mapping[str, Any], supplied: Mapping[str, Sequence[str]]) -> None:
    """Hold the arguments of every `_target_` in a config to its signature.

    Arguments of this package's targets are also held to their types where these are numbers, names or lists of them.
    Arguments of other targets must exist, and must not be null where the type excludes it.

    Args:
        content: the config as JSON data.
        supplied: by path, the arguments that the program gives itself, to a target that takes them.

    Raises:
        ValueError: a target does not exist or cannot be imported; an argument does not exist (the message has near
            names), is missing, is null, or has another type.
    """
    for path, node in target_nodes(content):
        if node["_target_"].startswith(_LATER):
            continue
        target = _located(path, node["_target_"])
        try:
            parameters = inspect.signature(target).parameters
        except (TypeError, ValueError):  # no function, or one that does not say; instantiation will say the former
            continue
        _check(path, node, target, parameters, supplied.get(path, ()))


def _located(path: str, name: str) -> Any:
    """What a config names, imported.

    Raises:
        ValueError: it does not exist, or its module fails while it is imported.
    """
    part: Any = None
    names = name.split(".")
    for number, last in enumerate(names):
        module = ".".join(names[: number + 1])
        if number and hasattr(part, last):
            part = getattr(part, last)
            continue
        try:
            part = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module and not module.startswith(f"{error.name}."):  # what the module needs is missing
                raise ValueError(
                    f"{path}._target_={name}: {module} needs {error.name}, which is not installed{_extra(error.name)}"
                ) from error
            raise ValueError(f"{path}._target_={name}: {_missing(part, last)}") from error
        except Exception as error:
            raise ValueError(
                f"{path}._target_={name}: {module} cannot be imported ({type(error).__name__}: {error})"
            ) from error
    return part


def _missing(parent: Any, name: str) -> str:
    if parent is None:
        return (
            f"there is no module {name} in the current folder ({os.getcwd()}), on PYTHONPATH or among the installed "
            "packages; start the command in the folder that holds it, or add that folder to PYTHONPATH"
        )
    names = [known for known in dir(parent) if not known.startswith("_")]
    where = getattr(parent, "__file__", None) or "that"
    return f"there is no {name} in {parent.__name__} ({where}){suggestion(name, names)}"


def _extra(module: str | None) -> str:
    """Which extra of this package brings a module along."""
    extra = _EXTRAS.get((module or "").partition(".")[0])
    return f"; pip install 'optsteps[{extra}]' installs it" if extra else f"; pip install {module}" if module else ""


def _check(
    path: str,
    node: Mapping[str, Any],
    target: Any,
    parameters: Mapping[str, inspect.Parameter],
    supplied: Sequence[str],
) -> None:
    name = getattr(target, "__name__", node["_target_"])
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments = {key: value for key, value in node.items() if not (key.startswith("_") and key.endswith("_"))}
    names = [key for key in parameters if key not in supplied]
    for key in arguments:
        if key not in parameters and key not in supplied and not free:
            raise ValueError(f"{path}.{key}: {name} takes {', '.join(names)}{suggestion(key, names)}")
    if not node.get("_partial_") and not node.get("_args_"):
        missing = [key for key in names if _is_required(parameters[key]) and key not in arguments]
        if missing:
            raise ValueError(f"{path}.{missing[0]} is missing: {name} needs it")
    hints = _hints(target)
    ours = node["_target_"].startswith("optsteps.")
    for key, value in arguments.items():
        if key not in parameters or key not in hints or (key == "max_batch" and value == "auto"):
            continue
        hint = hints[key]
        if value is None and parameters[key].default is not None and not _admits_none(hint):
            raise ValueError(f"{path}.{key}=null: {name} needs it, as {_named(hint)}")
        if ours and value is not None and _is_plain(hint) and not any(target_nodes(value)):
            try:
                TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(value)
            except ValidationError as error:
                messages = dict.fromkeys(e["msg"].replace("Input should", "it should") for e in error.errors())
                raise ValueError(f"{path}.{key}={typed(value)}: {' or '.join(messages)}, for {name}") from None


def typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _is_required(parameter: inspect.Parameter) -> bool:
    variable = (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    return parameter.default is parameter.empty and parameter.kind not in variable


def _hints(target: Any) -> dict[str, Any]:
    """The types of a target's arguments; empty where they cannot be resolved."""
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:  # names that only a type checker sees, functions in C, ...
        return {}


def _admits_none(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(map(_admits_none, get_args(hint)))
    return hint in (Any, object, None, type(None)) or (get_origin(hint) is Literal and None in get_args(hint))


def _is_plain(hint: Any) -> bool:
    """Whether a type consists of numbers, names, and lists of them, which a config holds as they are."""
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
