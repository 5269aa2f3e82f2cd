"""LPIPS and CLIP score of decoded images, with networks of random weights in the place of those that are downloaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from optsteps.metrics.judges import ClipJudge, DecodedJudge, PerceptualJudge

transformers = pytest.importorskip("transformers")
sys.path.append(str(Path(__file__).parents[1] / "models"))
from tiny_pipelines import tiny_clip  # noqa: E402


@pytest.fixture
def perceptual(monkeypatch: pytest.MonkeyPatch) -> PerceptualJudge:
    import torchvision

    made = torchvision.models.squeezenet1_1
    monkeypatch.setattr(torchvision.models, "squeezenet1_1", lambda weights=None, **_: made(weights=None))
    torch.manual_seed(0)
    return PerceptualJudge("squeeze", max_batch=3)


@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_is_zero_for_the_same_and_grows_with_noise(perceptual: PerceptualJudge, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.rand(5, channels, 48, 48, generator=generator) * 2 - 1
    noise = torch.randn(teacher.shape, generator=generator)
    found = [perceptual.judge(teacher + scale * noise, teacher, None)["lpips"] for scale in (0.0, 0.1, 0.5)]
    assert found[0].values is not None
    assert found[0].values.shape == (5,)
    assert torch.equal(found[0].values, torch.zeros(5, dtype=torch.float64))
    assert found[0].interval.value < found[1].interval.value < found[2].interval.value
    assert found[0].higher_is_better is False


def test_lpips_of_what_is_no_image(perceptual: PerceptualJudge) -> None:
    with pytest.raises(ValueError, match=r"images have 1 or 3 channels.*\[4, 8, 8\]"):
        perceptual.judge(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8), None)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tiny_clip(tmp_path)


def test_clip_score_is_the_cosine_of_image_and_prompt(clip: Path) -> None:
    """Against the model's own logits, which are that cosine by a learned factor, image by image."""
    images = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    prompts = ["a cat", "a dog", "dog cat a", "not asked for"]
    found = ClipJudge(prompts, str(clip), max_batch=2).judge(images, images, None)["clip"]
    model, processor = transformers.CLIPModel.from_pretrained(clip), transformers.AutoProcessor.from_pretrained(clip)
    assert found.values is not None
    for image, prompt, value in zip(images, prompts, found.values, strict=False):
        pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        with torch.no_grad():
            out = model(**processor(text=[prompt], images=[Image.fromarray(pixels)], return_tensors="pt"))
        cosine = float(out.logits_per_image / model.logit_scale.detach().exp())
        assert float(value) == pytest.approx(100 * max(cosine, 0.0), abs=1e-3)


def test_of_decoded_latents() -> None:
    class Mean:
        needs_many = False

        def judge(self, x: Tensor, teacher: Tensor, cond: Any) -> dict[str, Any]:
            return {"mean": (x.mean(), teacher.mean())}

    judge = DecodedJudge(lambda latents: 2 * latents, Mean())  # type: ignore[arg-type]
    assert judge.judge(torch.ones(2, 4), torch.zeros(2, 4), None) == {"pixel_mean": (2.0, 0.0)}
