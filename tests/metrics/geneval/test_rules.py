"""GenEval's rules: against a restatement of them on random detections, and worked by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from optsteps.datasets.geneval_prompts import RELATIONS, TASKS, Metadata, Objects, read_metadata
from optsteps.metrics.geneval.detections import Detection
from optsteps.metrics.geneval.rules import PUBLISHED, Rules, check_detections, counted, judge_image, overlap, relations
from optsteps.metrics.geneval.score import score_images

SIZE = (32, 32)
CLASSES = ["bench", "dog", "clock"]
COLORS = ["red", "blue", "green"]
# many ties, and scores at the two thresholds and next to them
SCORES = [0.0, 0.1, 0.3, 0.30000001, 0.5, 0.5, 0.7, 0.9, 0.90000001, 0.95, 0.95, 0.99, 1.0]


def restated(asked: dict[str, Any], found: list[dict[str, Any]], nms: float) -> bool:
    """The rules of the issue once more, on JSON data: a list of numbers of detections per class, a set of numbers per
    entry of `include`."""
    bar = 0.9 if asked["tag"] == "counting" else 0.3

    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return (x1 - x0 + 1) * (y1 - y0 + 1) if x1 - x0 + 1 > 0 and y1 - y0 + 1 > 0 else 0

    def iou(i: int, j: int) -> float:
        a, b = found[i]["box"], found[j]["box"]
        both = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
        return both / (area(*a) + area(*b) - both)

    kept: dict[str, list[int]] = {}
    for number in sorted(range(len(found)), key=lambda k: (-found[k]["score"], k)):
        if found[number]["score"] > bar:
            kept.setdefault(found[number]["class"], []).append(number)
    for name, numbers in kept.items():
        numbers = numbers[:16]
        place = 0
        while nms < 1 and place < len(numbers):
            first = numbers[place]
            numbers = numbers[: place + 1] + [k for k in numbers[place + 1 :] if iou(first, k) < nms]
            place += 1
        kept[name] = numbers

    def related(relation: str, i: int, j: int) -> bool:
        a, b = found[i]["box"], found[j]["box"]
        raw, reduced = [0.0, 0.0], [0.0, 0.0]
        for axis in (0, 1):
            raw[axis] = (a[axis] + a[axis + 2]) / 2 - (b[axis] + b[axis + 2]) / 2
            margin = 0.1 * ((a[axis + 2] - a[axis]) + (b[axis + 2] - b[axis]))
            if raw[axis] > margin:
                reduced[axis] = raw[axis] - margin
            elif raw[axis] < -margin:
                reduced[axis] = raw[axis] + margin
        if max(abs(reduced[0]), abs(reduced[1])) < 1e-3:
            return False
        x, y = (part / (raw[0] ** 2 + raw[1] ** 2) ** 0.5 for part in reduced)
        if relation == "left of":
            return x < -0.5
        if relation == "right of":
            return x > 0.5
        return y < -0.5 if relation == "above" else y > 0.5

    fine: list[bool] = []
    for entry in asked["include"]:
        mine = kept.get(entry["class"], [])[: entry["count"]]
        ok = len(mine) == entry["count"]
        if ok and "color" in entry:
            ok = sum(found[k]["color"] == entry["color"] for k in mine) >= entry["count"]
        if ok and "position" in entry:
            relation, target = entry["position"]
            other = asked["include"][target]
            theirs = kept.get(other["class"], [])[: other["count"]]
            ok = fine[target] and not [1 for i in mine for j in theirs if not related(relation, i, j)]
        fine.append(ok)
    too_many = [1 for entry in asked.get("exclude", []) if len(kept.get(entry["class"], [])) >= entry["count"]]
    return all(fine) and not too_many


def _asked(task: str, chance: random.Random) -> dict[str, Any]:
    """What a prompt of the task asks for, and sometimes more than GenEval's own prompts do."""
    several = chance.random() < 0.2
    names = chance.sample(CLASSES, 2)
    include: list[dict[str, Any]] = [
        {"class": name, "count": chance.choice([1, 2, 3]) if several else 1} for name in names
    ]
    data: dict[str, Any] = {"tag": task, "include": include, "prompt": ""}
    if task in ("single_object", "colors", "counting"):
        del include[1]
    if task == "counting":
        include[0]["count"] = chance.choice([1, 2, 3, 16])
        data["exclude"] = [{"class": names[0], "count": include[0]["count"] + 1}]
    elif chance.random() < 0.2:
        data["exclude"] = [{"class": chance.choice(CLASSES), "count": chance.choice([1, 2, 4, 16])}]
    if task in ("colors", "color_attr"):
        for entry in include:
            entry["color"] = chance.choice(COLORS)
    if task == "position":
        include[1]["position"] = [chance.choice(RELATIONS), 0]
        if several and chance.random() < 0.5:
            include[0]["color"] = chance.choice(COLORS)
            third = {
                "class": chance.choice(CLASSES),
                "count": 1,
                "position": [chance.choice(RELATIONS), chance.choice([0, 1])],
            }
            include.append(third)
    return data


