"""What a run says on the terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from optsteps.comparison import Row, VerdictRow
from optsteps.reporting.tables import terminal_table, verdict_sentences


def run_summary(
    rows: Sequence[Row], verdicts: Sequence[VerdictRow], warnings: Iterable[str], places: Iterable[tuple[str, Path]]
) -> str:
    """The table of all rows, warnings in red, what the verdicts say, and where what lies; as wide as the terminal.

    Args:
        rows, verdicts: of the comparison.
        warnings: a sentence each.
        places: what there is, and its path.
    """

    def write(console: Console) -> None:
        console.print(terminal_table(rows))
        for sentence in warnings:
            console.print(sentence, style="red")
        for sentence in verdict_sentences(verdicts):
            console.print(sentence)
        for what, path in places:
            console.print(f"{what}: {path}", soft_wrap=True)  # in one piece, to be copied

    return terminal_text(write)


def terminal_text(write: Callable[[Console], None]) -> str:
    """What `write` prints on a console, for the terminal but not on it: that may fail."""
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
