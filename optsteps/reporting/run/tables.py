"""Tables of a run's rows and verdicts, for the terminal and as Markdown, from the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from optsteps.comparison import TEACHER, Row, VerdictRow
from optsteps.metrics.base import Measurement
from optsteps.reporting.markdown import NOTHING, markdown_lines
from optsteps.reporting.number_format import NUMBER_FORMATS, number_format
from optsteps.reporting.row_notes import row_notes
from optsteps.reporting.search_cost import cost_and_time
from optsteps.schedules import Schedule
from optsteps.text.escaping import markdown

CAPTION = (
    "Value [95 % interval]. NFE: network evaluations per sample, guidance included; search NFE: what finding the "
    "schedules of all step counts cost, per sample of the search; search total: of all its samples together. Bold: the "
    "best estimate at equal NFE."
)
TIME_CAPTION = (
    "In round brackets: the network's time for the total, at the {rate:,.12g} evaluations per second that the run "
    "measured."
)
ORACLE_CAPTION = "Oracle: searched for the very sample it is judged on, a bound and no rival; n: how many samples."
NO_VERDICT = "No rival was sampled at equal NFE: there is no verdict."


def figure_names(rows: Sequence[Row]) -> list[str]:
    """The names of all that was measured on any row, in the order of the columns."""
    names = dict.fromkeys(name for row in rows for name in row.measurements)
    return [name for name in NUMBER_FORMATS if name in names] + [name for name in names if name not in NUMBER_FORMATS]


class TextCell(NamedTuple):
    """The text of a cell, and the detail that stands beside it in Markdown and below it in the terminal."""

    text: str
    detail: str = ""
    bold: bool = False


def _header(rows: Sequence[Row], names: Sequence[str]) -> list[TextCell]:
    cells = [TextCell("method"), TextCell("steps"), TextCell("NFE")]
    for name in names:
        higher = next(row.measurements[name].higher_is_better for row in rows if name in row.measurements)
        arrow = {True: "↑", False: "↓", None: ""}[higher]
        cells.append(TextCell(number_format(name).label, f"{number_format(name).unit} {arrow}".strip()))
    return [*cells, TextCell("search", "NFE"), TextCell("search", "total")]


def _cells(row: Row, rows: Sequence[Row], names: Sequence[str], rate: float | None) -> list[TextCell]:
    mark = f"(oracle, n={len(row.samples)})" if row.oracle else ""
    cells = [TextCell(row.method, mark), TextCell(str(row.steps)), TextCell(f"{row.nfe:g}")]
    for name in names:
        if name in row.measurements:
            interval = row.measurements[name].interval
            text = number_format(name).number(interval.value)
            cells.append(TextCell(text, number_format(name).interval(interval), text == _best(row, rows, name)))
        else:
            cells.append(TextCell(NOTHING))
    if row.oracle or row.method == TEACHER:
        return [*cells, TextCell(NOTHING), TextCell(NOTHING)]
    total = cost_and_time([row.search_evaluations], [] if rate is None else [row.search_evaluations / rate])
    return [*cells, TextCell(f"{row.search_nfe:,.0f}"), TextCell(*total)]


def _best(row: Row, rows: Sequence[Row], name: str) -> str | None:
    """The best value, as shown, among the rivals at the steps and NFE of `row`, itself included."""
    if row.oracle or row.method == TEACHER:
        return None
    rivals: list[Measurement] = [
        other.measurements[name]
        for other in rows
        if (other.steps, other.nfe) == (row.steps, row.nfe)
        and not other.oracle
        and other.method != TEACHER
        and name in other.measurements
    ]
    higher = rivals[0].higher_is_better
    if len(rivals) < 2 or higher is None:
        return None
    return number_format(name).number((max if higher else min)(rival.interval.value for rival in rivals))


def _ordered(rows: Sequence[Row]) -> list[Row]:
    """The teacher, then by step count, oracles last in theirs."""
    return sorted(rows, key=lambda row: (row.method != TEACHER, row.steps, row.oracle))


def _caption(rows: Sequence[Row], rate: float | None) -> str:
    notes = [] if rate is None else [TIME_CAPTION.format(rate=float(f"{rate:.2g}"))]
    notes += [ORACLE_CAPTION] if any(row.oracle for row in rows) else []
    return " ".join([CAPTION, *notes, *row_notes(row.method for row in rows)])


def markdown_table(rows: Sequence[Row], rate: float | None = None) -> str:
    """All measurements of all rows as a Markdown table, with a line on how to read it.

    Args:
        rate: network evaluations per second; None where it was not measured.
    """

    def joined(cell: TextCell) -> str:
        text = f"**{markdown(cell.text)}**" if cell.bold else markdown(cell.text)
        return f"{text} {markdown(cell.detail)}".strip()

    names = figure_names(rows)
    header = [joined(cell) for cell in _header(rows, names)]
    lines = [[joined(cell) for cell in _cells(row, rows, names, rate)] for row in _ordered(rows)]
    return f"{markdown_lines(header, lines)}\n\n{_caption(rows, rate)}"


def range_table(rows: Sequence[Row]) -> str:
    """The noise levels between which every schedule runs, and whose range that is, as a Markdown table."""
    scheduled = [(row, row.schedule) for row in _ordered(rows) if row.schedule is not None]
    teachers = next((_ends(schedule) for row, schedule in scheduled if row.method == TEACHER), None)
    lines = []
    for row, schedule in scheduled:
        whose = schedule.metadata.get("range", "the teacher's" if _ends(schedule) == teachers else "its method's")
        if levels := schedule.metadata.get("formula_levels"):
            whose = f"{whose}, the formula's from {levels[0]:.4g} to {levels[1]:.4g}"
        if row.teacher is not None:
            whose = f"{whose}, compared with {row.teacher.steps} steps of the teacher from there"
        ends = [f"{level:.4g}" for level in _ends(schedule)]
        cells = [row.method, str(row.steps), ends[0], ends[1] + ", 0" * schedule.ends_clean, str(whose)]
        lines.append([markdown(cell) for cell in cells])
    return markdown_lines(["method", "steps", "from noise level", "to", "whose range"], lines)


def steps_table(rows: Sequence[Row]) -> str:
    """The told times and weights at every step of the schedules that have any, as a Markdown table."""
    carrying = [(row, row.schedule) for row in _ordered(rows) if row.schedule is not None and row.schedule.carried]
    columns = max((schedule.weights.shape[1] for _, schedule in carrying if schedule.weights is not None), default=0)
    lines = []
    for row, schedule in carrying:
        for i, time in enumerate(schedule.times[:-1].tolist()):
            told = NOTHING if schedule.told_times is None else f"{schedule.told_times[i].item():.6g}"
            told += ", slope" if schedule.told_as == "slope" else ""
            weights = [] if schedule.weights is None else [f"{w:.4g}" for w in schedule.weights[i].tolist()[:i]]
            weights += [NOTHING] * (columns - len(weights))
            cells = [row.method, str(row.steps), str(i + 1), f"{time:.6g}", told, *weights]
            lines.append([markdown(cell) for cell in cells])
    names = [f"weight {k + 1}" for k in range(columns)]
    return markdown_lines(["method", "steps", "step", "time", "told time", *names], lines)


def _ends(schedule: Schedule) -> tuple[float, float]:
    """The first and the last positive noise level."""
    levels = schedule.noise_levels.detach()
    return float(levels[0]), float(levels[levels > 0][-1])


def terminal_table(rows: Sequence[Row], rate: float | None = None) -> Table:
    """All measurements of all rows as a table for the terminal, with intervals below their values.

    MSE is left out where there is PSNR, which says the same, and the two columns of the search are one: a table of few
    columns then fits 80 letters.

    Args:
        rate: as in `markdown_table`.
    """
    names = [
        name for name in figure_names(rows) if name != "mse" or not any("psnr" in row.measurements for row in rows)
    ]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.caption, table.caption_justify = Text(_caption(rows, rate)), "left"
    for i, cell in enumerate(_stacked(_header(rows, names))):
        table.add_column(Text(f"{cell.text}\n{cell.detail}"), justify="right" if i else "left", vertical="top")
    group = None
    for row in _ordered(rows):
        if group not in (None, (row.method == TEACHER, row.steps)):
            table.add_section()
        group = (row.method == TEACHER, row.steps)
        table.add_row(
            *(
                Text.assemble((cell.text, "bold green" if cell.bold else ""), (f"\n{cell.detail}".rstrip(), "dim"))
                for cell in _stacked(_cells(row, rows, names, rate))
            )
        )
    return table


def _stacked(cells: Sequence[TextCell]) -> list[TextCell]:
    """The cells with the last two, on the search, above each other."""
    *others, nfe, total = cells
    below = [nfe.detail, *(text for text in (total.text, total.detail) if text != nfe.text)]
    return [*others, TextCell(nfe.text, "\n".join(filter(None, below)))]


def verdict_table(verdicts: Sequence[VerdictRow]) -> str:
    """The paired differences as a Markdown table."""
    lines = []
    for v in verdicts:
        shown = number_format(v.figure)
        difference = f"{shown.number(v.difference.value, '+')} {shown.interval(v.difference, '+')}"
        figure = f"{shown.label} {shown.unit}".strip()
        cells = [v.method, v.rival, str(v.steps), f"{v.nfe:g}", figure, difference, v.verdict]
        lines.append([markdown(cell) for cell in cells])
    header = ["method", "rival", "steps", "NFE", "figure", "method - rival [95 %]", "verdict"]
    return markdown_lines(header, lines, left=2)


def verdict_sentences(verdicts: Sequence[VerdictRow]) -> list[str]:
    """One sentence per step count, e.g. "At 5 NFE oss is better than edm by 1.31 dB PSNR [1.20, 1.42]."."""
    groups: dict[tuple[int, float, str, str], list[VerdictRow]] = {}
    for v in verdicts:
        groups.setdefault((v.steps, v.nfe, v.method, v.figure), []).append(v)
    sentences = []
    for (steps, nfe, method, figure), group in groups.items():
        clauses = [
            f"{word} than {v.rival} by {number_format(figure).difference(v.difference)}"
            for word in ("better", "worse")
            for v in group
            if v.verdict == word
        ]
        draws = [v.rival for v in group if v.verdict == "no better"]
        if draws:
            clauses.append(f"no better than {_listed(draws, 'or')} in {number_format(figure).label}")
        budget = f"{nfe:g} NFE" if nfe == steps else f"{nfe:g} NFE ({steps} steps)"
        sentences.append(f"At {budget} {method} is {_listed(clauses, 'and')}.")
    return sentences


def _listed(items: Sequence[str], last: str) -> str:
    return f" {last} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
