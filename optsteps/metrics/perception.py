"""Judges of images by networks: LPIPS to the teacher's images, and the CLIP score of image and prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.metrics.base import Judge, Measurement, sample_wise
from optsteps.metrics.extractors import to_uint8
from optsteps.storage.unpickling import tensors_alone


class PerceptualJudge(Judge):
    """LPIPS (Zhang et al., arXiv:1801.03924) to the teacher's images from the same noise.

    Args:
        network: whose features are compared, "alex", "vgg" or "squeeze"; torchvision downloads its weights at first
            use.
        max_batch: images compared at once.

    Raises:
        ValueError: in `check` and `judge`, samples that are no images of 1 or 3 channels.
    """

    def __init__(self, network: Literal["alex", "vgg", "squeeze"] = "alex", max_batch: int = 32) -> None:
        # takes seconds to import, which other judges do without
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        with tensors_alone():
            self.network = LearnedPerceptualImagePatchSimilarity(network).net.eval()
        self.max_batch = max_batch

    @property
    def figures(self) -> dict[str, bool | None]:
        return {"lpips": False}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        if shape is not None:
            _check_image(shape)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        pairs = zip(_coloured(x).split(self.max_batch), _coloured(teacher).split(self.max_batch), strict=True)
        with torch.no_grad():
            distances = torch.cat([self.network(ours, theirs).flatten() for ours, theirs in pairs])
        return {"lpips": sample_wise(distances.double(), False, compares_with_teacher=True)}


class ClipJudge(Judge):
    """CLIP score: 100 times the cosine between the image's and its prompt's embedding, 0 where it is negative (Hessel
    et al., arXiv:2104.08718, without the weight of 2.5).

    Args:
        prompts: of the samples, in their order.
        path: of a CLIP model, a folder or a repository of the hub.
        max_batch: images embedded at once.
    """

    def __init__(self, prompts: Sequence[str], path: str, max_batch: int = 32) -> None:
        from transformers import AutoProcessor, CLIPModel  # an extra, which other judges do without

        self.prompts, self.max_batch = list(prompts), max_batch
        with tensors_alone():
            self.model = CLIPModel.from_pretrained(path).eval()
        self.processor = AutoProcessor.from_pretrained(path)

    @property
    def figures(self) -> dict[str, bool | None]:
        return {"clip": True}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        if samples > len(self.prompts):
            raise ValueError(f"there are {samples} samples, but prompts of {len(self.prompts)}")
        if shape is not None:
            _check_image(shape)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        images = list(to_uint8(_coloured(x)))
        cosines = []
        for k in range(0, len(images), self.max_batch):
            part = slice(k, k + self.max_batch)
            inputs = self.processor(
                text=self.prompts[: len(images)][part],
                images=images[part],
                return_tensors="pt",
                padding=True,
                truncation=True,
            )
            with torch.no_grad():
                embedded = self.model(**inputs)
            cosines.append(torch.cosine_similarity(embedded.image_embeds, embedded.text_embeds))
        return {"clip": sample_wise(100 * torch.cat(cosines).double().clamp(min=0), True)}


def _coloured(x: Tensor) -> Tensor:
    """Images [B, 1 or 3, H, W] in [-1, 1] with three channels, float32 on the CPU."""
    _check_image(x.shape[1:])
    return x.float().cpu().clamp(-1, 1).expand(-1, 3, -1, -1)


def _check_image(shape: Sequence[int]) -> None:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, [B, C, H, W]; these samples are {list(shape)}")
