"""Who is which among the processes of a run, and what becomes of the others where one of them is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch.distributed import HashStore

from optsteps.running.launch import Rank, launch
from optsteps.running.started import is_divided, started_as_helper, started_by_launcher
from optsteps.storage.division import Division

NUMBERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_NAME")


def runner(**own: object) -> DictConfig:
    usual = {"accelerator": "cpu", "devices": 2, "num_nodes": 1, "threads": 1, "timeout": 60}
    return OmegaConf.create({**usual, **own})


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NUMBERS:
        monkeypatch.delenv(name, raising=False)


def test_who_starts_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_divided(runner(devices=1))
    assert is_divided(runner(devices=1, num_nodes=2))
    assert not started_by_launcher(runner())
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert started_as_helper(runner())
    assert not started_as_helper(runner(devices=1))  # a run of its own
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert started_by_launcher(runner())
    assert not started_as_helper(runner())
    monkeypatch.setenv("SLURM_NTASKS", "1")  # as submitit starts a job
    assert not started_by_launcher(runner())


def test_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, divided in ((0, False), (1, False), (8, True)):
        monkeypatch.setattr("torch.cuda.device_count", lambda count=count: count)
        assert is_divided(runner(devices="auto")) == divided


def test_one_process_needs_no_lightning() -> None:
    program = """if True:
        import sys
        from omegaconf import OmegaConf
        from optsteps.running.launch import launch
        from pathlib import Path
        runner = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "threads": None, "timeout": 60}
        rank = launch(OmegaConf.create(runner), lambda rank: rank, Path("logs"))
        assert (rank.number, rank.world_size, rank.board) == (0, 1, None)
        assert "lightning" not in sys.modules
        """
    subprocess.run([sys.executable, "-c", program], check=True)


def divided(rank: Rank) -> tuple[int, int, list[bool], int]:
    """The positions of a list that this rank took, and everybody's; the squares, each of which one rank has made."""
    assert rank.board is not None
    print(f"this is rank {rank.number}")
    keys, division = [str(k) for k in range(40)], Division(rank.board, rank.number, rank.world_size)
    mine = {}
    for position in division.taken(keys):
        mine[position] = torch.tensor(position**2)
        division.send(keys[position], mine[position])
        time.sleep(0.005 + 0.05 * rank.number)  # rank 0 is the quicker one
    squares = [mine[k] if k in mine else division.received(keys[k]) for k in range(len(keys))]
    return rank.world_size, len(mine), [int(square) == k**2 for k, square in enumerate(squares)], os.getppid()


@pytest.mark.slow
def test_a_free_rank_takes_what_a_slow_one_has_not_begun(tmp_path: Path) -> None:
    world_size, taken, right, parent = launch(runner(), divided, tmp_path)
    assert world_size == 2
    assert 20 < taken < 40
    assert all(right)
    assert parent == os.getpid()


def test_of_two_ranks_the_free_one_takes_what_the_slow_one_has_not_begun() -> None:
    """As two threads with one board."""
    board = HashStore()
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(divided, (Rank(torch.device("cpu"), number, 2, board) for number in range(2))))
    (_, quick, right, _), (_, slow, all_right, _) = found
    assert quick + slow == 40
    assert quick > slow > 0
    assert all(right)
    assert all(all_right)


def failing(rank: Rank) -> None:
    """Rank 0 fails while the other one is busy for much longer than a test."""
    if rank.number == 0:
        raise ValueError("the model makes NaN") from OSError("no such file")
    for _ in range(600):
        time.sleep(1)


