"""Errors on the terminal: one paragraph without a word of Hydra's, a traceback for those who ask for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser
from overrides import with_oss

from optsteps.cli import run as command
from optsteps.cli.errors import settle_arguments
from optsteps.cli.targets import check_targets


def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that ends with exit status 1 says on standard error."""
    monkeypatch.setattr(sys, "argv", ["optsteps", *with_oss(arguments)])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 1
    return capsys.readouterr().err


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("desk")
def test_an_error_of_the_run_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra says nothing before it, and the command leaves the environment as it was."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    for _ in range(2):
        said = answer(monkeypatch, capsys, "test.samples=1")
        assert said.startswith("optsteps: error: test.samples=1: ")
        assert said.count("\n") == 1
        assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("variable", ["HYDRA_FULL_ERROR", "OPTSTEPS_DEBUG"])
@pytest.mark.parametrize("argument", ["test.samples=1", "solver=eulre"])
def test_who_asks_for_it_gets_the_traceback(variable: str, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(sys, "argv", ["optsteps", argument])
    with pytest.raises(Exception, match=r"test\.samples=1|solver/eulre"):
        command.main()
    assert os.environ[variable] == "1"


@pytest.mark.usefixtures("desk")
def test_jobs_that_are_refused_do_not_end_the_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = answer(monkeypatch, capsys, "-m", "test.samples=1,0", "hydra.sweep.dir=sweep")
    assert "2 jobs failed:\ntest.samples=1 method=oss: test.samples=1: it should be" in said
    assert "\ntest.samples=0 method=oss: test.samples=0: it should be" in said
    assert "Error executing job" not in said
    again = answer(monkeypatch, capsys, "-m", "test.samples=1", "hydra.sweep.dir=sweep")
    assert "1 jobs failed:" in again


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["-m", "model=grid,mixture", "model.means=[[0,0]]"],
            "model.means is set, which model=mixture has and model=grid",
        ),
        (["-m", "seed=0,1", "model.means=[[0,0]]"], "there is no model.means; there are name,"),
        (["-m", "model=grid,mixture", "model.guidence=2"], "there is no model.guidence"),
        (["-m", "model=grid", "seed=0,1", "model.rws=3"], "(did you mean rows?)"),
        (["-m", "method=edm,cosine", "method.scale=2"], "method.scale is set, which method=cosine has and method=edm"),
        (["-m", "solver=deis,unipc", "solver.kind=a"], "is not there with the default solver, from which Hydra starts"),
        (["runner=dpp"], "there are all_gpus, auto, cpu, gpu, slurm\n"),
        (["hydra/launcher=jobs"], "come with pip install 'optsteps[sweeps]'"),
        (["-steps=5"], "there is no option -steps=5; a setting is written without hyphens and with =, as in steps=5"),
        (["seed=0,1"], "'seed=[0,1]', a decimal number with a point, seed=0.1, and a sweep over these values needs -m"),
        (["seed=0,1,2"], "'seed=[0,1,2]', and a sweep"),
    ],
)
@pytest.mark.usefixtures("desk")
@pytest.mark.mostly_slow(3)
def test_what_is_wrong_with_the_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in answer(monkeypatch, capsys, *arguments)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere_at_all.model", "there is no module nowhere_at_all in the current folder"),
        ("targets_of_mine.modle", r"there is no modle in targets_of_mine \(.*\) \(did you mean model\?\)"),
        (
            "targets_in_need.model",
            "targets_in_need needs a_package_of_theirs, which is not installed; pip install",
        ),
        ("targets_that_fail.model", r"targets_that_fail cannot be imported \(RuntimeError: no weights\)"),
        ("optsteps.models.mixtur", r"there is no mixtur in optsteps\.models .*did you mean mixture"),
    ],
)
def test_targets_that_cannot_be_found(
    target: str, said: str, desk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (desk / "targets_of_mine.py").write_text("def model(): ...\n")
    (desk / "targets_in_need.py").write_text("import a_package_of_theirs\n")
    (desk / "targets_that_fail.py").write_text("raise RuntimeError('no weights')\n")
    monkeypatch.syspath_prepend(desk)
    with pytest.raises(ValueError, match=rf"^model\._target_={target}: {said}"):
        check_targets({"model": {"_target_": target}}, {})
    assert not caplog.records


@pytest.mark.parametrize(
    ("arguments", "settled"),
    [
        ("a=1 b=2", "a=1 b=2"),
        ("-m a=1 --config-dir=conf b=2 --resolve c=3", "-m a=1 b=2 c=3 --config-dir=conf --resolve"),
        ("a=1 -m b=2", "a=1 b=2 -m"),
        ("a=1 --config-dir conf a=1 b=2", "a=1 a=1 b=2 --config-dir conf"),
    ],
)
def test_settings_stand_before_and_after_options(arguments: str, settled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["optsteps", *arguments.split()])
    settle_arguments()
    assert " ".join(sys.argv) == f"optsteps {settled}"
    given = get_args_parser().parse_args(sys.argv[1:])
    assert given.overrides == [one for one in settled.split() if "=" in one and not one.startswith("-")]
