"""What a long run tells of itself: on a terminal a bar for each stage, elsewhere a line for each event."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.denoisers import Denoiser, call_nfe
from optsteps.storage.documents import read_json
from optsteps.storage.files import write_atomically
from optsteps.text.terminal import say

log = logging.getLogger(__name__)
# seconds between two looks at the ranks' counts, and between two lines about shards
_LOOK, _LINE = 0.5, 5.0


@dataclass
class _Stage:
    """Work under way: what is done of it, and the evaluations of every rank when it began."""

    name: str
    total: float | None
    before: Mapping[int, int]
    begun: float = field(default_factory=time.monotonic)
    fraction: float = 0.0
    place: str = ""
    done: Counter[int] = field(default_factory=Counter)
    told: float = 0.0
    announced: bool = False


class Progress:
    """Counts a rank's network evaluations, and for rank 0 tells of all ranks'.

    Args:
        device: of this rank, as it is to be called.
        rank: its number.
        folder: where the ranks of a run leave their counts; None where there is one rank only.
    """

    def __init__(self, device: str, rank: int = 0, folder: Path | None = None) -> None:
        self.device, self.rank, self.folder = device, rank, folder
        self.evaluations = 0
        self._looked = 0.0
        self._stage: _Stage | None = None
        console = Console(stderr=True)
        self._terminal = console.is_terminal
        whole, rest = Column(no_wrap=True, min_width=20), Column(no_wrap=True, ratio=1)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=whole, markup=False),
            BarColumn(10, table_column=Column(min_width=10)),
            TimeElapsedColumn(table_column=Column(min_width=7)),
            TextColumn("{task.fields[note]}", table_column=rest, markup=False),
            console=console,
            disable=not self._terminal,
            expand=True,
        )
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    @contextmanager
    def stage(self, name: str, evaluations: float | None = None) -> Iterator[None]:
        """What happens inside is the stage `name`; of so many evaluations, where their number is known."""
        self._stage = stage = _Stage(name, evaluations, {rank: count for rank, (_, count) in self._ranks().items()})
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

        def watched(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            self._announce()
            out = denoiser(x, t, cond)
            self.evaluations += nfe * len(x)
            if time.monotonic() - self._looked > _LOOK:
                self._look()
            return out

        watched.nfe = nfe  # type: ignore[attr-defined]
        return watched

    def shard(self, name: Mapping[str, Any]) -> None:
        """A shard of a search is there: number `shard` of `of` in round `round` of `rounds`."""
        if self._stage is None:
            return
        self._announce()
        stage = self._stage
        stage.done[name["round"]] += 1
        done, of, rounds = stage.done[name["round"]], name["of"], name["rounds"]
        stage.place = (f"round {name['round'] + 1} of {rounds}, " if rounds > 1 else "") + f"shard {done} of {of}"
        self.advance((name["round"] + done / of) / rounds)

    def advance(self, fraction: float) -> None:
        """So much of the stage is done."""
        stage = self._stage
        if stage is None:
            return
        stage.fraction = fraction
        now = time.monotonic()
        if now - stage.told > _LINE and fraction < 1:
            stage.told = now
            self._line(f"{stage.name}: {self._note(stage)}")
        self._look()

    def _announce(self) -> None:
        """A line for the stage's first event; none for one in which nothing happens, as in a search by formula."""
        if self._stage is not None and not self._stage.announced:
            self._stage.announced = True
            self._line(f"{self._stage.name}: begins")

    def _look(self) -> None:
        """Leave this rank's count, and show all of them."""
        self._looked = time.monotonic()
        if self.folder is not None and self.rank > 0:
            count = {"device": self.device, "evaluations": self.evaluations}
            with suppress(OSError):  # where it cannot be written, the others see an older count
                write_atomically(self.folder / f"{self.rank}.json", json.dumps(count).encode())
        if self._stage is not None and self._terminal:
            self._bars.update(self._bar, completed=self._fraction(self._stage), note=self._note(self._stage))

    def _ranks(self) -> dict[int, tuple[str, int]]:
        """Device and evaluations so far of every rank."""
        found = {self.rank: (self.device, self.evaluations)}
        if self.folder is not None and self.rank == 0:
            for file in self.folder.glob("*.json"):
                with suppress(ValueError, OSError, TypeError, KeyError):  # a file that no rank wrote counts for nothing
                    count = read_json(file, self.folder)
                    found[int(file.stem)] = (str(count["device"]), int(count["evaluations"]))
        return dict(sorted(found.items()))

    def _spent(self, stage: _Stage) -> str:
        """Evaluations of the stage, and every rank's per second."""
        ranks = self._ranks()
        spent = {rank: count - stage.before.get(rank, 0) for rank, (_, count) in ranks.items()}
        seconds = max(time.monotonic() - stage.begun, 1e-3)
        rates = [f"{count / seconds:,.0f}/s on {ranks[rank][0]}" for rank, count in spent.items()]
        if len(rates) > 1:
            rates = [f"rank {rank} {rate}" for rank, rate in zip(spent, rates, strict=True)]
        return ", ".join([f"{sum(spent.values()):,} evaluations", *rates])

    def _fraction(self, stage: _Stage) -> float:
        if stage.total is None:
            return stage.fraction
        spent = sum(count - stage.before.get(rank, 0) for rank, (_, count) in self._ranks().items())
        return min(1.0, spent / stage.total)

    def _note(self, stage: _Stage) -> str:
        fraction, seconds = self._fraction(stage), time.monotonic() - stage.begun
        left = f"{timedelta(seconds=round(seconds / fraction - seconds))} to go" if fraction > 0 else ""
        return ", ".join(part for part in (left, stage.place, self._spent(stage)) if part)

    def _line(self, text: str) -> None:
        log.info(text)
        if not self._terminal:
            say(f"{time.strftime('%H:%M:%S')} {text}", sys.stderr)
