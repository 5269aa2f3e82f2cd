"""Detectors of real objects, which are networks of `transformers` (the extra `optsteps[geneval]`)."""

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

# names of classes in checkpoints trained on COCO, where GenEval has others
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
        rules: of the judge. Only what counts by them is returned, and only what is judged by colour gets a colour.

    Raises:
        ValueError: at a call and in `check`, a prompt asks for a class or a colour that the detector does not know.
    """

    def __init__(self, path: str, clip: str, device: str | None = None, rules: Rules = PUBLISHED) -> None:
        from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

        self.colors, self.rules = ColorClassifier(clip, device), rules
        self.device = self.colors.device
        with tensors_alone():
            self.model = Mask2FormerForUniversalSegmentation.from_pretrained(path).eval().to(self.device)
        self.processor = AutoImageProcessor.from_pretrained(path)
        self.labels: dict[str, int] = {name: int(label) for label, name in self.model.config.id2label.items()}

    def __call__(self, images: Tensor, metadata: Sequence[Metadata]) -> list[list[Detection]]:
        """The objects in images [B, 3, H, W] in [-1, 1] of the classes that the prompts ask for, with masks."""
        self.check(metadata)
        classes = [{self._label(name): name for name in _names(prompt)} for prompt in metadata]
        pixels = to_uint8(images).cpu()
        inputs = self.processor(images=list(pixels), return_tensors="pt").to(self.device)
        with torch.no_grad():
            out = self.model(pixel_values=inputs["pixel_values"], pixel_mask=inputs["pixel_mask"])
        inside = inputs["pixel_mask"][0]
        height, width = int(inside.any(1).sum()), int(inside.any(0).sum())  # the rest is padding
        detections = []
        for names, prompt, class_logits, mask_logits in zip(
            classes, metadata, out.class_queries_logits, out.masks_queries_logits, strict=True
        ):
            probabilities = class_logits.softmax(-1)[:, :-1]  # the last one is "no object"
            scores, places = probabilities.flatten().topk(len(probabilities))
            in_image = []
            for score, place in zip(scores.tolist(), places.tolist(), strict=True):
                query, label = divmod(place, probabilities.shape[1])
                least = self.rules.least_score(prompt.tag)
                if label not in names or score <= least:
                    continue
                logits = _resized(_resized(mask_logits[query], inside.shape)[:height, :width], pixels.shape[2:])
                mask = logits > 0
                score *= logits.sigmoid()[mask].mean().item() if mask.any() else 0.0
                if score > least:
                    in_image.append(Detection(names[label], score, box_around(mask), mask=mask.cpu()))
            detections.append(in_image)
        return self.colors.colored(pixels, detections, metadata, self.rules)

    def check(self, metadata: Sequence[Metadata]) -> None:
        """Raises ValueError where a prompt asks for a class or a colour that the detector does not know."""
        for name in {name for prompt in metadata for name in _names(prompt)}:
            self._label(name)
        self.colors.check(metadata)

    def _label(self, name: str) -> int:
        for called in (name, _ALSO_CALLED.get(name)):
            if called in self.labels:
                return self.labels[called]
        raise ValueError(f"the detector knows no class {name!r}; known: {', '.join(self.labels)}")


class OwlDetector:
    """Objects of any class by OWL-ViT or OWLv2 (Minderer et al., arXiv:2205.06230, arXiv:2306.09683), named in words.

    Colours are by CLIP and of the whole box, background included, because these networks find no masks.

    The scores are not those of Mask2Former, and the same object is found several times. So give the detector and the
    judge rules with thresholds and an `nms` that are right on images you know. All images given at once go through
    the network at once.

    Args:
        path: of a zero-shot detection model, a folder or a repository of the hub.
        clip, device, rules: as in `Mask2FormerDetector`.

    Raises:
        ValueError: at a call and in `check`, a prompt asks for a colour that the detector does not know.
    """

    def __init__(self, path: str, clip: str, device: str | None = None, rules: Rules = PUBLISHED) -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        self.colors, self.rules = ColorClassifier(clip, device), rules
        self.device = self.colors.device
        with tensors_alone():
            self.model = AutoModelForZeroShotObjectDetection.from_pretrained(path).eval().to(self.device)
        self.processor = AutoProcessor.from_pretrained(path)

    def __call__(self, images: Tensor, metadata: Sequence[Metadata]) -> list[list[Detection]]:
        """The objects in images [B, 3, H, W] in [-1, 1] of the classes that the prompts ask for, without masks."""
        self.check(metadata)
        pixels = to_uint8(images).cpu()
        height, width = pixels.shape[2:]
        classes = [_names(prompt) for prompt in metadata]
        most = max(map(len, classes))
        # every image needs as many texts; a text given twice has the answers of one given once, whatever the batch
        texts = [[f"a photo of a {name}" for name in islice(cycle(names), most)] for names in classes]
        inputs = self.processor(text=texts, images=list(pixels), return_tensors="pt").to(self.device)
        with torch.no_grad():
            out = self.model(**inputs)
        answers = self.processor.image_processor.post_process_object_detection(
            out, threshold=0.0, target_sizes=[(height, width)] * len(pixels)
        )
        edges = torch.tensor([width, height, width, height], device=self.device)
        detections = []
        for names, prompt, answer in zip(classes, metadata, answers, strict=True):
            kept = answer["scores"].double() > self.rules.least_score(prompt.tag)
            boxes = answer["boxes"][kept].clamp(min=0).minimum(edges)
            rows = zip(answer["labels"][kept].tolist(), answer["scores"][kept].tolist(), boxes.tolist(), strict=True)
            detections.append([Detection(names[label % len(names)], score, tuple(box)) for label, score, box in rows])
        return self.colors.colored(pixels, detections, metadata, self.rules)

    def check(self, metadata: Sequence[Metadata]) -> None:
        """Raises ValueError where a prompt asks for a colour that the detector does not know; every word is a class."""
        self.colors.check(metadata)


def box_around(mask: Tensor) -> Box:
    """The smallest box of a mask [H, W] that is not empty, its right and bottom edge included."""
    down, across = (mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
    return (float(across[0]), float(down[0]), float(across[-1] + 1), float(down[-1] + 1))


def _names(metadata: Metadata) -> list[str]:
    """The classes that matter for a prompt, each once."""
    return list(dict.fromkeys(objects.name for objects in (*metadata.include, *metadata.exclude)))


def _resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """A map [h, w] in another size [H, W]."""
    return torch.nn.functional.interpolate(logits[None, None], size=tuple(size), mode="bilinear")[0, 0]
