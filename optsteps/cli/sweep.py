"""Sweeps that go on: jobs that are done are not done again, and a failed one does not end the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from optsteps.cli.common import root_error
from optsteps.files import write_atomically
from optsteps.store import digest

FAILED, JOB = "failed.txt", "job.json"


def job_digest(config: DictConfig) -> str:
    """What a job is known by: its resolved config, but for the logger and the store, which change no result."""
    facts: Any = OmegaConf.to_container(config, resolve=True)
    return digest({key: value for key, value in facts.items() if key not in ("logger", "store", "paths")})


def run_job(config: DictConfig, folder: Path, commit: str, run: Callable[[], object]) -> None:
    """`run` the job of a sweep whose jobs lie beside `folder`, unless one of them is this one and finished."""
    known = job_digest(config)
    for file in sorted(folder.parent.glob(f"*/{JOB}")):
        done = json.loads(file.read_text())
        if done["digest"] == known:
            note = "" if done["commit"] == commit else f", by {done['commit']} while this is {commit}"
            print(f"job {folder.name} is finished: {file.parent}{note}")
            return
    (folder / FAILED).unlink(missing_ok=True)
    try:
        run()
    except Exception as error:  # whatever it is, the other jobs are not to suffer
        reason = root_error(error)
        write_atomically(folder / FAILED, f"{type(reason).__name__}: {reason}\n".encode())
        print(f"job {folder.name} failed: {reason}")
        return
    write_atomically(folder / JOB, json.dumps({"digest": known, "commit": commit}).encode())


class FailedJobs(Callback):
    """Collects, when a sweep is through, why jobs of it failed."""

    reasons: ClassVar[list[str]] = []

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        files = Path(config.hydra.sweep.dir).glob(f"*/{FAILED}")
        self.reasons.extend(f"{file.parent}: {file.read_text().strip()}" for file in sorted(files))
