"""Summary of a run for the terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from optsteps.comparison import Row, VerdictRow
from optsteps.reporting.run.recommendation import recommendations
from optsteps.reporting.run.tables import terminal_table, verdict_sentences


def run_summary(
    rows: Sequence[Row],
    verdicts: Sequence[VerdictRow],
    places: Iterable[tuple[str, Path]],
    rate: float | None = None,
) -> str:
    """What to use, the table of all rows, the verdicts in sentences, and paths; as wide as the
    terminal.

    Args:
        rows, verdicts: of the comparison.
        places: the files and folders to name, each with its path.
        rate: network evaluations per second; None where it was not measured.
    """

    def write(console: Console) -> None:
        for sentence in recommendations(rows, verdicts):
            console.print(sentence, style="bold")
        console.print(terminal_table(rows, rate))
        for sentence in verdict_sentences(verdicts):
            console.print(sentence)
        for what, path in places:
            console.print(f"{what}: {path}", soft_wrap=True)  # in one piece, to be copied

    return terminal_text(write)


def terminal_text(write: Callable[[Console], None]) -> str:
    """The text that `write` prints on a console like the terminal. It is returned, because printing may fail."""
    terminal, encoding = Console(), getattr(sys.stdout, "encoding", None) or "utf-8"
    text = io.TextIOWrapper(io.BytesIO(), encoding, errors="backslashreplace", newline="\n")
    # names and paths are no markup
    console = Console(
        file=text,
        force_terminal=terminal.is_terminal,
        width=terminal.width,
        markup=False,
        highlight=False,
        emoji=False,
    )
    write(console)
    text.seek(0)
    return text.read().removesuffix("\n")
