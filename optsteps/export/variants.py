"""The form of a solver that a tool samples flows with: see `optsteps.solvers.Solver.formulas`."""

from __future__ import annotations

import warnings

from optsteps.schedules import Schedule
from optsteps.solvers import SOLVERS, Multistep, TwoStage, build_solver

# ComfyUI, k-diffusion and what is built on them; and of diffusers' schedulers the one that is written so
FLOW_FORMS = {"ComfyUI": "edm", "k-diffusion": "edm", "FlowMatchHeunDiscreteScheduler": "edm"}


def warn_of_variant(schedule: Schedule, tool: str) -> None:
    """Warn where a tool samples flows with another form of the solver than the schedule was searched with.

    Args:
        tool: its name, or that of a scheduler of diffusers.
    """
    name, searched = schedule.metadata.get("solver"), schedule.metadata.get("flow_as", "flow")
    run = FLOW_FORMS.get(tool, "flow")
    if schedule.process.name != "flow" or name not in SOLVERS or searched == run:
        return
    solver = build_solver(name)
    if not isinstance(solver, (Multistep, TwoStage)) or solver.order == 1:
        return  # of order 1 there is one form; of stochastic solvers none is compared
    warnings.warn(
        f"the schedule was searched with {name} in the form solver.flow_as={searched}, and {tool} samples flows with "
        f"the form {run}, another step of the same name: search with solver.flow_as={run} for it",
        UserWarning,
        stacklevel=3,
    )
