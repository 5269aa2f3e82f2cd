"""Lines for a person, where nobody can read them."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from optsteps.text.terminal import say

full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@full
def test_a_full_disk_is_told_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        say("a line")
        say("another")  # which goes nowhere, and so does what is left when the stream is closed
    told = capsys.readouterr().err
    assert told.count("standard output cannot be written") == 1
    assert "No space left on device" in told


@full
def test_a_failing_standard_error_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        say("a line", sys.stderr)


def test_a_pipe_that_nobody_reads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        say("a line")
    assert capsys.readouterr().err == ""


def test_a_terminal_of_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    say("PSNR \u2191 in caf\u00e9")
    assert stream.buffer.getvalue() == b"PSNR \\u2191 in caf\\xe9\n"


def test_no_terminal_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    say("a line")
    closed = io.StringIO()
    closed.close()
    say("a line", closed)
