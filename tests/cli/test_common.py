"""What all commands do alike."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from optsteps.cli.common import _home_cache
from optsteps.cli.errors import readable_errors
from optsteps.running.version import code_version


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("length", [10, 100_000])
def test_output_that_cannot_be_written_is_an_error(
    length: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether it is noticed while printing or at the end; nothing is left for the interpreter to fail at."""
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stopped:
            readable_errors(lambda: print("x" * length))()
    assert stopped.value.code == 1
    told = capsys.readouterr().err
    assert told.count("error:") == 1
    assert "No space left on device" in told


def test_output_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    readable_errors(lambda: print("caf\u00e9"))()
    assert plain.buffer.getvalue() == b"caf\\xe9\n"


def test_data_sets_of_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert _home_cache() == "/home/me/.cache/optsteps"
    monkeypatch.delenv("HOME")
    assert Path(_home_cache()).is_absolute()

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    assert Path(_home_cache()).is_absolute()


def test_the_version_of_the_code_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert code_version() == "unknown: git cannot be run (No such file or directory)"
