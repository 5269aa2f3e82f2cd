"""Colours of objects by CLIP (Radford et al., arXiv:2103.00020), which GenEval asks in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from optsteps.datasets.geneval_prompts import Metadata
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.rules import Rules, counted
from optsteps.storage.unpickling import tensors_alone

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_SENTENCES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
# the grey behind an object, #999999
_BEHIND = 153


class ColorClassifier:
    """Finds the colour that fits an object best, by comparing an image of the object alone with sentences on colours.

    Args:
        path: of a CLIP model, a folder or a repository of the hub.
        device: "cuda", "cpu", ...; None for a GPU where there is one.
        colors: to choose from.
    """

    def __init__(self, path: str, device: str | None = None, colors: Sequence[str] = COLORS) -> None:
        from transformers import AutoProcessor, CLIPModel  # an extra, which other metrics do without

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with tensors_alone():
            self.model = CLIPModel.from_pretrained(path).eval().to(self.device)
        self.processor = AutoProcessor.from_pretrained(path)
        self.colors = tuple(colors)
        self._of_names: dict[str, Tensor] = {}

    def __call__(self, crops: Sequence[Tensor], names: Sequence[str]) -> list[str]:
        """The colours of objects, from bytes [3, h, w] that show each and the names of their classes."""
        if not crops:
            return []
        inputs = self.processor(images=list(crops), return_tensors="pt", input_data_format="channels_first")
        with torch.no_grad():
            pooled = self.model.vision_model(pixel_values=inputs["pixel_values"].to(self.device)).pooler_output
            embedded = self.model.visual_projection(pooled)
            best = [int((self._sentences(name) @ image).argmax()) for name, image in zip(names, embedded, strict=True)]
        return [self.colors[place] for place in best]

    def check(self, metadata: Sequence[Metadata]) -> None:
        """Raises ValueError where a prompt asks for a colour that is none of those to choose from."""
        for prompt in metadata:
            for objects in prompt.include:
                if objects.color not in (None, *self.colors):
                    raise ValueError(
                        f"{prompt.prompt!r} asks for the color {objects.color!r}; known: {', '.join(self.colors)}"
                    )

    def colored(
        self,
        images: Tensor,
        detections: Sequence[list[Detection]],
        metadata: Sequence[Metadata],
        rules: Rules,
    ) -> list[list[Detection]]:
        """The detections of images, bytes [B, 3, H, W], with the colours of those that are judged by colour."""
        judged = [
            (number, detection)
            for number, (in_image, prompt) in enumerate(zip(detections, metadata, strict=True))
            for detection in _judged_by_color(in_image, prompt, rules)
        ]
        crops = [crop(images[number], detection) for number, detection in judged]
        colors = self(crops, [detection.name for _, detection in judged])
        # by identity: detections with masks cannot be compared
        color_of = {(number, id(detection)): color for (number, detection), color in zip(judged, colors, strict=True)}
        return [
            [replace(detection, color=color_of.get((number, id(detection)))) for detection in in_image]
            for number, in_image in enumerate(detections)
        ]

    def _sentences(self, name: str) -> Tensor:
        """A direction per colour [colours, F], the mean over its sentences."""
        if name not in self._of_names:
            texts = [sentence.format(color=color, name=name) for color in self.colors for sentence in _SENTENCES]
            inputs = self.processor(text=texts, return_tensors="pt", padding=True, truncation=True).to(self.device)
            read = self.model.text_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            directions = torch.nn.functional.normalize(self.model.text_projection(read.pooler_output), dim=-1)
            mean = directions.unflatten(0, (len(self.colors), len(_SENTENCES))).mean(1)
            self._of_names[name] = torch.nn.functional.normalize(mean, dim=-1)
        return self._of_names[name]


def crop(image: Tensor, detection: Detection) -> Tensor:
    """The part of an image, bytes [3, H, W], in an object's box, at least a pixel, with grey outside its mask."""
    height, width = image.shape[1:]
    if detection.mask is not None:
        image = torch.where(detection.mask.to(image.device), image, torch.full_like(image, _BEHIND))
    left, top, right, bottom = (round(edge) for edge in detection.box)
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return image[:, top : max(bottom, top + 1), left : max(right, left + 1)]


def _judged_by_color(detections: list[Detection], metadata: Metadata, rules: Rules) -> list[Detection]:
    """The objects whose colour decides, each once."""
    judged = {
        id(detection): detection
        for objects in metadata.include
        if objects.color is not None
        for detection in counted(detections, objects.name, metadata.tag, rules)[: objects.count]
    }
    return list(judged.values())
