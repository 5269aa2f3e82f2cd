"""A library of schedules that people publish and share, and schedules of any step count from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from optsteps.processes import EDM, VP, Flow, Process, as_times
from optsteps.schedules.resampling import log_linear, resampled
from optsteps.schedules.schedule import Schedule


@dataclass(frozen=True)
class PublishedSchedule:
    """A list of numbers as it is published, and what its users do with it.

    Attributes:
        made_for: the model.
        values: Karras' noise levels, or under a flow its times, the shift included.
        zero: where noise level 0 comes: "replaces" the last value, or comes "after" it.
        origin: who published it.
        solver: that of the search, or of the distilled model.
        process: of the model.
        shift: of the flow's times, where one is known; it is in the values already.
    """

    made_for: str
    values: tuple[float, ...]
    zero: Literal["replaces", "after"]
    origin: str
    solver: str
    process: Callable[[], Process] = Flow
    shift: float | None = None

    @property
    def steps(self) -> int:
        """Number of steps that its users run."""
        return len(self.values) - (self.zero == "replaces")

    @property
    def of_flow(self) -> bool:
        """Whether the values are times of a flow."""
        return self.process is Flow


_AYS = "Align Your Steps, arXiv:2404.14507, released by its authors"
_OSS = "Optimal Stepsize Distillation, arXiv:2503.21774, released by its authors"
_SDE = "ddim_stochastic"  # the step whose error AYS bounds
# fmt: off
PUBLISHED: dict[str, PublishedSchedule] = {
    "sd15": PublishedSchedule(
        "Stable Diffusion 1.5", (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
        "replaces", _AYS, _SDE, VP.scaled_linear,
    ),
    "sdxl": PublishedSchedule(
        "Stable Diffusion XL", (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
        "replaces", _AYS, _SDE, VP.scaled_linear,
    ),
    "deepfloyd_if": PublishedSchedule(
        "DeepFloyd-IF, stage 1", (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
        "replaces", _AYS, _SDE, EDM,
    ),
    "svd": PublishedSchedule(
        "Stable Video Diffusion", (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
        "replaces", _AYS, _SDE, EDM,
    ),
    "sd15_gits": PublishedSchedule(
        "Stable Diffusion 1.5", (14.61464119, 7.49001646, 4.86714602, 2.84484982, 1.41535246, 0.57119018, 0.02916753),
        "replaces", "GITS, arXiv:2405.11326, the table of ComfyUI, coefficient 1.00", "euler", VP.scaled_linear,
    ),
    "flux_oss": PublishedSchedule(
        "FLUX.1-dev", (0.9968, 0.9886, 0.9819, 0.975, 0.966, 0.9471, 0.9158, 0.8287, 0.5512, 0.2808, 0.001),
        "replaces", _OSS, "euler",
    ),
    "wan_oss": PublishedSchedule(
        "Wan 2.1",
        (1.0, 0.997, 0.995, 0.993, 0.991, 0.989, 0.987, 0.985, 0.98, 0.975, 0.973, 0.968, 0.96, 0.946, 0.927, 0.902,
         0.864, 0.776, 0.539, 0.208, 0.001),
        "replaces", _OSS, "euler",
    ),
    "flux2_turbo": PublishedSchedule(
        "FLUX.2-dev Turbo, distilled", (1.0, 0.6509, 0.4374, 0.2932, 0.1893, 0.1108, 0.0495, 0.00031),
        "after", "its authors, for the sigmas argument of diffusers", "euler",
    ),
    "ltx2_distilled": PublishedSchedule(
        "LTX-2 distilled", (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875),
        "after", "its authors, for the sigmas argument of diffusers", "euler",
    ),
    "wan22_lightning": PublishedSchedule(
        "Wan 2.2 Lightning, distilled", (1.0, 0.9375001, 0.8333333, 0.625),
        "after", "its authors, as timesteps 1000 times these", "euler", shift=5.0,
    ),
}
# fmt: on
# of the authors of AYS
PUBLISHED_LEVELS = {name: list(listed.values) for name, listed in PUBLISHED.items() if listed.origin == _AYS}


def published(process: Process, steps: int, model: str = "sd15") -> Tensor:
    """Times [steps+1] of the list of this name in `PUBLISHED`; other step counts than its own are interpolated
    log-linearly, as in the paper of AYS.

    The tools that have these constants (diffusers, ComfyUI, A1111) put noise level 0 in place of the last value, or
    after it, for every step count: final="zero". The printed ends are rounded and may lie up to 2 % outside the
    process's range: they are moved into it.

    Raises:
        ValueError: unknown name, a flow's times for another process, or levels that lie further outside the process.
    """
    if model not in PUBLISHED:
        raise ValueError(f"no published levels for {model!r}; known: {', '.join(PUBLISHED)}")
    listed = PUBLISHED[model]
    if listed.of_flow:
        if process.name != "flow":
            raise ValueError(f"the published times of {model} are a flow's, and {process!r} is none: another model's")
        times = listed.values if listed.zero == "replaces" else (*listed.values, process.t_clean)
        return resampled(Schedule(times, process), steps).times
    levels = log_linear(as_times(listed.values), steps)
    within, outside = snap_levels(process, levels)
    if bool(outside.any()):
        low, high = process.noise_level([0.0, process.t_limit]).tolist()
        raise ValueError(
            f"the published levels of {model} run from {levels[0].item():g} to {levels[-1].item():g}, but "
            f"{process!r} covers {high:g} to {low:g}: they were made for another model"
        )
    return process.time_of_noise_level(within)


def published_schedule(name: str, steps: int | None = None) -> Schedule:
    """A list of `PUBLISHED` as its users run it, to noise level 0, for the process of its model.

    Args:
        steps: of the schedule. Other numbers than the list's own (None) are interpolated before noise level 0 takes the
            place of the last value, as the tools that have the list do.

    Raises:
        ValueError: unknown name.
    """
    if name not in PUBLISHED:
        raise ValueError(f"nothing is published for {name!r}; known: {', '.join(PUBLISHED)}")
    listed = PUBLISHED[name]
    process = listed.process()
    times = [*published(process, steps or listed.steps, name)[:-1].tolist(), process.t_clean]
    return Schedule(times, process, metadata={"family": "published", "final": "zero", "model": name})


def published_answer(model: str, steps: int | None = None) -> str:
    """Which published schedule to take for a model: a sentence for each that fits, with what it was made for.

    Args:
        model: a part of its name, such as "SDXL" or "flux".
        steps: of the user's; None: the list's own.

    Raises:
        ValueError: nothing is published for such a model.
    """
    wanted = _letters(model)
    fitting = [name for name, listed in PUBLISHED.items() if wanted and wanted in _letters(name + listed.made_for)]
    if not fitting:
        raise ValueError(
            f"nothing is published for a model like {model!r}, and a list of another model is worth little; known: "
            f"{', '.join(PUBLISHED)}. Search one for yours with `optsteps model=diffusers model.path=...`"
        )
    return "\n".join(_sentence(name, PUBLISHED[name].steps if steps is None else steps) for name in fitting)


def _sentence(name: str, steps: int) -> str:
    listed = PUBLISHED[name]
    count = f" --steps {steps}" if steps != listed.steps else ""
    own = f"; {steps} steps are interpolated" if count else ""
    return (
        f"optsteps-export published:{name}{count} --to comfyui  # made for {listed.made_for}, {listed.steps} steps of "
        f"{listed.solver}{own}. For another model, finetune or solver it is a guess; measured: optsteps "
        f"model=diffusers model.path=... solver=... steps=[{steps}]"
    )


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def snap_levels(process: Process, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Noise levels [n] moved into the process's range, and a mask [n] of those that lay more than 2 % outside.

    Rounded digits do not explain a greater distance than that. Level 0 stands for the clean end and stays. Processes
    without a least and a greatest noise level leave all levels as they are.
    """
    if not (math.isfinite(process.t_limit) and process.t_clean < 0):
        return levels, torch.zeros_like(levels, dtype=torch.bool)
    within = torch.where(levels == 0, levels, levels.clamp(*process.noise_level([0.0, process.t_limit]).tolist()))
    return within, (levels != within) & ~((levels / within).log().abs() <= math.log(1.02))
