"""The two nodes."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from . import schedule_file
from .sampler import sample
from .schedule_file import NodeSchedule


class LoadOptstepsSchedule:
    """A schedule's sigmas, whole or a part of them, and the schedule for the node of its sampler."""

    CATEGORY = "sampling/custom_sampling/schedulers"
    RETURN_TYPES = ("SIGMAS", "OPTSTEPS_SCHEDULE")
    RETURN_NAMES = ("sigmas", "schedule")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  # ComfyUI's name
        """What ComfyUI shows."""
        whole = {"min": 0, "max": 10000}
        return {
            "required": {
                "schedule": (schedule_file.names(),),
                "begin_step": ("INT", {"default": 0, **whole}),
                "end_step": ("INT", {"default": 10000, **whole}),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
            }
        }

    def load(
        self, schedule: str, begin_step: int = 0, end_step: int = 10000, denoise: float = 1.0
    ) -> tuple[Tensor, NodeSchedule]:
        """See `NodeSchedule.part`."""
        loaded = schedule_file.load(schedule)
        return loaded.part(begin_step, end_step, denoise), loaded


class OptstepsSampler:
    """The solver of a schedule, with its orders, weights and told times."""

    CATEGORY = "sampling/custom_sampling/samplers"
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "sampler"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """What ComfyUI shows."""
        return {"required": {"schedule": ("OPTSTEPS_SCHEDULE",)}}

    def sampler(self, schedule: NodeSchedule) -> tuple[Any]:
        """ComfyUI's own sampler object, around `sample`."""
        from comfy.samplers import KSAMPLER  # type: ignore[import-not-found, unused-ignore]  # is there within ComfyUI

        return (KSAMPLER(partial(sample, schedule=schedule)),)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "LoadOptstepsSchedule": LoadOptstepsSchedule,
    "OptstepsSampler": OptstepsSampler,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LoadOptstepsSchedule": "Load optsteps schedule",
    "OptstepsSampler": "optsteps sampler",
}
