"""Sweeps under every launcher: what is finished stays, what failed or died is named, a sweeper gets its number."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from overrides import with_oss
from safetensors.torch import save_file

from optsteps import Schedule
from optsteps.cli import run as command
from optsteps.loggers.none import NoLogger
from optsteps.running.objective import objective

# jobs of a second; sweeps have the same threads in whatever process, so that their numbers can be compared
TINY = ["steps=[2,3]", "teacher.steps=6", "search.samples=3", "test.samples=32", "test.oracle=0", "logger=none"]
TINY += ["model=mixture", "metric=toy", "metric.judges.1.samples=64", "method=edm", "runner.threads=1"]
TINY += [
    "store.folder=null",
    *(f"~method@rivals.{name}" for name in ("oss", "time_uniform", "logsnr")),
]
# rivals that let a job pass, fail and die
PASSES = "{_target_:optsteps.methods.HandMade,family:logsnr,final:t_min}"
PASSES_TOO = "{_target_:optsteps.methods.HandMade,family:time_uniform,final:t_min}"
FAILS = "{_target_:optsteps.methods.HandMade,family:nonsense,final:t_min}"
DIES = "{_target_:signal.raise_signal,_args_:[9]}"


def no_logger_and_blank_pictures() -> NoLogger:
    """The logger of a job, for which figures are saved as nothing: rendering takes most of its time.

    A job is a process of its own, in which no fixture is at work.
    """
    import matplotlib.figure

    matplotlib.figure.Figure.savefig = lambda *_args, **_named: None
    return NoLogger()


def sweep(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> None:
    """`optsteps -m OVERRIDES`, in this process but for the jobs."""
    named = {override.split("=")[0] for override in overrides}
    if "metric=teacher" in overrides:
        named.add("metric.judges.1.samples")
    kept = [override for override in TINY if override.split("=")[0] not in named]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # where submitit's jobs find this module
    kept.append(f"logger._target_={__name__}.no_logger_and_blank_pictures")
    monkeypatch.setattr(sys, "argv", ["optsteps", "-m", f"hydra.sweep.dir={folder}", *with_oss([*kept, *overrides])])
    command.main()


def results(folder: Path) -> tuple[Any, dict[str, bytes]]:
    """What a job found, but for how long it took and which command it was."""
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = [{k: v for k, v in row.items() if k != "search_seconds"} for row in metrics["rows"]]
    return (rows, metrics["verdicts"]), {path.name: path.read_bytes() for path in folder.glob("schedule_*.json")}


def finished(sweep: Path) -> dict[str, Path]:
    """Folders of the finished jobs, by their overrides."""
    done = [file.parent for file in sweep.glob("*/job.json") if "failed" not in json.loads(file.read_text())]
    return {(folder / ".hydra" / "overrides.yaml").read_text(): folder for folder in done}


@pytest.mark.slow
def test_a_sweep_of_a_range_runs_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five jobs after two of them: three run, whatever number the finished ones now have."""
    sweep(monkeypatch, tmp_path, "seed=1,3")
    assert "finished" not in capsys.readouterr().out
    sweep(monkeypatch, tmp_path, "seed=range(5)")
    said = capsys.readouterr().out
    assert said.count("is finished") == 2
    assert said.count("report and schedules") == 0  # jobs speak in their own logs
    assert len(finished(tmp_path)) == 5


def test_a_sweep_goes_on_and_names_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three jobs one finishes. Then there is one more, and it runs; the finished one stays, whatever number it now
    has, and the others fail again."""
    for rivals, done in (([FAILS, DIES, PASSES], 0), ([PASSES_TOO, PASSES, FAILS, DIES], 1)):
        with pytest.raises(SystemExit) as stopped:
            sweep(monkeypatch, tmp_path, "seed=1", f"+rivals.odd={','.join(rivals)}")
        assert stopped.value.code == 1
        said, failures = capsys.readouterr()
        assert said.count("is finished") == done
        assert said.count("report and schedules") == 0  # jobs speak in their own logs
        assert "2 jobs failed" in failures
        assert failures.count("nonsense") == 1
        assert "was killed by SIGKILL" in failures
        assert len(finished(tmp_path)) == done + 1
    failed = [json.loads(file.read_text()) for file in tmp_path.glob("*/job.json")]
    assert sum("Traceback" in record.get("traceback", "") for record in failed) == 1


MINE = """
import helper
from pathlib import Path
from optsteps.models import Model
from safetensors.torch import load_file

