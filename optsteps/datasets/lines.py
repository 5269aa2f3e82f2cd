"""Lines of text files, each with its file and number."""

from __future__ import annotations

from pathlib import Path


def read_lines(path: str | Path, form: str) -> list[tuple[str, str]]:
    """The lines of a file that are not blank, each with "FILE, line NUMBER"; `form` says in errors what a line must be.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text, or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of prompts {path}; give one with {form} a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); give {form} a line") from error
    numbered = [(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"{path} holds no prompts; write {form} a line")
    return numbered
