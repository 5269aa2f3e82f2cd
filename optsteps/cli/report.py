"""`optsteps-report`: tables and a page on many runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from optsteps.cli.common import readable_errors
from optsteps.reporting.layout import choose_layout
from optsteps.reporting.records import read_all
from optsteps.reporting.sweep_report import FORMATS, write_sweep_report
from optsteps.terminal import say


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(
        prog="optsteps-report",
        description="Tables (Markdown, LaTeX, CSV) and one HTML page on all runs below some folders.",
        epilog="A FIELD is a key of the runs' configs, such as solver.name, teacher.steps or test.samples, or one of "
        "method, steps, nfe and budget (the evaluations that a run was given with nfe=[...]).",
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
    return options


@readable_errors
def main() -> None:
    """Entry point."""
    chosen = parser().parse_args()
    records = read_all(chosen.folders)
    layout = choose_layout(records, chosen.rows, chosen.columns, chosen.values, chosen.over, chosen.baseline)
    for path in write_sweep_report(chosen.output or chosen.folders[0] / "report", records, layout, chosen.formats):
        say(str(path))


if __name__ == "__main__":
    main()
