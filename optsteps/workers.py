"""Who computes the shards of a long computation: this process alone, or all that share a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from optsteps.store import ShardStore, digest


class Workers(Protocol):
    """Computes shards."""

    def on(self, part: str, **facts: Any) -> Workers:
        """The same workers on a part of the work that these facts (JSON data) determine, with those given before."""
        ...

    def shards(self, count: int, compute: Callable[[int], Any]) -> list[Any]:
        """compute(0) ... compute(count - 1), in order."""
        ...


class Alone:
    """Everything here, nothing kept."""

    def on(self, part: str, **facts: Any) -> Alone:
        return self

    def shards(self, count: int, compute: Callable[[int], Any]) -> list[Any]:
        return [compute(number) for number in range(count)]


ALONE = Alone()


@dataclass(frozen=True)
class StoredWorkers:
    """Every process that names the same store and the same facts: a shard is computed by one of them, once, and kept.

    Args:
        store: of the shards.
        facts: what determines their content, JSON data.
        rank, world_size: this process's number and how many there are, so that they begin at different shards; nothing
            depends on either.
    """

    store: ShardStore
    facts: Mapping[str, Any]
    rank: int = 0
    world_size: int = 1

    def on(self, part: str, **facts: Any) -> StoredWorkers:
        return replace(self, facts={**self.facts, part: facts})

    def shards(self, count: int, compute: Callable[[int], Any]) -> list[Any]:
        keys = [digest({"facts": self.facts, "shard": number, "of": count}) for number in range(count)]
        return self.store.compute(keys, compute, first=self.rank * count // self.world_size)
