"""Solvers: data plus one step."""

from __future__ import annotations

from typing import Any

from optsteps.solvers.base import Denoise, Solver, State
from optsteps.solvers.multistep import DEIS, IPNDM, DPMpp2M, DPMpp3M, Euler, Multistep, UniPC
from optsteps.solvers.singlestep import DPM2, DPMpp2S, Heun, TwoStage

SOLVERS: dict[str, type[Solver]] = {
    solver.name: solver for solver in (Euler, Heun, DPM2, DPMpp2S, DPMpp2M, DPMpp3M, IPNDM, DEIS, UniPC)
}


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


__all__ = [
    "DEIS",
    "DPM2",
    "IPNDM",
    "SOLVERS",
    "DPMpp2M",
    "DPMpp2S",
    "DPMpp3M",
    "Denoise",
    "Euler",
    "Heun",
    "Multistep",
    "Solver",
    "State",
    "TwoStage",
    "UniPC",
    "build_solver",
]
