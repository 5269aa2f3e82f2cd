"""Solvers: data plus one step."""

from __future__ import annotations

from typing import Any

from optsteps.solvers.base import Denoise, LinearSolver, Solver, State
from optsteps.solvers.multistep import Euler
from optsteps.solvers.singlestep import Heun

SOLVERS: dict[str, type[Solver]] = {solver.name: solver for solver in (Euler, Heun)}


def build_solver(name: str, **parameters: Any) -> Solver:
    """A solver by its name, e.g. `build_solver("euler")`.

    Raises:
        ValueError: unknown name, or a parameter the solver does not have.
    """
    if name not in SOLVERS:
        raise ValueError(f"unknown solver {name!r}; known: {', '.join(SOLVERS)}")
    try:
        return SOLVERS[name](**parameters)
    except TypeError as error:
        raise ValueError(f"solver {name!r} does not take the parameters {sorted(parameters)} ({error})") from error


__all__ = ["SOLVERS", "Denoise", "Euler", "Heun", "LinearSolver", "Solver", "State", "build_solver"]
