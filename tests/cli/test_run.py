"""The command as a user starts it: every config choice runs, errors are one paragraph, no file is half-written."""

from __future__ import annotations

import errno
import gzip
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from overrides import with_oss

from optsteps import Schedule
from optsteps.cli import run as command
from optsteps.cli.common import CONFIG_DIR
from optsteps.methods import Method
from optsteps.solvers import SOLVERS, build_solver
from optsteps.solvers.base import Solver

TINY = ["steps=[2,3]", "teacher.steps=6", "search.samples=3", "test.samples=32", "test.oracle=3", "logger=none"]
TINY += ["store.folder=null"]
TOY = ["metric=toy", "metric.judges.1.samples=64"]
TINY_PLANE = ["model=mixture", *TOY]
# need a pipeline: tests/models/test_diffusers_cli.py has them
OF_PIPELINES = {
    "model=diffusers",
    "model=pipeline",
    "process=own",
    "metric=pixels",
    "metric=perception",
    "metric=geneval",
}
OF_PIPELINES |= {"experiment=geneval_flux"}
CHOICES = sorted(
    f"{file.parent.name}={file.stem}"
    for group in ("process", "model", "solver", "method", "rivals", "metric", "runner", "logger", "experiment")
    for file in (CONFIG_DIR / group).glob("*.yaml")
    if (file.stem not in ("gpu", "all_gpus", "ddp") or torch.cuda.is_available()) and file.stem != "slurm"
    if f"{file.parent.name}={file.stem}" not in OF_PIPELINES
)
# what a choice needs beside it: a metric for its data, a method for its solver, a logger that stays offline
# bfloat16 is slow where a CPU does not compute in it
FLOAT32 = "model.precision=float32"
ALONGSIDE = {
    "model=mixture": TOY,
    "model=grid": TOY,
    "metric=toy": TINY_PLANE,
    "metric=plane": TINY_PLANE[:1],
    "metric=teacher": TINY_PLANE[:1],
    "metric=distances": ["test.samples=32", "metric.judges.1.sets=4"],
    "experiment=mixture": TOY[1:],
    "metric=toy_many": [*TINY_PLANE[:1], *TOY[1:]],
    # two sets of a few samples make no FID worth the name, but a run
    "method=ays_fid": ["metric=teacher", "search.samples=12", "method.max_sweeps=1", "method.levels=16"],
    "method=timestep_aligner": ["method.iterations=2", "solver=euler"],
    **{f"method={name}": ["search.samples=4"] for name in ("ld3", "ld3_published", "auto")},
    **{f"method={name}": ["search.samples=16", "method.rounds=1"] for name in ("evolution", "bayesian", "cmaes")},
    "experiment=blackbox_scenes": [
        "nfe=null",
        "search.samples=48",
        "test.samples=12",
        "model.guidance=1",
        "method.rounds=1",
        "rivals=none",
        "~rivals.auto",
        "~rivals.oss",
        FLOAT32,
    ],
    "experiment=blackbox_cifar10": [
        "steps=[2,3]",
        "search.samples=8",
        "test.samples=40",
        "method.criterion=nearness",
        "method.rounds=1",
        "method.population=10",
        "method.mutants=5",
        "method.crossovers=5",
        "metric.judges.2.sets=4",
        "metric.judges.3.judge.sets=4",
        "rivals=none",
        "~rivals.auto",
        "~rivals.ddim",
        FLOAT32,
    ],
    "method=oss_few": ["search.samples=8"],
    "rivals=beside_auto": [*TINY_PLANE, "search.samples=8"],
    "experiment=affordable_oss": ["model=digits", "search.samples=8"],
    "method=ays_published": [*TINY_PLANE, "method.max_sweeps=1", "method.max_iterations=1"],
    "experiment=solver_orders_mixture": ["nfe=null", "teacher.solver=heun", "test.samples=32"],
    "experiment=solver_orders_mnist": [
        "nfe=null",
        "test.samples=32",
        "metric.judges.1.sets=4",
        "rivals=[path,edm]",
        FLOAT32,
    ],
    "experiment=ays_images": [
        "~dataset",
        "search.data=null",
        "search.samples=12",
        "rivals.oss.samples=2",
        "teacher.solver=euler",
        "method.max_sweeps=1",
        "method.levels=16",
        "metric.judges.1.sets=4",
        FLOAT32,
    ],
    "experiment=ays_cifar10": [
        "~dataset",
        "search.data=null",
        "search.samples=8",
        "test.samples=40",
        "method.max_sweeps=1",
        "method.levels=6",
        "metric.judges.2.sets=4",
        "teacher.solver=euler",
        FLOAT32,
    ],
    **{
        f"experiment=ays_toys{grid}": [
            "nfe=null",
            "search.samples=16",
            "search.data=16",
            "rivals.ays_order_2.levels=16",
            "method.levels=16",
            *TOY[1:],
        ]
        for grid in ("", "_8x8", "_8x4", "_6x6")
    },
    # all methods on the plane; three of them, which are enough to see the rest, on the others
    "experiment=rivals_mixture": ["nfe=null", "metric.judges.1.samples=64", "search.data=64"],
    **{
        f"experiment=rivals{model}": ["nfe=null", "~rivals.oss_full.grid_steps", "rivals=[gits,dm]", *few]
        for model, few in {
            "": [],
            "_digits": [],
            "_grid": ["metric.judges.1.samples=64"],
            "_mnist": ["test.samples=32", "metric.judges.1.sets=4"],
            "_scenes": ["test.samples=18"],
        }.items()
    },
    **{
        f"experiment=auto{model}": [
            *("nfe=null", "search.samples=8", "rivals=[gits,dm]"),
            *few,
        ]
        for model, few in {
            "": ["model=digits"],
            "_cifar10": [],
            "_digits": [],
            "_grid": ["metric.judges.1.samples=64"],
            "_mixture": ["metric.judges.1.samples=64"],
            "_mnist": ["test.samples=32", "metric.judges.1.sets=4"],
            "_scenes": ["test.samples=18"],
        }.items()
    },
    # two prompts of every task
    "model=scenes": ["test.samples=12", "model.guidance=1"],
    "metric=geneval_scenes": ["model=scenes", "test.samples=12", "model.guidance=1"],
    "experiment=geneval_scenes": [
        "test.samples=12",
        "model.guidance=1",
        "rivals=none",  # but its own, ays and ddim
        "rivals.ays.levels=16",
        FLOAT32,
    ],
    "model=cifar10": ["metric=teacher", "test.samples=2", "test.oracle=0", "search.samples=1", "check_model=false"],
    **{f"experiment=teacher_{family}": [FLOAT32] for family in ("edm", "ddim", "flow")},
    # OSS needs a solver that is deterministic; as a rival it is left out
    **{f"solver={name}": [*TINY_PLANE, "method=edm"] for name in SOLVERS if build_solver(name).stochastic},
    "logger=wandb": [*TINY_PLANE, "logger.mode=offline"],
    # noise levels of SD 1.5 under its own process; a mixture is of no kind that anything is published for
    "method=published": [*TINY_PLANE, "process=vp", "method.model=sd15"],
    "method=file": [*TINY_PLANE, "method.path=published:sd15"],
    # precision and recall compare every pair of 10,000 features: tests/metrics has them, on fewer
    "metric=fidelity": ["metric.judges.2.sets=4", "metric.judges.2.figures=[fid,kid]"],
    "metric=fidelity_twice": [
        "model=cifar10",
        "search.samples=8",
        "test.samples=40",
        "test.oracle=0",
        "metric.judges.2.sets=4",
        "metric.judges.3.judge.sets=4",
        FLOAT32,
    ],
    "experiment=mnist_fid": ["test.samples=32", "metric.judges.2.sets=4", "metric.judges.2.figures=[fid,kid]", FLOAT32],
}


