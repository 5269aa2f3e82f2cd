"""How each kind of pipeline calls its network: the shape of its latents and what it passes beside them.

A family holds a loaded pipeline and changes nothing of it. States are what the pipeline's own loop calls latents, so
FLUX's are packed, [tokens, 4 C].
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
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
        network: what is called, on whatever device the pipeline runs it.
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

    def __init__(self, pipeline: Any, size: Size) -> None:
        self.pipeline = pipeline
        self.network: Any = getattr(pipeline, self.component, pipeline)
        self.shape = self.shape_of(size)
        default = inspect.signature(type(pipeline).__call__).parameters.get("guidance_scale")
        self.default_guidance = 1.0 if default is None else float(default.default)

    @abstractmethod
    def shape_of(self, size: Size) -> tuple[int, ...]: ...

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        """What the network is given beside latents and times."""
        return dict(cond or {})

    def scheduler_arguments(self, steps: int) -> dict[str, Any]:
        """What the pipeline tells its scheduler beside a number of steps."""
        return {}

    def guide(self, scale: float) -> None:
        """Set the scale that is an input of the network."""
        raise NotImplementedError

    def time_scale(self, process: Process) -> float:
        """What times of `process` are multiplied by for the network.

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
        """Where the pipeline runs its models; with CPU offload not where they lie."""
        device: torch.device = self.pipeline._execution_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's arithmetic."""
        dtype: torch.dtype = self.network.dtype
        return dtype

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        # the network embeds times in float32 and casts only the embedding: its dtype is never the times'
        inputs = {
            self.sample_name: x.to(self.device, self.dtype),
            "timestep": t.to(self.device),
            **self.arguments(moved(cond, self.device), len(x)),
        }
        out: Tensor = self.network(**inputs, return_dict=False)[0]
        # a network that learned its variance returns it behind the prediction; a copy, because a CUDA graph writes the
        # next output where this one is
        return out[:, : x.shape[1]].to(x, copy=True)

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [-1, 1] of latents [B, *shape]: [B, 3, H, W], or [B, 3, F, H, W] of a video; one at a time."""
        with torch.no_grad():
            return torch.cat([self._decoded(one) for one in latents.split(1)])

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


class UNet2D(Family):
    """`UNet2DModel`, alone or in a `DDPMPipeline` or `DDIMPipeline`: pixels, without condition or with class labels."""

    component = "unet"
    sample_name = "sample"

    def __init__(self, pipeline: Any, size: Size) -> None:
        super().__init__(pipeline, size)
        self.num_classes = self.network.config.num_class_embeds or 0

    def shape_of(self, size: Size) -> tuple[int, ...]:
        config = self.network.config
        own = config.sample_size
        own = own if isinstance(own, list | tuple) else (own, own)
        pixels = tuple(asked or had for asked, had in zip(size[:2], own, strict=True))
        if None in pixels:
            raise ValueError("the U-Net's config names no sample_size; give height and width in pixels")
        return (config.in_channels, *pixels)

    @property
    def device(self) -> torch.device:
        alone: torch.device = self.network.device
        return alone if self.pipeline is self.network else super().device

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        return {} if cond is None else {"class_labels": cond}

    def _decoded(self, latents: Tensor) -> Tensor:
        return latents.float().clamp(-1, 1)  # they are pixels


class DiT(Family):
    """`DiTPipeline`: latents of fixed size, class labels; the network may have learned its variance."""

    def __init__(self, pipeline: Any, size: Size) -> None:
        super().__init__(pipeline, size)
        self.num_classes = self.null_label = self.network.config.num_embeds_ada_norm

    def shape_of(self, size: Size) -> tuple[int, ...]:
        config = self.network.config
        pixels = config.sample_size * 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)
        if any(asked not in (None, pixels) for asked in size[:2]):
            raise ValueError(f"this DiT makes {pixels} x {pixels} pixels only, got height and width {size[:2]}")
        return (config.in_channels, config.sample_size, config.sample_size)

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        if cond is None:
            raise ValueError("a DiT needs class labels [B] as its cond; got None")
        return {"class_labels": cond}


class TextFamily(Family):
    """A pipeline whose condition is a prompt: what its encoders make of it, by the names of the network's arguments."""

    def encode(self, prompts: Sequence[str]) -> Cond:
        """The condition of every prompt, on the CPU in the network's dtype."""
        with torch.no_grad():
            return self._kept(self._encoded(list(prompts), None, False)[0])

    def null(self, negative: str | None) -> Cond:
        """The condition that guidance leads away from, batch size 1; None is what the pipeline takes for none."""
        with torch.no_grad():
            return self._kept(self._encoded([""], None if negative is None else [negative], True)[1])

    @abstractmethod
    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        """The network's arguments for the prompts and, where guided, for the negative ones."""

    def _kept(self, encoded: dict[str, Tensor]) -> Cond:
        return {name: part.to("cpu", self.dtype) for name, part in encoded.items()}

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        if not isinstance(cond, dict):
            raise ValueError(f"a {type(self.pipeline).__name__} needs encoded prompts as its cond: encode(prompts)")
        return dict(cond)

    def pixels(self, size: Size, own: tuple[int, int], multiple: int) -> tuple[int, int]:
        """Height and width, checked."""
        height, width = size[0] or own[0], size[1] or own[1]
        if height % multiple or width % multiple or min(height, width) < multiple:
            raise ValueError(f"height and width must be multiples of {multiple}, got {height} and {width}")
        return height, width


