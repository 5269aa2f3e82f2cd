"""Files that appear whole or not at all, names for files, and files in the place of memory."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file in the same folder, so that no half-written file is left behind.

    Raises:
        OSError: the folder cannot be written, or its disk is full; the error names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:  # the error of a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


# names that files may have on every system without looking like an option of a command; and names of devices
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+=,.-]{0,99}", re.ASCII)
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.ASCII | re.IGNORECASE)


def file_name(name: str) -> str:
    """`name` as the name of a file, without a suffix.

    A plain name stays as it is; of others the letters are kept and a digest is added. The result has no separators and
    no dot at its start or end, and different names have different results.
    """
    if _PLAIN.fullmatch(name) and not _DEVICES.fullmatch(name) and not name.endswith("."):
        return name
    letters = re.sub(r"[^A-Za-z0-9_+=,-]+", "-", name)[:60].strip("-")
    # plain names have no @
    return f"{letters}@{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:12]}"


def zeros_on_disk(shape: Sequence[int], dtype: torch.dtype, folder: Path) -> Tensor:
    """Zeros in a file of `folder`, of which the system keeps in memory as much as there is room for.

    The file has its room on the disk when this returns: a page that found none later would end the process. It has no
    name any more, so it disappears with the tensor, however the process ends. A system that cannot delete a mapped file
    (Windows) keeps it until it is unmapped.

    Raises:
        OSError: the folder cannot be written, or has no room for so much.
    """
    import torch  # commands write files, and answer, before they load it

    folder.mkdir(parents=True, exist_ok=True)
    size = math.prod(shape) * dtype.itemsize
    free = shutil.disk_usage(folder).free  # asked first, rather than filling the disk to find out
    if size > free:
        needed = f"states take {size / 1e9:.3g} GB and there are {free / 1e9:.3g} GB free"
        raise OSError(errno.ENOSPC, f"{needed}; name a folder with room, e.g. runner.scratch=/large/disk", str(folder))
    handle, path = tempfile.mkstemp(dir=folder, suffix=".states")
    try:
        with os.fdopen(handle, "wb"):
            if size > 0 and hasattr(os, "posix_fallocate"):  # Windows and macOS have none
                os.posix_fallocate(handle, 0, size)
        return torch.from_file(path, shared=True, size=math.prod(shape), dtype=dtype).reshape(tuple(shape))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        with suppress(OSError):
            os.unlink(path)
