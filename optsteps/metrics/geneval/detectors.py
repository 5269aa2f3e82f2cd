"""Detectors of real objects, by networks of `transformers` (the extra `optsteps[geneval]`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import torch
from torch import Tensor

from optsteps.datasets.geneval_prompts import Metadata
from optsteps.metrics.extractors import to_uint8
from optsteps.metrics.geneval.colors import ColorClassifier
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.rules import PUBLISHED, Box, Rules
from optsteps.storage.unpickling import tensors_alone

# what checkpoints trained on COCO call the classes that GenEval calls otherwise
_ALSO_CALLED = {
    "airplane": "aeroplane",
    "computer keyboard": "keyboard",
    "computer mouse": "mouse",
    "couch": "sofa",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "tv": "tvmonitor",
    "tv remote": "remote",
}


class Mask2FormerDetector:
    """Instances of COCO's classes by Mask2Former (Cheng et al., arXiv:2112.01527), as GenEval detects them; their
    colours by CLIP.

    A detection's score is its class's probability times the mean probability of its mask. All images given at once go
    through the network at once.

    Args:
        path: of an instance segmentation model, a folder or a repository of the hub.
        clip: of the CLIP model that tells colours.
        device: "cuda", "cpu", ...; None for a GPU where there is one.
        rules: of the judge: only what counts by them is returned, only what is judged by colour gets one.

    Raises:
        ValueError: at a call and in `check`, a class or a colour is asked for that it does not know.
    """

    def __init__(self, path: str, clip: str, device: str | None = None, rules: Rules = PUBLISHED) -> None:
        from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

        self.colors, self.rules = ColorClassifier(clip, device), rules
        self.device = self.colors.device
        with tensors_alone():
            self.model = Mask2FormerForUniversalSegmentation.from_pretrained(path).eval().to(self.device)
        self.processor = AutoImageProcessor.from_pretrained(path)
        self.labels: dict[str, int] = {name: int(label) for label, name in self.model.config.id2label.items()}

    def __call__(self, images: Tensor, asked: Sequence[Metadata]) -> list[list[Detection]]:
        """Of images [B, 3, H, W] in [-1, 1], the objects of the classes that are asked for, with masks."""
        self.check(asked)
        wanted = [{self._label(name): name for name in _names(one)} for one in asked]
        pixels = to_uint8(images).cpu()
        inputs = self.processor(images=list(pixels), return_tensors="pt").to(self.device)
        with torch.no_grad():
            out = self.model(pixel_values=inputs["pixel_values"], pixel_mask=inputs["pixel_mask"])
        seen = inputs["pixel_mask"][0]
        shown = (int(seen.any(1).sum()), int(seen.any(0).sum()))  # the rest is padding
        found = []
        for names, one, classes, masks in zip(
            wanted, asked, out.class_queries_logits, out.masks_queries_logits, strict=True
        ):
            probabilities = classes.softmax(-1)[:, :-1]  # the last one is "no object"
            scores, places = probabilities.flatten().topk(len(probabilities))
            detections = []
            for score, place in zip(scores.tolist(), places.tolist(), strict=True):
                query, label = divmod(place, probabilities.shape[1])
                least = self.rules.least_score(one.tag)
                if label not in names or score <= least:
                    continue
                logits = _resized(_resized(masks[query], seen.shape)[: shown[0], : shown[1]], pixels.shape[2:])
                mask = logits > 0
                score *= logits.sigmoid()[mask].mean().item() if mask.any() else 0.0
                if score > least:
                    detections.append(Detection(names[label], score, box_around(mask), mask=mask.cpu()))
            found.append(detections)
        return self.colors.colored(pixels, found, asked, self.rules)

    def check(self, asked: Sequence[Metadata]) -> None:
        """Raises ValueError where a class or colour is asked for that it does not know."""
        for name in {name for one in asked for name in _names(one)}:
            self._label(name)
        self.colors.check(asked)

    def _label(self, name: str) -> int:
        for called in (name, _ALSO_CALLED.get(name)):
            if called in self.labels:
                return self.labels[called]
        raise ValueError(f"the detector knows no class {name!r}; known: {', '.join(self.labels)}")


class OwlDetector:
    """Objects of any class by OWL-ViT or OWLv2 (Minderer et al., arXiv:2205.06230, arXiv:2306.09683), which is asked
    for them in words; their colours by CLIP, background included, for it finds no masks.

    Its scores are not those of Mask2Former, and it finds the same object several times: give it, and the judge, rules
    of their own with thresholds and `nms` that are right on images you know. All images given at once go through the
    network at once.

    Args:
        path: of a zero-shot detection model, a folder or a repository of the hub.
        clip, device, rules: as in `Mask2FormerDetector`.

    Raises:
        ValueError: at a call and in `check`, a colour is asked for that it does not know.
    """

    def __init__(self, path: str, clip: str, device: str | None = None, rules: Rules = PUBLISHED) -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        self.colors, self.rules = ColorClassifier(clip, device), rules
        self.device = self.colors.device
        with tensors_alone():
            self.model = AutoModelForZeroShotObjectDetection.from_pretrained(path).eval().to(self.device)
        self.processor = AutoProcessor.from_pretrained(path)

    def __call__(self, images: Tensor, asked: Sequence[Metadata]) -> list[list[Detection]]:
        """Of images [B, 3, H, W] in [-1, 1], the objects of the classes that are asked for, without masks."""
        self.check(asked)
        pixels = to_uint8(images).cpu()
        height, width = pixels.shape[2:]
        wanted = [_names(one) for one in asked]
        most = max(map(len, wanted))
        # every image is asked for as many; one asked for twice answers as if asked once, whatever else is in the batch
        texts = [[f"a photo of a {name}" for name in islice(cycle(names), most)] for names in wanted]
        inputs = self.processor(text=texts, images=list(pixels), return_tensors="pt").to(self.device)
        with torch.no_grad():
            out = self.model(**inputs)
        answers = self.processor.image_processor.post_process_object_detection(
            out, threshold=0.0, target_sizes=[(height, width)] * len(pixels)
        )
        edges = torch.tensor([width, height, width, height], device=self.device)
        found = []
        for names, one, answer in zip(wanted, asked, answers, strict=True):
            kept = answer["scores"].double() > self.rules.least_score(one.tag)
            boxes = answer["boxes"][kept].clamp(min=0).minimum(edges)
            rows = zip(answer["labels"][kept].tolist(), answer["scores"][kept].tolist(), boxes.tolist(), strict=True)
            found.append([Detection(names[label % len(names)], score, tuple(box)) for label, score, box in rows])
        return self.colors.colored(pixels, found, asked, self.rules)

    def check(self, asked: Sequence[Metadata]) -> None:
        """Raises ValueError where a colour is asked for that it does not know; every word is a class."""
        self.colors.check(asked)


def box_around(mask: Tensor) -> Box:
    """The smallest box of a mask [H, W] that is not empty, its right and bottom edge included."""
    down, across = (mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
    return (float(across[0]), float(down[0]), float(across[-1] + 1), float(down[-1] + 1))


def _names(asked: Metadata) -> list[str]:
    """The classes that matter for a prompt, each once."""
    return list(dict.fromkeys(objects.name for objects in (*asked.include, *asked.exclude)))


def _resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """A map [h, w] in another size [H, W]."""
    return torch.nn.functional.interpolate(logits[None, None], size=tuple(size), mode="bilinear")[0, 0]
