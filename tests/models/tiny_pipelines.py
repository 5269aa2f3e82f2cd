"""Pipelines of diffusers with random weights: real classes and schedulers, tiny widths, tokenizers of a few words.

`PIPELINES["sdxl"]()` is a loaded pipeline, the same at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "photo", "of", "the", "cat", "dog", "red", "blue", "bench", "two"]
# what every pipeline is sampled at: its call's arguments for the smallest sample it makes
SIZES: dict[str, dict[str, int]] = {
    "sd3": {"height": 16, "width": 16},
    "flux": {"height": 16, "width": 16},
    "wan": {"height": 32, "width": 32, "num_frames": 5},
}
PROMPTS = ["a photo of a cat", "the red dog", "two blue cat"]


def ddpm() -> Any:
    return _ready(diffusers.DDPMPipeline(unet2d(), diffusers.DDIMScheduler(clip_sample=False)))


def unet2d(classes: int | None = None) -> Any:
    """A `UNet2DModel` alone."""
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
        num_class_embeds=classes,
    ).eval()


def dit() -> Any:
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,  # the prediction, and the variance it learned
        num_layers=1,
        sample_size=8,
        norm_num_groups=4,
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    return _ready(diffusers.DiTPipeline(transformer, _vae(), scheduler, id2label={0: "cat", 1: "dog"}))


def sd(**config: Any) -> Any:
    torch.manual_seed(0)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip(),
        tokenizer=_tokenizer(16),
        unet=diffusers.UNet2DConditionModel(**_UNET, cross_attention_dim=16, **config),
        scheduler=diffusers.EulerDiscreteScheduler(**_SD_BETAS, timestep_spacing="leading", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _ready(pipeline)


def sdxl() -> Any:
    torch.manual_seed(0)
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_clip(),
        text_encoder_2=_clip(projected=True),
        tokenizer=_tokenizer(16),
        tokenizer_2=_tokenizer(16),
        unet=diffusers.UNet2DConditionModel(
            **_UNET,
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(**_SD_BETAS, timestep_spacing="leading", steps_offset=1),
    )
    return _ready(pipeline)


def sd3(channels: int = 4) -> Any:
    torch.manual_seed(0)
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=channels,
            out_channels=channels,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(shift=0.1, channels=channels),
        text_encoder=_clip(projected=True),
        tokenizer=_tokenizer(16),
        text_encoder_2=_clip(projected=True),
        tokenizer_2=_tokenizer(16),
        text_encoder_3=_t5(32),
        tokenizer_3=_tokenizer(256),
    )
    return _ready(pipeline)


def flux(guidance_embeds: bool = True) -> Any:
    torch.manual_seed(0)
    pipeline = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(shift=0.1),
        text_encoder=_clip(),
        tokenizer=_tokenizer(16),
        text_encoder_2=_t5(16),
        tokenizer_2=_tokenizer(512),
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 4, 8),
        ),
    )
    return _ready(pipeline)


def wan() -> Any:
    torch.manual_seed(0)
    pipeline = diffusers.WanPipeline(
        tokenizer=_tokenizer(512),
        text_encoder=transformers.UMT5EncoderModel(transformers.UMT5Config(**_T5, d_model=16)),
        transformer=diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=16,
            freq_dim=32,
            ffn_dim=32,
            num_layers=1,
            rope_max_seq_len=32,
        ),
        vae=diffusers.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return _ready(pipeline)


def tiny_clip(folder: Path) -> Path:
    """A whole CLIP model, saved with its tokenizer and image processor."""
    torch.manual_seed(0)
    width = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**width, "vocab_size": len(WORDS), "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 1}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**width, "image_size": 32, "patch_size": 16}, projection_dim=8
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    transformers.CLIPProcessor(images, _tokenizer(16)).save_pretrained(folder)
    return folder


def tiny_mask2former(folder: Path) -> Path:
    """An instance segmentation model of cats, dogs and benches, saved with its image processor."""
    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = transformers.SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=2, image_size=64, out_features=stages
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=12,
        id2label={0: "cat", 1: "dog", 2: "bench"},
        label2id={"cat": 0, "dog": 1, "bench": 2},
    )
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    torch.nn.init.normal_(model.class_predictor.weight)  # as initialised every query sees the same class
    model.save_pretrained(folder)
    transformers.Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def tiny_owl(folder: Path, kind: str) -> Path:
    """An "owlvit" or "owlv2", saved with its tokenizer and image processor."""
    torch.manual_seed(0)
    name = {"owlvit": "OwlViT", "owlv2": "Owlv2"}[kind]
    width = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**width, "vocab_size": len(WORDS), "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 1}
    config = getattr(transformers, f"{name}Config")(
        text_config=text, vision_config={**width, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    getattr(transformers, f"{name}ForObjectDetection")(config).save_pretrained(folder)
    images = getattr(transformers, f"{name}ImageProcessor")(size={"height": 32, "width": 32})
    getattr(transformers, f"{name}Processor")(images, _tokenizer(16)).save_pretrained(folder)
    return folder


PIPELINES: dict[str, Callable[[], Any]] = {
    "ddpm": ddpm,
    "dit": dit,
    "sd": sd,
    "sdxl": sdxl,
    "sd3": sd3,
    "flux": flux,
    "wan": wan,
}

EDITING = {"img2img": "AutoPipelineForImage2Image", "inpaint": "AutoPipelineForInpainting"}


def edited(name: str, kind: str) -> tuple[Any, Callable[..., torch.Tensor]]:
    """The "img2img" or "inpaint" pipeline of "sd", "sdxl", "sd3" or "flux", and its call on an image, for latents."""
    # SD3's inpainting wants its own number of channels
    whole = sd3(channels=16) if name == "sd3" else PIPELINES[name]()
    pipe = getattr(diffusers, EDITING[kind]).from_pipe(whole)
    pipe.set_progress_bar_config(disable=True)
    side = 16
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, side, side)
    mask[..., : side // 2] = 1

    def call(**arguments: Any) -> torch.Tensor:
        given: dict[str, Any] = {"image": image, "output_type": "latent", "generator": torch.manual_seed(0)}
        if kind == "inpaint":
            given |= {"mask_image": mask, "height": side, "width": side}
        elif name == "flux":
            given |= {"height": side, "width": side}
        latents: torch.Tensor = pipe("a red dog", **(given | arguments)).images
        return latents

    return pipe, call


def record(pipe: Any) -> list[float]:
    """The times that the pipeline's network is called with from now on."""
    times: list[float] = []

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        t = kwargs["timestep"] if "timestep" in kwargs else args[1]
        times.append(float(torch.as_tensor(t).flatten()[0]))

    network = getattr(pipe, "unet", None) or pipe.transformer
    network.register_forward_pre_hook(hook, with_kwargs=True)
    return times


@contextmanager
def steps_of(scheduler: Any) -> Iterator[list[torch.Tensor]]:
    """The samples that a scheduler's steps end with, one after the other."""
    ends: list[torch.Tensor] = []
    step = scheduler.step

    def noted(*args: Any, **kwargs: Any) -> Any:
        found = step(*args, **kwargs)
        ends.append(found[0])
        return found

    scheduler.step = noted
    try:
        yield ends
    finally:
        del scheduler.step


_SD_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
_T5 = {
    "vocab_size": len(WORDS),
    "d_ff": 16,
    "d_kv": 8,
    "num_layers": 1,
    "num_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 2,
}


def _ready(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipeline


def _vae(shift: float | None = None, channels: int = 4) -> Any:
    return diffusers.AutoencoderKL(
        latent_channels=channels,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        scaling_factor=0.5,
        shift_factor=shift,
        sample_size=16,
    )


def _clip(projected: bool = False) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def _t5(width: int) -> Any:
    return transformers.T5EncoderModel(transformers.T5Config(**_T5, d_model=width))


def _tokenizer(length: int) -> Any:
    words = {word: number for number, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=length,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
