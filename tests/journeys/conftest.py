"""A user's desk: an empty folder, the commands that are typed there, and the lines that they answer with."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

# of one command, with other work on the machine
_PATIENCE_S = 600


class Desk:
    """A folder that a user works in.

    Attributes:
        folder: empty at first.
        own_lines: the lines of code and YAML that the user wrote, by file; blank ones do not count.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own_lines: dict[str, int] = {}

    def has(self, name: str, text: str) -> None:
        """A file that the user brought along."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def writes(self, name: str, text: str) -> None:
        """A file that the user writes for optsteps."""
        self.has(name, text)
        self.own_lines[name] = sum(bool(line.strip()) for line in text.splitlines())

    def types(self, command: str, *answers: str, refused: bool = False) -> str:
        """Type a command of the environment that runs this test.

        Args:
            answers: what it must say, whatever the breaks of lines.
            refused: whether it must fail, with one paragraph and no traceback.

        Returns:
            What it says on standard output.
        """
        program, *arguments = shlex.split(command)
        done = subprocess.run(
            [Path(sys.executable).with_name(program), *arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        said = f"{done.stdout}\n{done.stderr}"
        assert (done.returncode != 0) == refused, said
        assert "Traceback" not in said
        for answer in answers:
            assert answer in " ".join(said.split()), said
        return done.stdout

    def reads(self, name: str) -> str:
        """The text of a file."""
        return (self.folder / name).read_text()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)