def _box(chance: random.Random, others: list[list[float]]) -> list[float]:
    if others and chance.random() < 0.2:  # the same place, or next to it
        return [min(max(edge + shift, 0), 32) for shift in [chance.choice([0, 0, 1])] for edge in chance.choice(others)]
    draw = chance.randint if chance.random() < 0.7 else chance.uniform
    left, right = sorted(draw(0, 32) for _ in range(2))
    top, bottom = sorted(draw(0, 32) for _ in range(2))
    kind = chance.random()
    if kind < 0.1:  # no area: a line, or a point
        right, bottom = left, (top if kind < 0.05 else bottom)
    return [left, top, right, bottom]


def _found(asked: dict[str, Any], chance: random.Random) -> list[dict[str, Any]]:
    if chance.random() < 0.03:
        return []
    found: list[dict[str, Any]] = []
    for name in CLASSES:
        entry = next((entry for entry in asked["include"] if entry["class"] == name), {"count": 0})
        number = max(0, entry["count"] + chance.choice([-1, 0, 0, 0, 1, 2]))
        if chance.random() < 0.03:
            number = chance.randint(14, 20)
        scores = SCORES[chance.choice([0, 4, 8]) :]  # three counting ones in a row are rare otherwise
        common = chance.choice([entry.get("color", "red"), *COLORS])
        spot = [chance.choice([0, 16]) for _ in range(2)] if chance.random() < 0.6 else None
        for _ in range(number):
            color = common if chance.random() < 0.8 else chance.choice([*COLORS, None])
            score = chance.choice(scores) if chance.random() < 0.8 else chance.random()
            box = _box(chance, [one["box"] for one in found])
            if spot:  # a class keeps to one quarter, so that every one of it may lie to one side of another's
                box = [edge / 2 + spot[axis % 2] for axis, edge in enumerate(box)]
            found.append({"class": name, "score": score, "box": box, "color": color})
    chance.shuffle(found)
    return found


def _as_detections(found: list[dict[str, Any]]) -> list[Detection]:
    return [Detection(one["class"], one["score"], tuple(one["box"]), one.get("color")) for one in found]


def _as_metadata(asked: dict[str, Any]) -> Metadata:
    entries = {
        key: tuple(
            Objects(e["class"], e["count"], e.get("color"), tuple(e["position"]) if "position" in e else None)
            for e in asked.get(key, [])
        )
        for key in ("include", "exclude")
    }
    return Metadata(asked["tag"], asked["prompt"], **entries)


@pytest.mark.parametrize("task", TASKS)
def test_agrees_with_the_restatement(task: str) -> None:
    chance = random.Random(TASKS.index(task))
    right = 0
    for _ in range(10_000):
        asked = _asked(task, chance)
        found = _found(asked, chance)
        nms = chance.choice([1.0, 1.0, 0.9, 0.5, 0.0])
        expected = restated(asked, found, nms)
        detections = _as_detections(found)
        check_detections(detections, SIZE, "image")
        said = judge_image(_as_metadata(asked), detections, Rules(nms=nms))
        assert said.correct == expected, (asked, found, nms, said)
        assert bool(said.reasons) != said.correct
        right += expected
    assert 500 < right < 9500  # both verdicts were put to the test


def test_recorded_detections(tmp_path: Path) -> None:
    records = json.loads((Path(__file__).parent / "geneval_detections.json").read_text())
    file = tmp_path / "metadata.jsonl"
    file.write_text("\n".join(json.dumps(record["asked"]) for record in records))
    detections = [_as_detections(record["detections"]) for record in records]
    score = score_images(read_metadata(file), detections, (512, 512))
    said = {r["why"]: judgement.correct for r, judgement in zip(records, score.judgements, strict=True)}
    assert said == {r["why"]: r["correct"] for r in records}
    assert score.overall == pytest.approx((1 + 0 + 1 / 2 + 0 + 1 / 2 + 0) / 6)


