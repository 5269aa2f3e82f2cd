"""Schedules as `optsteps-export --to comfyui-nodes` writes them: sigmas, and the solver's walk as numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT, VERSION = "optsteps.comfyui", 1
FOLDER = Path(__file__).parent / "schedules"
# sigmas pass through float32 and other nodes
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class NodeSchedule:
    """A schedule of n steps with the walks of its solver.

    Attributes:
        name: of its file.
        sigmas: [n+1], as ComfyUI has them: noise levels, or a flow's times.
        walks: by the step that a walk begins with, its "evaluations" (each with its "step", the "sigma" that the
            network is told and its combination) and the combinations of its "arrivals", one for each step. A
            combination is the state as ComfyUI scales it: "start" times the first state, plus "outputs" times the
            network's outputs so far, plus "noises" times unit noise.
    """

    name: str
    sigmas: Tensor
    walks: list[dict[str, Any]]

    @property
    def steps(self) -> int:
        """Number of steps, n."""
        return len(self.sigmas) - 1

    def part(self, begin: int, end: int, denoise: float) -> Tensor:
        """The sigmas from step `begin` to step `end`; of these the last steps, a share of `denoise`, rounded.

        Raises:
            ValueError: no step is left where denoise is above 0.
        """
        end = min(end, self.steps)
        if not 0 <= begin < end:
            raise ValueError(
                f"no step is left: {self.name} has {self.steps} steps, and begin_step is {begin}, end_step {end}"
            )
        kept = max(round((end - begin) * denoise), 1) if denoise > 0 else 0
        return self.sigmas[end - kept : end + 1].float() if kept else torch.empty(0)

    def place(self, sigmas: Tensor) -> tuple[int, int]:
        """The first and the last time, counted from 0, of sigmas [m] that are a part of the schedule's.

        Raises:
            ValueError: they are no such part.
        """
        given = sigmas.detach().cpu().double()
        for first in range(self.steps + 2 - len(given)):
            if torch.allclose(given, self.sigmas[first : first + len(given)], rtol=_TOLERANCE, atol=1e-9):
                return first, first + len(given) - 1
        listed = ", ".join(f"{sigma:.4g}" for sigma in given.tolist())
        raise ValueError(
            f"the sigmas {listed} are no part of the schedule {self.name}, which its sampler runs: connect the "
            "outputs of one node 'Load optsteps schedule' to both, or take another sampler"
        )


def names() -> list[str]:
    """The schedules that were written into this node pack."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> NodeSchedule:
    """The schedule of this name.

    Raises:
        ValueError: there is none, or its file is of another version.
    """
    if name not in names():
        raise ValueError(
            f"there is no schedule {name!r} in {FOLDER}; write one with: optsteps-export schedule_8.json --to "
            f"comfyui-nodes {FOLDER.parent}"
        )
    data = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    if (data.get("format"), data.get("version")) != (FORMAT, VERSION):
        raise ValueError(
            f"{name}.json is no schedule of this version of the nodes: write it again with optsteps-export"
        )
    return NodeSchedule(name, torch.tensor(data["sigmas"], dtype=torch.float64), data["walks"])
