"""The node pack for ComfyUI with schedules in it; the nodes themselves lie in `comfyui/` and import nothing of this."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from optsteps.export import comfyui
from optsteps.export.carried import check_not_carried, check_plain_start
from optsteps.export.combinations import Combination, combined
from optsteps.export.comfyui.schedule_file import FOLDER, FORMAT, VERSION
from optsteps.export.text import sampler_sigmas
from optsteps.schedules import Schedule
from optsteps.solvers import Solver, build_solver
from optsteps.storage.files import write_atomically

_PACK = Path(comfyui.__file__).parent


def write_comfyui_nodes(schedule: Schedule, folder: str | Path, name: str, solver: Solver | None = None) -> Path:
    """Write the node pack into a folder, such as ComfyUI/custom_nodes/optsteps, and a schedule into the pack.

    Schedules that were written there before stay. The sampler of the pack runs the schedule's orders, weights and told
    times. Whatever part of the sigmas it is given, it runs the walk of `Schedule.part` from there.

    Args:
        name: under which the node lists it; one of the same name is replaced.
        solver: the solver with its settings. None: the one that the schedule's metadata name, Euler's where they name
            none, with the settings it has by itself.

    Returns:
        The file of the schedule.

    Raises:
        ValueError: an amplitude, a scale of the noise of its own, an infinite noise level of a VP process, or what the
            solver does not obey.
    """
    if solver is None:
        named, flow_as = schedule.metadata.get("solver", "euler"), schedule.metadata.get("flow_as", "flow")
        solver = build_solver(named, flow_as)
    data = node_schedule(schedule, solver)
    pack = Path(folder)
    for source in sorted(_PACK.glob("*.py")):
        write_atomically(pack / source.name, source.read_bytes())
    path = pack / FOLDER.name / f"{name}.json"
    write_atomically(path, json.dumps(data).encode())
    return path


def node_schedule(schedule: Schedule, solver: Solver) -> dict[str, Any]:
    """The schedule as the nodes read it, JSON data; see `optsteps.export.comfyui.schedule_file.NodeSchedule`.

    Raises:
        ValueError: as `write_comfyui_nodes`.
    """
    check_not_carried(schedule, "amplitude", "which the sampler of the nodes does not know")
    check_plain_start(schedule, "a workflow of ComfyUI")
    sigmas = sampler_sigmas(schedule)
    if not bool(torch.isfinite(sigmas).all()):
        raise ValueError(
            "the schedule begins at an infinite noise level (zero terminal SNR), where ComfyUI has a finite sigma; "
            "search from the timestep below it"
        )
    with warnings.catch_warnings():  # of weights from before a part: the guide says so
        warnings.simplefilter("ignore", UserWarning)
        parts = [schedule.part(first=first) for first in range(schedule.steps)]
    return {
        "format": FORMAT,
        "version": VERSION,
        "solver": solver.name,
        "process": schedule.process.name,
        "sigmas": sigmas.tolist(),
        "walks": [_walk(part, solver) for part in parts],
    }


def _walk(schedule: Schedule, solver: Solver) -> dict[str, Any]:
    """A walk of states x / alpha, which ComfyUI's samplers have under VP; a flow's are x itself."""
    walk, process = combined(schedule, solver), schedule.process
    told = torch.tensor(walk.told, dtype=torch.float64)
    scale = process.alpha if process.name == "vp" else torch.ones_like
    sigmas = told if process.name == "flow" else process.noise_level(told)
    first = float(scale(schedule.times[0]))
    states = zip(walk.steps, sigmas.tolist(), walk.states, scale(told).tolist(), strict=True)
    arrivals = zip(walk.arrivals, scale(schedule.times[1:]).tolist(), strict=True)
    return {
        "evaluations": [
            {"step": step, "sigma": sigma, **_scaled(state, first, alpha)} for step, sigma, state, alpha in states
        ],
        "arrivals": [_scaled(state, first, alpha) for state, alpha in arrivals],
    }


def _scaled(state: Combination, first: float, alpha: float) -> dict[str, Any]:
    """The numbers of x / alpha by those of x, where the first state is x_0 / first."""
    return {
        "start": state.start * first / alpha,
        "outputs": [factor / alpha for factor in state.outputs],
        "noises": [factor / alpha for factor in state.noises],
    }
