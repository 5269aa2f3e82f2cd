"""Store of finished shards: results of long computations on disk, found by the facts that determined them.

A shard is a tree (see `optsteps.storage.shards`) in a file of its own, which is whole or not there. It is a safetensors
file whose name holds the key and the SHA-256 of the content. So a damaged file is recognized by its name, and every
reader of safetensors can look into it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from optsteps.storage.claims import PATIENCE, Claim
from optsteps.storage.files import write_atomically
from optsteps.storage.shards import Tree, on_cpu, pack, unpack

# seconds before a process looks again for a shard that another process computes
_PAUSE = 0.05
# age in seconds at which a half-written file counts as abandoned
_ABANDONED = 3600
# marks a folder as a store, in which files with names of a store may be deleted
_MARK = ".optsteps_store"
_SHARD = re.compile(r"(?P<key>[^.]+)\.(?P<sha256>[0-9a-f]{64})\.safetensors")
# files that a killed process left: a half-written shard, a claim
_LEFT = re.compile(rf"\.{_SHARD.pattern}\..+|(?P<claimed>[^.]+)\.(claim|lock)")
# a folder beside the shards, in which ranks of version 0.1 left their counts
_COUNTS = "progress"


class DamagedShardWarning(UserWarning):
    """A file is not the shard that was written, or none at all; it is deleted and will be computed again."""


class UnwritableStoreWarning(UserWarning):
    """A store cannot be written: missing shards are computed and not kept."""


class ShardStore:
    """Shards in a folder that any number of processes share.

    A process claims a shard before computing it. The claim of a process that died, or gives no sign of life, is free
    again. In a folder that cannot be written, the shards that are there are read.

    Args:
        folder: made where it is missing, and marked. Only files in it with names of a store are touched.
        limit: in bytes; where new shards exceed it, those used longest ago are deleted. The limit is checked whenever
            this process has added a hundredth of it. None for no limit.
        patience: seconds after which a process that gives no sign of life has lost its claims; for all processes alike.

    Raises:
        ValueError: the folder holds other things than a store.
    """

    def __init__(self, folder: Path, limit: int | None = None, patience: float = PATIENCE) -> None:
        if (foreign := _foreign_file(folder)) is not None:
            raise ValueError(
                f"the folder {folder} holds other things than a store of shards ({foreign.relative_to(folder)}), and a "
                "store deletes files: name a folder of its own, e.g. store.folder=outputs/store"
            )
        self.folder, self.limit, self.patience = folder, limit, patience
        self._added = math.inf  # bytes since the folder was last measured
        self._writable = True  # until writing fails
        self._awaited: dict[str, Claim] = {}

    def get(self, key: str) -> Tree | None:
        """The shard of this key, with tensors on the CPU; None where there is no whole one."""
        folder = self._folder_of(key)
        for name in os.listdir(folder) if folder.is_dir() else ():
            match, path = _SHARD.fullmatch(name), folder / name
            # a folder or a pipe, which would be waited for, is none
            if match is None or match["key"] != key or not path.is_file():
                continue
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # deleted by another process between the two calls
                continue
            if hashlib.sha256(content).hexdigest() != match["sha256"]:
                warnings.warn(
                    f"{path} is damaged ({len(content)} bytes); it is deleted and computed again",
                    DamagedShardWarning,
                    stacklevel=2,
                )
                with suppress(OSError):  # a store that cannot be written
                    path.unlink()
                continue
            try:
                tree = unpack(content)
            except ValueError as error:  # whole, but not written by `pack`
                warnings.warn(f"{path}: {error}; it is deleted and computed again", DamagedShardWarning, stacklevel=2)
                with suppress(OSError):
                    path.unlink()
                continue
            with suppress(OSError):  # deleted in the meantime, or a store that cannot be written
                os.utime(path)
            return tree
        return None

    def put(self, key: str, tree: Tree) -> None:
        """Keep a shard; it appears whole or not at all.

        Raises:
            TypeError: the tree holds something that a shard cannot hold.
            OSError: the folder cannot be written.
        """
        content = pack(tree)
        path = self._folder_of(key) / f"{key}.{hashlib.sha256(content).hexdigest()}.safetensors"
        self._mark()
        write_atomically(path, content)
        self._added += len(content)
        if self.limit is not None and self._added >= self.limit / 100:
            self._evict(path)
            self._added = 0

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Whether this process may compute the shard, because no other living process computes it.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self._folder_of(key) / f"{key}.claim"
        claim = self._awaited.pop(key, None) or Claim(path, f"a shard of the store {self.folder}", self.patience)
        self._mark()
        path.parent.mkdir(exist_ok=True)
        if not claim.taken():
            self._awaited[key] = claim
            yield False
            return
        try:
            yield True
        finally:
            claim.release()

    def compute(
        self,
        keys: Sequence[str],
        function: Callable[[int], Tree],
        positions: Iterable[int] | None = None,
        finished: Callable[[int, Tree], None] = lambda *_: None,
    ) -> list[Tree]:
        """Shards, each computed by one process and kept.

        Args:
            keys: of shards.
            function: the shard of the key at a position in the list.
            positions: of the shards that are wanted, all for None. Each is asked for when those before it are there, or
                are claimed by other processes.
            finished: called with the position of every shard, and the shard, once it is there, computed by this process
                or another.

        Returns:
            The shards, in the order of `positions`, with their tensors on the CPU.
        """
        shards: dict[int, Tree] = {}  # in the order of the positions: a missing one holds its place

        def missing(position: int) -> bool:
            shard = self.get(keys[position])
            if shard is None:
                shard = on_cpu(self._computed(keys[position], partial(function, position)))
            shards[position] = shard
            if shard is not None:
                finished(position, shard)
            return shard is None

        waiting = [k for k in (range(len(keys)) if positions is None else positions) if missing(k)]
        while waiting:
            time.sleep(_PAUSE)
            waiting = [k for k in waiting if missing(k)]
        return list(shards.values())

    def _computed(self, key: str, function: Callable[[], Tree]) -> Tree | None:
        """The shard, computed here and kept if the store can be written; None if another process computes it."""
        if not self._writable:
            return function()
        with ExitStack() as claim:
            try:
                is_claimed = claim.enter_context(self.claimed(key))
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
                self._writable = False
                warnings.warn(
                    f"the store {self.folder} cannot be written ({error}); what it lacks is computed and not kept",
                    UnwritableStoreWarning,
                    stacklevel=3,
                )
                return function()
            if not is_claimed:
                return None
            shard = self.get(key)  # another process may have finished it in the meantime
            if shard is None:
                shard = function()
                self.put(key, shard)
            return shard

    def size(self) -> int:
        """Bytes of all its shards."""
        sizes = 0
        for path in self.folder.glob("*/*"):
            with suppress(OSError):  # deleted in the meantime
                sizes += path.stat().st_size if _SHARD.fullmatch(path.name) else 0
        return sizes

    def free(self) -> int:
        """Bytes that its disk has room for."""
        folder = self.folder.absolute()
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def _mark(self) -> None:
        """Make the folder, and mark it as a store."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # made first, because a folder without it would look like somebody else's
            os.close(os.open(self.folder / _MARK, os.O_CREAT | os.O_EXCL, 0o644))

    def _folder_of(self, key: str) -> Path:
        """The folder of a key's files, which holds few enough for one listing."""
        return self.folder / key[:2]

    def _evict(self, kept: Path) -> None:
        """Delete files of killed processes, and the shards used longest ago, except `kept`, until the limit holds."""
        assert self.limit is not None
        files = []
        for path in self.folder.glob("*/*"):
            if not _named_by_a_store(path):
                continue
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            if _SHARD.fullmatch(path.name):
                files.append((state.st_mtime_ns, state.st_size, path))
            elif time.time() - state.st_mtime > _ABANDONED:
                path.unlink(missing_ok=True)
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit:
                break
            if path != kept:
                path.unlink(missing_ok=True)
                total -= size


def _named_by_a_store(path: Path) -> bool:
    """Whether a file in a folder of a store has the name of a shard, or of a file that belongs to one."""
    match = _SHARD.fullmatch(path.name) or _LEFT.fullmatch(path.name)
    if match is None:
        return False
    key = match["key"] or match.groupdict().get("claimed")
    return key is not None and key[:2] == path.parent.name


def _foreign_file(folder: Path) -> Path | None:
    """A file in a folder that no store has written; None for a store, and for a folder that does not exist or is empty.

    Stores of earlier versions have no mark, and hold nothing but files that a store writes.
    """
    if not folder.exists() or (folder / _MARK).exists():
        return None
    if not folder.is_dir():
        return folder
    for part in folder.iterdir():
        if part.name == _COUNTS:
            continue
        if len(part.name) > 2 or not part.is_dir():
            return part
        for path in part.iterdir():
            if not _named_by_a_store(path):
                return path
    return None


def digest(facts: Any) -> str:
    """A key from JSON data: the same for the same facts, whatever the order of a dict's entries.

    Numbers may be infinite or NaN.

    Raises:
        TypeError: the facts hold something that is no JSON data.
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
