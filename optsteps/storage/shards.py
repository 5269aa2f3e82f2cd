"""Shards: trees of results as the bytes of a safetensors file, and back. They hold data, never code.

A tree is made of dicts with keys of strings and integers, lists, tuples, None, booleans, numbers, strings, tensors and
instances of registered dataclasses (see `storable`). A file names such a class, and the name is looked up in the table
of registered classes. So a file that somebody else wrote can have nothing imported or called.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

Tree = Any
C = TypeVar("C")

_STORABLE: dict[str, type] = {}


def storable(kind: type[C]) -> type[C]:
    """Register a dataclass, so that shards may hold its instances; a decorator that stands above `@dataclass`.

    A field with metadata {"stored": False} is left out and must have a default. The class must be registered in the
    process that reads, too: importing its module does that.

    Raises:
        TypeError: the class is no dataclass.
    """
    if not is_dataclass(kind):
        raise TypeError(f"{kind.__qualname__} is no dataclass: write @storable above @dataclass")
    _STORABLE[_name(kind)] = kind
    return kind


def pack(tree: Tree) -> bytes:
    """A tree as the content of a safetensors file.

    Raises:
        TypeError: the tree holds something else than this module's description allows.
    """
    tensors: dict[str, Tensor] = {}

    def described(node: Tree) -> Any:
        if node is None or isinstance(node, (bool, int, float, str)):
            return {"value": node}
        if isinstance(node, Tensor):
            name = str(len(tensors))
            tensors[name] = node.detach().cpu().contiguous().clone()  # tensors that share memory are refused
            return {"tensor": name}
        if isinstance(node, dict):
            if not all(isinstance(key, (int, str)) for key in node):
                raise TypeError(f"a shard's dicts have keys of strings and integers, not {list(node)}")
            return {"dict": [[key, described(value)] for key, value in node.items()]}
        if isinstance(node, (list, tuple)):
            return {type(node).__name__: [described(value) for value in node]}
        kind: Any = type(node)
        if _STORABLE.get(_name(kind)) is kind:
            return {
                "dataclass": [_name(kind), [[name, described(getattr(node, name))] for name in _stored_fields(kind)]]
            }
        remedy = "decorate the class with optsteps.storage.shards.storable"
        if not is_dataclass(node):
            remedy = f"put it into tensors, numbers, strings, lists, dicts, or a dataclass, and {remedy}"
        raise TypeError(f"a shard cannot hold a {kind.__name__}: {remedy}")

    return save(tensors, {"tree": json.dumps(described(tree))})


def on_cpu(tree: Tree) -> Tree:
    """The tree with those of its tensors on the CPU that `pack` would write, as `unpack` has them: so those who combine
    shards need not know which of them were read."""
    if isinstance(tree, Tensor):
        return tree.cpu()
    if isinstance(tree, dict):
        return {key: on_cpu(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(on_cpu(value) for value in tree)
    kind: Any = type(tree)
    if _STORABLE.get(_name(kind)) is kind:
        return replace(tree, **{name: on_cpu(getattr(tree, name)) for name in _stored_fields(kind)})
    return tree


def unpack(content: bytes) -> Tree:
    """The tree that `pack` wrote; tensors are on the CPU.

    Raises:
        ValueError: the content was not written by `pack`: no safetensors file, no tree, a class that is not registered,
            fields that the class does not have, or a value that is not of its field's type.
    """
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        return _built(json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["tree"]), tensors)
    except (SafetensorError, KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f"this is no shard that can be read ({str(error)[:300]})") from error


def _built(node: Any, tensors: Mapping[str, Tensor]) -> Tree:
    ((kind, value),) = node.items()
    if kind == "value":
        if not (value is None or isinstance(value, (bool, int, float, str))):
            raise ValueError(f"a value is a {type(value).__name__}")
        return value
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _built(part, tensors) for key, part in value}
    if kind == "dataclass":
        name, values = value
        return _instance(name, {key: _built(part, tensors) for key, part in values})
    if kind not in ("list", "tuple"):
        raise ValueError(f"no node is of the kind {kind!r}")
    parts = [_built(part, tensors) for part in value]
    return tuple(parts) if kind == "tuple" else parts


def _instance(name: str, values: Mapping[str, Tree]) -> Any:
    kind = _STORABLE.get(name)
    if kind is None:
        raise ValueError(
            f"it holds a {name!r}, which is not registered here: decorate the class with "
            "optsteps.storage.shards.storable, and import its module"
        )
    annotations = _stored_fields(kind)
    if set(values) != set(annotations):
        raise ValueError(f"a {name} has the fields {', '.join(values)}, not {', '.join(annotations)}")
    for field, value in values.items():
        if not _is_a(value, annotations[field]):
            raise ValueError(f"{field} of a {name} is a {type(value).__name__}, not a {annotations[field]}")
    return kind(**values)


def _name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@cache
def _stored_fields(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's stored fields by name."""
    try:
        hints = get_type_hints(kind)
    except NameError:  # a class that was defined in a function names others there, which cannot be looked up
        hints = {}
    return {f.name: hints.get(f.name, Any) for f in fields(kind) if f.metadata.get("stored", True)}


def _is_a(value: Tree, kind: Any) -> bool:
    """Whether a value is of the type that an annotation names, with all that it holds."""
    outer, inner = get_origin(kind), get_args(kind)
    if outer in (Union, types.UnionType):
        return any(_is_a(value, part) for part in inner)
    if outer is Literal:
        return value in inner
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if outer is None:
        return not isinstance(kind, type) or isinstance(value, kind)
    if not isinstance(value, outer):
        return False
    if outer is tuple and inner[-1:] != (...,):
        return len(value) == len(inner) and all(map(_is_a, value, inner))
    if isinstance(value, Mapping):
        return all(_is_a(key, inner[0]) and _is_a(part, inner[1]) for key, part in value.items())
    return not isinstance(value, (list, tuple)) or all(_is_a(part, inner[0]) for part in value)
