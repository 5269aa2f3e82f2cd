"""Weights that other libraries load hold tensors, never code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# of torch.load: whatever a library asks it for, it unpickles tensors and plain containers alone, or refuses
_FORCED, _FREED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextmanager
def tensors_alone() -> Iterator[None]:
    """Inside, no `torch.load` of any library runs code that a file holds: it raises UnpicklingError."""
    before = {name: os.environ.pop(name, None) for name in (_FORCED, _FREED)}
    os.environ[_FORCED] = "1"
    try:
        yield
    finally:
        os.environ.pop(_FORCED, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})
