"""The device and threads of a process, and how much of a model's work fits there."""

from __future__ import annotations

from dataclasses import replace

import torch
from omegaconf import DictConfig

from optsteps.denoisers import DeviceDenoiser, fitting_batch
from optsteps.models import Model
from optsteps.noise import unit_noise
from optsteps.sampling import Walks

# samples in a batch whose size is "auto", where they fit
_LARGEST_BATCH = 256


def set_threads(runner: DictConfig) -> None:
    """Set the threads of this process, where the config says how many."""
    if runner.threads is not None:
        torch.set_num_threads(runner.threads)


def only_device(runner: DictConfig) -> torch.device:
    """The device of a run's only process. Lightning chooses it where there is a choice.

    Args:
        runner: of the config.

    Raises:
        ValueError: there is no such device.
    """
    if runner.accelerator == "cpu" or (runner.accelerator == "auto" and not torch.accelerator.is_available()):
        return torch.device("cpu")
    import lightning as L  # takes seconds: a run that is refused on a CPU says so before
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        # whatever environment of a cluster there is, this process is alone
        fabric = L.Fabric(accelerator=runner.accelerator, devices=1, plugins=[LightningEnvironment()])
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ValueError(
            f"this machine has no device for runner.accelerator={runner.accelerator!r}; choose runner=cpu or auto"
        ) from error
    fabric.launch()
    return fabric.device


def device_name(device: torch.device) -> str:
    """The GPU's product name, or the kind of device, such as "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def with_states_at(states: str, model: Model, device: torch.device) -> tuple[Model, torch.device]:
    """The model and the device for samples and states, where `runner.states` is `states`: unless they lie on the
    device, the model's denoiser moves its inputs to it and its outputs back. One that walks by itself does so already.

    Raises:
        ValueError: no such place.
    """
    if states not in ("device", "cpu", "disk"):
        raise ValueError(f"runner.states must be 'device', 'cpu' or 'disk', got {states!r}")
    if states == "device" or device.type == "cpu":
        return model, device
    if not isinstance(model.denoiser, Walks):
        model = replace(model, denoiser=DeviceDenoiser(model.denoiser, device))
    return model, torch.device("cpu")


def set_max_batch(config: DictConfig, model: Model, device: torch.device) -> None:
    """Replace `max_batch=auto`, in the config and in its methods, by the number of samples that fit on the device."""
    if config.max_batch != "auto":
        return
    # a plan counts the same evaluations in batches of any size, and makes none
    config.max_batch = _LARGEST_BATCH if config.plan else _fitting_batch(model, device)
    for method in (config.method, *config.get("rivals", {}).values()):
        _replace_auto(method, config.max_batch)


def _fitting_batch(model: Model, device: torch.device) -> int:
    x = unit_noise(0, range(_LARGEST_BATCH), model.shape).to(device)
    t = torch.full((_LARGEST_BATCH,), model.time_range[0], dtype=torch.float64)
    cond = model.cond(range(_LARGEST_BATCH), device)
    return fitting_batch(model.denoiser, model.process.prior_std(t[0]).to(x) * x, t, cond)


def _replace_auto(method: DictConfig, size: int) -> None:
    """In a method and in the methods inside it, which may have copied "auto" already."""
    for key, value in method.items():
        if key == "max_batch" and value == "auto":
            method[key] = size
        elif isinstance(value, DictConfig):
            _replace_auto(value, size)