def _seen(
    name: str, score: float = 0.95, box: tuple[float, ...] = (0, 0, 10, 10), color: str | None = None
) -> Detection:
    return Detection(name, score, box, color)  # type: ignore[arg-type]


def _reasons(asked: Metadata, *found: Detection, rules: Rules = PUBLISHED) -> tuple[str, ...]:
    return judge_image(asked, found, rules).reasons


def test_scores_count_strictly_above_the_threshold_of_the_task() -> None:
    one = (Objects("dog"),)
    for task, threshold in (("single_object", 0.3), ("counting", 0.9), ("color_attr", 0.3)):
        assert _reasons(Metadata(task, "", one), _seen("dog", threshold)) == ("0 of dog, 1 asked for",)
        assert not _reasons(Metadata(task, "", one), _seen("dog", threshold + 1e-6))


def test_of_a_class_sixteen_count() -> None:
    dogs = [_seen("dog")] * 20
    assert len(counted(dogs, "dog", "counting")) == 16
    assert not _reasons(Metadata("counting", "", (Objects("dog", 16),), (Objects("dog", 17),)), *dogs)
    assert _reasons(Metadata("counting", "", (Objects("dog", 17),)), *dogs) == ("16 of dog, 17 asked for",)


def test_ties_stay_as_they_come() -> None:
    dogs = [_seen("dog", score, color=color) for score, color in ((0.5, "a"), (0.8, "b"), (0.5, "c"), (0.8, "d"))]
    assert [dog.color for dog in counted(dogs, "dog", "colors")] == ["b", "d", "a", "c"]


def test_what_is_excluded_is_wrong_from_its_count_on() -> None:
    asked = Metadata("counting", "", (Objects("dog", 2),), (Objects("dog", 3),))
    assert not _reasons(asked, *[_seen("dog")] * 2)
    assert _reasons(asked, *[_seen("dog")] * 3) == ("3 of dog, fewer than 3 asked for",)


def test_only_the_most_confident_are_looked_at_for_colour() -> None:
    asked = Metadata("colors", "", (Objects("dog", 1, "red"),))
    red, blue = _seen("dog", 0.6, color="red"), _seen("dog", 0.7, color="blue")
    assert _reasons(asked, red, blue) == ("dog is blue, red asked for",)
    assert not _reasons(asked, red, _seen("dog", 0.5, color="blue"))
    two = Metadata("colors", "", (Objects("dog", 2, "red"),))
    assert _reasons(two, red, blue) == ("dog is blue, red, red asked for",)
    assert _reasons(asked, _seen("dog")) == ("dog is None, red asked for",)


def test_a_group_that_is_wrong_cannot_be_referred_to() -> None:
    dog, left = _seen("dog", box=(20, 0, 30, 10), color="blue"), _seen("cat")
    asked = Metadata("position", "", (Objects("dog"), Objects("cat", position=("left of", 0))))
    assert not _reasons(asked, dog, left)
    red = Metadata("position", "", (Objects("dog", color="red"), Objects("cat", position=("left of", 0))))
    assert _reasons(red, dog, left) == ("dog is blue, red asked for", "cat has nothing to be left of")
    chain = (Objects("dog"), Objects("cat", position=("above", 0)), Objects("bird", position=("left of", 1)))
    said = _reasons(Metadata("position", "", chain), dog, left, _seen("bird", box=(0, 0, 1, 1)))
    assert said == ("cat is not above dog", "bird has nothing to be left of")


def test_position_is_asked_only_where_number_and_colour_are_right() -> None:
    asked = Metadata("position", "", (Objects("dog"), Objects("cat", color="red", position=("left of", 0))))
    assert _reasons(asked, _seen("dog"), _seen("cat", color="blue")) == ("cat is blue, red asked for",)


def test_every_object_has_the_position_to_every_other() -> None:
    asked = Metadata("position", "", (Objects("dog", 2), Objects("cat", 2, position=("left of", 0))))
    dogs = [_seen("dog", box=(x, 0, x + 2, 2)) for x in (20, 26)]
    assert not _reasons(asked, *dogs, _seen("cat", box=(0, 0, 2, 2)), _seen("cat", box=(5, 0, 7, 2)))
    between = _seen("cat", box=(23, 0, 25, 2))
    assert _reasons(asked, *dogs, _seen("cat", box=(0, 0, 2, 2)), between) == ("cat is not left of dog",)
    # the third dog is no more looked at than a third cat
    assert not _reasons(asked, *dogs, *[_seen("cat", box=(0, 0, 2, 2))] * 2, _seen("dog", 0.5, (0, 0, 2, 2)), between)


