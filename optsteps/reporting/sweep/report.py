"""Report on many runs: tables as Markdown, LaTeX and CSV, and one HTML page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from optsteps.comparison import TEACHER
from optsteps.reporting.sweep.aggregate import aggregate, unpaired
from optsteps.reporting.sweep.answer import Answer, answers
from optsteps.reporting.sweep.jobs import UnfinishedJob, jobs_sentences
from optsteps.reporting.sweep.latex import latex_table
from optsteps.reporting.sweep.run_rows import RunRow, as_label, in_order
from optsteps.reporting.sweep.table_layout import METHOD, TableLayout, field_label, listed
from optsteps.reporting.sweep.tables import markdown_table, shown_value, sweep_table, tidy_csv
from optsteps.storage.files import file_name, write_atomically
from optsteps.text.escaping import markdown

FORMATS = ("md", "tex", "csv", "html")
PAGE = "report.html"


def write_sweep_report(
    folder: Path,
    run_rows: Sequence[RunRow],
    layout: TableLayout,
    formats: Collection[str] = FORMATS,
    jobs: Sequence[UnfinishedJob] = (),
) -> list[Path]:
    """Write report.md, report.csv, {figure}.tex and report.html; each file appears whole or not at all.

    Args:
        folder: made where it is missing.
        run_rows: of all runs.
        layout: of the tables.
        formats: which of `FORMATS` to write.
        jobs: that the report is to name as not finished.

    Returns:
        The files written.

    Raises:
        ValueError: two different results for one cell.
        ImportError: the page is wanted and plotly is not there.
        OSError: the folder cannot be written.
    """
    cells = {figure: aggregate(run_rows, layout, figure) for figure in layout.figures}
    tables = [
        sweep_table(of_figure, layout)
        for of_figure in cells.values()
        if any(cell.role != "reference" for cell in of_figure)
    ]
    paired = any(cell.verdict for of_figure in cells.values() for cell in of_figure)
    title, summary = f"Report on {_count(run_rows)}", _summary(run_rows, layout, paired)
    found, unfinished = answers(run_rows, layout), jobs_sentences(jobs)
    files: dict[str, str] = {}
    if "md" in formats:
        parts = [f"## {markdown(table.title)}\n\n{markdown_table(table)}" for table in tables]
        head = [f"# {title}", *map(_answer, found), *_warning(unfinished), markdown(summary)]
        files["report.md"] = "\n\n".join([*head, *parts]) + "\n"
    if "tex" in formats:
        files |= {f"{file_name(table.figure)}.tex": latex_table(table) for table in tables}
    if "csv" in formats:
        files["report.csv"] = tidy_csv([cell for of_figure in cells.values() for cell in of_figure], layout)
    if "html" in formats:
        try:
            from optsteps.reporting.sweep.page import page
        except ImportError as error:
            raise ImportError(
                f"{PAGE} is drawn by plotly, which cannot be imported ({error}): pip install 'optsteps[report]', or "
                "leave the page out with --formats md tex csv"
            ) from error
        files[PAGE] = page(title, summary, found, unfinished, run_rows, layout, tables)
    for name, text in files.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in files]


def _answer(answer: Answer) -> str:
    places = "\n".join(f"- {markdown(sentence)}" for sentence in answer.places)
    return f"**{markdown(answer.headline)}** {markdown(answer.surety)}" + (f"\n\n{places}" if places else "")


def _warning(unfinished: Sequence[str]) -> list[str]:
    """How many jobs are not finished, and which."""
    return [markdown(unfinished[0]), "\n".join(f"- {markdown(job)}" for job in unfinished[1:])] if unfinished else []


def _count(run_rows: Sequence[RunRow]) -> str:
    runs = len({row.run for row in run_rows})
    return "1 run" if runs == 1 else f"{runs} runs"


def _summary(run_rows: Sequence[RunRow], layout: TableLayout, paired: bool) -> str:
    """The fields that vary, what is repeated and what is compared, in a sentence each."""
    judged = [row for row in run_rows if row.fields[METHOD] != TEACHER]
    sentences = []
    for name in (*layout.group, METHOD, *layout.over):
        values = [shown_value(value) for value in in_order(as_label(row.fields.get(name)) for row in judged)]
        sentences.append(f"{field_label(name)}: {listed(values)}.")
    if layout.baseline is not None:
        sentences.append(f"Compared with {layout.baseline}." if paired else unpaired(layout))
    return " ".join(sentences)
