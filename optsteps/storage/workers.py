"""Workers that compute the shards of a long computation: this process alone, or all processes that share a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from optsteps.storage.store import ShardStore, digest

Name = Mapping[str, Any]


class Workers(Protocol):
    """Computes shards.

    Attributes:
        keeps: whether shards are kept, so that naming them is worth the work.
    """

    keeps: bool

    def on(self, part: str, **facts: Any) -> Workers:
        """The same workers on a part of the work, which these facts (JSON data) determine beside those given before."""
        ...

    def shards(self, names: Sequence[Name], compute: Callable[[int], Any]) -> list[Any]:
        """compute(0) ... compute(len(names) - 1), in order; the names (JSON data) tell the shards apart."""
        ...

    def telling(self, finished: Callable[[Name], None]) -> Workers:
        """The same workers, which call `finished` with the name of every shard once it is there."""
        ...

    def kept(self, name: Name) -> Any | None:
        """The shard of that name; None where it is not computed yet or not kept."""
        ...


def _silent(_: Any) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Alone:
    """This process computes every shard and keeps none.

    Args:
        finished: called with the name of every shard once it is done.
    """

    finished: Callable[[Name], None] = _silent
    keeps = False

    def on(self, part: str, **facts: Any) -> Alone:
        return self

    def shards(self, names: Sequence[Name], compute: Callable[[int], Any]) -> list[Any]:
        shards = []
        for number, name in enumerate(names):
            shards.append(compute(number))
            self.finished(name)
        return shards

    def telling(self, finished: Callable[[Name], None]) -> Alone:
        return Alone(finished)

    def kept(self, name: Name) -> None:
        return None


ALONE = Alone()


@dataclass(frozen=True)
class StoredWorkers:
    """All processes with the same store and the same facts: one of them computes a shard, once, and it is kept.

    Args:
        store: of the shards.
        facts: those that determine the shards' content, JSON data.
        rank, world_size: this process's number and how many there are, so that they begin at different shards; nothing
            depends on either.
        finished: called with the name of every shard once it is there, computed by this process or another.
        found: called with every shard that this process need not compute, because it is in the store.
    """

    store: ShardStore
    facts: Mapping[str, Any]
    rank: int = 0
    world_size: int = 1
    finished: Callable[[Name], None] = _silent
    found: Callable[[Any], None] = _silent
    keeps = True

    def on(self, part: str, **facts: Any) -> StoredWorkers:
        return replace(self, facts={**self.facts, part: facts})

    def shards(self, names: Sequence[Name], compute: Callable[[int], Any]) -> list[Any]:
        first = self.rank * len(names) // self.world_size
        computed = set[int]()

        def computing(position: int) -> Any:
            computed.add(position)
            return compute(position)

        def there(position: int, shard: Any) -> None:
            if position not in computed:
                self.found(shard)
            self.finished(names[position])

        return self.store.compute([self._key(name) for name in names], computing, first, there)

    def telling(self, finished: Callable[[Name], None]) -> StoredWorkers:
        return replace(self, finished=finished)

    def kept(self, name: Name) -> Any | None:
        shard = self.store.get(self._key(name))
        if shard is not None:
            self.found(shard)
        return shard

    def _key(self, name: Name) -> str:
        return digest({"facts": self.facts, "shard": name})


@dataclass(frozen=True)
class RememberingWorkers:
    """Workers whose shards of one part are held in memory as well, as long as these workers are: those of a part that
    is requested again and again.

    Args:
        workers: who compute.
        part: the name of the part, the first that is given to `on`.
    """

    workers: Workers
    part: str
    memory: dict[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] | None = None
    keeps = True

    def on(self, part: str, **facts: Any) -> Workers:
        workers = self.workers.on(part, **facts)
        if self.facts is None and part != self.part:
            return workers
        return replace(self, workers=workers, facts={**(self.facts or {}), part: facts})

    def shards(self, names: Sequence[Name], compute: Callable[[int], Any]) -> list[Any]:
        if self.facts is None:
            return self.workers.shards(names, compute)
        missing = [number for number, name in enumerate(names) if self._key(name) not in self.memory]
        shards = self.workers.shards([names[number] for number in missing], lambda k: compute(missing[k]))
        self.memory.update({self._key(names[number]): shard for number, shard in zip(missing, shards, strict=True)})
        return [self.memory[self._key(name)] for name in names]

    def telling(self, finished: Callable[[Name], None]) -> RememberingWorkers:
        return replace(self, workers=self.workers.telling(finished))

    def kept(self, name: Name) -> Any | None:
        held = self.memory.get(self._key(name)) if self.facts is not None else None
        return self.workers.kept(name) if held is None else held

    def _key(self, name: Name) -> str:
        return digest({"facts": self.facts, "shard": name})
