"""GenEval's rules (Ghosh et al., arXiv:2310.11513): is what a detector found in an image what its prompt asks for?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optsteps.datasets.geneval_prompts import Metadata, Objects
from optsteps.metrics.geneval.detections import Detection

Box = tuple[float, float, float, float]

# detectors disagree whether the last pixel of an image of width W is W - 1 or W, and round
_TOLERANCE = 1.0
# an offset below it says nothing of a direction
_NO_OFFSET = 1e-3


@dataclass(frozen=True)
class Rules:
    """What counts, by default as published.

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
        """What scores must be above in a task."""
        return self.counting_threshold if tag == "counting" else self.threshold


PUBLISHED = Rules()


@dataclass(frozen=True)
class Judgement:
    """Whether an image is what was asked for; `reasons` says why it is not, `objects` how many were detected in it."""

    correct: bool
    reasons: tuple[str, ...] = ()
    objects: int = 0


def judge_image(asked: Metadata, detections: Sequence[Detection], rules: Rules = PUBLISHED) -> Judgement:
    """Holds the detections of one image against its prompt.

    Of every class in `include` the `count` most confident objects are looked at; all must have the position asked for,
    to all that were found right for the entry it refers to. See `check_detections` for what detections must be.
    """
    reasons: list[str] = []
    groups: list[list[Detection]] = []
    for wanted in asked.include:
        group = counted(detections, wanted.name, asked.tag, rules)[: wanted.count]
        wrong = _wrong(wanted, group, groups, rules)
        # nothing stands left of a group that is not what was asked for
        groups.append([] if wrong else group)
        reasons += [wrong] if wrong else []
    for unwanted in asked.exclude:
        found = len(counted(detections, unwanted.name, asked.tag, rules))
        if found >= unwanted.count:
            reasons.append(f"{found} of {unwanted.name}, fewer than {unwanted.count} asked for")
    return Judgement(not reasons, tuple(reasons), len(detections))


def counted(detections: Sequence[Detection], name: str, tag: str, rules: Rules = PUBLISHED) -> list[Detection]:
    """The objects of a class that count in a task, the most confident first; ties stay as they come."""
    found = [one for one in detections if one.name == name and one.score > rules.least_score(tag)]
    found = sorted(found, key=lambda one: -one.score)[: rules.most_objects]
    if rules.nms >= 1:
        return found
    kept: list[Detection] = []
    for one in found:
        if all(overlap(one.box, other.box) < rules.nms for other in kept):
            kept.append(one)
    return kept


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, a box from pixel 2 to pixel 4 being three pixels wide."""
    common = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = _area(a) + _area(b) - common
    return common / union if union > 0 else 0.0


def relations(box: Box, other: Box, rules: Rules = PUBLISHED) -> set[str]:
    """How `box` lies to `other`: none, one or two of `optsteps.datasets.geneval_prompts.RELATIONS`."""
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
    """Refuses detections that cannot be of an image of `size` (height, width); boxes may end a pixel outside it, for
    detectors disagree on where the last pixel ends.

    Raises:
        ValueError: a score that is no number in [0, 1]; a box that is not finite, ends before it begins, or is not
            inside the image. The message names `where` and the detection.
    """
    height, width = size
    for number, one in enumerate(detections):
        this = f"{where}, detection {number} ({one.name})"
        if not 0 <= one.score <= 1:
            raise ValueError(f"{this} has the score {one.score}; scores lie between 0 and 1")
        if len(one.box) != 4 or not all(map(math.isfinite, one.box)):
            raise ValueError(f"{this} has the box {one.box}; it must be four finite numbers")
        left, top, right, bottom = one.box
        if right < left or bottom < top:
            raise ValueError(f"{this} has the box {one.box}; it must be (left, top, right, bottom)")
        if min(left, top) < -_TOLERANCE or right > width + _TOLERANCE or bottom > height + _TOLERANCE:
            raise ValueError(f"{this} has the box {one.box}, outside its image of {width} x {height} pixels; clip it")


def _wrong(wanted: Objects, group: list[Detection], groups: list[list[Detection]], rules: Rules) -> str | None:
    """Why the objects looked at are not what an entry asks for; `groups` are those of the entries before it."""
    if len(group) < wanted.count:
        return f"{len(group)} of {wanted.name}, {wanted.count} asked for"
    if wanted.color is not None:
        colors = [one.color for one in group]
        if colors.count(wanted.color) < wanted.count:
            return f"{wanted.name} is {', '.join(map(str, colors))}, {wanted.color} asked for"
    if wanted.position is None:
        return None
    relation, place = wanted.position
    if not groups[place]:
        return f"{wanted.name} has nothing to be {relation}"
    if all(relation in relations(one.box, other.box, rules) for one in group for other in groups[place]):
        return None
    return f"{wanted.name} is not {relation} {groups[place][0].name}"


def _area(box: Box) -> float:
    return max(box[2] - box[0] + 1, 0.0) * max(box[3] - box[1] + 1, 0.0)
