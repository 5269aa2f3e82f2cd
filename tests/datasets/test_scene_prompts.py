"""The grammar of captions of scenes."""

import json
import re
from pathlib import Path

import pytest

from optsteps.datasets.geneval_prompts import TASKS, Metadata, read_metadata
from optsteps.datasets.prompts import read_prompts
from optsteps.datasets.scene_prompts import COLORS, LESSONS, TONES, all_prompts, prompts, vocabulary
from optsteps.datasets.shapes import SHAPES

EVERY = [(task, metadata) for task in LESSONS for split in ("train", "test") for metadata in all_prompts(task, split)]
SHAPE, COLOR, ON = f"({'|'.join(SHAPES)})", f"({'|'.join(COLORS)})", f"(?: on (?:{'|'.join(TONES)}))?"


def test_what_a_prompt_includes_is_what_it_says() -> None:
    """An independent reader of the prompts: one pattern a task, and GenEval's form of what it means."""
    patterns = {
        "single_object": rf"a photo of a (?:small |large )?{SHAPE}{ON}",
        "two_object": rf"a photo of a {SHAPE} and a {SHAPE}{ON}",
        "counting": rf"a photo of (two|three|four) {SHAPE[:-1]})e?s{ON}",
        "colors": rf"a photo of a (?:small |large )?{COLOR} {SHAPE}{ON}",
        "position": rf"a photo of a {SHAPE} (left of|right of|above|below) a {SHAPE}{ON}",
        "color_attr": rf"a photo of a {COLOR} {SHAPE} and a {COLOR} {SHAPE}{ON}",
        "colored_position": rf"a photo of a {COLOR} {SHAPE} (left of|right of|above|below) a {SHAPE}{ON}",
    }
    for task, metadata in EVERY:
        found = re.fullmatch(patterns[task], metadata.prompt)
        assert found, metadata.prompt
        words = found.groups()
        exclude = []
        if task == "counting":
            count = ("two", "three", "four").index(words[0]) + 2
            include = [{"class": words[1], "count": count}]
            exclude = [{"class": words[1], "count": count + 1}]
        elif task in ("colors", "color_attr"):
            pairs = zip(words[::2], words[1::2], strict=True)
            include = [{"class": shape, "count": 1, "color": color} for color, shape in pairs]
        elif task == "position":
            position = {"class": words[0], "count": 1, "position": [words[1], 0]}
            include = [{"class": words[2], "count": 1}, position]
        elif task == "colored_position":
            one = {"class": words[1], "count": 1, "color": words[0], "position": [words[2], 0]}
            include = [{"class": words[3], "count": 1}, one]
        else:
            include = [{"class": shape, "count": 1} for shape in words]
        tag = "position" if task == "colored_position" else task
        expected = {"tag": tag, "include": include, "prompt": metadata.prompt}
        assert metadata.as_json() == expected | ({"exclude": exclude} if exclude else {})


def test_a_file_of_prompts_reads_back(tmp_path: Path) -> None:
    written = prompts("position", 20, "test", seed=3)
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(metadata.as_json()) for metadata in written))
    assert read_metadata(tmp_path / "x.jsonl") == written


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\na star\n", encoding="utf-8-sig")
    assert read_prompts(tmp_path / "prompts.txt") == ["a red circle", "a star"]


def test_train_and_test_are_disjoint_in_combination() -> None:
    """Every test prompt of the tasks that combine names a pair of shapes, or a shape with its colour, that no training
    caption of any task names."""

    def pairs(metadata: Metadata) -> set[frozenset[str]]:
        shapes = [frozenset(entry.name for entry in metadata.include)] if len(metadata.include) > 1 else []
        return {*shapes, *(frozenset((entry.name, entry.color)) for entry in metadata.include if entry.color)}

    trained = {pair for task in LESSONS for metadata in all_prompts(task, "train") for pair in pairs(metadata)}
    for task in ("two_object", "colors", "position", "color_attr", "colored_position"):
        assert all(pairs(metadata) - trained for metadata in all_prompts(task, "test"))
    for task in LESSONS:
        train, test = ({metadata.prompt for metadata in all_prompts(task, split)} for split in ("train", "test"))
        assert train.isdisjoint(test)
        assert len(train) + len(test) == sum(each == task for each, _ in EVERY)  # and no prompt twice


def test_every_word_and_every_count_of_a_shape_is_trained() -> None:
    trained = [metadata for task in TASKS for metadata in all_prompts(task, "train")]
    assert {word for metadata in trained for word in metadata.prompt.split()} == set(vocabulary())
    counts = {(entry.name, entry.count) for metadata in trained for entry in metadata.include}
    assert counts == {(shape, count) for shape in SHAPES for count in (1, 2, 3, 4)}


def test_prompts_are_distinct_while_there_are_some_and_then_even() -> None:
    known = len(all_prompts("counting", "test"))
    assert len({metadata.prompt for metadata in prompts("counting", known, "test", seed=1)}) == known
    twice = [metadata.prompt for metadata in prompts("counting", 2 * known, "test", seed=1)]
    assert all(twice.count(prompt) == 2 for prompt in twice)
    assert prompts("counting", 5, "test", seed=1) != prompts("counting", 5, "test", seed=2)
    assert prompts("counting", 5, "test", seed=1) == prompts("counting", 9, "test", seed=1)[:5]


def test_an_unknown_task_or_split() -> None:
    with pytest.raises(ValueError, match="no task 'count'; known: single_object"):
        prompts("count", 1, "test")
    with pytest.raises(ValueError, match="no split 'val'; known: train, test"):
        prompts("counting", 1, "val")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="-1 prompts were asked for"):
        prompts("counting", -1, "test")
