"""Prompts of text-conditioned models, from files."""

from __future__ import annotations

from pathlib import Path

from optsteps.datasets.geneval_prompts import TASKS, Metadata, as_metadata
from optsteps.datasets.lines import read_lines
from optsteps.storage.documents import parse_json

Prompt = str | Metadata


def read_prompts(path: str | Path) -> list[Prompt]:
    """Prompts of a file: one a line, or one JSON object a line with a "prompt" (`.jsonl` or `.json`).

    An object with a task of GenEval's as its "tag", or with "include", is in GenEval's form, and its prompt comes with
    the metadata that its images are judged by. Blank lines are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no prompt, or a line of a JSON lines file has none, or is nearly but not in GenEval's
            form; the message names file and line.
    """
    in_json = Path(path).suffix in (".jsonl", ".json")
    lines = read_lines(path, "one JSON object with a prompt" if in_json else "one prompt")
    return [_from_json(*line) if in_json else line[0].strip() for line in lines]


def _from_json(line: str, where: str) -> Prompt:
    entry = parse_json(line, where, "; every line must be an object with a prompt")
    if isinstance(entry, dict) and ("include" in entry or entry.get("tag") in TASKS):
        return as_metadata(entry, where)
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str):
        raise ValueError(f'{where} has no "prompt" that is a string')
    prompt: str = entry["prompt"]
    return prompt