class StableDiffusion(TextFamily):
    """`StableDiffusionPipeline`: SD 1 and 2 and their fine-tunes, also those distilled with guidance as an input."""

    component = "unet"
    sample_name = "sample"
    published = "sd15"
    guidance_embedding: Tensor | None = None

    def __init__(self, pipeline: Any, size: Size) -> None:
        super().__init__(pipeline, size)
        self.embeds_guidance = self.network.config.time_cond_proj_dim is not None

    def shape_of(self, size: Size) -> tuple[int, ...]:
        factor, own = self.pipeline.vae_scale_factor, self.network.config.sample_size
        own = own if isinstance(own, list | tuple) else (own, own)
        self.size = self.pixels(size, (own[0] * factor, own[1] * factor), max(8, factor))
        return (self.network.config.in_channels, self.size[0] // factor, self.size[1] // factor)

    def guide(self, scale: float) -> None:
        embedding = self.pipeline.get_guidance_scale_embedding(
            torch.tensor([scale - 1.0]), embedding_dim=self.network.config.time_cond_proj_dim
        )
        self.guidance_embedding = embedding.to(self.device, self.dtype)

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        arguments = super().arguments(cond, batch)
        if self.guidance_embedding is not None:
            arguments["timestep_cond"] = self.guidance_embedding.expand(batch, -1)
        return arguments

    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        found = self.pipeline.encode_prompt(prompts, self.device, 1, guided, negative)
        return {"encoder_hidden_states": found[0]}, {"encoder_hidden_states": found[1]}


class StableDiffusionXL(StableDiffusion):
    """`StableDiffusionXLPipeline`: a pooled embedding and the sizes, of the image alone, as further conditions."""

    published = "sdxl"

    def shape_of(self, size: Size) -> tuple[int, ...]:
        shape = super().shape_of(size)
        pipeline = self.pipeline
        encoder = pipeline.text_encoder_2
        pooled = None if encoder is None else encoder.config.projection_dim
        self.time_ids = pipeline._get_add_time_ids(
            self.size, (0, 0), self.size, dtype=self.dtype, text_encoder_projection_dim=pooled
        )
        return shape

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        arguments = super().arguments(cond, batch)
        added = {
            "text_embeds": arguments.pop("text_embeds"),
            "time_ids": self.time_ids.to(self.device).repeat(batch, 1),
        }
        return {**arguments, "added_cond_kwargs": added}

    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        words = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=guided, negative_prompt=negative
        )
        return _paired(words, "encoder_hidden_states", "text_embeds")