def build(process, device, name):
    w = load_file(Path(__file__).parent / "weights.safetensors")["w"]
    return Model(name, lambda x, t, cond=None: helper.factor * w * x / (1 + t[:, None]), process, (2,), (80.0, 0.002))
"""


@pytest.mark.slow
def test_a_job_that_would_find_something_else_now_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code, weights, precision; a job whose results are gone; one whose record is damaged, which is named."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: mine.build\nname: mine\n")
    (tmp_path / "mine.py").write_text(MINE)
    folder = tmp_path / "sweep"

    def started(*overrides: str) -> str:
        config_dir = f"--config-dir={tmp_path / 'conf'}"
        sweep(monkeypatch, folder, "model=mine", "metric=teacher", "seed=0", *overrides, config_dir)
        return "".join(capsys.readouterr())

    (tmp_path / "helper.py").write_text("factor = 1")
    save_file({"w": torch.ones(1)}, tmp_path / "weights.safetensors")
    assert "finished" not in started()
    assert "is finished" in started()
    (tmp_path / "helper.py").write_text("factor = 1.25")
    assert "it is run again" in started()
    save_file({"w": torch.ones(1) / 2}, tmp_path / "weights.safetensors")
    assert "it is run again" in started()
    assert "is finished" in started()
    ((_, job),) = finished(folder).items()
    (job / "metrics.json").unlink()
    assert "finished" not in started()
    assert (job / "metrics.json").exists()
    (job / "job.json").write_text('{"digest": ')
    said = started("store.precision=null,bfloat16")
    assert f"{job / 'job.json'} is damaged" in said
    assert "is finished" not in said
    assert len(finished(folder)) == 2


@pytest.mark.slow
def test_jobs_of_any_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number with a store of its own, so that all is computed."""
    found = []
    for devices in (1, 2):
        own = [f"store.folder={tmp_path / f'store{devices}'}", "runner=cpu", f"runner.devices={devices}"]
        sweep(monkeypatch, tmp_path / str(devices), "method=oss,ays", "max_batch=2", "method.shard_size=1", *own)
        jobs = finished(tmp_path / str(devices)).values()
        found.append(
            {(folder / ".hydra" / "hydra.yaml").read_text().count("method=ays"): results(folder) for folder in jobs}
        )
        assert sum(1 for folder in jobs for _ in folder.glob("ranks/*.log")) == 2 * (devices - 1)
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_search_by_several_criteria_in_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each number with a store of its own, so that all is computed."""
    search = ["method=evolution", "method.criterion=nearness,data_distance", "search.samples=16", "search.data=64"]
    search += ["method.rounds=1", "method.population=4", "method.mutants=2", "method.crossovers=1", "max_batch=8"]
    search += [f"~method.pool.{name}" for name in ("beta", "boss", "cosine", "curvature", "dm", "gaussian", "olss")]
    found = []
    for devices in (1, 2):
        own = [f"store.folder={tmp_path / f'store{devices}'}", "runner=cpu", f"runner.devices={devices}"]
        sweep(monkeypatch, tmp_path / str(devices), *search, *own)
        jobs = finished(tmp_path / str(devices)).values()
        found.append({Schedule.load(job / "schedule_2.json").metadata["criterion"]: results(job) for job in jobs})
    assert set(found[0]) == {"nearness", "data_distance"}
    assert found[0] == found[1]


@pytest.mark.slow
def test_joblib_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several at a time, two of them identical: the numbers of the basic launcher, and nothing is lost with a job that
    dies."""
    sweep(monkeypatch, tmp_path / "basic", f"+rivals.odd={PASSES}", "seed=0")
    started = [sys.executable, "-m", "optsteps.cli.run", "-m", *TINY, f"hydra.sweep.dir={tmp_path / 'joblib'}"]
    started += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,0", f"+rivals.odd={DIES},{FAILS},{PASSES}"]
    done = subprocess.run(started, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "2 jobs failed" in done.stderr
    assert "was killed by SIGKILL" in done.stderr
    assert "nonsense" in done.stderr
    assert done.stdout.count("is finished") == 1
    progress = re.findall(r"^\d\d:\d\d:\d\d (.*)", done.stderr, re.M)
    assert progress
    assert all(re.match(r"job [0-5]: ", line) for line in progress)
    ((_, basic),) = finished(tmp_path / "basic").items()
    ((_, joblib),) = finished(tmp_path / "joblib").items()
    assert results(basic) == results(joblib)
    facts = json.loads((joblib / "metrics.json").read_text())["facts"]
    assert facts["command"].startswith("optsteps 'steps=[2,3]' teacher.steps=6")
    assert facts["command"].endswith(f"seed=0 '+rivals.odd={PASSES}'")


@pytest.mark.slow
def test_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers of the basic launcher, which takes the job for finished."""
    sweep(monkeypatch, tmp_path / "basic", "seed=0")
    sweep(monkeypatch, tmp_path / "submitit", "hydra/launcher=submitit_local", "seed=0")
    sweep(monkeypatch, tmp_path / "submitit", "seed=0")
    assert capsys.readouterr().out.count("is finished") == 1
    ((_, basic),) = finished(tmp_path / "basic").items()
    ((_, submitit),) = finished(tmp_path / "submitit").items()
    assert results(basic) == results(submitit)


def test_slurm_is_asked_for_what_the_launcher_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to sbatch, which refuses here."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sbatch", "srun"):
        (tools / name).write_text(f'#!/bin/sh\ncp "$1" {tmp_path / "asked"}\necho refused >&2\nexit 1\n')
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    asked = ["hydra.launcher.partition=some", "hydra.launcher.gpus_per_node=1", "hydra.launcher.timeout_min=90"]
    with pytest.raises(Exception, match="refused"):
        sweep(monkeypatch, tmp_path / "sweep", "hydra/launcher=submitit_slurm", *asked, "seed=0,1")
    script = (tmp_path / "asked").read_text()
    for line in ("--partition=some", "--gpus-per-node=1", "--time=90", "--array=0-1"):
        assert f"#SBATCH {line}" in script


@pytest.mark.slow
def test_optuna_finds_the_better_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Started twice; the second time from what is there."""
    study = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.sampler.seed=2",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_jobs=1",
    ]
    study += ["method.rho=choice(7.0,1.0,-1.0)", "objective.figure=mse"]
    best = []
    for _ in range(2):
        with pytest.raises(SystemExit):  # a negative rho is refused
            sweep(monkeypatch, tmp_path, *study)
        said = capsys.readouterr()
        assert "1 jobs failed" in said.err
        best.append(yaml.safe_load((tmp_path / "optimization_results.yaml").read_text()))
    assert "report and schedules" not in said.out
    assert best[0] == best[1]
    measured = {}
    for overrides, folder in finished(tmp_path).items():
        rows = json.loads((folder / "metrics.json").read_text())["rows"]
        errors = [row["figures"]["mse"]["value"] for row in rows if row["method"] == "edm"]
        rho = next(part for part in yaml.safe_load(overrides) if part.startswith("method.rho"))
        measured[float(rho.split("=")[1])] = sum(errors) / len(errors)
    assert set(measured) == {1.0, 7.0}
    assert best[0]["best_value"] == pytest.approx(min(measured.values()), rel=1e-12)
    assert float(best[0]["best_params"]["method.rho"]) == min(measured, key=lambda rho: measured[rho])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "give objective.figure="),
        pytest.param(
            ["objective.figure=psnr"],
            "objective.figure=psnr, but the run has mse, nll, sliced_wasserstein",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["objective.figure=mse", "objective.steps=7"],
            "objective.steps=7, but the run has steps [2, 3]",
            marks=pytest.mark.slow,
        ),
        (
            ["objective.figure=mse", "hydra.sweeper.direction=maximize"],
            "would look for the worst mse; it takes minimize",
        ),
    ],
)
def test_objectives_that_cannot_be(
    overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    study = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=1"]
    with pytest.raises(SystemExit):
        sweep(monkeypatch, tmp_path, *study, "method.rho=interval(1,9)", *overrides)
    assert message in capsys.readouterr().err


def test_objective_is_the_main_methods(tmp_path: Path) -> None:
    def row(method: str, steps: int, value: float, oracle: bool = False) -> dict[str, Any]:
        figure = {"value": value, "low": value, "high": value, "higher_is_better": True}
        return {"method": method, "steps": steps, "oracle": oracle, "figures": {"psnr": figure}}

    rows = [row("edm", 5, 20.0), row("oss", 5, 26.0), row("oss", 10, 33.0), row("oss", 5, 28.0, oracle=True)]
    (tmp_path / "metrics.json").write_text(json.dumps({"method": "oss", "rows": rows}))

    def wanted(steps: int | None, direction: str | None) -> DictConfig:
        return OmegaConf.create({"figure": "psnr", "steps": steps, "direction": direction})

    assert objective(tmp_path, wanted(None, "maximize")) == 29.5
    assert objective(tmp_path, wanted(10, None)) == 33.0
    with pytest.raises(ValueError, match="worst psnr"):
        objective(tmp_path, wanted(None, "minimize"))
