"""Workers that compute the shards of a long computation: this process, all with the same store, or a run's ranks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from optsteps.storage.division import Division
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
        store: of the shards, one for all ranks.
        facts: those that determine the shards' content, JSON data.
        division: of the shards among the ranks of this run; None where it has one process. Another run with the same
            store is met in the store.
        finished: called with the name of every shard once it is there, computed by this process or another.
        found: called with every shard that this process need not compute, because it is in the store.
    """

    store: ShardStore
    facts: Mapping[str, Any]
    division: Division | None = None
    finished: Callable[[Name], None] = _silent
    found: Callable[[Any], None] = _silent
    keeps = True

    def on(self, part: str, **facts: Any) -> StoredWorkers:
        return replace(self, facts={**self.facts, part: facts})

    def shards(self, names: Sequence[Name], compute: Callable[[int], Any]) -> list[Any]:
        keys = [_key(self.facts, name) for name in names]
        shards, computed = dict[int, Any](), set[int]()

        def computing(position: int) -> Any:
            computed.add(position)
            return compute(position)

        def there(position: int, shard: Any) -> None:
            shards[position] = shard
            if self.division is not None:
                self.division.finish(keys[position])
            if position not in computed:
                self.found(shard)
            self.finished(names[position])

        if self.division is None:
            return self.store.compute(keys, computing, finished=there)
        self.store.compute(keys, computing, self.division.taken(keys), there)
        for position, key in enumerate(keys):
            if position not in shards:  # another rank has taken it
                self.division.wait_for(key)
                self.store.compute(keys, computing, [position], there)
        return [shards[position] for position in range(len(keys))]

    def telling(self, finished: Callable[[Name], None]) -> StoredWorkers:
        return replace(self, finished=finished)

    def kept(self, name: Name) -> Any | None:
        shard = self.store.get(_key(self.facts, name))
        if shard is not None:
            self.found(shard)
        return shard


@dataclass(frozen=True)
class GatheredWorkers:
    """The ranks of one run, which share no store: they send each other every shard, and rank 0 keeps it.

    What is requested while a shard is computed, such as a walk of the teacher, stays with the rank that computes it.

    Args:
        division: of the shards among the ranks.
        store: rank 0's; None in the others, and where nothing is kept.
        facts, finished, found: as of `StoredWorkers`.
    """

    division: Division
    store: ShardStore | None
    facts: Mapping[str, Any]
    finished: Callable[[Name], None] = _silent
    found: Callable[[Any], None] = _silent
    # how often a list of shards was requested: all ranks request the same ones, though rank 0 some of them again
    _requests: Counter[str] = field(default_factory=Counter)
    # the shards that this rank is at; what it requests for them, it requests alone
    _under_way: list[str] = field(default_factory=list)
    keeps = True

    def on(self, part: str, **facts: Any) -> GatheredWorkers:
        return replace(self, facts={**self.facts, part: facts})

    def shards(self, names: Sequence[Name], compute: Callable[[int], Any]) -> list[Any]:
        if self._under_way:
            return [self._computed(name, partial(compute, position)) for position, name in enumerate(names)]
        keys = [_key(self.facts, name) for name in names]
        request = digest(keys)
        self._requests[request] += 1
        prefix, division = f"{self._requests[request]}/{request}", self.division
        sent = [f"{prefix}/{position}" for position in range(len(keys))]
        shards = dict[int, Any]()
        for position, name in enumerate(names):
            shard = self.kept(name)
            if shard is not None:
                shards[position] = shard
                division.send(sent[position], shard)
        known = json.loads(division.share(f"{prefix}/known", json.dumps([*shards]) if division.rank == 0 else None))
        for position in division.taken(sent):
            if position not in known:
                self._under_way.append(sent[position])
                shards[position] = self._computed(names[position], partial(compute, position))
                self._under_way.pop()
                division.send(sent[position], shards[position])
        for position, name in enumerate(names):
            if position not in shards:
                shards[position] = division.received(sent[position])
                self.found(shards[position])
                if self.store is not None:
                    self.store.put(keys[position], shards[position])
            self.finished(name)
        return [shards[position] for position in range(len(keys))]

    def _computed(self, name: Name, compute: Callable[[], Any]) -> Any:
        if self.store is None:
            return compute()
        return self.store.compute([_key(self.facts, name)], lambda _: compute())[0]

    def telling(self, finished: Callable[[Name], None]) -> GatheredWorkers:
        return replace(self, finished=finished)

    def kept(self, name: Name) -> Any | None:
        shard = None if self.store is None else self.store.get(_key(self.facts, name))
        if shard is not None:
            self.found(shard)
        return shard


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
        return _key(self.facts, name)


def _key(facts: Mapping[str, Any] | None, name: Name) -> str:
    return digest({"facts": facts, "shard": name})
