"""Results of long computations on disk: a file for each shard, found by what determined it, whole or not there.

A shard is a tree (see `optsteps.shards`). Its file is a safetensors file whose name holds the key and the SHA-256 of
the content, so that a damaged one is known by its name, and every reader of safetensors can look into it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from optsteps.files import write_atomically
from optsteps.shards import Tree, pack, unpack

# how long a process waits before it looks again for what another one computes
_PAUSE = 0.05
# age in seconds at which a file that is still being written is not
_ABANDONED = 3600


class DamagedShardWarning(UserWarning):
    """A file is not the shard that was written, or none at all; it is deleted and will be computed again."""


class ShardStore:
    """Shards in a folder that any number of processes share.

    A process claims a shard before computing it; the claim of a process that died is free again at once.

    Args:
        folder: made where it is missing; on a file system with locks.
        limit: bytes; where new shards exceed it, those used longest ago are deleted. Looked at whenever this process
            has added a hundredth of it. None for no limit.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self.limit = folder, limit
        self._added = math.inf  # bytes since the folder was last measured

    def get(self, key: str) -> Tree | None:
        """The shard of this key, None where there is none that is whole. Tensors are on the CPU."""
        for path in self._at(key).glob(f"{key}.*.safetensors"):
            if not path.is_file():  # a folder, or a pipe that would be waited for
                continue
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # deleted by another process between the two calls
                continue
            if hashlib.sha256(content).hexdigest() != path.name.split(".")[1]:
                warnings.warn(
                    f"{path} is damaged ({len(content)} bytes); it is deleted and computed again",
                    DamagedShardWarning,
                    stacklevel=2,
                )
                path.unlink(missing_ok=True)
                continue
            try:
                tree = unpack(content)
            except ValueError as error:  # whole, and written by something else
                warnings.warn(f"{path}: {error}; it is deleted and computed again", DamagedShardWarning, stacklevel=2)
                path.unlink(missing_ok=True)
                continue
            path.touch()
            return tree
        return None

    def put(self, key: str, tree: Tree) -> None:
        """Keep a shard; it appears whole or not at all.

        Raises:
            TypeError: the tree holds something else than its description allows.
            OSError: the folder cannot be written.
        """
        content = pack(tree)
        path = self._at(key) / f"{key}.{hashlib.sha256(content).hexdigest()}.safetensors"
        write_atomically(path, content)
        self._added += len(content)
        if self.limit is not None and self._added >= self.limit / 100:
            self._evict(path)
            self._added = 0

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Whether this process may compute the shard: no other process, alive, is at it."""
        path = self._at(key) / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
            with suppress(OSError):  # Windows keeps open files
                path.unlink()  # whoever locks the old file or makes a new one finds the shard there
        finally:
            lock.release()

    def compute(
        self,
        keys: Sequence[str],
        function: Callable[[int], Tree],
        first: int = 0,
        finished: Callable[[int], None] = lambda _: None,
    ) -> list[Tree]:
        """What `function(i)` returns for every key, each computed by one process and kept.

        Args:
            keys: of the shards.
            function: from a key's place in the list to its shard.
            first: where this process begins, so that several do not queue for the same.
            finished: told the place of every shard that is there, computed here or not.
        """
        found: dict[int, Tree] = {}
        waiting = [(first + i) % len(keys) for i in range(len(keys))]
        while waiting:
            left = []
            for place in waiting:
                shard = self.get(keys[place])
                if shard is None:
                    with self.claimed(keys[place]) as mine:
                        if mine:
                            shard = self.get(keys[place])  # finished since it was looked for
                            if shard is None:
                                shard = function(place)
                                self.put(keys[place], shard)
                if shard is None:
                    left.append(place)
                else:
                    found[place] = shard
                    finished(place)
            if len(left) == len(waiting):
                time.sleep(_PAUSE)
            waiting = left
        return [found[place] for place in range(len(keys))]

    def _at(self, key: str) -> Path:
        """The folder of a key's files: few enough for one listing."""
        return self.folder / key[:2]

    def _evict(self, kept: Path) -> None:
        """Delete the shards used longest ago until the limit holds, but never the one named; and what killed processes
        left half-written."""
        assert self.limit is not None
        files = []
        for path in self.folder.glob("*/*.safetensors*"):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            if not path.name.startswith("."):
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


def digest(facts: Any) -> str:
    """A key from JSON data: the same for the same facts, whatever the order of a dict's entries.

    Raises:
        TypeError: the facts hold something that is no JSON data.
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32]


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()