# choices that a run treats each in a way of its own; the runs of all others are slow, and their plans are made here
QUICK = {
    *("process=vp", "model=digits", "model=mixture", "solver=ipndm", "solver=ddim_stochastic", "solver=auto"),
    *(f"method={name}" for name in ("auto", "oss", "ays", "edm", "file", "evolution")),
    *("metric=teacher", "logger=csv"),
}


def start(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> None:
    """`optsteps OVERRIDES`, in this process, with `folder` as the run's."""
    monkeypatch.setattr(sys, "argv", ["optsteps", f"hydra.run.dir={folder}", *with_oss(overrides)])
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    command.main()


@pytest.mark.usefixtures("blank_pictures")
def test_times_whose_orders_were_searched_stand_in_the_table_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(monkeypatch, tmp_path, *TINY, *TINY_PLANE, "solver=dpmpp_2m", "runner=cpu")
    results = json.loads((tmp_path / "metrics.json").read_text())
    times = {(row["method"], row["steps"]): row["times"] for row in results["rows"]}
    for n in (2, 3):
        for name in ("oss",):
            assert times[f"{name}_without_orders", n] == times[name, n]
    assert not any(name.startswith("edm_without") for name, _ in times)
    files = {n: json.loads((tmp_path / "schedules" / f"oss_without_orders_{n}.json").read_text()) for n in (2, 3)}
    assert [files[n]["orders"] for n in (2, 3)] == [None, None]
    assert "under the orders that the solver gives to every rival" in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("blank_pictures")
def test_orders_that_are_the_solver_s_own_have_no_row_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(
        monkeypatch,
        tmp_path,
        *TINY,
        *TINY_PLANE,
        "solver=dpmpp_2m",
        "runner=cpu",
        "method.orders=fixed",
        "solver.lower_order_final=false",
    )
    results = json.loads((tmp_path / "metrics.json").read_text())
    found = json.loads((tmp_path / "schedule_3.json").read_text())["orders"]
    assert found == [1, 2, 2]  # which the solver runs, though its own orders are 2, 2 and 2
    assert not any("without_orders" in row["method"] for row in results["rows"])


def made_small(choice: str) -> list[str]:
    """A choice with what makes its run a matter of seconds."""
    group = choice.split("=")[0]
    small = [o for o in TINY if not (group == "logger" and o.startswith("logger"))]
    if group in ("method", "metric", "model", "logger", "runner"):  # the others run the default rivals
        small.append("rivals=[edm]" if choice != "method=edm" else "rivals=[logsnr]")
    anywhere = group in ("process", "solver", "method", "rivals", "runner", "logger") and choice != "method=ays_fid"
    plane = TINY_PLANE if anywhere else []
    return [choice, *dict.fromkeys([*small, *plane, *ALONGSIDE.get(choice, [])])]


@pytest.mark.parametrize("choice", [pytest.param(c, marks=[pytest.mark.slow] * (c not in QUICK)) for c in CHOICES])
def test_every_choice_of_every_group_runs(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    group = choice.split("=")[0]
    # which decide over what a picture shows; images are drawn in the run that leaves what it promises
    if choice == "model=digits" or (group != "model" and choice != "process=flow"):
        request.getfixturevalue("blank_pictures")
    start(monkeypatch, tmp_path, *made_small(choice))
    results = json.loads((tmp_path / "metrics.json").read_text())
    assert {row["steps"] for row in results["rows"]} == {2, 3, 6}
    assert (tmp_path / "report.md").stat().st_size > 500
    for n in (2, 3):
        assert Schedule.load(tmp_path / f"schedule_{n}.json").steps == n


# the solvers and methods are built below
PLANNED = [c for c in CHOICES if c not in QUICK and c.split("=")[0] not in ("solver", "method")]
# experiments beside one of the same kind, whose plans are slow
ALIKE = re.compile(
    r"rivals=beside_auto|"
    r"experiment=(auto|rivals|ays_toys$|ays_toys_(?!8x8)|ays_cifar10|teacher_(?!edm)|blackbox_|solver_orders_(?!mixture))"
)


@pytest.mark.parametrize("choice", [pytest.param(c, marks=[pytest.mark.slow] * bool(ALIKE.match(c))) for c in PLANNED])
@pytest.mark.mostly_slow(3)
def test_every_other_choice_has_a_plan(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(monkeypatch, tmp_path, *made_small(choice), "plan=true")
    assert "evaluations of each" in capsys.readouterr().out


def test_every_method_and_solver_is_built() -> None:
    """Those whose runs are slow too."""
    files = {group: sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml")) for group in ("method", "solver")}
    added = [f"+{group}@built.{group}.{name}={name}" for group, names in files.items() for name in names]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        built = compose("config", [*added, "built.method.file.path=published:sd15"]).built
    assert all(isinstance(instantiate(built.method[name]), Method) for name in files["method"])
    assert all(isinstance(instantiate(built.solver[name]), Solver) for name in files["solver"])


def test_a_run_leaves_what_it_promises_and_is_repeatable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    start(monkeypatch, folders[0], *TINY, "test.samples=16")
    request.getfixturevalue("blank_pictures")
    start(monkeypatch, folders[1], *TINY, "test.samples=16")
    written = {str(path.relative_to(folders[0])) for path in folders[0].rglob("*") if path.is_file()}
    promised = {"metrics.json", "report.md", "schedules.png", "path_error.png", "samples_2.png", "schedule_3.json"}
    assert promised | {"config.yaml", ".hydra/config.yaml"} <= written
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    first, second = (written["rows"] for written in metrics)
    assert all(written["evaluations_per_second"] > 0 for written in metrics)
    spent = {row["method"]: (row["search_nfe"], row["search_evaluations"]) for row in first if row["steps"] == 3}
    assert all(evaluations == 3 * nfe for nfe, evaluations in spent.values())
    assert spent["oss"][1] > spent["edm"][1] == 0
    assert "that the run measured." in (folders[0] / "report.md").read_text()
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in a.items() if k != "search_seconds"} == {
            k: v for k, v in b.items() if k != "search_seconds"
        }
    oracle = [row for row in first if row["oracle"]]
    assert [row["samples"] for row in oracle] == [3, 3]
    rivals = {row["method"] for row in first if not row["oracle"]}
    assert rivals == {"teacher", "oss", "edm", "time_uniform", "logsnr"}


TEACHER_JUDGE = "{_target_:optsteps.metrics.judges.TeacherJudge,data_range:2.0}"
# slow are those beside another of the same place
SLOW_ERRORS = ("solver=nonsense", "method@rivals.oss=oss_median", "+method@rivals.mine=oss", "metric.verdicts=[nll]")
SLOW_ERRORS += ("objective.steps=7", "solver.kind=rho", "steps=[0]", "steps=[]", "metric=toy", "store.precision=float8")
SLOW_ERRORS += ("teacher.family=nonsense", "solver.order=5", "metric.judges.2.sets=1", "search.samples=0", "nonsense=1")


def slow_beside_another(wrong: list[str], expected: list[str]) -> Any:
    return pytest.param(wrong, expected, marks=[pytest.mark.slow] * bool(set(SLOW_ERRORS) & set(wrong)))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        slow_beside_another(["method=nonsense"], ["nonsense", "oss"]),
        slow_beside_another(["solver=nonsense"], ["nonsense", "euler"]),
        slow_beside_another(["solver=er_sde_2"], ["oss: ", "er_sde_2", "deterministic"]),
        slow_beside_another(
            ["solver=er_sde_2", "method=edm", "+method@rivals.mine=oss"], ["mine: ", "er_sde_2", "deterministic"]
        ),
        slow_beside_another(
            ["solver=er_sde_2", "method=edm", "method@rivals.oss=oss_median"], ["oss: ", "er_sde_2", "deterministic"]
        ),
        slow_beside_another(["+method@rivals.mine=ays", "+rivals.mine.candidates=4"], ["candidates", "4"]),
        slow_beside_another(["method=ays", "method.starts=[edn]"], ["edn"]),
        slow_beside_another(["method.channels=[3]"], ["channels [3]"]),
        slow_beside_another(["metric.verdicts=[foo]"], ["'foo'", "psnr, accuracy, kid"]),
        slow_beside_another([*TINY_PLANE, "metric.verdicts=[nll]"], ["'nll'", "mse, sliced_wasserstein"]),
        slow_beside_another(["test.samples=8"], ["8 samples make 4 sets of 2", "16"]),
        slow_beside_another(["metric.judges.2.sets=1"], ["at least 2 disjoint sets"]),
        slow_beside_another([f"metric.judges=[{TEACHER_JUDGE},{TEACHER_JUDGE}]"], ["mse, psnr", "SecondJudge"]),
        slow_beside_another(["objective.figure=fid"], ["objective.figure=fid", "kid"]),
        slow_beside_another(["objective.figure=psnr", "objective.steps=7"], ["objective.steps=7", "[2, 3]"]),
        slow_beside_another(["method=ays_fid", "search.samples=4"], ["4 samples are too few for fid"]),
        slow_beside_another(["solver=deis", "solver.kind=rho"], ["tab", "logrho", "rho"]),
        slow_beside_another(["solver=unipc", "solver.order=5"], ["unipc", "5"]),
        slow_beside_another(["nfe=[1]", "solver=heun"], ["1", "heun"]),
        slow_beside_another(["steps=[9]"], ["9", "6"]),
        slow_beside_another(["steps=[0]"], ["0"]),
        slow_beside_another(["steps=[]"], ["[]"]),
        slow_beside_another(["teacher.family=nonsense"], ["nonsense", "time_uniform"]),
        slow_beside_another(["model.weights=/no/such/file"], ["/no/such/file", "shipped:mnist"]),
        slow_beside_another(["model.shape=[1,27,28]"], ["27"]),
        slow_beside_another(["model=mixture", "metric=images"], ["image"]),
        slow_beside_another(["metric=toy"], ["density"]),
        slow_beside_another(["nonsense=1"], ["nonsense"]),
        slow_beside_another(["search.samples=0"], ["samples"]),
        pytest.param(
            ["runner=gpu"],
            ["runner.accelerator='gpu'", "runner=cpu"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        slow_beside_another(["model=digits", "metric=images"], ["(1, 28, 28)", "(1, 8, 8)", "metric=teacher"]),
        slow_beside_another(["store.precision=float8"], ["store.precision", "float8"]),
        slow_beside_another(["runner.states=tape"], ["runner.states", "tape"]),
        slow_beside_another(["store.folder="], ["store.folder=: ", "null keeps nothing"]),
    ],
)
@pytest.mark.mostly_slow(2)
def test_errors_are_one_paragraph(
    overrides: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def evaluated(*_args: object) -> None:
        raise AssertionError("an evaluation")

    monkeypatch.setattr("optsteps.denoisers.CountedDenoiser.__call__", evaluated)
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, tmp_path, *TINY, *overrides)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    message = error[error.index("error:") :]
    assert "Traceback" not in error
    for word in expected:
        assert word in message
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize(
    ("overrides", "left_out"),
    [
        (["method=ays", "solver=ddim_stochastic", "dataset=mnist", "search.data=16"], True),
        pytest.param(["method=ays_fid", "solver=sde_dpmpp_2m", "search.samples=12"], True, marks=pytest.mark.slow),
        pytest.param(["method=ays"], False, marks=pytest.mark.slow),
    ],
)
def test_a_default_rival_that_cannot_take_part_is_left_out_with_a_sentence(
    overrides: list[str], left_out: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """README's commands of AYS, with few samples."""
    _small_mnist(tmp_path, 20, 28)
    small = ["steps=[2]", "method.max_sweeps=1", "method.levels=16", f"paths.data={tmp_path}", "metric=teacher"]
    start(monkeypatch, tmp_path / "run", *TINY, *small, *overrides)
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    said = found["facts"].get("left out", "")
    methods = {row["method"] for row in found["rows"]}
    assert {"edm", "time_uniform", "logsnr"} < methods
    assert ("oss" in methods) != left_out
    assert ("oss: oss compares with the teacher's samples" in said) == left_out
    assert ("left out" in (tmp_path / "run" / "report.md").read_text()) == left_out


def test_truncated_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    whole = (Path(command.__file__).parents[1] / "models" / "weights" / "mnist.safetensors").read_bytes()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path / "run", *TINY, f"model.weights={broken}")
    assert f"{broken} is truncated" in capsys.readouterr().err


def test_output_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path / "file" / "run", *TINY, *TINY_PLANE)
    error = capsys.readouterr().err
    assert str(tmp_path / "file") in error
    assert "Traceback" not in error


def test_full_disk_leaves_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    real_fdopen = os.fdopen

    def full(handle: int, mode: str = "r", *args, **kwargs):
        file = real_fdopen(handle, mode, *args, **kwargs)
        if mode == "wb":
            file.write(b"half")
            file.close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return file

    monkeypatch.setattr("optsteps.storage.files.os.fdopen", full)
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path, *TINY, *TINY_PLANE)
    assert "No space left" in capsys.readouterr().err
    left = [path for path in tmp_path.rglob("*") if path.is_file() and ".hydra" not in path.parts]
    assert all(path.suffix == ".log" for path in left), left


@pytest.mark.slow
def test_nothing_is_lost_at_the_end(tmp_path: Path) -> None:
    """Without git and a home, printing to a full disk, from an infinite noise level: results and exit status 0."""
    free = ["process=flow", "model.noise_max=inf", "teacher.family=time_uniform", "method=time_uniform"]
    free += [f"~method@rivals.{name}" for name in ("edm", "logsnr", "time_uniform")]
    own = [o for o in (*TINY, *TINY_PLANE, *free) if o.split("=")[0] not in ("store.folder", "logger")]
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "OPTSTEPS_DATA")}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "optsteps.cli.run", *own, "logger=csv", "hydra.run.dir=run"],
            env={**environment, "PATH": str(tmp_path)},
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("standard output cannot be written") == 1
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())["facts"]
    assert facts["commit"] == "unknown: git cannot be run (No such file or directory)"
    assert Schedule.load(tmp_path / "run" / "schedule_3.json").times[0] == 1
    assert list((tmp_path / "run").glob("csv/*/metrics.csv"))
    assert list((tmp_path / "outputs" / "store").glob("*/*.safetensors"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "finished"


@pytest.mark.usefixtures("blank_pictures")
def test_a_terminal_of_ascii_and_a_pipe_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's name, which is no markup and no line's end, stands in one piece."""
    small = [o for o in (*TINY, *TINY_PLANE) if not o.startswith("test.oracle")]
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    folder = tmp_path / f"[bold]caf\u00e9{'x' * 80}"
    monkeypatch.setattr(sys, "argv", ["optsteps", f"hydra.run.dir='{folder}'", *with_oss(small), "test.oracle=0"])
    command.main()
    told = plain.buffer.getvalue().decode()
    assert f"report and schedules: {folder}\n".replace("\u00e9", "\\xe9") in told
    assert (folder / "metrics.json").exists()

    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        start(monkeypatch, tmp_path / "pipe", *small, "test.oracle=0")
    assert json.loads((tmp_path / "pipe" / "run.json").read_text())["state"] == "finished"


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_a_run_goes_on_from_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started again, even from another folder, it evaluates nothing; with another seed or model, everything."""
    kept = [*(o for o in TINY if not o.startswith("store")), *TINY_PLANE, f"store.folder={tmp_path / 'store'}"]
    start(monkeypatch, tmp_path / "first", *kept)

    def evaluated(*_args: object) -> None:
        raise RuntimeError("an evaluation")

    monkeypatch.setattr("optsteps.denoisers.CountedDenoiser.__call__", evaluated)
    start(monkeypatch, tmp_path / "second", *kept)
    for n in (2, 3):
        first, second = (tmp_path / name / f"schedule_{n}.json" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    for changed in ("seed=1", "model.noise_max=40", "teacher.steps=7", "solver=ipndm", "search.samples=4"):
        with pytest.raises(RuntimeError, match="an evaluation"):
            start(
                monkeypatch, tmp_path / "third", *(o for o in kept if o.split("=")[0] != changed.split("=")[0]), changed
            )


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("counts", [[(2, "true")], [(2, "false"), (4, "true"), (4, "false")]])
def test_any_number_of_processes_finds_the_same(
    counts: list[tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each number with a store of its own, so that all is computed."""
    found = []
    for count, shared in ((1, "true"), *counts):
        folder = tmp_path / f"{count}{shared}"
        own = [f"store.folder={folder / 'store'}", "runner=cpu", "runner.threads=1", f"runner.devices={count}"]
        own += [f"store.shared={shared}"]
        few = ["search.samples=20", "method.shard_size=4", "max_batch=4", "rivals=[ays]"]
        few += ["rivals.ays.levels=16", "rivals.ays.shard_size=4", "+rivals.ays.block_size=2"]
        start(monkeypatch, folder, *(o for o in TINY if o.split("=")[0] not in ("store.folder", "search.samples")),
              *TINY_PLANE, *few, *own)  # fmt: skip
        found.append(found_in(folder))
        logs = [path.read_text() for path in folder.glob("ranks/*.log")]
        assert len(logs) == count - 1
        assert "Traceback" not in "".join(logs)
    assert all(others == found[0] for others in found)


def found_in(folder: Path) -> tuple[list[dict[str, Any]], dict[str, bytes], list[Any]]:
    """All that a run found."""
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = [{k: v for k, v in row.items() if k != "search_seconds"} for row in metrics["rows"]]
    return rows, {path.name: path.read_bytes() for path in folder.glob("schedule_*.json")}, metrics["verdicts"]


def ranks_of(launcher: str, folder: Path, *overrides: str) -> list[subprocess.Popen[bytes]]:
    """A command with two ranks, as a launcher starts it."""
    command = ["-m", "optsteps", *with_oss(overrides), "runner=slurm" if launcher == "slurm" else "runner=cpu"]
    command += ["runner.accelerator=cpu", "runner.threads=1"]
    torchrun = ["-m", "torch.distributed.run", "--master-addr=127.0.0.1", "--master-port=29561"]
    started = []
    for k in range(2):
        names, environment = ("NTASKS", "NTASKS_PER_NODE", "NNODES", "PROCID", "LOCALID", "NODEID"), dict(os.environ)
        before = [sys.executable]
        if launcher == "slurm":
            environment |= {f"SLURM_{n}": str(v) for n, v in zip(names, (2, 2, 1, k, k, 0), strict=True)}
            environment |= {"SLURM_JOB_NAME": "search", "SLURM_JOB_ID": "31", "MASTER_PORT": "29571"}
        elif launcher == "two agents":
            before += [*torchrun, "--nnodes=2", "--nproc-per-node=1", f"--node-rank={k}"]
        elif k == 0:
            before += [*torchrun, "--nproc-per-node=2"]
        else:
            continue
        started.append(subprocess.Popen([*before, *command], env=environment, cwd=folder))
    return started


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("launcher", ["torchrun", "slurm", "two agents"])
def test_every_launcher_finds_the_same(launcher: str, shared: bool, tmp_path: Path) -> None:
    """Rank 0 reports what a run alone finds, and the other one leaves no folder of its own."""
    kept = [*(o for o in TINY if not o.startswith("store")), *TINY_PLANE, "rivals=[path,edm]", "method.shard_size=1"]
    own = ["store.folder=store", f"store.shared={str(shared).lower()}"]
    ranks = ranks_of(launcher, tmp_path, *kept, *own)
    assert [rank.wait(600) for rank in ranks] == [0] * len(ranks)
    (together,) = (tmp_path / "outputs").glob("*/*")
    alone = [*kept, "runner=cpu", "runner.threads=1", "store.folder=null", "hydra.run.dir=alone"]
    subprocess.run([sys.executable, "-m", "optsteps", *with_oss(alone)], cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "store", "alone"}
    assert found_in(together) == found_in(tmp_path / "alone")


def _small_mnist(folder: Path, count: int, side: int) -> None:
    """The start of a training set, in LeCun's format."""
    for kind, shape in (("images-idx3", (count, side, side)), ("labels-idx1", (count,))):
        head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        body = bytes(k % 10 for k in range(math.prod(shape)))
        (folder / f"train-{kind}-ubyte.gz").write_bytes(gzip.compress(head + body))


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_data_for_methods_that_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Of a dataset, with its labels, or of a model whose distribution is known."""
    _small_mnist(tmp_path, 20, 28)
    chosen = [*TINY, "method=ays", "method.levels=8", "method.max_sweeps=1", "rivals=none", f"paths.data={tmp_path}"]
    start(monkeypatch, tmp_path / "images", *chosen, "metric=teacher", "dataset=mnist", "search.data=16")
    start(monkeypatch, tmp_path / "plane", *chosen, *TINY_PLANE, "search.data=9")
    for name, data in (("images", 16), ("plane", 9)):
        assert Schedule.load(tmp_path / name / "schedule_3.json").metadata["samples"] == data
    for overrides, message in (
        (["dataset=mnist", "search.data=21"], "search.data=21, but MNIST has 20 images"),
        (["dataset=mnist", "search.data=5", *TINY_PLANE], "MNIST has images of shape (1, 28, 28), mixture makes (2,)"),
        (["search.data=5"], "search.data=5 needs data: choose a dataset"),
    ):
        with pytest.raises(SystemExit):
            start(monkeypatch, tmp_path / "no", *chosen, *overrides)
        assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("blank_pictures")
def test_evaluations_instead_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, tmp_path, *TINY, *TINY_PLANE, "nfe=[4,7]", "solver=heun")
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert {(row["steps"], row["nfe"]) for row in rows if row["method"] != "teacher"} == {(2, 4), (3, 6)}


@pytest.mark.usefixtures("blank_pictures")
def test_the_batch_that_fits_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a method inside a method."""
    start(monkeypatch, tmp_path, *TINY, *TINY_PLANE, "max_batch=auto", "method=oss_euler")
    assert json.loads((tmp_path / "metrics.json").read_text())["facts"]["max_batch"] == "256"


@pytest.mark.usefixtures("blank_pictures")
def test_a_schedule_keeps_the_orders_it_was_searched_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, tmp_path, *TINY, *TINY_PLANE, "solver=dpmpp_3m")
    orders = Schedule.load(tmp_path / "schedule_3.json").orders
    assert orders is not None
    assert orders[0] == 1
    assert max(orders) <= 3


def test_core_imports_neither_hydra_nor_lightning_nor_wandb() -> None:
    code = (
        "import sys, optsteps, optsteps.methods, optsteps.solvers, optsteps.models\n"
        "print([name for name in ('hydra', 'lightning', 'wandb', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_outside_users_rely_on() -> None:
    from optsteps import SearchProblem, sample
    from optsteps.methods import OSS
    from optsteps.models.analytic import GaussianMixture
    from optsteps.processes import EDM
    from optsteps.schedules import build_schedule
    from optsteps.solvers import build_solver

    mix = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), torch.tensor([0.3, 0.3]), torch.tensor([0.5, 0.5]))
    noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    problem = SearchProblem(
        denoiser=mix.denoiser(EDM()),
        process=EDM(),
        solver=build_solver("euler"),
        noise=noise,
        cond=None,
        data=None,
        data_cond=None,
        teacher=build_schedule("edm", EDM(), steps=100, t_max=80.0, t_min=0.002),
    )
    found = OSS().search(problem, steps=[5, 10])
    assert found.per_sample[10].shape == (4, 11)
    assert bool((found.per_sample[10].diff(dim=1) > 0).all())
    path = sample(problem.denoiser, found.schedules[10], problem.solver, noise, return_trajectory=True)
    assert path.shape == (11, 4, 2)
