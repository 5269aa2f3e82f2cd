"""Claims of processes that live, die and hang."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from optsteps.storage.claims import Claim

# seconds without a sign of life, here
PATIENCE = 1.5


def _hold(path: Path, seconds: float) -> None:
    with Claim(path, "work", PATIENCE).held(pause=0.01):
        path.with_suffix(".held").touch()
        time.sleep(seconds)


@contextmanager
def holder(path: Path, seconds: float) -> Iterator[BaseProcess]:
    """A process that has the claim for so long."""
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(path, seconds))
    process.start()
    while not path.with_suffix(".held").exists():
        time.sleep(0.01)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def waited(claim: Claim, longest: float = 30.0) -> float:
    """Seconds until the claim was this process's."""
    begun = time.monotonic()
    while not claim.taken():
        assert time.monotonic() - begun < longest
        time.sleep(0.02)
    return time.monotonic() - begun


def test_a_suspended_process_loses_its_claim_and_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "work.claim"
    caplog.set_level(logging.WARNING, logger="optsteps.storage.claims")
    with holder(path, seconds=1.0) as process:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        claim = Claim(path, "the shard", PATIENCE)
        assert waited(claim) >= PATIENCE
        (said,) = [record.message for record in caplog.records]
        assert said.startswith("waiting since ")
        assert f"for the shard, which process {process.pid} on {os.uname().nodename} has claimed" in said
        # the one that wakes up ends well, and takes nothing from the new owner
        os.kill(process.pid, signal.SIGCONT)
        process.join(30)
        assert process.exitcode == 0
        assert not Claim(path, "the shard", PATIENCE).taken()
    claim.release()
    assert not path.exists()


def test_a_dead_process_s_claim_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "work.claim"
    with holder(path, seconds=60) as process:
        assert not Claim(path, "work", PATIENCE).taken()
        process.kill()
        process.join()
        assert waited(Claim(path, "work", PATIENCE)) < PATIENCE


def test_one_that_lives_keeps_its_claim(tmp_path: Path) -> None:
    """Longer than anybody's patience."""
    path = tmp_path / "work.claim"
    with holder(path, seconds=4 * PATIENCE):
        claim = Claim(path, "work", PATIENCE)
        assert waited(claim) > 2 * PATIENCE
        assert claim.taken()  # asked again, it is still ours
        claim.release()


def test_who_is_alive(tmp_path: Path) -> None:
    """Nobody, an owner, a suspended one, and one that died, which is seen at once."""
    path = tmp_path / "work.claim"
    asking = Claim(path, "work", PATIENCE)
    assert not asking.alive()
    with holder(path, seconds=60) as process:
        assert process.pid is not None
        assert asking.alive()
        os.kill(process.pid, signal.SIGSTOP)
        begun = time.monotonic()
        while asking.alive():
            assert time.monotonic() - begun < 30
            time.sleep(0.02)
    path.with_suffix(".held").unlink()
    with holder(tmp_path / "other.claim", seconds=60) as process:
        process.kill()
        process.join()
        assert not Claim(tmp_path / "other.claim", "work", 1000.0).alive()