class StableDiffusion3(TextFamily):
    """`StableDiffusion3Pipeline`."""

    def shape_of(self, size: Size) -> tuple[int, ...]:
        factor = self.pipeline.vae_scale_factor
        own = self.pipeline.default_sample_size * factor
        height, width = self.pixels(size, (own, own), factor * self.pipeline.patch_size)
        return (self.network.config.in_channels, height // factor, width // factor)

    def scheduler_arguments(self, steps: int) -> dict[str, Any]:
        if not self.pipeline.scheduler.config.get("use_dynamic_shifting"):
            return {}
        patch = self.network.config.patch_size
        tokens = (self.shape[1] // patch) * (self.shape[2] // patch)
        return {"mu": dynamic_shift(tokens, self.pipeline.scheduler.config, 1.16)}

    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        words = self.pipeline.encode_prompt(
            prompts, None, None, device=self.device, do_classifier_free_guidance=guided, negative_prompt=negative
        )
        return _paired(words, "encoder_hidden_states", "pooled_projections")


class Flux(TextFamily):
    """`FluxPipeline`: packed latents, guidance as an input of the network.

    FLUX's forward itself rounds its times to its latents' dtype: a bfloat16 network keeps 8 bits of them, in every
    sampler. It is handed float32 all the same.
    """

    timestep_unit = 1000.0
    guidance: float | None = None

    def __init__(self, pipeline: Any, size: Size) -> None:
        super().__init__(pipeline, size)
        self.embeds_guidance = bool(self.network.config.guidance_embeds)
        if not self.embeds_guidance:  # its pipeline ignores the scale then
            self.default_guidance = 1.0

    def shape_of(self, size: Size) -> tuple[int, ...]:
        factor = self.pipeline.vae_scale_factor
        own = self.pipeline.default_sample_size * factor
        height, width = self.pixels(size, (own, own), 2 * factor)
        self.size = (height, width)
        # where a token lies: row and column of its patch, and nothing for the words
        patches = (torch.arange(side // factor // 2) for side in self.size)
        rows, columns = torch.meshgrid(*patches, indexing="ij")
        self.places = torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3)
        return (len(self.places), self.network.config.in_channels)

    def guide(self, scale: float) -> None:
        self.guidance = scale

    def arguments(self, cond: Cond, batch: int) -> dict[str, Any]:
        arguments = super().arguments(cond, batch)
        words = arguments["encoder_hidden_states"]
        arguments["img_ids"] = self.places.to(words)
        arguments["txt_ids"] = words.new_zeros(words.shape[1], 3)
        if self.guidance is not None:
            arguments["guidance"] = torch.full([batch], self.guidance, device=words.device)
        return arguments

    def scheduler_arguments(self, steps: int) -> dict[str, Any]:
        config = self.pipeline.scheduler.config
        arguments: dict[str, Any] = {"mu": dynamic_shift(self.shape[0], config, 1.15)}
        if not config.get("use_flow_sigmas"):
            arguments["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        return arguments

    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        if guided:
            raise ValueError("this FLUX takes no guidance (guidance_embeds is false); use guidance 1")
        words, pooled, _ = self.pipeline.encode_prompt(prompts, None, device=self.device)
        return {"encoder_hidden_states": words, "pooled_projections": pooled}, None

    def _decoded(self, latents: Tensor) -> Tensor:
        return super()._decoded(self.pipeline._unpack_latents(latents, *self.size, self.pipeline.vae_scale_factor))


class Wan(TextFamily):
    """`WanPipeline` with one transformer: latents of video, [C, F, H, W]."""

    def __init__(self, pipeline: Any, size: Size) -> None:
        for unknown in ("boundary_ratio", "expand_timesteps"):
            if pipeline.config.get(unknown):
                raise ValueError(f"a WanPipeline with {unknown} (Wan 2.2) is not supported; Wan 2.1 is")
        super().__init__(pipeline, size)

    def shape_of(self, size: Size) -> tuple[int, ...]:
        factor, every = self.pipeline.vae_scale_factor_spatial, self.pipeline.vae_scale_factor_temporal
        patch = self.network.config.patch_size
        height, width = self.pixels(size, (480, 832), max(16, factor * max(patch[1:])))
        frames = 81 if size[2] is None else size[2]
        if frames < 1 or (frames - 1) % every:
            raise ValueError(f"num_frames must be 1 more than a multiple of {every}, got {frames}")
        return (self.network.config.in_channels, (frames - 1) // every + 1, height // factor, width // factor)

    def _encoded(self, prompts: list[str], negative: list[str] | None, guided: bool) -> tuple[Any, Any]:
        words = self.pipeline.encode_prompt(prompts, negative, guided, max_sequence_length=512, device=self.device)
        return {"encoder_hidden_states": words[0]}, {"encoder_hidden_states": words[1]}


FAMILIES: dict[str, type[Family]] = {
    "UNet2DModel": UNet2D,
    "DDPMPipeline": UNet2D,
    "DDIMPipeline": UNet2D,
    "DiTPipeline": DiT,
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "WanPipeline": Wan,
}


def family_of(pipeline: Any, size: Size) -> Family:
    """The family of a loaded pipeline or `UNet2DModel`, known by its class or one it derives from.

    Raises:
        ValueError: no family is known, or it cannot make this size.
    """
    known = next((FAMILIES[kind.__name__] for kind in type(pipeline).__mro__ if kind.__name__ in FAMILIES), None)
    if known is None:
        raise ValueError(f"no {type(pipeline).__name__} is supported; known: {', '.join(FAMILIES)}")
    return known(pipeline, size)


def unscaled(latents: Tensor, config: Any) -> Tensor:
    """Latents [B, C, ...] in the units of the autoencoder whose config this is."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    latents = latents / config.get("scaling_factor", 1.0)
    if mean is None or std is None:
        return latents + (config.get("shift_factor") or 0.0)
    mean, std = (latents.new_tensor(values).reshape(1, -1, *(1,) * (latents.ndim - 2)) for values in (mean, std))
    return latents * std + mean


def dynamic_shift(tokens: int, config: Any, max_shift: float) -> float:
    """mu, the logarithm of a flow's shift, linear in the number of tokens (FLUX's and SD3's pipelines)."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (high - low) / (many - few)
    return float(tokens * slope + low - slope * few)


def _paired(words: Sequence[Any], sequence: str, pooled: str) -> tuple[Any, Any]:
    """Arguments of both sides from (prompt, negative, pooled prompt, pooled negative)."""
    return {sequence: words[0], pooled: words[2]}, {sequence: words[1], pooled: words[3]}
