"""How the ranks of one run divide lists of shards, by counters in the key-value store of their process group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.distributed import Store

from optsteps.storage.shards import Tree, pack, unpack
from optsteps.storage.store import digest

# seconds between two looks at the board
_PAUSE = 0.005
# bytes of a shard under one key; torch's store takes 8 MB
_PIECE = 4_000_000


@dataclass(frozen=True)
class Division:
    """The part that one rank has in lists of shards which all ranks compute together.

    A rank that is free takes the next shard that nobody has begun, so a slow one holds up none but that which it is at.

    Args:
        board: key-value store of the process group.
        rank: this process's number.
        world_size: how many there are.
    """

    board: Store
    rank: int
    world_size: int

    def taken(self, keys: Sequence[str]) -> Iterator[int]:
        """Positions in a list of keys of shards, one after another, each of them in one rank alone."""
        counter = f"taken/{digest(list(keys))}"
        while (position := self.board.add(counter, 1) - 1) < len(keys):
            yield position

    def finish(self, key: str) -> None:
        """Say that a shard is where all ranks find it."""
        self.board.set(f"finished/{key}", "")

    def wait_for(self, key: str) -> None:
        """Wait until a rank has finished this shard."""
        self._wait(f"finished/{key}")

    def send(self, key: str, shard: Tree) -> None:
        """Send a shard to every other rank, each of which must receive it."""
        content = pack(shard)
        pieces = range(0, len(content), _PIECE)
        for number, begin in enumerate(pieces):
            self.board.set(f"piece/{key}/{number}", content[begin : begin + _PIECE])  # type: ignore[arg-type]
        self.board.set(f"finished/{key}", str(len(pieces)))

    def received(self, key: str) -> Tree:
        """The shard that another rank sends."""
        self.wait_for(key)
        names = [f"piece/{key}/{number}" for number in range(int(self.board.get(f"finished/{key}")))]
        content = b"".join(self.board.get(name) for name in names)
        if self.board.add(f"received/{key}", 1) == self.world_size - 1:  # the last one
            for name in names:
                self.board.delete_key(name)
        return unpack(content)

    def share(self, key: str, text: str | None) -> str:
        """The text that rank 0 gives, in every rank."""
        if text is not None:
            self.board.set(key, text)
            return text
        self._wait(key)
        return self.board.get(key).decode()

    def _wait(self, key: str) -> None:
        """Wait, for as long as it takes: a rank that is lost ends this process."""
        while not self.board.check([key]):
            time.sleep(_PAUSE)
