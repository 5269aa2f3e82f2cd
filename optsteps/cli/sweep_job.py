"""One job of a sweep, which is not done again when it is finished.

Every job is a process of its own, whatever launcher starts it: one that fails or dies does not end the others.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from optsteps.cli.errors import root_error
from optsteps.cli.sweep import Record, job_digest, records
from optsteps.reporting.run.reading import METRICS
from optsteps.reporting.sweep.jobs import JOB, NO_END
from optsteps.running.keys import RESULTS_KEY
from optsteps.storage.claims import Claim
from optsteps.storage.files import write_atomically
from optsteps.text.terminal import say


def run_unless_finished(
    config: DictConfig,
    folder: Path,
    commit: str,
    run: Callable[[], float | None],
    key: Callable[[], str],
    log: Callable[[], None],
) -> float | None:
    """`run` the job of a sweep whose jobs lie beside `folder`, unless one of them is this one and finished: it has the
    same config, its results are there, and what determined them is what would determine them now.

    Args:
        config: the job's.
        folder: of the job; job.json there says whether it is finished or has failed.
        commit: version of the code, noted in job.json.
        run: does the job and returns its objective; can be pickled.
        key: computes the key of the job's results, as their metrics.json has it; can be pickled.
        log: sets logging up, in the job's process; can be pickled.

    Returns:
        The objective, of a finished job as it was noted; None where there is none or the job failed.
    """
    identity = job_digest(config)
    locks = folder.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    # of two identical jobs at the same moment one runs, and the other finds it finished
    with Claim(locks / identity, f"a job of the sweep {folder.parent}").held(pause=0.5):
        key_now = None
        for file, record in list(records(folder.parent)):
            if record["digest"] != identity:
                continue
            key_then = None if "failed" in record else _key_of_results(file.parent)
            if key_then is not None:
                key_now = key_now or _attempt(key, locks / f"{identity}.json", {}, "key", log).get("key")
                if key_then == key_now:
                    note = "" if record["commit"] == commit else f", by {record['commit']} while this is {commit}"
                    say(f"job {folder.name} is finished: {file.parent}{note}")
                    return record.get("objective")
                say(f"job {folder.name} was finished by other code, weights or data ({file.parent}); it is run again")
            file.unlink()  # it is tried again, here
        record = _attempt(run, folder / JOB, {"digest": identity, "commit": commit}, "objective", log)
    if "failed" in record:
        say(f"job {folder.name} failed: {record['failed']}")
    return record.get("objective")


def _key_of_results(folder: Path) -> str | None:
    """The key of a run's results, None where there are none."""
    try:
        key = json.loads((folder / METRICS).read_text())["facts"][RESULTS_KEY]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(key)


def _attempt(function: Callable[[], Any], file: Path, facts: Record, returned: str, log: Callable[[], None]) -> Record:
    """Call a function in a new process.

    Returns:
        The facts with the function's value as `returned`, or with the reason for its failure; `file` holds the same.
    """
    # a server that has imported everything and computed nothing: children are forked off it at once, and no thread or
    # GPU context of ours comes with them
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["optsteps.running.run", "optsteps.loggers.results"])
    # joblib's workers call for a method of their own, which the server does not know
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method(None, force=True)
    # stands until the job says otherwise: also where this process dies with it
    _write(file, {**facts, "failed": NO_END})
    process = context.Process(target=_job, args=(function, file, facts, returned, log, dict(os.environ)))
    # of the server, where it is to be started: it finds the same modules as this process
    with _environment({"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}):
        process.start()
    process.join()
    if process.exitcode:
        killer = signal.Signals(-process.exitcode).name if process.exitcode < 0 else None
        how = f"was killed by {killer}" if killer else f"ended with exit status {process.exitcode}"
        _write(file, {**facts, "failed": f"its process {how}"})
    record: Record = json.loads(file.read_text())
    return record


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the body runs."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _job(
    function: Callable[[], Any],
    file: Path,
    facts: Record,
    returned: str,
    log: Callable[[], None],
    environment: dict[str, str],
) -> None:
    """The job's process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()  # the server's, as it was at its start
    os.environ.update(environment)
    log()
    try:
        record = {**facts, returned: function()}
    except Exception as error:  # whatever it is, the sweep is to know
        reason = root_error(error)
        failure = {"failed": f"{type(reason).__name__}: {reason}", "traceback": traceback.format_exc()}
        record = {**facts, **failure}
    _write(file, record)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write(file: Path, record: Record) -> None:
    write_atomically(file, json.dumps(record, indent=1).encode())