@pytest.mark.parametrize(
    ("box", "other", "expected"),
    [
        ((0, 0, 2, 2), (10, 0, 12, 2), {"left of"}),
        ((10, 0, 12, 2), (0, 0, 2, 2), {"right of"}),
        ((0, 0, 2, 2), (0, 10, 2, 12), {"above"}),
        ((0, 10, 2, 12), (0, 0, 2, 2), {"below"}),
        ((0, 0, 0, 0), (4, 4, 4, 4), {"left of", "above"}),  # 1 / sqrt(2) each way
        ((5, 5, 5, 5), (5, 5, 5, 5), set()),
        ((0, 0, 20, 20), (4, 4, 24, 24), set()),  # 4 apart, and 0.1 (20 + 20) = 4 taken off
        ((0, 0, 20, 20), (4.0009, 0, 24.0009, 20), set()),  # less than 0.001 is left
        # 3 across and 4 down, 0.1 (3 + 2) taken off: 2.5 / 5 is not above a half, 3.9 / 5 is
        ((0, 0, 3, 0), (3.5, 4, 5.5, 4), {"above"}),
        ((0, 0, 2, 0), (3, 4, 5, 4), {"left of", "above"}),  # 2.6 / 5, by the raw distance
    ],
)
def test_relations(box: Any, other: Any, expected: set[str]) -> None:
    assert relations(box, other) == expected
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert relations(other, box) == {opposite[relation] for relation in expected}


def test_boxes_count_their_last_pixel() -> None:
    assert overlap((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == pytest.approx(2 / 6)  # 2 x 2 pixels each, 1 x 2 in common
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert overlap((4, 4, 4, 4), (4, 4, 4, 4)) == 1  # a point is a pixel


def test_suppression_is_greedy_and_off_by_default() -> None:
    boxes = [(0, 0, 9, 9), (5, 0, 14, 9), (10, 0, 19, 9)]  # neighbours have an IoU of 1/3
    dogs = [_seen("dog", score, box) for score, box in zip((0.9, 0.8, 0.7), boxes, strict=True)]
    assert counted(dogs, "dog", "colors") == dogs
    # the second goes, and with it what would have suppressed the third
    assert counted(dogs, "dog", "colors", Rules(nms=0.3)) == [dogs[0], dogs[2]]
    assert counted([*dogs, dogs[0]], "dog", "colors", Rules(nms=1.0)) == [dogs[0], dogs[0], *dogs[1:]]


@pytest.mark.parametrize(
    ("detection", "said"),
    [
        (_seen("dog", float("nan")), "the score nan"),
        (_seen("dog", 1.1), r"the score 1\.1; scores lie between 0 and 1"),
        (_seen("dog", -0.1), r"the score -0\.1"),
        (_seen("dog", box=(0, float("nan"), 1, 1)), "nan.*four finite numbers"),
        (_seen("dog", box=(0, 0, 1, float("inf"))), "inf.*four finite numbers"),
        (_seen("dog", box=(0, 0, 1)), "four finite numbers"),
        (_seen("dog", box=(5, 0, 4, 1)), r"must be \(left, top, right, bottom\)"),
        (_seen("dog", box=(0, 5, 1, 4)), r"must be \(left, top, right, bottom\)"),
        (_seen("dog", box=(40, 40, 50, 50)), "outside its image of 32 x 32 pixels; clip it"),
        (_seen("dog", box=(-2, 0, 5, 5)), "outside its image"),
        (_seen("dog", box=(0, 0, 5, 33.5)), "outside its image"),
    ],
)
def test_impossible_detections_are_named(detection: Detection, said: str) -> None:
    asked = [Metadata("single_object", "", (Objects("dog"),))] * 3
    fine = _seen("cat", box=(-1, 0, 33, 33))  # a pixel over the edge is a matter of convention
    with pytest.raises(ValueError, match=rf"image 2, detection 1 \(dog\) has .*{said}"):
        score_images(asked, [[fine], [], [fine, detection]], SIZE)
