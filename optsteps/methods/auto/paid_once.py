"""Workers for several searches that share their work, so that each part of it is paid for once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optsteps.storage.store import digest
from optsteps.storage.workers import Name, Workers


@dataclass(frozen=True)
class PaidOnce:
    """Workers of `Trajectories` whose shards count evaluations when they are requested first, and none afterwards.

    A shard is the pair of a result and its evaluations. Where the workers behind keep nothing, shards are held in
    memory.

    Args:
        workers: who compute.
    """

    workers: Workers
    facts: Mapping[str, Any] = field(default_factory=dict)
    paid: dict[str, Any] = field(default_factory=dict)
    keeps = True

    def on(self, part: str, **facts: Any) -> PaidOnce:
        return replace(self, workers=self.workers.on(part, **facts), facts={**self.facts, part: facts})

    def shards(self, names: Sequence[Name], compute: Callable[[int], Any]) -> list[Any]:
        keys = [self._key(name) for name in names]
        missing = [k for k, key in enumerate(keys) if self.workers.keeps or key not in self.paid]
        found = self.workers.shards([names[k] for k in missing], lambda number: compute(missing[number]))
        shards = dict(zip(missing, found, strict=True))
        return [self._once(key, shards.get(k)) for k, key in enumerate(keys)]

    def telling(self, finished: Callable[[Name], None]) -> PaidOnce:
        return replace(self, workers=self.workers.telling(finished))

    def kept(self, name: Name) -> Any | None:
        shard, key = self.workers.kept(name), self._key(name)
        if shard is None and not self.workers.keeps:
            shard = self.paid.get(key)
        return None if shard is None else self._once(key, shard)

    def _once(self, key: str, shard: Any) -> Any:
        if key in self.paid:
            result = self.paid[key][0] if shard is None else shard[0]
            return result, 0
        self.paid[key] = None if self.workers.keeps else shard
        return shard

    def _key(self, name: Name) -> str:
        return digest({"facts": self.facts, "shard": name})
