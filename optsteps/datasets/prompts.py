"""Prompts of text-conditioned models, from files."""

from __future__ import annotations

import json
from pathlib import Path


def read_prompts(path: str | Path) -> list[str]:
    """Prompts of a file: one a line, or one JSON object a line with a "prompt" (GenEval's form; `.jsonl` or `.json`).

    Blank lines are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no prompt, or a line of a JSON lines file has none; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of prompts {path}; give a text file with one prompt a line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); give one prompt a line") from error
    read = _from_json if path.suffix in (".jsonl", ".json") else _as_it_is
    prompts = [read(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompts; write one a line")
    return prompts


def _as_it_is(line: str, where: str) -> str:
    return line.strip()


def _from_json(line: str, where: str) -> str:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error}); every line must be an object with a prompt") from error
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        raise ValueError(f'{where} has no "prompt" that is a string')
    prompt: str = found["prompt"]
    return prompt
