"""Which colour an object has, by CLIP (Radford et al., arXiv:2103.00020), as GenEval asks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from optsteps.datasets.geneval import Metadata
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.rules import Rules, counted
from optsteps.storage.unpickling import tensors_alone

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_SENTENCES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
# the grey behind an object, #999999
_BEHIND = 153


class ColorClassifier:
    """The colour that fits an object best: an image of it alone against sentences that name the colours.

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
            seen = self.model.vision_model(pixel_values=inputs["pixel_values"].to(self.device)).pooler_output
            seen = self.model.visual_projection(seen)
            best = [int((self._sentences(name) @ one).argmax()) for name, one in zip(names, seen, strict=True)]
        return [self.colors[place] for place in best]

    def check(self, asked: Sequence[Metadata]) -> None:
        """Raises ValueError where a colour is asked for that is none of those to choose from."""
        for one in asked:
            for objects in one.include:
                if objects.color not in (None, *self.colors):
                    raise ValueError(
                        f"{one.prompt!r} asks for the color {objects.color!r}; known: {', '.join(self.colors)}"
                    )

    def colored(
        self, images: Tensor, found: Sequence[list[Detection]], asked: Sequence[Metadata], rules: Rules
    ) -> list[list[Detection]]:
        """The detections of images, bytes [B, 3, H, W], with the colours of those that are judged by colour."""
        judged = [
            (number, one)
            for number, (detections, wanted) in enumerate(zip(found, asked, strict=True))
            for one in _judged_by_color(detections, wanted, rules)
        ]
        crops = [crop(images[number], one) for number, one in judged]
        colors = self(crops, [one.name for _, one in judged])
        # by identity: detections with masks cannot be compared
        of = {(number, id(one)): color for (number, one), color in zip(judged, colors, strict=True)}
        return [
            [replace(one, color=of.get((number, id(one)))) for one in detections]
            for number, detections in enumerate(found)
        ]

    def _sentences(self, name: str) -> Tensor:
        """A direction per colour [colours, F], the mean of what its sentences have."""
        if name not in self._of_names:
            texts = [sentence.format(color=color, name=name) for color in self.colors for sentence in _SENTENCES]
            inputs = self.processor(text=texts, return_tensors="pt", padding=True, truncation=True).to(self.device)
            read = self.model.text_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            directions = torch.nn.functional.normalize(self.model.text_projection(read.pooler_output), dim=-1)
            mean = directions.unflatten(0, (len(self.colors), len(_SENTENCES))).mean(1)
            self._of_names[name] = torch.nn.functional.normalize(mean, dim=-1)
        return self._of_names[name]


def crop(image: Tensor, one: Detection) -> Tensor:
    """The part of an image, bytes [3, H, W], in an object's box, at least a pixel, with grey where its mask is not."""
    height, width = image.shape[1:]
    if one.mask is not None:
        image = torch.where(one.mask.to(image.device), image, torch.full_like(image, _BEHIND))
    left, top, right, bottom = (round(edge) for edge in one.box)
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return image[:, top : max(bottom, top + 1), left : max(right, left + 1)]


def _judged_by_color(found: list[Detection], asked: Metadata, rules: Rules) -> list[Detection]:
    """The objects whose colour decides, each once."""
    judged = {
        id(one): one
        for objects in asked.include
        if objects.color is not None
        for one in counted(found, objects.name, asked.tag, rules)[: objects.count]
    }
    return list(judged.values())
