"""GenEval's metadata: the real file, round trips, and lines that are not of its form."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optsteps.datasets.geneval_prompts import RELATIONS, TASKS, Metadata, Objects, read_metadata, some_of_each_task

REAL = Path(os.environ.get("OPTSTEPS_DATA", "nowhere")) / "geneval_metadata.jsonl"
GOOD = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}
DOG = {"class": "dog", "count": 1}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("geneval") / "metadata.jsonl"


def test_the_real_prompts() -> None:
    if not REAL.is_file():
        pytest.skip(f"no {REAL.name} in the folder that OPTSTEPS_DATA names ({REAL.parent})")
    found = read_metadata(REAL)
    counts = Counter(asked.tag for asked in found)
    assert [counts[task] for task in TASKS] == [80, 99, 80, 94, 100, 100]
    lines = [json.loads(line) for line in REAL.read_text().splitlines()]
    assert [asked.as_json() for asked in found] == lines


names = st.text(min_size=1)


@st.composite
def _metadata(draw: st.DrawFn) -> Metadata:
    include = []
    for place in range(draw(st.integers(1, 4))):
        relative = st.tuples(st.sampled_from(RELATIONS), st.integers(0, place - 1)) if place else st.none()
        entry = st.builds(Objects, names, st.integers(1, 9), st.none() | names, st.none() | relative)
        include.append(draw(entry))
    exclude = draw(st.lists(st.builds(Objects, names, st.integers(1, 9)), max_size=2))
    return Metadata(draw(st.sampled_from(TASKS)), draw(st.text()), tuple(include), tuple(exclude))


@given(st.lists(_metadata(), min_size=1, max_size=4))
def test_round_trip(file: Path, asked: list[Metadata]) -> None:
    lines = [json.dumps(one.as_json(), ensure_ascii=k % 2 == 0) for k, one in enumerate(asked)]
    file.write_text("\n\n".join(lines), encoding="utf-8")
    assert read_metadata(file) == asked


def test_some_of_each_task(tmp_path: Path) -> None:
    asked = [Metadata(task, f"{task} {k}", (Objects("cat"),)) for task in TASKS for k in range(3)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(one.as_json()) + "\n" for one in asked))
    found = some_of_each_task(tmp_path / "all.jsonl", 2)
    assert [one.prompt for one in found] == [f"{task} {k}" for k in range(2) for task in TASKS]
    with pytest.raises(ValueError, match=r"all\.jsonl has 3 prompts of single_object, 4 were asked for"):
        some_of_each_task(tmp_path / "all.jsonl", 4)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", r"has the tag \[1\]"),
        ({**GOOD, "tag": "colour"}, "has the tag 'colour'; known: single_object"),
        ({"include": [DOG], "prompt": "a dog"}, "has the tag None"),
        ({"tag": "counting", "include": [DOG]}, 'has no "prompt"'),
        ({**GOOD, "include": []}, 'has no "include"'),
        ({**GOOD, "include": DOG}, 'has no "include"'),
        ({**GOOD, "include": ["dog"]}, "without a \"class\": 'dog'"),
        ({**GOOD, "include": [{"count": 1}]}, 'include has an entry without a "class"'),
        ({**GOOD, "include": [{"class": "", "count": 1}]}, 'without a "class"'),
        ({**GOOD, "include": [{"class": "dog", "count": 0}]}, "wants 0 of 'dog'; \"count\" must be"),
        ({**GOOD, "include": [{"class": "dog", "count": 1.5}]}, "wants 1.5 of 'dog'"),
        ({**GOOD, "include": [{"class": "dog", "count": True}]}, "wants True of 'dog'"),
        ({**GOOD, "include": [{"class": "dog"}]}, "wants None of 'dog'"),
        ({**GOOD, "include": [{**DOG, "color": 3}]}, "has the color 3"),
        ({**GOOD, "include": [{**DOG, "colour": "red"}]}, "asks for colour of 'dog'; known: class, count, color"),
        ({**GOOD, "include": [DOG, {**DOG, "position": ["near", 0]}]}, r"has the position \['near', 0\]"),
        ({**GOOD, "include": [DOG, {**DOG, "position": "above"}]}, "has the position 'above'"),
        ({**GOOD, "include": [DOG, {**DOG, "position": ["above", 1]}]}, "relative to entry 1"),
        ({**GOOD, "include": [DOG, {**DOG, "position": ["above", False]}]}, "relative to entry False"),
        ({**GOOD, "include": [{**DOG, "position": ["above", 0]}]}, "relative to entry 0"),
        ({**GOOD, "exclude": DOG}, 'has the "exclude"'),
        ({**GOOD, "exclude": [{"class": "dog", "count": 0}]}, "exclude wants 0 of 'dog'"),
        ({**GOOD, "exclude": [{**DOG, "color": "red"}]}, "excludes a color"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, said: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n\n{line if isinstance(line, str) else json.dumps(line)}\n")
    with pytest.raises(ValueError, match=f"bad.jsonl, line 3.*{said}"):
        read_metadata(file)


def test_no_file_nothing_in_it_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file of prompts .*none\.jsonl"):
        read_metadata(tmp_path / "none.jsonl")
    file = tmp_path / "empty.jsonl"
    file.write_text("\n \n")
    with pytest.raises(ValueError, match=r"empty\.jsonl holds no prompts"):
        read_metadata(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"empty\.jsonl is no text in UTF-8"):
        read_metadata(file)
