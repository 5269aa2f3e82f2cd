"""Who computes the shards of a long computation: this process alone, or all that share a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from optsteps.storage.store import ShardStore, digest

Name = Mapping[str, Any]


class Workers(Protocol):
    """Computes shards.

    Attributes:
        keeps: is what they compute kept, so that it is worth a name?
    """

    keeps: bool

    def on(self, part: str, **facts: Any) -> Workers:
        """The same workers on a part of the work that these facts (JSON data) determine, with those given before."""
        ...

    def shards(self, names: Sequence[Name], compute: Callable[[int], Any]) -> list[Any]:
        """compute(0) ... compute(len(names) - 1), in order; the names (JSON data) tell the shards apart."""
        ...

    def telling(self, finished: Callable[[Name], None]) -> Workers:
        """The same workers, telling the name of every shard that is there."""
        ...

    def kept(self, name: Name) -> Any | None:
        """The shard of that name, None where it was not computed yet."""
        ...


def _silent(_: Name) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class Alone:
    """Everything here, nothing kept.

    Args:
        finished: told the name of every shard that is done.
    """

    finished: Callable[[Name], None] = _silent
    keeps = False

    def on(self, part: str, **facts: Any) -> Alone:
        return self

    def shards(self, names: Sequence[Name], compute: Callable[[int], Any]) -> list[Any]:
        done = []
        for number, name in enumerate(names):
            done.append(compute(number))
            self.finished(name)
        return done

    def telling(self, finished: Callable[[Name], None]) -> Alone:
        return Alone(finished)

    def kept(self, name: Name) -> None:
        return None


ALONE = Alone()


@dataclass(frozen=True)
class StoredWorkers:
    """Every process that names the same store and the same facts: a shard is computed by one of them, once, and kept.

    Args:
        store: of the shards.
        facts: what determines their content, JSON data.
        rank, world_size: this process's number and how many there are, so that they begin at different shards; nothing
            depends on either.
        finished: told the name of every shard that is there, computed here or not.
    """

    store: ShardStore
    facts: Mapping[str, Any]
    rank: int = 0
    world_size: int = 1
    finished: Callable[[Name], None] = _silent
    keeps = True

    def on(self, part: str, **facts: Any) -> StoredWorkers:
        return replace(self, facts={**self.facts, part: facts})

    def shards(self, names: Sequence[Name], compute: Callable[[int], Any]) -> list[Any]:
        first = self.rank * len(names) // self.world_size
        keys = [self._key(name) for name in names]
        return self.store.compute(keys, compute, first, finished=lambda place: self.finished(names[place]))

    def telling(self, finished: Callable[[Name], None]) -> StoredWorkers:
        return replace(self, finished=finished)

    def kept(self, name: Name) -> Any | None:
        return self.store.get(self._key(name))

    def _key(self, name: Name) -> str:
        return digest({"facts": self.facts, "shard": name})
