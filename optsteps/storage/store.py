"""Results of long computations on disk: a file for each shard, found by what determined it, whole or not there.

A shard is a tree (see `optsteps.storage.shards`). Its file is a safetensors file whose name holds the key and the
SHA-256 of the content, so that a damaged one is known by its name, and every reader of safetensors can look into it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from optsteps.storage.claims import PATIENCE, Claim
from optsteps.storage.files import write_atomically
from optsteps.storage.shards import Tree, pack, unpack

# how long a process waits before it looks again for what another one computes
_PAUSE = 0.05
# age in seconds at which a file that is still being written is not
_ABANDONED = 3600
# a folder with this file is a store, and everything in it that has a name of ours is
_MARK = ".optsteps_store"
_SHARD = re.compile(r"(?P<key>[^.]+)\.(?P<sha256>[0-9a-f]{64})\.safetensors")
# what a killed process left: a shard half written, a claim
_LEFT = re.compile(rf"\.{_SHARD.pattern}\..+|(?P<claimed>[^.]+)\.(claim|lock)")
# beside the shards: what the ranks of a run have done so far
_COUNTS = "progress"


class DamagedShardWarning(UserWarning):
    """A file is not the shard that was written, or none at all; it is deleted and will be computed again."""


class UnwritableStoreWarning(UserWarning):
    """A store cannot be written: shards that it lacks are computed, and not kept."""


class ShardStore:
    """Shards in a folder that any number of processes share.

    A process claims a shard before computing it. The claim of one that died is free again, and so is that of one that
    gives no sign of life. In a folder that cannot be written, the shards that are there are read.

    Args:
        folder: made where it is missing; it is marked, and no file in it is touched but those with names of a store's.
        limit: bytes; where new shards exceed it, those used longest ago are deleted. Looked at whenever this process
            has added a hundredth of it. None for no limit.
        patience: seconds after which a process that gives no sign of life has lost its claims; for all processes alike.

    Raises:
        ValueError: the folder holds other things than a store.
    """

    def __init__(self, folder: Path, limit: int | None = None, patience: float = PATIENCE) -> None:
        if (unknown := _other_than_a_store(folder)) is not None:
            raise ValueError(
                f"the folder {folder} holds other things than a store of shards ({unknown.relative_to(folder)}), and a "
                "store deletes files: name a folder of its own, e.g. store.folder=outputs/store"
            )
        self.folder, self.limit, self.patience = folder, limit, patience
        self._added = math.inf  # bytes since the folder was last measured
        self._writable = True  # as far as is known
        self._awaited: dict[str, Claim] = {}

    def get(self, key: str) -> Tree | None:
        """The shard of this key, None where there is none that is whole. Tensors are on the CPU."""
        for path in self._at(key).glob(f"{key}.*"):
            named = _SHARD.fullmatch(path.name)
            if named is None or not path.is_file():  # a folder, or a pipe that would be waited for
                continue
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # deleted by another process between the two calls
                continue
            if hashlib.sha256(content).hexdigest() != named["sha256"]:
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
            except ValueError as error:  # whole, and written by something else
                warnings.warn(f"{path}: {error}; it is deleted and computed again", DamagedShardWarning, stacklevel=2)
                with suppress(OSError):
                    path.unlink()
                continue
            with suppress(OSError):  # deleted in the meantime, or not to be written
                os.utime(path)
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
        self._mark()
        write_atomically(path, content)
        self._added += len(content)
        if self.limit is not None and self._added >= self.limit / 100:
            self._evict(path)
            self._added = 0

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Whether this process may compute the shard: no other process, alive, is at it.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self._at(key) / f"{key}.claim"
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
                    shard = self._computed(keys[place], partial(function, place))
                if shard is None:
                    left.append(place)
                else:
                    found[place] = shard
                    finished(place)
            if len(left) == len(waiting):
                time.sleep(_PAUSE)
            waiting = left
        return [found[place] for place in range(len(keys))]

    def _computed(self, key: str, function: Callable[[], Tree]) -> Tree | None:
        """The shard, computed here and kept where that can be; None where another process is at it."""
        if not self._writable:
            return function()
        with ExitStack() as claim:
            try:
                mine = claim.enter_context(self.claimed(key))
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
            if not mine:
                return None
            shard = self.get(key)  # finished since it was looked for
            if shard is None:
                shard = function()
                self.put(key, shard)
            return shard

    def _mark(self) -> None:
        """Make the folder, and mark it as a store."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # at once there: a half-made one would look like another's folder
            os.close(os.open(self.folder / _MARK, os.O_CREAT | os.O_EXCL, 0o644))

    def _at(self, key: str) -> Path:
        """The folder of a key's files: few enough for one listing."""
        return self.folder / key[:2]

    def _evict(self, kept: Path) -> None:
        """Delete the shards used longest ago until the limit holds, but never the one named; and what killed processes
        left half-written."""
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
    """Has a file in a folder of a store the name of a shard, or of what belongs to one?"""
    named = _SHARD.fullmatch(path.name) or _LEFT.fullmatch(path.name)
    if named is None:
        return False
    key = named["key"] or named.groupdict().get("claimed")
    return key is not None and key[:2] == path.parent.name


def _other_than_a_store(folder: Path) -> Path | None:
    """Something in a folder that no store has put there; None for a store, and where nothing is yet.

    Stores of earlier versions have no mark: they hold nothing but what a store writes.
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


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()
