"""The model of the killed runs. Its module counts in every process that loads it, also in the ranks of a run.

The counts lie in files of the folder $COUNTS, one for each process, which outlive it however it ends. Pictures are
saved as one white pixel: rendering would take most of the time of such short runs.
"""

from __future__ import annotations

import mmap
import os
import struct
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from matplotlib.figure import Figure
from PIL import Image

from optsteps.denoisers import CountedDenoiser
from optsteps.models import pretrained as pretrained
from optsteps.storage.store import ShardStore

# evaluations of a process, those of its largest shard, and those before the shard that it is at
_COUNTS = struct.Struct("qqq")
evaluate, keep = CountedDenoiser.__call__, ShardStore.put


@cache
def _memory(pid: int) -> mmap.mmap:
    """The file of this process, in memory."""
    path = Path(os.environ["COUNTS"]) / str(pid)
    path.write_bytes(bytes(_COUNTS.size))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), _COUNTS.size)


def evaluating(self: CountedDenoiser, x: Any, *args: Any) -> Any:
    out, memory = evaluate(self, x, *args), _memory(os.getpid())
    evaluations, largest, before = _COUNTS.unpack(memory)
    memory[:] = _COUNTS.pack(evaluations + self.nfe * len(x), largest, before)
    return out


def keeping(self: ShardStore, *args: Any) -> None:
    keep(self, *args)
    memory = _memory(os.getpid())
    evaluations, largest, before = _COUNTS.unpack(memory)
    memory[:] = _COUNTS.pack(evaluations, max(largest, evaluations - before), evaluations)


def saving(self: Figure, file: BinaryIO, **_: Any) -> None:
    Image.new("RGB", (1, 1), "white").save(file, "PNG")


CountedDenoiser.__call__, ShardStore.put, Figure.savefig = evaluating, keeping, saving  # type: ignore[method-assign]


def counts(folder: Path) -> tuple[int, int]:
    """The evaluations of all processes that counted there, and the most that one of them made for one shard."""
    # a file that was made a moment ago may be empty still
    files = [content for path in folder.iterdir() if len(content := path.read_bytes()) == _COUNTS.size]
    each = [_COUNTS.unpack(content) for content in files]
    return sum(evaluations for evaluations, _, _ in each), max((largest for _, largest, _ in each), default=0)
