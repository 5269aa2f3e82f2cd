"""Conditions of models: None, a batch-leading tensor, or a dict, list or tuple of such."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Cond = Any


def mapped(cond: Cond, change: Callable[[Tensor], Tensor]) -> Cond:
    """The same structure, with `change` applied to every tensor."""
    if cond is None:
        return None
    if isinstance(cond, Tensor):
        return change(cond)
    if isinstance(cond, dict):
        return {key: mapped(value, change) for key, value in cond.items()}
    if isinstance(cond, list | tuple):
        return type(cond)(mapped(value, change) for value in cond)
    raise _unsupported(cond)


def take(cond: Cond, index: Tensor | slice) -> Cond:
    """The entries `index` (integers [n] or a slice) of every tensor's batch dimension."""
    return mapped(cond, lambda part: part[index.to(part.device) if isinstance(index, Tensor) else index])


def concatenate(conds: Sequence[Cond]) -> Cond:
    """Conditions of the same structure joined along the batch dimension."""
    first = conds[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(conds))
    if isinstance(first, dict):
        return {key: concatenate([cond[key] for cond in conds]) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(concatenate(values) for values in zip(*conds, strict=True))
    raise _unsupported(first)


def form(cond: Cond) -> str:
    """The structure of a condition with the shapes of its tensors, as text: "{'text': [1, 77, 768], 'mask': None}"."""
    if cond is None:
        return "None"
    if isinstance(cond, Tensor):
        return str(list(cond.shape))
    if isinstance(cond, dict):
        return "{" + ", ".join(f"{key!r}: {form(cond[key])}" for key in sorted(cond, key=str)) + "}"
    if isinstance(cond, list | tuple):
        return f"({', '.join(map(form, cond))})"
    return type(cond).__name__


def batch_size(cond: Cond) -> int | None:
    """Common batch size, None for no condition.

    Raises:
        ValueError: the tensors' batch sizes differ.
    """
    if cond is None:
        return None
    if isinstance(cond, Tensor):
        return len(cond)
    if not isinstance(cond, dict | list | tuple):
        raise _unsupported(cond)
    sizes = {batch_size(value) for value in (cond.values() if isinstance(cond, dict) else cond)} - {None}
    if len(sizes) > 1:
        raise ValueError(f"the tensors of cond have different batch sizes: {sorted(s for s in sizes if s)}")
    return sizes.pop() if sizes else None


def moved(cond: Cond, device: torch.device) -> Cond:
    """The same condition on a device."""
    return mapped(cond, lambda part: part.to(device))


def copied(cond: Cond) -> Cond:
    """A copy of the condition in its own memory."""
    return mapped(cond, Tensor.clone)


def fingerprint(cond: Cond) -> str:
    """SHA-256 of the tensors, which depends on structure, dtypes, shapes and values, but not on the device."""
    sha256 = hashlib.sha256()

    def read(part: Cond) -> None:
        if isinstance(part, Tensor):
            sha256.update(f"{part.dtype}{list(part.shape)}".encode())
            sha256.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(part, dict):
            for key in sorted(part):
                sha256.update(f"{key}:".encode())
                read(part[key])
        elif isinstance(part, list | tuple):
            sha256.update(f"({len(part)}".encode())
            for entry in part:
                read(entry)
        elif part is None:
            sha256.update(b"none")
        else:
            raise _unsupported(part)

    read(cond)
    return sha256.hexdigest()


def _unsupported(cond: Cond) -> TypeError:
    return TypeError(f"cond must be None, a tensor, or a dict, list or tuple of tensors, got {type(cond).__name__}")
