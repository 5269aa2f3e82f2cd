"""Files that appear whole or not at all, and files in the place of memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file in the same folder, so that no half-written file is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def zeros_on_disk(shape: Sequence[int], dtype: torch.dtype, folder: Path) -> Tensor:
    """Zeros in a file of `folder`, of which the system keeps in memory what there is room for.

    The file has no name any more when this returns: it goes with the tensor, however the process ends. On a system that
    lets no file go while it is mapped (Windows) it stays until then.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, path = tempfile.mkstemp(dir=folder, suffix=".states")
    os.close(handle)
    zeros = torch.from_file(path, shared=True, size=math.prod(shape), dtype=dtype).reshape(tuple(shape))
    with suppress(OSError):
        os.unlink(path)
    return zeros
