"""Forms of the solvers that tools sample flows with, see `optsteps.solvers.Solver.formulas`."""

from __future__ import annotations

import warnings

from optsteps.schedules import Schedule
from optsteps.solvers import SOLVERS, Multistep, TwoStage, build_solver

# ComfyUI, k-diffusion and the tools built on them; of diffusers' schedulers only this one is written so
FLOW_FORMS = {"ComfyUI": "edm", "k-diffusion": "edm", "FlowMatchHeunDiscreteScheduler": "edm"}


def warn_of_variant(schedule: Schedule, tool: str) -> None:
    """Warn where a tool samples flows with another form of the solver than the schedule was searched with.

    Args:
        tool: its name, or that of a scheduler of diffusers.
    """
    name, searched_form = schedule.metadata.get("solver"), schedule.metadata.get("flow_as", "flow")
    form = FLOW_FORMS.get(tool, "flow")
    if schedule.process.name != "flow" or name not in SOLVERS or searched_form == form:
        return
    solver = build_solver(name)
    if not isinstance(solver, (Multistep, TwoStage)) or solver.order == 1:
        return  # at order 1 both forms are the same; those of stochastic solvers are not known
    warnings.warn(
        f"the schedule was searched with {name} in the form solver.flow_as={searched_form}, and {tool} samples flows "
        f"with the form {form}, another step of the same name: search with solver.flow_as={form} for it",
        UserWarning,
        stacklevel=3,
    )
