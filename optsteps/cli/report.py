"""`optsteps-report`: tables and a page on many runs."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from optsteps.cli.errors import readable_errors
from optsteps.cli.version import versions
from optsteps.reporting.sweep.aggregate import aggregate, unpaired
from optsteps.reporting.sweep.jobs import UnfinishedJob, jobs_sentences, unfinished_jobs
from optsteps.reporting.sweep.method_variants import name_variants
from optsteps.reporting.sweep.report import FORMATS, write_sweep_report
from optsteps.reporting.sweep.run_rows import INCOMPLETE, LeftOutWarning, RunRow, read_run_rows
from optsteps.reporting.sweep.table_layout import choose_layout, telling_fields
from optsteps.text.escaping import printable
from optsteps.text.terminal import say


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(
        prog="optsteps-report",
        description="Tables (Markdown, LaTeX, CSV) and one HTML page on all runs below some folders.",
        epilog="A FIELD is a key of the runs' configs, such as solver.name, teacher.steps or test.samples, or one of "
        "method, steps, nfe and budget (the evaluations that a run was given with nfe=[...]). Runs of one method that "
        "differ in its settings have a line for each, as in `edm (rho=3)`. The exit status is 0, "
        f"1 where there is no report, and {INCOMPLETE} where it lacks something: jobs that are not finished, or runs "
        "and pictures that cannot be read.",
    )
    options.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or what they lie in")
    options.add_argument(
        "--rows", nargs="+", metavar="FIELD", help="what makes a line (default: what tells the runs apart, and method)"
    )
    options.add_argument("--columns", default="budget", metavar="FIELD", help="what makes a column (default: budget)")
    options.add_argument("--values", nargs="+", metavar="FIGURE", help="psnr, fid, ... (default: all)")
    options.add_argument(
        "--over", nargs="*", default=["seed"], metavar="FIELD", help="what repeated runs differ in (default: seed)"
    )
    options.add_argument("--baseline", metavar="METHOD", help="compare all others with it (default: edm, if there)")
    options.add_argument("--output", type=Path, help="folder to write to (default: report/ in the first FOLDER)")
    options.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=FORMATS, help="what to write (default: everything)"
    )
    options.add_argument("--version", action="version", version=versions())
    return options


@readable_errors
def main() -> None:
    """Entry point; exits with `INCOMPLETE` where the report lacks something."""
    chosen = parser().parse_args()
    output = chosen.output or _report_in(chosen.folders[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LeftOutWarning)
        jobs = unfinished_jobs(*chosen.folders)
        run_rows = _run_rows(chosen.folders, jobs)
    for warning in caught:
        print(f"optsteps-report: {printable(str(warning.message))}", file=sys.stderr)
    for sentence in jobs_sentences(jobs):
        print(f"optsteps-report: {printable(sentence)}", file=sys.stderr)
    fields = chosen.rows or telling_fields(run_rows, chosen.over)
    run_rows = name_variants(run_rows, [*fields, chosen.columns], chosen.over)
    layout = choose_layout(run_rows, chosen.rows, chosen.columns, chosen.values, chosen.over, chosen.baseline)
    if chosen.baseline and not any(cell.verdict for f in layout.figures for cell in aggregate(run_rows, layout, f)):
        print(f"optsteps-report: {printable(unpaired(layout))}", file=sys.stderr)
    for path in write_sweep_report(output, run_rows, layout, chosen.formats, jobs):
        say(printable(str(path)))
    if jobs or any(issubclass(warning.category, LeftOutWarning) for warning in caught):
        raise SystemExit(INCOMPLETE)


def _run_rows(folders: Sequence[Path], jobs: Sequence[UnfinishedJob]) -> list[RunRow]:
    """The rows of all runs; where there is none yet, an error that says what became of the jobs."""
    try:
        return read_run_rows(*folders)
    except FileNotFoundError as error:
        if jobs:
            raise FileNotFoundError(f"{error}; {'; '.join(jobs_sentences(jobs))}") from None
        raise


def _report_in(folder: Path) -> Path:
    """Where the report on a folder is written, unless the folder leads that elsewhere."""
    if not (folder / "report").resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{folder / 'report'} is a link to something outside {folder}; say with --output where to write"
        )
    return folder / "report"


if __name__ == "__main__":
    main()
