"""The tables and the stopping curves of the image sweeps, from their runs.

python experiments/ays_images/image_table.py SWEEP_FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from optsteps.metrics import Interval
from optsteps.reporting.markdown import markdown_lines
from optsteps.reporting.number_format import number_format
from optsteps.reporting.run.early_stopping import stopping_png
from optsteps.reporting.sweep.pivot import pivot, read_run_rows, value_and_interval

METHOD, CURVES = "ays_fid", ("ddim_stochastic", "sde_dpmpp_2m", "euler", "dpmpp_2m")


def stopping_table(curves: dict[str, Any], steps: str) -> str:
    """FID of the search's samples by sweep, a line for every solver and start; the chosen one bold."""
    lines = []
    for solver, found in curves.items():
        curve = found[steps]
        for start in dict.fromkeys(name for name, _ in curve["walk"]):
            places = [k for k, (name, _) in enumerate(curve["walk"]) if name == start]
            values = [f"{curve['criterion'][k]:.2f}" for k in places]
            marked = [f"**{v}**" if k == curve["stop"] else v for k, v in zip(places, values, strict=True)]
            lines.append([solver, start, *marked])
    longest = max(map(len, lines))
    header = ["solver", "start", *(f"sweep {k}" for k in range(longest - 2))]
    return markdown_lines(header, [line + ["-"] * (longest - len(line)) for line in lines], left=2)


def verdict_table(runs: dict[str, Any]) -> str:
    """FID of AYS minus that of EDM's and of the log-SNR schedule, on the test's samples."""
    lines = []
    for solver, metrics in runs.items():
        for said in metrics["verdicts"]:
            if said["figure"] == "fid" and said["rival"] in ("edm", "logsnr", "oss"):
                gap = Interval(*(said["difference"][end] for end in ("value", "low", "high")))
                shown = value_and_interval(number_format("fid"), gap)
                lines.append([solver, str(said["steps"]), said["rival"], shown, said["verdict"]])
    return markdown_lines(["solver", "NFE", "rival", "FID of AYS minus the rival's", "AYS is"], lines, left=3)


def main() -> None:
    folder = Path(sys.argv[1])
    run_rows = read_run_rows(folder)
    students = [run_row for run_row in run_rows if run_row.fields["method"] != "teacher"]
    teacher = next(run_row for run_row in run_rows if run_row.fields["method"] == "teacher")
    print("**FID**, 95 % intervals, by evaluations\n")
    print(pivot(students, ["solver.name", "method"], "steps", "fid", min, value_and_interval))
    print(f"\nThe teacher's: {value_and_interval(number_format('fid'), teacher.intervals['fid'])}\n")
    runs = {}
    for path in sorted(folder.rglob("metrics.json")):
        config: Any = OmegaConf.load(path.parent / ".hydra" / "config.yaml")
        runs[config.solver.name] = json.loads(path.read_text())
    print("**Verdicts** on the same noise\n")
    print(verdict_table(runs))
    curves = {solver: metrics["early_stopping"][METHOD] for solver, metrics in runs.items()}
    for steps in next(iter(curves.values())):
        print(f"\n**Early stopping, {steps} evaluations**: FID of the search's samples after every sweep\n")
        print(stopping_table(curves, steps))
    drawn = {f"{solver}, {steps} steps": curves[solver][steps] for steps in ("5", "10") for solver in CURVES}
    (Path(__file__).parent / "early_stopping.png").write_bytes(stopping_png(drawn))


if __name__ == "__main__":
    main()
