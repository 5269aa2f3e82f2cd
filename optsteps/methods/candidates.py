"""Schedules that the methods of a pool propose, for searches that try and choose among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optsteps.methods.base import Method, SearchProblem
from optsteps.schedules import Schedule


@dataclass(frozen=True)
class Candidate:
    """A schedule that is tried.

    Attributes:
        names: of the methods that propose it.
        schedule: at as many evaluations as the others.
        solver: the name under which a search of several solvers has the one that it is sampled with.
    """

    names: tuple[str, ...]
    schedule: Schedule
    solver: str = ""


def able(
    pool: Mapping[str, Method], problem: SearchProblem, steps: Sequence[int], called: str = "{}"
) -> tuple[dict[str, Method], list[str]]:
    """The methods of a pool that can take part, by name, and why each of the others cannot.

    Args:
        called: what the reasons call a method, with {} for its name.
    """
    taking_part, left_out = dict[str, Method](), list[str]()
    for name, method in pool.items():
        try:
            method.check(problem, steps)
            taking_part[name] = method
        except ValueError as error:
            left_out.append(f"{called.format(name)}, which cannot take part ({error})")
    return taking_part, left_out


def distinct(proposals: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, of which those that coincide become one with several names."""
    found: dict[str, list[Candidate]] = {}
    for one in proposals:
        times = [round(t, 9) for t in one.schedule.noise_levels.log1p().tolist()]
        found.setdefault(repr((one.solver, {**one.schedule.facts, "times": times})), []).append(one)
    named = [tuple(dict.fromkeys(name for one in same for name in one.names)) for same in found.values()]
    return [replace(same[0], names=names) for names, same in zip(named, found.values(), strict=True)]
