"""Unpickling by other libraries, kept to tensors: weights hold no code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# environment variables of torch.load: under the first it unpickles tensors and plain containers only, whatever its
# caller asks for; the second is the opposite
_FORCED, _FREED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextmanager
def tensors_alone() -> Iterator[None]:
    """Let no `torch.load` of any library run code that a file holds: it raises UnpicklingError instead."""
    previous = {name: os.environ.pop(name, None) for name in (_FORCED, _FREED)}
    os.environ[_FORCED] = "1"
    try:
        yield
    finally:
        os.environ.pop(_FORCED, None)
        os.environ.update({name: value for name, value in previous.items() if value is not None})
