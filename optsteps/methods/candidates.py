"""Schedules that methods propose, for searches that try and choose among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optsteps.schedules import Schedule


@dataclass(frozen=True)
class Candidate:
    """A schedule that is tried.

    Attributes:
        names: of the methods that propose it.
        schedule: with as many steps as the others.
    """

    names: tuple[str, ...]
    schedule: Schedule


def distinct(proposals: Sequence[tuple[str, Schedule]]) -> list[Candidate]:
    """The candidates of named proposals; those that coincide become one with several names."""
    found: dict[str, list[tuple[str, Schedule]]] = {}
    for name, schedule in proposals:
        times = [round(t, 9) for t in schedule.noise_levels.log1p().tolist()]
        found.setdefault(repr({**schedule.facts, "times": times}), []).append((name, schedule))
    return [Candidate(tuple(dict.fromkeys(n for n, _ in same)), same[0][1]) for same in found.values()]
