"""Rules of GenEval (Ghosh et al., arXiv:2310.11513), by which detections in an image fulfil its prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optsteps.datasets.geneval_prompts import Metadata, Objects
from optsteps.metrics.geneval.detections import Detection
from optsteps.storage.shards import storable

Box = tuple[float, float, float, float]

# detectors disagree whether the last pixel of an image of width W is W - 1 or W, and round
_TOLERANCE = 1.0
# an offset below it says nothing of a direction
_NO_OFFSET = 1e-3


@dataclass(frozen=True)
class Rules:
    """Thresholds of the rules, by default as published.

    Attributes:
        threshold: scores strictly above it count.
        counting_threshold: the same for the task "counting".
        most_objects: of a class, the most confident ones.
        nms: a box whose IoU with a more confident one of its class reaches it is dropped; 1 keeps all.
        position_margin: offsets of centres shrink by this part of the summed sizes of the two boxes.
        direction_threshold: a relation holds where the shrunk offset along its axis is strictly above this part of the
            distance of the centres.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    most_objects: int = 16
    nms: float = 1.0
    position_margin: float = 0.1
    direction_threshold: float = 0.5

    def least_score(self, tag: str) -> float:
        """The score of a task that detections must exceed."""
        return self.counting_threshold if tag == "counting" else self.threshold


PUBLISHED = Rules()


@storable
@dataclass(frozen=True)
class Judgement:
    """The judgement on one image.

    Attributes:
        correct: whether the image shows what its prompt asks for.
        reasons: why it does not.
        objects: how many objects were detected in it.
    """

    correct: bool
    reasons: tuple[str, ...] = ()
    objects: int = 0


def judge_image(metadata: Metadata, detections: Sequence[Detection], rules: Rules = PUBLISHED) -> Judgement:
    """The judgement on an image by the objects detected in it.

    Of every class in `include` the `count` most confident objects are looked at. Each of them must have the required
    position to each object that fulfils the entry which the position refers to.

    Args:
        metadata: what the prompt asks for.
        detections: as `check_detections` admits them.
        rules: the published ones by default.
    """
    reasons: list[str] = []
    groups: list[list[Detection]] = []
    for required in metadata.include:
        group = counted(detections, required.name, metadata.tag, rules)[: required.count]
        wrong = _wrong(required, group, groups, rules)
        # nothing stands left of a group that does not fulfil its entry
        groups.append([] if wrong else group)
        reasons += [wrong] if wrong else []
    for excluded in metadata.exclude:
        count = len(counted(detections, excluded.name, metadata.tag, rules))
        if count >= excluded.count:
            reasons.append(f"{count} of {excluded.name}, fewer than {excluded.count} asked for")
    return Judgement(not reasons, tuple(reasons), len(detections))


def counted(detections: Sequence[Detection], name: str, tag: str, rules: Rules = PUBLISHED) -> list[Detection]:
    """The objects of a class that count in a task, the most confident first; ties stay as they come."""
    objects = [item for item in detections if item.name == name and item.score > rules.least_score(tag)]
    objects = sorted(objects, key=lambda item: -item.score)[: rules.most_objects]
    if rules.nms >= 1:
        return objects
    kept: list[Detection] = []
    for candidate in objects:
        if all(overlap(candidate.box, other.box) < rules.nms for other in kept):
            kept.append(candidate)
    return kept


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, where a box from pixel 2 to pixel 4 is three pixels wide."""
    common = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = _area(a) + _area(b) - common
    return common / union if union > 0 else 0.0


def relations(box: Box, other: Box, rules: Rules = PUBLISHED) -> set[str]:
    """The relations of `box` to `other`: none, one or two of `optsteps.datasets.geneval_prompts.RELATIONS`."""
    offsets = [(box[k] + box[k + 2] - other[k] - other[k + 2]) / 2 for k in (0, 1)]
    sizes = [box[k + 2] - box[k] + other[k + 2] - other[k] for k in (0, 1)]
    across, down = (
        math.copysign(max(abs(offset) - rules.position_margin * size, 0.0), offset)
        for offset, size in zip(offsets, sizes, strict=True)
    )
    if abs(across) < _NO_OFFSET and abs(down) < _NO_OFFSET:
        return set()
    distance = math.hypot(*offsets)
    holds = {"left of": -across, "right of": across, "above": -down, "below": down}
    return {relation for relation, offset in holds.items() if offset / distance > rules.direction_threshold}


def check_detections(detections: Sequence[Detection], size: tuple[int, int], where: str) -> None:
    """Refuses detections that cannot be of an image of `size` (height, width).

    Boxes may end a pixel outside the image, because detectors disagree on where the last pixel ends.

    Raises:
        ValueError: a score that is no number in [0, 1]; a box that is not finite, ends before it begins, or is not
            inside the image. The message names `where` and the detection.
    """
    height, width = size
    for number, detection in enumerate(detections):
        name, box = f"{where}, detection {number} ({detection.name})", detection.box
        if not 0 <= detection.score <= 1:
            raise ValueError(f"{name} has the score {detection.score}; scores lie between 0 and 1")
        if len(box) != 4 or not all(map(math.isfinite, box)):
            raise ValueError(f"{name} has the box {box}; it must be four finite numbers")
        left, top, right, bottom = box
        if right < left or bottom < top:
            raise ValueError(f"{name} has the box {box}; it must be (left, top, right, bottom)")
        if min(left, top) < -_TOLERANCE or right > width + _TOLERANCE or bottom > height + _TOLERANCE:
            raise ValueError(f"{name} has the box {box}, outside its image of {width} x {height} pixels; clip it")


def _wrong(required: Objects, group: list[Detection], groups: list[list[Detection]], rules: Rules) -> str | None:
    """Why a group of objects does not fulfil an entry, None where it does; `groups` are of the entries before it."""
    if len(group) < required.count:
        return f"{len(group)} of {required.name}, {required.count} asked for"
    if required.color is not None:
        colors = [item.color for item in group]
        if colors.count(required.color) < required.count:
            return f"{required.name} is {', '.join(map(str, colors))}, {required.color} asked for"
    if required.position is None:
        return None
    relation, place = required.position
    if not groups[place]:
        return f"{required.name} has nothing to be {relation}"
    if all(relation in relations(item.box, other.box, rules) for item in group for other in groups[place]):
        return None
    return f"{required.name} is not {relation} {groups[place][0].name}"


def _area(box: Box) -> float:
    return max(box[2] - box[0] + 1, 0.0) * max(box[3] - box[1] + 1, 0.0)
