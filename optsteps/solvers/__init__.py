"""Solvers: data plus one step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from optsteps.solvers.adams import DEIS, IPNDM
from optsteps.solvers.base import Denoise, FlowAs, Solver, State
from optsteps.solvers.dpmpp import DPMpp2M, DPMpp3M
from optsteps.solvers.multistep import Euler, Multistep
from optsteps.solvers.singlestep import DPM2, DPMpp2S, Heun, TwoStage
from optsteps.solvers.stochastic import ERSDE, SDEDPMpp2M, SDEDPMpp2S, SDEDPMpp3M, Stochastic, StochasticDDIM
from optsteps.solvers.unipc import UniPC

_DETERMINISTIC = (Euler, Heun, DPM2, DPMpp2S, DPMpp2M, DPMpp3M, IPNDM, DEIS, UniPC)
_STOCHASTIC = (StochasticDDIM, SDEDPMpp2S, SDEDPMpp2M, SDEDPMpp3M)
SOLVERS: dict[str, Callable[..., Solver]] = {
    **{solver.name: solver for solver in (*_DETERMINISTIC, *_STOCHASTIC)},
    **{f"er_sde_{order}": partial(ERSDE, order) for order in ERSDE.orders_known},
}


def build_solver(name: str, flow_as: FlowAs = "flow", **parameters: Any) -> Solver:
    """A solver by its name, e.g. `build_solver("ipndm", order=3)`.

    Args:
        flow_as: "flow", or "edm" for the variant that ComfyUI and k-diffusion run on flows, see `Solver.formulas`.
        parameters: the solver's own.

    Raises:
        ValueError: unknown name, or a parameter the solver does not have; unknown `flow_as`, or "edm" for a stochastic
            solver, whose noise those tools add by other rules.
    """
    if name not in SOLVERS:
        raise ValueError(f"unknown solver {name!r}; known: {', '.join(SOLVERS)}")
    try:
        solver = SOLVERS[name](**parameters)
    except TypeError as error:
        raise ValueError(f"solver {name!r} does not take the parameters {sorted(parameters)} ({error})") from error
    if flow_as not in ("flow", "edm"):
        raise ValueError(f"flow_as must be 'flow' or 'edm', got {flow_as!r}")
    if flow_as == "edm":
        if solver.stochastic:
            raise ValueError(f"flow_as='edm' is known for deterministic solvers, and {name!r} is stochastic")
        solver.flow_as = flow_as
    return solver


def first_of(choices: Mapping[str, Solver]) -> Solver:
    """The first of several solvers, which samples what no search has chosen another for."""
    return next(iter(choices.values()))


def solver_settings(solver: Solver) -> dict[str, Any]:
    """JSON data with which `build_solver(**settings)` makes the solver again.

    Raises:
        ValueError: it is none of this package's, which are known by their names.
    """
    taken = {"name", "flow_as", *inspect.signature(type(solver).__init__).parameters}
    settings = {key: value for key, value in solver.facts.items() if key in taken}
    # some have their order in their name
    for tried in (settings, {key: value for key, value in settings.items() if key != "order"}):
        with suppress(ValueError):
            if build_solver(**tried).facts == solver.facts:
                return tried
    raise ValueError(f"{solver.name} is none of this package's solvers, which are known by name: {', '.join(SOLVERS)}")


__all__ = [
    "DEIS",
    "DPM2",
    "ERSDE",
    "IPNDM",
    "SOLVERS",
    "DPMpp2M",
    "DPMpp2S",
    "DPMpp3M",
    "Denoise",
    "Euler",
    "Heun",
    "Multistep",
    "SDEDPMpp2M",
    "SDEDPMpp2S",
    "SDEDPMpp3M",
    "Solver",
    "State",
    "Stochastic",
    "StochasticDDIM",
    "TwoStage",
    "UniPC",
    "build_solver",
    "first_of",
    "solver_settings",
]
