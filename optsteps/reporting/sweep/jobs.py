"""Jobs of sweeps that have no results: those that failed, those that still run, and those that have no folder yet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from optsteps.reporting.run.reading import METRICS
from optsteps.storage.claims import Claim
from optsteps.storage.documents import read_json, read_yaml

# what a sweep's job and a run note about themselves in their folders, and Hydra about a sweep in its own
JOB, RUN, MULTIRUN = "job.json", "run.json", "multirun.yaml"
# a job's last word until it has another
NO_END = "did not come to its end: it was killed, or still runs"
_KILLED = "it was killed, or its machine went down"

State = Literal["failed", "running", "missing"]
# of several folders of one job, the state of the one that came farthest is the job's
_FARTHEST = ("finished", "running", "failed")
# a plan of more jobs is not unfolded, and longer reasons are cut
_MOST_JOBS, _LONGEST = 10_000, 300
_Overrides = tuple[str, ...]


@dataclass(frozen=True)
class UnfinishedJob:
    """A job without results, or one that failed after it had them.

    Attributes:
        state: what became of it.
        folder: of the job; of its sweep where the job has none.
        overrides: that tell it apart from the sweep's other jobs.
        reason: why it failed, in one line; empty otherwise.
    """

    state: State
    folder: Path
    overrides: _Overrides = ()
    reason: str = ""

    def __str__(self) -> str:
        named = " ".join(self.overrides)
        what = f"{named} {_WORDS[self.state]} ({self.folder})" if named else f"{self.folder} {_WORDS[self.state]}"
        return f"{what}: {self.reason}" if self.reason else what


_WORDS = {"failed": "failed", "running": "still runs", "missing": "has no folder yet"}


@dataclass(frozen=True)
class _Attempt:
    """A folder with what is known of the job that it belongs to."""

    folder: Path
    overrides: _Overrides | None
    state: Literal["finished", "failed", "running"]
    reason: str


def unfinished_jobs(*folders: Path) -> list[UnfinishedJob]:
    """The unfinished jobs and runs below some folders, by sweep and number, the missing ones of a sweep last.

    Jobs are missing where multirun.yaml, which Hydra's basic sweeper writes, plans them. What other sweepers plan is
    not known before it runs. Files that cannot be read say nothing.
    """
    sweeps = {path.parent.resolve(): path.parent for folder in folders for path in sorted(folder.rglob(MULTIRUN))}
    places = {path.parent.resolve(): path.parent for folder in folders for path in _notes(folder)}
    attempts = [_attempt(place) for place in places.values()]
    jobs: list[UnfinishedJob] = []
    for sweep in dict.fromkeys([*sweeps, *(place.parent for place in places)]):
        inside = [attempt for attempt in attempts if attempt.folder.resolve().parent == sweep]
        jobs += _of_sweep(sweeps[sweep], inside) if sweep in sweeps else _of_attempts(inside)
    return jobs


def jobs_sentences(jobs: Sequence[UnfinishedJob]) -> list[str]:
    """How many jobs are not finished and what to do, then one sentence for each; none where all are finished."""
    if not jobs:
        return []
    counts = {state: sum(job.state == state for job in jobs) for state in _WORDS}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    verb = "1 job is" if len(jobs) == 1 else f"{len(jobs)} jobs are"
    advice = "a sweep that is started again with the same hydra.sweep.dir leaves its finished jobs alone"
    return [f"{verb} not finished ({told}): {advice}.", *map(str, jobs)]


def _notes(folder: Path) -> list[Path]:
    """The notes of all jobs and runs below a folder, those of one folder together."""
    return sorted((path for name in (JOB, RUN) for path in folder.rglob(name)), key=lambda path: _number(path.parent))


def _number(folder: Path) -> tuple[str, float, str]:
    """A key that puts job 2 before job 10."""
    number = folder.name.split("-")[0]
    return str(folder.parent), int(number) if number.isascii() and number.isdigit() else math.inf, folder.name


def _attempt(folder: Path) -> _Attempt:
    job, run = (_read(folder / name, folder) for name in (JOB, RUN))
    overrides = _read(folder / ".hydra" / "overrides.yaml", folder)
    told = tuple(map(str, overrides)) if isinstance(overrides, list) else None
    record = job if isinstance(job, dict) else {}
    digest = str(record.get("digest", ""))
    claims = [folder / ".run.claim", *([folder.parent / ".locks" / digest] if digest.isalnum() else [])]
    alive = any(Claim(path, "a job").alive() for path in claims)
    begun = isinstance(run, dict) and run.get("state") == "begun"
    if "failed" in record or begun:
        reason = str(record.get("failed", NO_END))
        if reason == NO_END:
            return _Attempt(folder, told, "running", "") if alive else _Attempt(folder, told, "failed", _KILLED)
        return _Attempt(folder, told, "failed", _one_line(reason))
    if not (folder / METRICS).exists():
        return _Attempt(folder, told, "failed", f"its {METRICS} is gone")
    return _Attempt(folder, told, "finished", "")


def _of_attempts(attempts: Sequence[_Attempt]) -> list[UnfinishedJob]:
    """The unfinished among attempts that nothing is planned for."""
    return [UnfinishedJob(a.state, a.folder, (), a.reason) for a in attempts if a.state != "finished"]


def _of_sweep(sweep: Path, attempts: Sequence[_Attempt]) -> list[UnfinishedJob]:
    plan = _plan(sweep)
    by_job: dict[frozenset[str], list[_Attempt]] = {}
    unknown = []
    for attempt in attempts:
        overrides = attempt.overrides
        if overrides is None:  # it died before it wrote them; jobs are numbered as they are planned
            number = _number(attempt.folder)[1]
            overrides = plan[int(number)] if number < len(plan) else None
        if overrides is None:
            unknown.append(attempt)
        else:
            by_job.setdefault(frozenset(overrides), []).append(attempt)
    planned = {frozenset(overrides): overrides for overrides in plan}
    shared = frozenset.intersection(*planned, *by_job) if planned or by_job else frozenset()
    jobs, missing = _of_attempts(unknown), []
    for key, tried in by_job.items():
        last = min(tried, key=lambda attempt: (_FARTHEST.index(attempt.state), attempt.reason == _KILLED))
        if last.state != "finished":
            overrides = planned.get(key, last.overrides or ())
            jobs.append(UnfinishedJob(last.state, last.folder, _telling(overrides, shared), last.reason))
    for key, overrides in planned.items():
        if key not in by_job:
            missing.append(UnfinishedJob("missing", sweep, _telling(overrides, shared)))
    return [*jobs, *missing]


def _telling(overrides: Iterable[str], shared: frozenset[str]) -> _Overrides:
    return tuple(override for override in overrides if override not in shared)


def _plan(sweep: Path) -> list[_Overrides]:
    """The overrides of every job that a sweep was started with, as Hydra numbers them; none where they are not known.

    Raises nothing: a plan of too many jobs, or one that Hydra does not read without its configs, is not known.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        hydra = read_yaml(sweep / MULTIRUN, sweep)["hydra"]
        sweeper, task = hydra["sweeper"], hydra["overrides"]["task"]
        if not str(sweeper["_target_"]).endswith(".BasicSweeper"):
            return []
        given = [*(f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()), *task]
        choices: dict[str, list[str]] = {}  # the last of a key counts, as in Hydra
        for override in OverridesParser.create().parse_overrides(given):
            key = override.get_key_element()
            values: Iterable[Any] = (
                override.sweep_string_iterator()
                if override.is_sweep_override()
                else [override.get_value_element_as_str()]
            )
            choices[key] = [f"{key}={value}" for value in itertools.islice(values, _MOST_JOBS + 1)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, HydraException):
        return []
    if math.prod(map(len, choices.values())) > _MOST_JOBS:
        return []
    return list(itertools.product(*choices.values()))


def _read(path: Path, folder: Path) -> Any:
    """The data of a file; None where it cannot be read."""
    try:
        return (read_json if path.suffix == ".json" else read_yaml)(path, folder)
    except (OSError, ValueError):
        return None


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
