"""Terminal output. Where a terminal, pipe or file cannot take a line, the line is lost and the work goes on."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line to `stream`, standard output for None; where it cannot be written, the line is lost, and no more.

    Where standard output cannot be written, standard error says so, unless it is a pipe that nobody reads any more.
    """
    stream = sys.stdout if stream is None else stream
    if stream is None:  # the process was started without it
        return
    try:
        take_every_character(stream)
        print(text, file=stream)
        flush(stream)
    except (OSError, ValueError) as error:  # ValueError: it was closed
        with suppress(OSError, ValueError):
            flush(stream)
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            say(f"standard output cannot be written ({error}); what was to be said there is lost", sys.stderr)


def take_every_character(stream: TextIO | None) -> None:
    """Let a stream write characters that its encoding lacks as escapes, `\\u2191`, instead of failing."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def flush(stream: TextIO | None) -> None:
    """Write what a stream still holds.

    Raises:
        OSError: it cannot be written; then it leads to nowhere from here on, so that it does not fail once more when
            the process ends.
    """
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        _lead_to_nowhere(stream)
        raise


def _lead_to_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # a stream without a file
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
