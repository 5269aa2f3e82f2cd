"""Which solver auto takes, and how far it is ahead of its rivals with DPM-Solver++(2M), over runs of solver=auto.

    python experiments/auto/solvers_table.py outputs/auto_solvers > experiments/auto/solvers.md

reads every metrics.json below the folder.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from optsteps.reporting.markdown import markdown_lines


def gains(run: dict[str, Any], nfe: float) -> list[dict[str, Any]]:
    """The verdicts on auto in PSNR at this NFE, without those on itself under other orders."""
    return [
        v for v in run["verdicts"] if v["figure"] == "psnr" and v["nfe"] == nfe and not v["rival"].startswith("auto")
    ]


def lines(runs: list[dict[str, Any]]) -> list[list[str]]:
    by_model = defaultdict[str, list[dict[str, Any]]](list)
    for run in runs:
        by_model[run["facts"]["model"]].append(run)
    table = []
    for model, some in sorted(by_model.items()):
        for nfe in sorted({row["nfe"] for run in some for row in run["rows"] if row["method"] == "auto"}):
            rows = [row for run in some for row in run["rows"] if (row["method"], row["nfe"]) == ("auto", nfe)]
            verdicts = [min(gains(run, nfe), key=lambda v: v["difference"]["value"]) for run in some]
            table.append(
                [
                    model,
                    f"{nfe:g}",
                    ", ".join(row["solver"] for row in rows),
                    f"{fmean(row['figures']['psnr']['value'] for row in rows):.2f}",
                    ", ".join(sorted({v["rival"] for v in verdicts})),
                    f"{fmean(v['difference']['value'] for v in verdicts):+.2f}",
                    f"{sum(v['verdict'] == 'better' for v in verdicts)} of {len(verdicts)}",
                ]
            )
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    runs = [json.loads(path.read_text()) for path in sorted(parser.parse_args().folder.rglob("metrics.json"))]
    header = ["model", "NFE", "solver, by seed", "PSNR dB", "best rival with 2M", "auto - it, dB", "better"]
    evaluations = fmean(row["search_evaluations"] for run in runs for row in run["rows"] if row["method"] == "auto")
    print(markdown_lines(header, lines(runs), left=3))
    print(f"\nMean over the seeds. A search for all counts took {evaluations:,.0f} evaluations in the mean.")
