"""What a scheduler says of its model: the noising process, what the network predicts, the schedule it runs itself."""

from __future__ import annotations

import copy
from typing import Any

import torch

from optsteps.processes import VP, Flow, Process
from optsteps.schedules import Schedule

# diffusers' names for what a network predicts, and those of `NetworkDenoiser`
_PREDICTIONS = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
    "original_sample": "x0",
    "flow_prediction": "velocity",
}
# alpha_bar of the last timestep under zero terminal SNR, where it would be 0: the value of diffusers' own schedulers
_TERMINAL_ALPHA_BAR = 2.0**-24


def process_of(scheduler: Any) -> Process:
    """The noising process of a scheduler's model.

    `Flow` for flow matching, else `VP` from the scheduler's betas, whatever they were made from. Betas rescaled to zero
    terminal SNR (Lin et al., arXiv:2305.08891) give the last timestep no finite noise level; as diffusers' schedulers
    do, its alpha_bar is taken for 2^-24, noise level 4096. Where that would lie below the level of the timestep before
    it (linear betas), the last timestep is left out, so that `process.t_limit` is T - 2.

    Raises:
        ValueError: a scheduler of another kind of process.
    """
    config = scheduler.config
    if is_flow(scheduler):
        if config.get("invert_sigmas"):
            raise _unsupported(scheduler, "its times run backwards (invert_sigmas)")
        return Flow()
    if getattr(scheduler, "betas", None) is None:
        raise _unsupported(scheduler, "it has neither betas nor flow matching")
    if config.get("timestep_type") == "continuous":
        raise _unsupported(scheduler, "its network is called with log noise levels (timestep_type=continuous)")
    betas = scheduler.betas.double()
    if betas[-1] < 1:
        return VP.from_betas(betas)
    log_alpha_bar = torch.log1p(-betas[:-1]).cumsum(0)
    terminal = torch.tensor([_TERMINAL_ALPHA_BAR], dtype=torch.float64).log()
    if terminal < log_alpha_bar[-1]:
        log_alpha_bar = torch.cat([log_alpha_bar, terminal])
    return VP.from_log_alpha_bar(log_alpha_bar)


def prediction_of(scheduler: Any) -> str:
    """What the scheduler takes its network to predict, by the names of `NetworkDenoiser`.

    Raises:
        ValueError: it says something else than epsilon, v_prediction, sample or flow_prediction.
    """
    named = scheduler.config.get("prediction_type") or ("flow_prediction" if is_flow(scheduler) else "epsilon")
    if named not in _PREDICTIONS:
        raise _unsupported(scheduler, f"its prediction_type {named!r} is none of {', '.join(_PREDICTIONS)}")
    return _PREDICTIONS[named]


def is_flow(scheduler: Any) -> bool:
    """Does it sample a flow-matching model?"""
    config = scheduler.config
    said = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(said) or type(scheduler).__name__.startswith("FlowMatch")


def noise_levels_of(scheduler: Any | None, process: Process, timesteps: int) -> tuple[float, float]:
    """The largest and the smallest noise level that the scheduler's own timesteps have.

    A flow's first, t = 1, is infinite and no schedule family in noise levels could start there: the largest is that of
    the timestep after it, (T - 1) times the scheduler's static shift, where the sample is 0.1 % of the noise.
    """
    if isinstance(process, Flow):
        config = {} if scheduler is None else scheduler.config
        dynamic = config.get("use_dynamic_shifting", False)
        shift = 1.0 if dynamic else config.get("flow_shift") or config.get("shift") or 1.0
        return shift * (timesteps - 1), shift / (timesteps - 1)
    high, low = process.noise_level([process.t_limit, 0.0]).tolist()
    return high, low


def own_schedule(scheduler: Any, process: Process, steps: int, **arguments: Any) -> Schedule:
    """The schedule that the scheduler itself runs for so many steps, ending at noise level 0.

    Times that it repeats (PNDM's) are taken once, and one at the clean end is taken for the end, so that there may be
    fewer steps than were asked for.

    Args:
        arguments: what the pipeline gives to `set_timesteps` instead of a number of steps, or beside it.
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(**({"num_inference_steps": steps} if "sigmas" not in arguments else {}), **arguments)
    if isinstance(process, Flow):
        times = scheduler.sigmas.double()[: len(scheduler.timesteps)]
    else:
        times = scheduler.timesteps.double().clamp(max=process.t_limit)
    times = times[times > process.t_clean].unique_consecutive()
    ended = torch.cat([times.cpu(), torch.tensor([process.t_clean], dtype=torch.float64)])
    return Schedule(ended, process, metadata={"scheduler": type(scheduler).__name__})


def _unsupported(scheduler: Any, why: str) -> ValueError:
    return ValueError(
        f"no process is known for {type(scheduler).__name__}: {why}; give the pipeline the scheduler its model was "
        "trained with, or one of EulerDiscreteScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler"
    )
