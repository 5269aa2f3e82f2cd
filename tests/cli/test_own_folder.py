"""A run's folder is of one run with one config."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from overrides import with_oss
from test_run import TINY, TINY_PLANE, start

from optsteps.cli import run as command
from optsteps.cli.common import CONFIG_DIR
from optsteps.cli.own_folder import claimed, run_in_own_folder
from optsteps.reporting.run.folder import results
from optsteps.reporting.sweep.run_rows import read_run_rows
from optsteps.storage.claims import Claim

pytestmark = pytest.mark.usefixtures("blank_pictures")

CONFIG = OmegaConf.create({"seed": 0, "solver": {"name": "euler", "order": None}, "logger": {"key": "secret"}})
CONFIG["paths"] = {"outputs": "outputs"}
CONFIG["store"] = {"folder": "store", "precision": None}


def other(**changes: Any) -> DictConfig:
    return OmegaConf.merge(CONFIG, OmegaConf.create(changes))  # type: ignore[return-value]


def finish(folder: Path, config: DictConfig = CONFIG, method: str = "oss") -> None:
    """A run that leaves one figure."""
    with claimed(folder, config, method, {Path(".hydra", "overrides.yaml"): "- seed=0\n"}):
        (folder / "metrics.json").write_text(f"{config.seed}")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def state(folder: Path) -> str:
    return str(json.loads((folder / "run.json").read_text())["state"])


def test_a_folder_says_whose_it_is(tmp_path: Path) -> None:
    with claimed(tmp_path, CONFIG, "oss", {Path(".hydra", "overrides.yaml"): "- seed=0\n"}):
        run_row = json.loads((tmp_path / "run.json").read_text())
        assert (run_row["state"], run_row["method"], run_row["pid"]) == ("begun", "oss", os.getpid())
    assert state(tmp_path) == "finished"
    assert sorted(contents(tmp_path)) == [".hydra/overrides.yaml", "config.yaml", "run.json"]
    assert "secret" not in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("changed", "method", "said"),
    [
        (other(seed=1), "oss", "seed=0, here 1"),
        (other(solver={"order": 2}), "oss", "solver.order=None, here 2"),
        (other(store={"precision": "bfloat16"}), "oss", "store.precision=None, here bfloat16"),
        (CONFIG, "ays", "metrics.json"),
    ],
)
def test_results_of_another_config_stay_as_they_are(
    changed: DictConfig, method: str, said: str, tmp_path: Path
) -> None:
    finish(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"{said}.*hydra.run.dir="), claimed(tmp_path, changed, method, {}):
        raise AssertionError("it may not begin")
    assert contents(tmp_path) == before


def test_results_without_a_claim_are_somebody_s(tmp_path: Path) -> None:
    """Those of an earlier version, or copied there."""
    (tmp_path / "schedule_5.json").write_text("{}")
    with pytest.raises(ValueError, match=r"schedule_5\.json.*hydra.run.dir="), claimed(tmp_path, CONFIG, "oss", {}):
        raise AssertionError("it may not begin")


@pytest.mark.parametrize(
    "again", [CONFIG, other(logger={"key": "other"}, paths={"outputs": "x"}, store={"folder": "y"})]
)
def test_a_repeated_run_that_fails_shows_nothing_old(again: DictConfig, tmp_path: Path) -> None:
    finish(tmp_path)
    (tmp_path / "samples_best.png").write_text("the user's own")
    (tmp_path / "schedules").mkdir()
    (tmp_path / "schedules" / "edm_5.json").write_text("{}")

    def run() -> float:
        assert results(tmp_path) == []
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_own_folder(run, tmp_path, again, "oss", {})
    assert results(tmp_path) == []
    assert state(tmp_path) == "begun"
    assert (tmp_path / "samples_best.png").exists()
    # nothing is left that another could be mixed up with
    finish(tmp_path, other(seed=1))
    assert (tmp_path / "metrics.json").read_text() == "1"


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    theirs = Claim(tmp_path / ".run.claim", "a run")
    assert theirs.taken()
    with pytest.raises(ValueError, match=rf"process {os.getpid()} on .* runs in {tmp_path}"):
        finish(tmp_path)
    theirs.release()
    finish(tmp_path)


@pytest.mark.parametrize("same", [True, False])
def test_the_folder_of_a_silent_process(same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run goes on in it; another does not, since the silent one may wake up and write."""
    monkeypatch.setattr("optsteps.cli.own_folder.Claim", lambda path, work: Claim(path, work, patience=0.5))
    begun, ended = (multiprocessing.get_context("fork").Event() for _ in range(2))

    def hang() -> None:
        with claimed(tmp_path, CONFIG, "oss", {}):
            begun.set()
            ended.wait(30)
            os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=hang)
    process.start()
    assert process.pid is not None
    assert begun.wait(30)
    os.kill(process.pid, signal.SIGSTOP)
    os.utime(tmp_path / ".run.claim", (0, 0))
    try:
        if same:
            finish(tmp_path)
            assert state(tmp_path) == "finished"
        else:
            with pytest.raises(ValueError, match="gives no sign of life since 20"):
                finish(tmp_path, other(seed=1))
    finally:
        process.kill()
        process.join()


def test_a_refused_run_leaves_the_report_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line: neither Hydra's run_row nor the figures change; repeated and cut off, none are left."""
    start(monkeypatch, tmp_path, *TINY, *TINY_PLANE)
    before = contents(tmp_path)
    assert {".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "config.yaml"} <= set(before)
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path, *TINY, *TINY_PLANE, "solver=heun", "seed=7")
    assert "seed=0, here 7" in " ".join(capsys.readouterr().err.split())
    assert contents(tmp_path) == before
    assert {run_row.fields["solver.name"] for run_row in read_run_rows(tmp_path)} == {"euler"}

    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("optsteps.running.share.Share.search", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        start(monkeypatch, tmp_path, *TINY, *TINY_PLANE)
    with pytest.raises(FileNotFoundError, match="no run"):
        read_run_rows(tmp_path)


def test_runs_begun_in_the_same_second_have_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    together = context.Barrier(3)

    def one() -> None:
        os.chdir(tmp_path)
        sys.argv = ["optsteps", *with_oss([*TINY, *TINY_PLANE])]
        together.wait(60)
        command.main()

    def leave_a_figure(config: DictConfig, folder: Path, *_: object) -> None:
        (folder / "metrics.json").write_text("{}")

    monkeypatch.setattr("optsteps.cli.job.run_for_objective", leave_a_figure)
    runs = [context.Process(target=one) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert len(list(tmp_path.glob("outputs/mixture-oss*/*/metrics.json"))) == 3


def test_a_job_s_folder_is_of_its_whole_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep started again after its configs have changed does not write into its old folders."""

    def folder(*overrides: str) -> str:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = compose("config", list(overrides), return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
        with_number = OmegaConf.merge(config, {"hydra": {"job": {"num": 3}}})
        return str(OmegaConf.select(with_number, "hydra.sweep.subdir"))

    assert folder("seed=1").startswith("3-")
    assert folder("seed=1") == folder("seed=1", "logger=none", "store.folder=elsewhere")
    assert len({folder("seed=1"), folder("seed=2"), folder("seed=1", "teacher.steps=50")}) == 3
