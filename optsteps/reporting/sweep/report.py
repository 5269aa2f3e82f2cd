"""The report on many runs: pivot tables as Markdown, LaTeX and CSV, and one HTML page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from optsteps.reporting.run.tables import TEACHER
from optsteps.reporting.sweep.aggregate import aggregate
from optsteps.reporting.sweep.latex import latex_sheet
from optsteps.reporting.sweep.run_rows import Record, as_label, in_order
from optsteps.reporting.sweep.table_layout import METHOD, Layout, field_label, listed
from optsteps.reporting.sweep.tables import markdown_sheet, sheet, shown_value, tidy_csv
from optsteps.storage.files import file_name, write_atomically
from optsteps.text.escaping import markdown

FORMATS = ("md", "tex", "csv", "html")
PAGE = "report.html"


def write_sweep_report(
    folder: Path, records: Sequence[Record], layout: Layout, formats: Collection[str] = FORMATS
) -> list[Path]:
    """Write report.md, report.csv, {figure}.tex and report.html; each file appears whole or not at all.

    Args:
        folder: made where it is missing.
        records: of all runs.
        layout: of the tables.
        formats: which of `FORMATS` to write.

    Returns:
        What was written.

    Raises:
        ValueError: two different results for one cell.
        ImportError: the page is wanted and plotly is not there.
        OSError: the folder cannot be written.
    """
    cells = {figure: aggregate(records, layout, figure) for figure in layout.figures}
    tables = [sheet(found, layout) for found in cells.values() if any(cell.role != "reference" for cell in found)]
    title, summary = f"Report on {_count(records)}", _summary(records, layout)
    files: dict[str, str] = {}
    if "md" in formats:
        parts = [f"## {markdown(table.title)}\n\n{markdown_sheet(table)}" for table in tables]
        files["report.md"] = "\n\n".join([f"# {title}", markdown(summary), *parts]) + "\n"
    if "tex" in formats:
        files |= {f"{file_name(table.figure)}.tex": latex_sheet(table) for table in tables}
    if "csv" in formats:
        files["report.csv"] = tidy_csv([cell for found in cells.values() for cell in found], layout)
    if "html" in formats:
        try:
            from optsteps.reporting.sweep.page import page
        except ImportError as error:
            raise ImportError(
                f"{PAGE} is drawn by plotly, which cannot be imported ({error}): pip install 'optsteps[report]', or "
                "leave the page out with --formats md tex csv"
            ) from error
        files[PAGE] = page(title, summary, records, layout, tables)
    for name, text in files.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in files]


def _count(records: Sequence[Record]) -> str:
    runs = len({record.run for record in records})
    return "1 run" if runs == 1 else f"{runs} runs"


def _summary(records: Sequence[Record], layout: Layout) -> str:
    """What was varied, repeated and compared, in a sentence each."""
    judged = [record for record in records if record.fields[METHOD] != TEACHER]
    said = []
    for name in (*layout.group, METHOD, *layout.over):
        values = [shown_value(value) for value in in_order(as_label(record.fields.get(name)) for record in judged)]
        said.append(f"{field_label(name)}: {listed(values)}.")
    if layout.baseline is not None:
        said.append(f"Compared with {layout.baseline}.")
    return " ".join(said)
