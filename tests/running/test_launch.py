"""Who is which among the processes of a run."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from optsteps.running.launch import Rank, further_ranks, this_rank


def runner(**own: object):
    return OmegaConf.create({"devices": 1, "num_nodes": 1, "launcher": "local", **own})


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NODE_RANK", "GROUP_RANK", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_one_machine() -> None:
    assert this_rank(runner()) == Rank(0, 1, 0, 0)
    assert this_rank(runner(devices=4)) == Rank(0, 4, 0, 3)


def test_several_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_RANK", "2")
    assert this_rank(runner(devices=4, num_nodes=3)) == Rank(8, 12, 0, 3)
    with pytest.raises(ValueError, match="NODE_RANK=2"):
        this_rank(runner(devices=4, num_nodes=2))


def test_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert this_rank(runner(devices="auto")) == Rank(0, 8, 0, 7)


def test_tasks_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="srun"):
        this_rank(runner(launcher="slurm"))
    for name, value in (("NTASKS", "8"), ("JOB_NAME", "search"), ("PROCID", "5"), ("LOCALID", "1"), ("NODEID", "1")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert this_rank(runner(launcher="slurm")) == Rank(5, 8, 1, 0)


@pytest.mark.parametrize("devices", [0, -1])
def test_no_device(devices: int) -> None:
    with pytest.raises(ValueError, match=f"runner.devices={devices}"):
        this_rank(runner(devices=devices))


def test_a_suspended_rank_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not hear a request to end itself."""
    stopped = tmp_path / "python"
    stopped.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nkill -STOP $$\n")
    stopped.chmod(0o755)
    monkeypatch.setattr("optsteps.running.launch.sys.executable", str(stopped))

    def run() -> None:
        with further_ranks(OmegaConf.create({}), "oss", tmp_path, Rank(world_size=2, to_start=1)) as (rank,):
            while Path(f"/proc/{rank.pid}/stat").read_text().split()[2] != "T":
                time.sleep(0.01)

    running = threading.Thread(target=run, daemon=True)
    running.start()
    running.join(30)
    ended = not running.is_alive()
    if not ended:
        os.kill(int((tmp_path / "pid").read_text()), 9)
    assert ended
