"""Facts about a model from its scheduler's config: noising process, prediction, noise levels, default schedule."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from optsteps.processes import EDM, VP, Flow, Process
from optsteps.schedules import Schedule

# diffusers' names for what a network predicts, and those of `NetworkDenoiser`
DIFFUSERS_PREDICTIONS = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
    "original_sample": "x0",
    "flow_prediction": "velocity",
}


def process_of(scheduler: Any) -> Process:
    """The noising process of a scheduler's model.

    `Flow` for flow matching, `EDM` for networks that are called with noise levels, else `VP` from the scheduler's
    betas, whatever they were made from. Betas rescaled to zero terminal SNR (Lin et al., arXiv:2305.08891) give the
    last timestep an infinite noise level. (Schedulers of diffusers that hold levels have 4096 there.)

    Raises:
        ValueError: a scheduler of another kind of process.
    """
    config, own = scheduler.config, getattr(scheduler, "schedule", None)
    if isinstance(own, Schedule):  # an OptstepsScheduler says it by its schedule
        return own.process
    if is_flow(scheduler):
        if config.get("invert_sigmas"):
            raise _unsupported(scheduler, "its times run backwards (invert_sigmas)")
        return Flow()
    if is_edm(scheduler):
        return EDM()
    if getattr(scheduler, "betas", None) is None:
        raise _unsupported(scheduler, "it has neither betas nor flow matching")
    return VP.from_betas(_betas(scheduler))


def _betas(scheduler: Any) -> Tensor:
    """The betas of a scheduler, float64 [timesteps].

    CogVideoX's schedulers shift their products alone, so that their betas are those of another process.
    """
    betas: Tensor = scheduler.betas.double()
    products = scheduler.alphas_cumprod.double()
    # the last may be a stand-in for 0
    if torch.allclose(products[:-1], (1 - betas).cumprod(0)[:-1], rtol=1e-3, atol=0):
        return betas
    return 1 - products / torch.cat([products.new_ones(1), products[:-1]])


def prediction_of(scheduler: Any) -> str:
    """The prediction that the scheduler expects of its network, by the names of `NetworkDenoiser`.

    Raises:
        ValueError: as `prediction_name`.
    """
    return DIFFUSERS_PREDICTIONS[prediction_name(scheduler)]


def prediction_name(scheduler: Any) -> str:
    """The prediction that the scheduler expects of its network, by diffusers' names.

    Raises:
        ValueError: the config names another prediction than epsilon, v_prediction, sample or flow_prediction.
    """
    name = scheduler.config.get("prediction_type") or ("flow_prediction" if is_flow(scheduler) else "epsilon")
    if name not in DIFFUSERS_PREDICTIONS:
        raise _unsupported(scheduler, f"its prediction_type {name!r} is none of {', '.join(DIFFUSERS_PREDICTIONS)}")
    return str(name)


def is_flow(scheduler: Any) -> bool:
    """Whether the scheduler samples a flow-matching model."""
    config = scheduler.config
    configured = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(configured) or type(scheduler).__name__.startswith("FlowMatch")


def is_edm(scheduler: Any) -> bool:
    """Whether the scheduler samples a model of noise levels, which it calls with a function of them."""
    config = scheduler.config
    # EulerDiscreteScheduler preconditions v-predictions alone, and calls networks of eps at timesteps all the same
    continuous = config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"
    return type(scheduler).__name__.startswith("EDM") or continuous or calls_with_arctan(scheduler)


def calls_with_arctan(scheduler: Any) -> bool:
    """Whether a model of noise levels is called with 2 / pi times their arctangents, and not with logarithms."""
    name = type(scheduler).__name__
    return name == "CosineDPMSolverMultistepScheduler" or bool(scheduler.config.get("arctan_levels"))


def noisiest_time(scheduler: Any | None, process: Process, prediction: str) -> float:
    """The largest time at which a network is called.

    It is the process's, but the scheduler's under EDM. An eps-prediction determines no x_0 where alpha is 0.
    """
    if isinstance(process, EDM):
        assert scheduler is not None
        return float(scheduler.config.get("sigma_max") or scheduler.sigmas[0])
    return process.t_finite if prediction == "eps" else process.t_limit


def least_noise_level(scheduler: Any | None, process: Process, timesteps: int) -> float:
    """The smallest noise level of the scheduler's timesteps.

    For a flow it is that of its first timestep above 0, times the scheduler's static shift.
    """
    if isinstance(process, Flow):
        config = {} if scheduler is None else scheduler.config
        dynamic = config.get("use_dynamic_shifting", False)
        shift = 1.0 if dynamic else config.get("flow_shift") or config.get("shift") or 1.0
        return float(shift / (timesteps - 1))
    if isinstance(process, EDM):
        assert scheduler is not None
        return float(scheduler.config.get("sigma_min") or scheduler.sigmas[-2])
    return float(process.noise_level(0.0))


def own_schedule(scheduler: Any, process: Process, steps: int, t_max: float = math.inf, **arguments: Any) -> Schedule:
    """The schedule that the scheduler itself runs for so many steps, from at most t_max, ending at noise level 0.

    Times that it repeats (PNDM's) count once, and a time at the clean end counts as the end. So there may be fewer
    steps than `steps`.

    Args:
        arguments: those that the pipeline gives to `set_timesteps` instead of a number of steps, or beside it.
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(**({"num_inference_steps": steps} if "sigmas" not in arguments else {}), **arguments)
    if isinstance(process, Flow):
        times = scheduler.sigmas.double()[: len(scheduler.timesteps)]
    else:
        times = scheduler.timesteps.double()
    times = times.clamp(max=t_max)[times > process.t_clean].unique_consecutive()
    times = torch.cat([times.cpu(), torch.tensor([process.t_clean], dtype=torch.float64)])
    return Schedule(times, process, metadata={"scheduler": type(scheduler).__name__})


def _unsupported(scheduler: Any, why: str) -> ValueError:
    return ValueError(
        f"no process is known for {type(scheduler).__name__}: {why}; give the pipeline the scheduler its model was "
        "trained with, or one of EulerDiscreteScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler"
    )