@pytest.mark.slow
def test_an_error_of_rank_0_is_the_run_s(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^the model makes NaN$") as caught:
        launch(runner(), failing, tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
    assert "Traceback" not in (tmp_path / "1.log").read_text()


def losing(number: int, how: int, moment: Path, rank: Rank) -> None:
    """A rank is lost while the other one waits for it; `moment` says when."""
    assert rank.board is not None
    print(f"this is rank {rank.number} of {rank.world_size}, a child of {os.getppid()}", flush=True)
    Division(rank.board, rank.number, rank.world_size).share("both are here", "yes" if rank.number == number else None)
    if rank.number == number:
        time.sleep(1)
        moment.write_text(str(time.time()))
        if how == 0:
            raise RuntimeError("out of memory")
        os.kill(os.getpid(), how)
    for _ in range(600):
        time.sleep(1)


LOSSES = [
    (1, signal.SIGKILL, "rank 1 was killed by SIGKILL"),
    pytest.param(0, signal.SIGKILL, "rank 0 was killed by SIGKILL", marks=pytest.mark.slow),
    pytest.param(1, signal.SIGSTOP, "rank 1 has given no sign of life for 30 s", marks=pytest.mark.slow),
    pytest.param(0, signal.SIGSTOP, "rank 0 has given no sign of life for 30 s", marks=pytest.mark.slow),
    pytest.param(1, 0, "rank 1 ended with RuntimeError: out of memory", marks=pytest.mark.slow),
]


def own_environment() -> dict[str, str]:
    """Without what torch and Lightning set when they are imported."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTORCH_", "TORCHINDUCTOR_"))}


@pytest.mark.parametrize(("number", "how", "said"), LOSSES)
def test_the_run_ends_with_a_lost_rank(number: int, how: int, said: str, tmp_path: Path) -> None:
    """In time, with one sentence, and no process is left, nor anything in the environment but what imports leave."""
    moment, before = tmp_path / "moment", own_environment()
    with pytest.raises(ValueError, match="the same command goes on from the finished shards") as caught:
        launch(runner(timeout=40), partial(losing, number, how, moment), tmp_path)
    assert time.time() - float(moment.read_text()) < 40
    assert said in str(caught.value) or (number == 0 and "rank 0 cannot be reached any more" in str(caught.value))
    assert (f"{tmp_path / '1.log'}" if number else "the output above") in str(caught.value)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert own_environment() == before
    said_by_rank_1 = (tmp_path / "1.log").read_text()
    assert f"this is rank 1 of 2, a child of {os.getpid()}" in said_by_rank_1 or number == 0
    assert not [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from test_launch import divided, losing, runner
from optsteps.running.launch import launch

def lost_once(rank):
    moment = Path({folder!r}) / "moment"
    return divided(rank) if moment.exists() else losing({lost}, {how}, moment, rank)

if __name__ == "__main__":
    own = dict(timeout=40, num_nodes={nodes})
    found = launch(runner(**own), lost_once if {lost} >= 0 else divided, Path("logs"))
    if found is not None:
        world_size, _, right, _ = found
        assert world_size == 2 * {nodes} and all(right)
        print("right")
"""


def program(folder: Path, lost: int = -1, how: int = 0, nodes: int = 1) -> str:
    path = folder / "program.py"
    path.write_text(
        PROGRAM.format(here=str(Path(__file__).parent), folder=str(folder), lost=lost, how=how, nodes=nodes)
    )
    return str(path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [int(signal.SIGKILL), int(signal.SIGSTOP)])
def test_torchrun_starts_lost_ranks_again(how: int, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = subprocess.run([*torchrun, program(tmp_path, 1, how)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "moment").exists()
    assert "right" in done.stdout
    assert not (tmp_path / "logs").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_agents_of_torchrun(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
    torchrun += ["--master-addr=127.0.0.1", "--master-port=29531"]
    path = program(tmp_path, nodes=2)
    agents = [subprocess.Popen([*torchrun, f"--node-rank={k}", path], cwd=tmp_path) for k in range(2)]
    assert [agent.wait(400) for agent in agents] == [0, 0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_command_on_every_node(tmp_path: Path) -> None:
    """By hand, as Lightning has it."""
    path = program(tmp_path, nodes=2)
    nodes = []
    for rank in range(2):
        own = {"NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29541"}
        nodes.append(subprocess.Popen([sys.executable, path], env=os.environ | own, cwd=tmp_path))
    assert [node.wait(400) for node in nodes] == [0, 0]


def slurm(path: str, folder: Path) -> list[subprocess.Popen[str]]:
    """The two tasks of a program that srun would start on one node."""
    tasks = []
    for rank in range(2):
        numbers = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1", "JOB_NAME": "search", "NODEID": "0"}
        numbers |= {"PROCID": str(rank), "LOCALID": str(rank), "JOB_ID": "29"}
        own = {f"SLURM_{name}": value for name, value in numbers.items()} | {"MASTER_PORT": "29551"}
        command = [sys.executable, path]
        tasks.append(subprocess.Popen(command, env=os.environ | own, cwd=folder, stderr=subprocess.PIPE, text=True))
    return tasks


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("lost", "how"), [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP), (1, 0)])
def test_a_lost_task_of_slurm(lost: int, how: int, tmp_path: Path) -> None:
    """Nobody starts it again: the other one ends in time and says why."""
    tasks = slurm(program(tmp_path, lost, int(how)), tmp_path)
    _, said = tasks[1 - lost].communicate(timeout=400)
    assert time.time() - float((tmp_path / "moment").read_text()) < 40
    tasks[lost].kill()  # what a scheduler does to a suspended one
    tasks[lost].wait()
    assert tasks[1 - lost].returncode == 1
    if lost == 0:
        assert "rank 0 cannot be reached any more" in said
    else:
        assert "rank 1 ended with RuntimeError: out of memory" in said or "rank 1 has given no sign of life" in said
    assert "the same command goes on from the finished shards" in said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tasks_of_slurm(tmp_path: Path) -> None:
    tasks = slurm(program(tmp_path), tmp_path)
    for task in tasks:
        _, said = task.communicate(timeout=400)
        assert task.returncode == 0, said
