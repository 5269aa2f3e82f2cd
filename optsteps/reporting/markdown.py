"""Markdown tables from lines of cells."""

from __future__ import annotations

from collections.abc import Sequence

# the text of a cell that has no number
NOTHING = "-"


def markdown_lines(header: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first `left` columns are aligned left, the others right."""
    rule = [":--" if i < left else "--:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *lines])
