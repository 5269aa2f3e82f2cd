"""A sweep of six jobs with two ranks each, under Hydra's own launcher and under joblib, against jobs of one process.

python experiments/ranks/sweep.py model=digits search.samples=8

Every sweep has a store of its own. The schedule files and figures of each job are compared byte by byte.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from launchers import OPTSTEPS, Start, found_in, run

JOBS = ["seed=0,1,2", "solver=euler,dpmpp_2m"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SWEEPS = {"basic, one process": ["runner.devices=1"], "basic": ["runner.devices=2"]}
SWEEPS["joblib, two jobs at a time"] = ["runner.devices=2", *JOBLIB]


def main() -> None:
    overrides = ["runner=cpu", "runner.threads=1", "logger=none", "hydra.sweep.dir=sweep", "store.folder=store"]
    overrides += [*JOBS, *sys.argv[1:]]
    right = True
    with tempfile.TemporaryDirectory() as name:
        alone = None
        print("| launcher | jobs | finished | ranks | schedules and figures | seconds |")
        print("| :-- | --: | --: | --: | :-- | --: |", flush=True)
        for number, (launcher, own) in enumerate(SWEEPS.items()):
            folder, begun = Path(name, str(number)), time.monotonic()
            wrong = run([Start([*OPTSTEPS, "-m"], {}, own)], folder, overrides)
            assert not wrong, (folder / "0.log").read_text()
            jobs = {int(path.parent.name.split("-")[0]): path for path in folder.glob("node0/sweep/*/job.json")}
            finished = sum("failed" not in json.loads(path.read_text()) for path in jobs.values())
            ranks = len(jobs) + len(list(folder.glob("node0/sweep/*/ranks/*.log")))
            found = {job: found_in(path.parent) for job, path in jobs.items()}
            alone = alone or found
            same = found == alone and len(found) == 6
            right = right and same and finished == 6
            cells = [launcher, len(jobs), finished, ranks, "identical" if same else "DIFFER"]
            print(f"| {' | '.join(map(str, cells))} | {time.monotonic() - begun:.0f} |", flush=True)
    raise SystemExit(not right)


if __name__ == "__main__":
    main()
