"""Pipelines that are known by their own call alone, with random weights: `DRIVEN[name]()` is one with its calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tiny_pipelines import (
    _SD_BETAS,
    PIPELINES,
    PROMPTS,
    SIZES,
    _clip,
    _ready,
    _t5,
    _tokenizer,
    _vae,
    diffusers,
    edited,
    transformers,
    wan,
)

Driven = tuple[Any, list[dict[str, Any]]]


def _for_prompts(**call: Any) -> list[dict[str, Any]]:
    """A call for each prompt."""
    return [{"prompt": prompt, **call} for prompt in PROMPTS]


def _picture(side: int = 16) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def _embeds(*shape: int) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(3))


def _encoded(width: int, mask: str) -> dict[str, Any]:
    """Five encoded words, and others for no prompt, with a mask for each by this name."""
    words, present = _embeds(5, width), torch.ones(1, 5, dtype=torch.long)
    return {
        "prompt_embeds": words,
        mask: present,
        "negative_prompt_embeds": words.flip(1),
        f"negative_{mask}": present,
    }


def wan_2_2() -> Driven:
    """Two experts: the second below 9/10 of the timesteps, with a guidance of its own."""
    whole = wan()
    torch.manual_seed(1)
    second = type(whole.transformer).from_config(whole.transformer.config)
    pipe = diffusers.WanPipeline(**{**whole.components, "transformer_2": second}, boundary_ratio=0.7)
    return _ready(pipe), _for_prompts(**SIZES["wan"])


def controlnet() -> Driven:
    whole = PIPELINES["sd"]()
    torch.manual_seed(1)
    control = diffusers.ControlNetModel.from_unet(whole.unet, conditioning_embedding_out_channels=(4, 8))
    for part in control.parameters():  # its last layers begin as zeros
        torch.nn.init.normal_(part, std=0.1)
    pipe = diffusers.StableDiffusionControlNetPipeline(
        **whole.components, controlnet=control, requires_safety_checker=False
    )
    return _ready(pipe), _for_prompts(image=_picture(), control_guidance_end=0.5)


def flux_img2img() -> Driven:
    pipe, _ = edited("flux", "img2img")
    return pipe, _for_prompts(image=_picture(), strength=0.6, height=16, width=16, num_inference_steps=10)


def sd_img2img() -> Driven:
    pipe, _ = edited("sd", "img2img")
    return pipe, _for_prompts(image=_picture(), strength=0.6, num_inference_steps=10)


def inpainting(name: str, strength: float) -> Driven:
    """Half of the picture is known."""
    pipe, _ = edited(name, "inpaint")
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    given = {"image": _picture(), "mask_image": mask, "height": 16, "width": 16}
    return pipe, _for_prompts(**given, strength=strength, num_inference_steps=10)


def pixart() -> Driven:
    torch.manual_seed(0)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    pipe = diffusers.PixArtAlphaPipeline(
        transformer=transformer,
        text_encoder=_t5(32),
        tokenizer=_tokenizer(120),
        vae=_vae(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )
    return _ready(pipe), _for_prompts(use_resolution_binning=False, height=16, width=16)


def qwen_image() -> Driven:
    torch.manual_seed(0)
    pipe = diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=6,
            z_dim=4,
            dim_mult=[1, 2, 4],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=None,
        tokenizer=None,
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
    )
    call = {
        **_encoded(16, "prompt_embeds_mask"),
        "true_cfg_scale": 3.0,
        "height": 16,
        "width": 16,
    }
    return _ready(pipe), [call]


def sana() -> Driven:
    torch.manual_seed(0)
    blocks = ("ResBlock", "EfficientViTBlock")
    pipe = diffusers.SanaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=diffusers.AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=blocks,
            decoder_block_types=blocks,
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
        ),
        transformer=diffusers.SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=8,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
    )
    call = {
        "negative_prompt": None,
        **_encoded(8, "prompt_attention_mask"),
        "use_resolution_binning": False,
        "height": 32,
        "width": 32,
    }
    return _ready(pipe), [call]


def ltx() -> Driven:
    torch.manual_seed(0)
    pipe = diffusers.LTXPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLLTXVideo(
            in_channels=3,
            out_channels=3,
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
            encoder_causal=True,
            decoder_causal=False,
        ),
        text_encoder=None,
        tokenizer=None,
        transformer=diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=1,
            caption_channels=16,
        ),
    )
    call = {
        **_encoded(16, "prompt_attention_mask"),
        "height": 32,
        "width": 32,
        "num_frames": 9,
    }
    return _ready(pipe), [call]


def cogvideox() -> Driven:
    torch.manual_seed(0)
    pipe = diffusers.CogVideoXPipeline(
        tokenizer=_tokenizer(16),
        text_encoder=_t5(32),
        vae=diffusers.AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
        ),
        transformer=diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=32,
            num_layers=1,
            sample_width=2,
            sample_height=2,
            sample_frames=9,
            max_text_seq_length=16,
        ),
        scheduler=diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction"),
    )
    return _ready(pipe), _for_prompts(height=16, width=16, num_frames=9, max_sequence_length=16)


def hunyuan_video() -> Driven:
    torch.manual_seed(0)
    pipe = diffusers.HunyuanVideoPipeline(
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=_clip(),
        tokenizer_2=_tokenizer(16),
        transformer=diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=1,
            patch_size_t=1,
            text_embed_dim=16,
            pooled_projection_dim=8,
            rope_axes_dim=(2, 4, 4),
        ),
        vae=diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
    )
    call = {
        "prompt_embeds": _embeds(5, 16),
        "pooled_prompt_embeds": _embeds(8),
        "prompt_attention_mask": torch.ones(1, 5, dtype=torch.long),
        "height": 16,
        "width": 16,
        "num_frames": 5,
    }
    return _ready(pipe), [call]


def z_image() -> Driven:
    torch.manual_seed(0)
    pipe = diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(shift=0.1, channels=16),
        text_encoder=None,
        tokenizer=None,
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=16,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ),
    )
    words = list(_embeds(5, 16))
    call = {"prompt_embeds": words, "negative_prompt_embeds": [words[0].flip(0)], "height": 32, "width": 32}
    return _ready(pipe), [call]


def svd() -> Driven:
    """Stable Diffusion Video: from a picture, under EDM."""
    torch.manual_seed(0)
    blocks = ("DownEncoderBlock2D", "DownEncoderBlock2D")
    vision = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    pipe = diffusers.StableVideoDiffusionPipeline(
        vae=diffusers.AutoencoderKLTemporalDecoder(
            latent_channels=4, block_out_channels=(32, 32), down_block_types=blocks
        ),
        image_encoder=transformers.CLIPVisionModelWithProjection(vision),
        unet=diffusers.UNetSpatioTemporalConditionModel(
            sample_size=16,
            in_channels=8,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(32, 32),
            num_attention_heads=2,
            cross_attention_dim=16,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=3 * 8,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        ),
        scheduler=diffusers.EulerDiscreteScheduler(
            **_SD_BETAS,
            prediction_type="v_prediction",
            sigma_max=700.0,
            sigma_min=0.002,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
        feature_extractor=transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32),
    )
    return _ready(pipe), [{"image": _picture(32), "height": 32, "width": 32, "num_frames": 2}]


def stable_audio() -> Driven:
    """Under EDM, with a network that is called with arctangents of noise levels."""
    torch.manual_seed(0)
    pipe = diffusers.StableAudioPipeline(
        vae=diffusers.AutoencoderOobleck(
            encoder_hidden_size=6,
            downsampling_ratios=[1, 2],
            decoder_channels=3,
            decoder_input_channels=3,
            audio_channels=2,
            channel_multiples=[2, 4],
            sampling_rate=4,
        ),
        text_encoder=_t5(8),
        projection_model=diffusers.StableAudioProjectionModel(
            text_encoder_dim=8, conditioning_dim=8, min_value=0, max_value=32
        ),
        tokenizer=_tokenizer(16),
        transformer=diffusers.StableAudioDiTModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=2,
            num_key_value_attention_heads=2,
            cross_attention_dim=8,
            cross_attention_input_dim=8,
            time_proj_dim=8,
            global_states_input_dim=16,
        ),
        scheduler=diffusers.CosineDPMSolverMultistepScheduler(sigma_max=500.0, sigma_min=0.3),
    )
    return _ready(pipe), _for_prompts()


DRIVEN: dict[str, Callable[[], Driven]] = {
    "wan 2.2": wan_2_2,
    "controlnet": controlnet,
    "sd img2img": sd_img2img,
    "flux img2img": flux_img2img,
    "pixart": pixart,
    "qwen-image": qwen_image,
    "sana": sana,
    "ltx": ltx,
    "cogvideox": cogvideox,
    "hunyuan video": hunyuan_video,
    "z-image": z_image,
    "sd inpainting": partial(inpainting, "sd", 1.0),
    "sdxl inpainting": partial(inpainting, "sdxl", 0.6),
    "flux inpainting": partial(inpainting, "flux", 0.6),
    "svd": svd,
    "stable audio": stable_audio,
}
