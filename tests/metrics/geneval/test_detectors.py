"""Detectors of real objects, with tiny networks of random weights, and with answers made by hand in their place."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from optsteps.datasets.geneval_prompts import Metadata, Objects, read_metadata
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.detectors import Mask2FormerDetector, OwlDetector, box_around
from optsteps.metrics.geneval.judge import GenEvalJudge
from optsteps.metrics.geneval.rules import Rules, check_detections

transformers = pytest.importorskip("transformers")
sys.path.append(str(Path(__file__).parents[2] / "models"))
from tiny_pipelines import tiny_clip, tiny_mask2former, tiny_owl  # noqa: E402

ASKED = [
    Metadata("single_object", "", (Objects("cat"),)),
    Metadata("color_attr", "", (Objects("cat", 1, "red"), Objects("dog", 2, "blue"))),
    Metadata("counting", "", (Objects("bench", 2),), (Objects("bench", 3), Objects("dog", 1))),
]
# networks of random weights are sure of nothing
LOW = Rules(threshold=0.01, counting_threshold=0.01)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def mask2former(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_mask2former(tmp_path_factory.mktemp("mask2former")))


@pytest.fixture(scope="module", params=["owlvit", "owlv2"])
def owl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_owl(tmp_path_factory.mktemp(request.param), request.param))


def _images(count: int, height: int = 40, width: int = 56) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _same(a: list[Detection], b: list[Detection]) -> None:
    assert [(one.name, one.color) for one in a] == [(one.name, one.color) for one in b]
    assert [one.score for one in a] == pytest.approx([one.score for one in b], rel=1e-4)
    assert [one.box for one in a] == [pytest.approx(one.box, abs=1e-3) for one in b]


def _checked(detector: Any, masks: bool) -> None:
    """Flow and shapes, whatever is seen."""
    images = _images(3)
    found = detector(images, ASKED)
    assert len(found) == 3
    assert any(found)
    for number, (detections, asked) in enumerate(zip(found, ASKED, strict=True)):
        assert {one.name for one in detections} <= {o.name for o in (*asked.include, *asked.exclude)}
        check_detections(detections, (40, 56), f"image {number}")
        for one in detections:
            assert (one.mask is not None) == masks
            if one.mask is not None:
                assert one.mask.shape == (40, 56)
                assert box_around(one.mask) == one.box
        _same(detections, detector(images[number : number + 1], [asked])[0])
    assert all(one.color is None for one in (*found[0], *found[2]))
    asked_for = {"cat": 1, "dog": 2}
    for name, most in asked_for.items():
        there = [one for one in found[1] if one.name == name]
        assert sum(one.color is not None for one in there) == min(most, len(there))
    metadata = [Metadata(asked.tag, str(k), asked.include, asked.exclude) for asked in ASKED for k in range(2)]
    figures = GenEvalJudge(detector, metadata, LOW, max_batch=4).judge(_images(6), _images(6).flip(0), None)
    assert {"geneval", "geneval_counting"} <= set(figures)


@pytest.mark.filterwarnings("ignore:no prompt of")
def test_mask2former(mask2former: str, clip: str) -> None:
    _checked(Mask2FormerDetector(mask2former, clip, "cpu", LOW), masks=True)


@pytest.mark.filterwarnings("ignore:no prompt of")
def test_owl(owl: str, clip: str) -> None:
    _checked(OwlDetector(owl, clip, "cpu", LOW), masks=False)


def test_mask2former_agrees_with_its_own_post_processing(mask2former: str, clip: str) -> None:
    """At 384 x 384 pixels, where transformers' own rescales no mask either."""
    detector = Mask2FormerDetector(mask2former, clip, "cpu", LOW)
    detector.processor.size = {"height": 384, "width": 384}
    generator = torch.Generator().manual_seed(0)
    out = SimpleNamespace(
        class_queries_logits=2 * torch.randn(2, 6, 4, generator=generator),
        masks_queries_logits=torch.randn(2, 6, 12, 12, generator=generator)
        .repeat_interleave(32, 2)
        .repeat_interleave(32, 3),
    )
    detector.model = lambda **_: out
    asked = [Metadata("two_object", "", tuple(Objects(name) for name in ("cat", "dog", "bench")))] * 2
    found = detector(_images(2, 384, 384), asked)
    theirs = detector.processor.post_process_instance_segmentation(
        out, threshold=0.01, target_sizes=[(384, 384)] * 2, return_binary_maps=True
    )
    for ours, expected in zip(found, theirs, strict=True):
        segments = zip(expected["segments_info"], expected["segmentation"], strict=True)
        segments = sorted(segments, key=lambda segment: -segment[0]["score"])
        assert len(ours) == len(segments) > 3
        for one, (segment, mask) in zip(sorted(ours, key=lambda one: -one.score), segments, strict=True):
            assert one.score == pytest.approx(segment["score"], abs=2e-6)
            assert detector.labels[one.name] == segment["label_id"]
            assert one.mask is not None
            assert torch.equal(one.mask, mask.bool())


