"""The progress of a long run: on a terminal a bar for each stage, elsewhere a line for each event."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column
from torch import Tensor
from torch.distributed import Store

from optsteps.conditions import Cond
from optsteps.denoisers import Denoiser, call_nfe
from optsteps.sampling import Walks
from optsteps.text.terminal import say

log = logging.getLogger(__name__)
# seconds between two looks at the ranks' counts, between two lines about shards, and between two lines in a long shard
_LOOK, _LINE, _LONG = 0.5, 5.0, 30.0


@dataclass
class _Stage:
    """A stage under way.

    Attributes:
        name: of it.
        total: evaluations that it is planned to take; None where nobody knows.
        before: evaluations of every rank when it began.
        found_before: evaluations found in the store when it began.
        fraction: how much of it is done, where `total` is None.
        shard: number of the last shard, and of how many.
        done: finished shards of the search under way, with their round and how many rounds and shards it has.
    """

    name: str
    total: int | None
    before: Mapping[int, int]
    found_before: int
    begun: float = field(default_factory=lambda: time.monotonic())
    fraction: float = 0.0
    shard: str = ""
    done: set[tuple[int, ...]] = field(default_factory=set)
    last_line: float = -math.inf
    announced: bool = False


class Progress:
    """Counts a rank's network evaluations; rank 0 shows those of all ranks, and the time left for the whole run.

    Args:
        device: name of this rank's device.
        rank: its number.
        world_size: how many ranks there are.
        board: where the ranks of a run leave their counts; None where there is one rank only.
        label: stands before every line of a job that runs beside others, which has no bars.
    """

    def __init__(
        self, device: str, rank: int = 0, world_size: int = 1, board: Store | None = None, label: str = ""
    ) -> None:
        self.device, self.rank, self.world_size, self.board, self.label = device, rank, world_size, board, label
        self.evaluations, self._found = 0, 0
        self._to_come: dict[str, int | None] = {}
        self._begun: tuple[float, int] | None = None
        self._looked = 0.0
        self._stage: _Stage | None = None
        console = Console(stderr=True)
        self._has_bars = console.is_terminal and not label
        name, note = Column(no_wrap=True, min_width=20), Column(no_wrap=True, ratio=1)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=name, markup=False),
            BarColumn(10, table_column=Column(min_width=10)),
            TimeElapsedColumn(table_column=Column(min_width=7)),
            TextColumn("{task.fields[note]}", table_column=note, markup=False),
            console=console,
            disable=not self._has_bars,
            expand=True,
        )
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def expect(self, evaluations: Mapping[str, int | None]) -> None:
        """The stages of the run with the evaluations that they are planned to take, None where nobody knows. What is
        found in the store counts as done."""
        self._to_come = dict(evaluations)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The stage `name` while the body runs."""
        counts = {rank: count for rank, (_, count) in self._ranks().items()}
        self._stage = stage = _Stage(name, self._to_come.pop(name, None), counts, self._found)
        if self._begun is None and stage.total is not None:
            self._begun = stage.begun, sum(counts.values())
        self._bar = self._bars.add_task(name, total=1.0, note="")
        yield
        if stage.announced:
            self._line(f"{name}: done in {time.monotonic() - stage.begun:.1f} s, {self._spent(stage)}")
        self._look()
        self._bars.update(self._bar, completed=1.0, note=self._spent(stage) if stage.announced else "")
        self._stage = None

    def watch(self, denoiser: Denoiser) -> Denoiser:
        """`denoiser`, its evaluations counted here."""
        nfe = call_nfe(denoiser)

        def count(evaluations: int) -> None:
            self.evaluations += evaluations
            now = time.monotonic()
            if now - self._looked > _LOOK:
                self._look()
            stage = self._stage
            if stage is not None and now - max(stage.begun, stage.last_line) >= _LONG:
                self._tell(stage)

        def watched(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            self._announce()
            out = denoiser(x, t, cond)
            count(nfe * len(x))
            return out

        watched.nfe = nfe  # type: ignore[attr-defined]
        if isinstance(denoiser, Walks):
            walks = denoiser

            def walk(*arguments: Any) -> Any:
                self._announce()
                steps, evaluations = walks.walk(*arguments)
                count(evaluations)
                return steps, evaluations

            watched.walk, watched.answers = walk, walks.answers  # type: ignore[attr-defined]
        return watched

    def found(self, shard: Any) -> None:
        """Count the evaluations of a shard that is in the store: a pair of the shard and their number."""
        if isinstance(shard, tuple) and len(shard) == 2 and isinstance(shard[1], int):
            self._found += shard[1]

    def shard(self, name: Mapping[str, Any]) -> None:
        """Count a finished shard of a search: number `shard` of `of` in round `round` of `rounds`.

        A stage may be several searches: one begins where a shard comes again, or is one of other numbers.
        """
        if self._stage is None:
            return
        self._announce()
        stage, of, rounds = self._stage, name["of"], name["rounds"]
        part = (of, rounds, name["round"], name["shard"])
        if part in stage.done or any(other[:2] != part[:2] for other in stage.done):
            stage.done.clear()
        stage.done.add(part)
        done = sum(other[2] == name["round"] for other in stage.done)
        stage.shard = (f"round {name['round'] + 1} of {rounds}, " if rounds > 1 else "") + f"shard {done} of {of}"
        self.advance((name["round"] + done / of) / rounds)

    def advance(self, fraction: float) -> None:
        """Show that this fraction of the stage is done."""
        stage = self._stage
        if stage is None:
            return
        stage.fraction = fraction
        if time.monotonic() - stage.last_line > _LINE and fraction < 1:
            self._tell(stage)
        self._look()

    def _announce(self) -> None:
        """Write a line at the stage's first event; a stage without any, such as a search by formula, has none."""
        if self._stage is not None and not self._stage.announced:
            self._stage.announced = True
            self._line(f"{self._stage.name}: begins")

    def _look(self) -> None:
        """Leave this rank's count for rank 0, and show all counts."""
        self._looked = time.monotonic()
        if self.board is not None and self.rank > 0:
            self.board.set(f"count/{self.rank}", f"{self.evaluations} {self.device}")
        if self._stage is not None and self._has_bars:
            self._bars.update(self._bar, completed=self._fraction(self._stage), note=self._note(self._stage))

    def _ranks(self) -> dict[int, tuple[str, int]]:
        """Device and evaluations so far of every rank."""
        counts = {self.rank: (self.device, self.evaluations)}
        if self.board is not None and self.rank == 0:
            for rank in range(1, self.world_size):
                if self.board.check([f"count/{rank}"]):
                    evaluations, _, device = self.board.get(f"count/{rank}").decode().partition(" ")
                    counts[rank] = (device, int(evaluations))
        return counts

    def _spent(self, stage: _Stage) -> str:
        """The evaluations of the stage, and those of every rank per second."""
        ranks = self._ranks()
        spent = {rank: count - stage.before.get(rank, 0) for rank, (_, count) in ranks.items()}
        seconds = max(time.monotonic() - stage.begun, 1e-3)
        rates = [f"{count / seconds:,.0f}/s on {ranks[rank][0]}" for rank, count in spent.items()]
        if len(rates) > 1:
            rates = [f"rank {rank} {rate}" for rank, rate in zip(spent, rates, strict=True)]
        return ", ".join([f"{sum(spent.values()):,} evaluations", *rates])

    def _done(self, stage: _Stage) -> int:
        """Evaluations of the stage that are made or found: those that rank 0 knows, or those that all ranks made."""
        ranks = {rank: count - stage.before.get(rank, 0) for rank, (_, count) in self._ranks().items()}
        return max(ranks[self.rank] + self._found - stage.found_before, sum(ranks.values()))

    def _fraction(self, stage: _Stage) -> float:
        return stage.fraction if not stage.total else min(1.0, self._done(stage) / stage.total)

    def _left(self, stage: _Stage) -> str:
        """The time that is left for the run or, where nobody has planned it, for the stage."""
        now = time.monotonic()
        if stage.total is None or self._begun is None:
            fraction, seconds = self._fraction(stage), now - stage.begun
            return f"{_clock(seconds / fraction - seconds)} to go" if fraction > 0 else ""
        begun, before = self._begun
        made = sum(count for _, count in self._ranks().values()) - before
        if made == 0:
            return ""
        left = max(0, stage.total - self._done(stage)) + sum(count or 0 for count in self._to_come.values())
        at_least = "at least " if None in self._to_come.values() else ""
        return f"{at_least}{_clock(left * (now - begun) / made)} to go in all"

    def _note(self, stage: _Stage) -> str:
        percent = f"{self._fraction(stage):.0%}" if stage.total else ""
        return ", ".join(part for part in (percent, self._left(stage), stage.shard, self._spent(stage)) if part)

    def _tell(self, stage: _Stage) -> None:
        stage.last_line = time.monotonic()
        self._line(f"{stage.name}: {self._note(stage)}")

    def _line(self, text: str) -> None:
        log.info(text)
        if not self._has_bars:
            label = f"{self.label}: " if self.label else ""
            say(f"{time.strftime('%H:%M:%S')} {label}{text}", sys.stderr)


def _clock(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
