"""A pipeline's network as a function of states, times and a condition.

A family holds a loaded pipeline and changes nothing of it. States are the tensors that the pipeline's own loop calls
latents. So FLUX's are packed, [tokens, 4 C].
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from optsteps.conditions import Cond, moved
from optsteps.processes import Flow, Process

Size = tuple[int | None, int | None, int | None]


class Family(ABC):
    """A pipeline's network as `(x [B, *shape], t [B], cond) -> prediction [B, *shape]`.

    Args:
        pipeline: loaded.
        size: height and width in pixels and the number of frames; None for the pipeline's own.

    Attributes:
        network: the module that is called, on whatever device the pipeline runs it.
        shape: of one sample's latents.
        timestep_unit: the pipeline calls its network with its scheduler's timesteps divided by this.
        published: the name of AYS's published schedule for such models, where there is one.
        default_guidance: the pipeline's own scale of guidance; 1 where it has none.
        embeds_guidance: the scale is an input of the network, so that guidance costs no second evaluation.
        num_classes: 0 where classes are no condition.
        null_label: label of no class; None where the network has none.

    Raises:
        ValueError: a size that the pipeline cannot make.
    """

    component: ClassVar[str] = "transformer"
    sample_name: ClassVar[str] = "hidden_states"
    timestep_unit: ClassVar[float] = 1.0
    published: ClassVar[str | None] = None
    embeds_guidance: bool = False
    num_classes: int = 0
    null_label: int | None = None
    # where the network without hooks was when the pipeline was asked for its device, and the answer
    _device: tuple[torch.device, torch.device] | None = None

    def __init__(self, pipeline: Any, size: Size) -> None:
        self.pipeline = pipeline
        self.network: Any = getattr(pipeline, self.component, pipeline)
        self.shape = self.shape_of(size)
        default = inspect.signature(type(pipeline).__call__).parameters.get("guidance_scale")
        self.default_guidance = 1.0 if default is None else float(default.default)

    @abstractmethod
    def shape_of(self, size: Size) -> tuple[int, ...]:
        """The shape of one sample's latents, without the batch."""

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        """Arguments of the network beside latents and times, for `batch` samples."""
        return dict(cond or {})

    def scheduler_arguments(self, steps: int) -> dict[str, Any]:
        """Arguments that the pipeline gives to `set_timesteps` of its scheduler beside the number of steps."""
        return {}

    def guide(self, scale: float) -> None:
        """Set the scale that is an input of the network."""
        raise NotImplementedError

    def time_scale(self, process: Process) -> float:
        """The factor between times of `process` and those that the network is called with.

        A VP process's times are timesteps; a flow's lie in [0, 1], and its scheduler's timesteps are T times as large.

        Raises:
            ValueError: a flow network without a scheduler, whose config does not name T.
        """
        if not isinstance(process, Flow):
            return 1 / self.timestep_unit
        scheduler = getattr(self.pipeline, "scheduler", self.network)
        timesteps = scheduler.config.get("num_train_timesteps")
        if timesteps is None:
            raise ValueError(
                f"a {type(self.pipeline).__name__} without a scheduler does not say at which times it is called as a "
                "flow: give time_scale=1000 if it was trained with 1000 t, time_scale=1 if it was trained with t in "
                "[0, 1]"
            )
        return float(timesteps / self.timestep_unit)

    @property
    def device(self) -> torch.device:
        """The device that the pipeline runs its models on. With CPU offload they lie elsewhere between calls.

        A pipeline looks for it among the hooks of all its modules, which takes as long as a call of a small network. So
        it is asked again only where the network has hooks, or was moved.
        """
        parameter = next(iter(self.network.parameters()), None) if isinstance(self.network, torch.nn.Module) else None
        hooked = any(hasattr(self.network, hook) for hook in ("_hf_hook", "_diffusers_hook"))
        if parameter is None or hooked:
            device: torch.device = self.pipeline._execution_device
            return device
        if self._device is None or self._device[0] != parameter.device:
            self._device = parameter.device, self.pipeline._execution_device
        return self._device[1]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the network's arithmetic."""
        dtype: torch.dtype = self.network.dtype
        return dtype

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        device = self.device
        # the network embeds times in float32 and casts only the embedding: its dtype is never the times'
        inputs = {
            self.sample_name: x.to(device, self.dtype),
            "timestep": t.to(device),
            **self.arguments(moved(cond, device), len(x)),
        }
        out: Tensor = self.network(**inputs, return_dict=False)[0]
        # a network that learned its variance returns it behind the prediction; a copy, because a CUDA graph writes the
        # next output where this one is
        return out[:, : x.shape[1]].to(x, copy=True)

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [-1, 1] of latents [B, *shape]: [B, 3, H, W], or [B, 3, F, H, W] of a video; one at a time."""
        with torch.no_grad():
            return torch.cat([self._decoded(sample) for sample in latents.split(1)])

    def _decoded(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = latents.to(self.device, torch.float32)
        # float16 overflows in some autoencoders, which say so
        lifted = vae.dtype == torch.float16 and vae.config.get("force_upcast")
        if lifted:
            vae.to(dtype=torch.float32)
        latents = unscaled(latents, vae.config).to(vae.dtype)
        image: Tensor = vae.decode(latents, return_dict=False)[0]
        if lifted:
            vae.to(dtype=torch.float16)
        return image.float().clamp(-1, 1)


def unscaled(latents: Tensor, config: Any) -> Tensor:
    """Latents [B, C, ...] in the units of the autoencoder whose config this is."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    latents = latents / config.get("scaling_factor", 1.0)
    if mean is None or std is None:
        return latents + (config.get("shift_factor") or 0.0)
    mean, std = (latents.new_tensor(values).reshape(1, -1, *(1,) * (latents.ndim - 2)) for values in (mean, std))
    return latents * std + mean