def test_mask2formers_answer_by_hand(mask2former: str, clip: str) -> None:
    """A quarter of the picture is an object; the network was shown it at twice its size, with padding."""
    detector = Mask2FormerDetector(mask2former, clip, "cpu")
    seen = torch.zeros(1, 96, 128, dtype=torch.long)
    seen[:, :80, :112] = 1
    shown = transformers.BatchFeature({"pixel_values": torch.zeros(1, 3, 96, 128), "pixel_mask": seen})
    detector.processor = lambda **_: shown
    classes = torch.full((1, 6, 4), -20.0)
    classes[..., 3] = 20  # nothing
    classes[0, 2] = torch.tensor([0.6, 0.1, 0.2, 0.1]).log()
    classes[0, 4] = torch.tensor([0.05, 0.9, 0.04, 0.01]).log()
    masks = torch.full((1, 6, 96, 128), -20.0)
    masks[0, 2, 20:60, 28:84] = 20
    masks[0, 4, 70:, 100:] = torch.tensor(0.6).logit()
    detector.model = lambda **_: SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)
    (found,) = detector(_images(1), [Metadata("color_attr", "", (Objects("cat", 1, "red"), Objects("dog")))])
    dog, cat = sorted(found, key=lambda one: one.score)
    assert (cat.name, cat.box, dog.name, dog.box) == ("cat", (14, 10, 42, 30), "dog", (50, 35, 56, 40))
    assert cat.score == pytest.approx(0.6, abs=1e-4)
    assert dog.score == pytest.approx(0.9 * 0.6, abs=0.02)  # the mask's edge is less sure
    assert cat.color is not None
    assert dog.color is None
    # seen, but not surely enough to be counted; nor is what the mask alone is sure of
    assert detector(_images(1), [Metadata("counting", "", (Objects("cat"),))]) == [[]]
    masks[0, 2] = -1
    assert detector(_images(1), [ASKED[0]]) == [[]]


@pytest.mark.filterwarnings("ignore:no prompt of")
def test_a_class_that_is_not_known(mask2former: str, clip: str) -> None:
    detector = Mask2FormerDetector(mask2former, clip, "cpu")
    with pytest.raises(ValueError, match="knows no class 'unicorn'; known: cat, dog, bench"):
        detector(_images(1), [Metadata("single_object", "", (Objects("unicorn"),))])
    with pytest.raises(ValueError, match="asks for the color 'mauve'"):
        detector(_images(1), [Metadata("colors", "", (Objects("cat", 1, "mauve"),))])
    with pytest.raises(ValueError, match="knows no class 'unicorn'"):
        GenEvalJudge(detector, [Metadata("single_object", str(k), (Objects("unicorn"),)) for k in range(2)])


def test_genevals_classes_are_cocos(mask2former: str, clip: str) -> None:
    """By the names that COCO has in torchvision, and those of older lists."""
    file = Path(os.environ.get("OPTSTEPS_DATA", "nowhere")) / "geneval_metadata.jsonl"
    if not file.is_file():
        pytest.skip(f"no {file.name} in the folder that OPTSTEPS_DATA names ({file.parent})")
    names = MaskRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    older = {"airplane": "aeroplane", "couch": "sofa", "dining table": "diningtable", "motorcycle": "motorbike"}
    older |= {"potted plant": "pottedplant", "tv": "tvmonitor"}
    detector = Mask2FormerDetector(mask2former, clip, "cpu")
    for labels in (names, [older.get(name, name) for name in names]):
        detector.labels = {name: label for label, name in enumerate(labels)}
        detector.check(read_metadata(file))


def test_owls_answer_by_hand(owl: str, clip: str) -> None:
    """Boxes as parts of the image, or of the square it is padded to; what lies outside is cut off."""
    detector = OwlDetector(owl, clip, "cpu")
    logits = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.1, 0.1], [0.6, 0.5]]]).logit()
    boxes = torch.tensor([[[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], [0.0, 0.5, 0.5, 1.0]]])
    detector.model = lambda **_: SimpleNamespace(logits=logits, pred_boxes=boxes)
    asked = Metadata("color_attr", "", (Objects("cat"), Objects("dog", 1, "red")))
    (found,) = detector(_images(1, 40, 40), [asked])
    assert [one.name for one in found] == ["cat", "dog", "cat"]
    assert [one.score for one in found] == pytest.approx([0.9, 0.8, 0.6])
    assert [one.box for one in found] == [
        pytest.approx(box) for box in ((0, 0, 20, 20), (18, 18, 22, 22), (0, 0, 10, 40))
    ]
    assert [one.color is not None for one in found] == [False, True, False]
