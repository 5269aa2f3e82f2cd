"""Colours of objects by CLIP, with a tiny model of random weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from optsteps.datasets.geneval_prompts import Metadata, Objects
from optsteps.metrics.geneval.colors import COLORS, ColorClassifier, crop
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.rules import PUBLISHED, Rules

transformers = pytest.importorskip("transformers")
sys.path.append(str(Path(__file__).parents[2] / "models"))
from tiny_pipelines import tiny_clip  # noqa: E402


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def _pixels(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_colour_whose_sentences_fit_best(clip: Path) -> None:
    """Against CLIP's own embeddings of whole sentences and images, one at a time."""
    colors = ("red", "blue", "two")  # three words that the tiny tokenizer knows
    crops = [_pixels(3, height, width) for height, width in ((20, 30), (1, 1), (3, 50), (32, 32))]
    names = ["cat", "dog", "bench", "cat"]
    model, processor = transformers.CLIPModel.from_pretrained(clip), transformers.AutoProcessor.from_pretrained(clip)
    expected = []
    for pixels, name in zip(crops, names, strict=True):
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        fits = []
        for color in colors:
            found = []
            for text in (
                f"a photo of a {color} {name}",
                f"a photo of a {color}-colored {name}",
                f"a photo of a {color} object",
            ):
                with torch.no_grad():
                    out = model(**processor(text=[text], images=[image], return_tensors="pt"))
                found.append(out.text_embeds[0])  # of unit length
            fits.append(float(torch.cosine_similarity(torch.stack(found).mean(0), out.image_embeds[0], dim=0)))
        expected.append(colors[fits.index(max(fits))])
    classify = ColorClassifier(str(clip), "cpu", colors)
    assert classify(crops, names) == expected
    assert classify(crops[:1], names[:1]) == expected[:1]
    assert classify([], []) == []


def test_a_crop_shows_the_object_on_grey() -> None:
    image = _pixels(3, 8, 10)
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[2:4, 3:7] = True
    mask[2, 3] = False
    found = crop(image, Detection("dog", 0.9, (3.0, 2.0, 7.0, 4.0), mask=mask))
    assert found.shape == (3, 2, 4)
    assert found[:, 0, 0].tolist() == [153] * 3
    assert torch.equal(found[:, 1], image[:, 3, 3:7])
    assert torch.equal(crop(image, Detection("dog", 0.9, (3.0, 2.0, 7.0, 4.0))), image[:, 2:4, 3:7])


@pytest.mark.parametrize(
    "box", [(4.2, 4.4, 4.3, 4.4), (10.0, 8.0, 10.0, 8.0), (11.0, 9.0, 11.0, 9.0), (-1.0, -1.0, 0.0, 0.0)]
)
def test_a_crop_has_a_pixel_at_least(box: tuple[float, float, float, float]) -> None:
    assert crop(_pixels(3, 8, 10), Detection("dog", 0.9, box)).shape == (3, 1, 1)


def test_only_what_is_judged_by_colour_gets_one(clip: Path) -> None:
    classify = ColorClassifier(str(clip), "cpu")
    dogs = [Detection("dog", score, (0.0, 0.0, 5.0, 5.0)) for score in (0.5, 0.9, 0.7, 0.2)]
    cat = Detection("cat", 0.99, (0.0, 0.0, 5.0, 5.0), mask=torch.ones(16, 16, dtype=torch.bool))
    asked = [
        Metadata("color_attr", "", (Objects("dog", 2, "red"), Objects("cat"))),
        Metadata("colors", "", (Objects("cat", 1, "red"),)),
        Metadata("single_object", "", (Objects("cat"),)),
    ]
    found = classify.colored(_pixels(3, 3, 16, 16), [[*dogs, cat], [cat], [cat]], asked, PUBLISHED)
    assert [[one.color is not None for one in image] for image in found] == [
        [False, True, True, False, False],
        [True],
        [False],
    ]
    assert {one.color for image in found for one in image} <= {None, *COLORS}
    assert [one.score for one in found[0]] == [0.5, 0.9, 0.7, 0.2, 0.99]
    # of overlapping ones that are suppressed the next is judged
    apart = Detection("dog", 0.4, (9.0, 9.0, 12.0, 12.0))
    (image,) = classify.colored(_pixels(1, 3, 16, 16), [[*dogs, apart]], asked[:1], Rules(nms=0.5))
    assert [one.color is not None for one in image] == [False, True, False, False, True]


def test_a_colour_that_is_not_known(clip: Path) -> None:
    asked = Metadata("colors", "a photo of a mauve dog", (Objects("dog", 1, "mauve"),))
    with pytest.raises(ValueError, match="'a photo of a mauve dog' asks for the color 'mauve'; known: red, orange"):
        ColorClassifier(str(clip), "cpu").check([asked])
