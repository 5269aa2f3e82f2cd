"""Schedules that the methods of a pool propose, for searches that try and choose among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optsteps.denoisers import ModelError, NoPredictionError
from optsteps.methods.base import Method, SearchProblem
from optsteps.schedules import Schedule
from optsteps.storage.workers import Workers


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


def pool_of(pool: Mapping[str, Method]) -> dict[str, Method]:
    """The pool, of which every member is a method.

    Raises:
        ValueError: one is none, such as settings that are left where the choice of the method was removed.
    """
    for name, method in pool.items():
        if not isinstance(method, Method):
            raise ValueError(f"{name} of the pool is no method but {method}: remove it with ~method.pool.{name}")
    return dict(pool)


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


def proposed(
    pool: Mapping[str, Method], problem: SearchProblem, steps: Sequence[int], workers: Workers, called: str = "{}"
) -> tuple[dict[int, list[Candidate]], list[str]]:
    """By step count the candidates that the methods of a pool propose, and why each of the others proposes none.

    Args:
        pool: methods by name that can take part, see `able`.
        workers: what they keep is told apart by the method's name.
        called: what the candidates and the reasons call a method, with {} for its name.
    """
    candidates, left_out = {n: list[Candidate]() for n in steps}, list[str]()
    for name, method in pool.items():
        try:
            found = method.proposals(problem, steps, workers.on("proposals", method=called.format(name)))
        except NoPredictionError as error:
            left_out.append(f"{called.format(name)}, which asks for predictions ({error})")
            continue
        except ModelError:
            raise
        except ValueError as error:  # of what it found, as a scale of 0 where all samples are the same
            left_out.append(f"{called.format(name)}, which finds nothing here ({error})")
            continue
        for n in steps:
            candidates[n] += [Candidate((called.format(name),), schedule) for schedule in found[n]]
    return candidates, left_out


def distinct(proposals: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, of which those that coincide become one with several names."""
    found: dict[str, list[Candidate]] = {}
    for one in proposals:
        times = [round(t, 9) for t in one.schedule.noise_levels.log1p().tolist()]
        found.setdefault(repr((one.solver, {**one.schedule.facts, "times": times})), []).append(one)
    named = [tuple(dict.fromkeys(name for one in same for name in one.names)) for same in found.values()]
    return [replace(same[0], names=names) for names, same in zip(named, found.values(), strict=True)]
