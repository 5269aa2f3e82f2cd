"""Mistakes of a first hour: each is answered in one paragraph that says what to do, before anything is evaluated."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from overrides import with_oss

import optsteps
from optsteps.cli import run as command

# of a processor, or twice what the import of the packages takes on a slow machine; the target is 3 s
SECONDS = 10.0
NOT_INSTALLED = "a package that is not installed"
MISTAKES = {
    "a group that does not exist": (["modle=mnist"], "there is no modle (did you mean model?)"),
    "a choice that does not exist": (["solver=dpmp_2m"], "(did you mean dpmpp_2m?)"),
    "a key that does not exist": (["model.nose_max=3"], "(did you mean noise_max?)"),
    "an option as other programs have it": (["--steps", "5"], "there is no option --steps; a setting is written"),
    "a setting without =": (["mnist"], "a setting is written KEY=VALUE"),
    "a value of another type": (["test.samples=many"], "test.samples=many: it should be a valid integer"),
    "a decimal comma": (["store.limit_gb=0,5"], "a decimal number with a point, store.limit_gb=0.5"),
    "no step at all": (["steps=0"], "steps=0: it should be greater than or equal to 1"),
    "more steps than the teacher has": (["steps=200", "model=mixture"], "the teacher has only 100 to choose from"),
    "a rival that does not exist": (["rivals=[edm,aays]"], "(did you mean ays?)"),
    "rivals without brackets": (["rivals=edm,ays"], "a list is written 'rivals=[edm,ays]'"),
    "a rival twice": (["rivals=[default,edm]"], "edm is chosen twice in rivals"),
    "a rival that the solver excludes": (
        ["solver=ddim_stochastic", "method=edm", "rivals=[oss]", "model=mixture"],
        "search with a deterministic solver",
    ),
    "a metric that does not exist": (["metric=tecaher"], "(did you mean teacher?)"),
    "a figure that is not measured": (["objective.figure=fid", "model=mixture"], "the run has mse, nll"),
    "weights that are not there": (["model.weights=mine.safetensors"], "no weights file at mine.safetensors"),
    NOT_INSTALLED: (["logger=tensorboard"], "pip install 'optsteps[tensorboard]' installs it"),
    "a module in another folder": (["--config-dir=conf", "model=mine"], "add that folder to PYTHONPATH"),
    "a path that has no default": (["model=diffusers"], "model.path has no default: give model.path=..."),
    "too few samples for FID": (["metric=fidelity", "test.samples=20"], "take at least 40 samples"),
    "the folder of another run": (["hydra.run.dir=run", "model=mixture"], "choose another folder with hydra.run.dir"),
    "a sweep over choices of which one lacks a setting": (
        ["-m", "experiment=mixture,mnist_fid", "model.stds=[1,1,1,1]"],
        "experiment=mixture has and experiment=mnist_fid has not",
    ),
}
# each kind in a process of its own: noticed by Hydra, before torch is loaded, by an import, by the model, and by the
# slowest judges
FROM_THE_SHELL = (
    "a choice that does not exist",
    "a value of another type",
    NOT_INSTALLED,
    "weights that are not there",
    "too few samples for FID",
)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the files that the mistakes are about."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: somewhere_else.my_model\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_text("{}")
    # Python imports it at its start: from then on tensorboard cannot be imported
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tensorboard'] = None\n")
    return tmp_path


def processor_seconds() -> float:
    """What the processes that this one has started took, as far as they have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@pytest.fixture(scope="module")
def limit() -> float:
    """Seconds within which a mistake is answered."""
    before = processor_seconds()
    subprocess.run([sys.executable, "-c", "import torch, torch_fidelity"], check=True, capture_output=True)
    return max(SECONDS, 2 * (processor_seconds() - before))


def check_answer(mistake: str, desk: Path, program: str, out: str, err: str) -> None:
    """One paragraph on standard error, and nothing evaluated."""
    assert MISTAKES[mistake][1] in err
    # a mistake that only the model shows comes after the line that says what is loaded
    said = re.sub(r"\A\d\d:\d\d:\d\d loading \S+\n", "", err)
    assert said.startswith(f"{program}: error: ")
    assert said.count("\n") == 1
    assert out == ""
    assert not list((desk / "outputs" / "store").rglob("*.safetensors"))


@pytest.mark.parametrize("mistake", [mistake for mistake in MISTAKES if mistake != NOT_INSTALLED])
@pytest.mark.mostly_slow(2)
def test_a_mistake_is_answered_in_one_paragraph(
    mistake: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setattr(sys, "argv", ["optsteps", *with_oss(MISTAKES[mistake][0])])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 1
    check_answer(mistake, desk, "optsteps", *capsys.readouterr())


@pytest.mark.parametrize(
    "mistake", [FROM_THE_SHELL[0], *(pytest.param(one, marks=pytest.mark.slow) for one in FROM_THE_SHELL[1:])]
)
def test_a_mistake_is_answered_at_once(mistake: str, desk: Path, limit: float) -> None:
    path = os.pathsep.join([str(desk), str(Path(optsteps.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "optsteps.cli.run", *MISTAKES[mistake][0]]
    before = processor_seconds()
    done = subprocess.run(line, cwd=desk, env=environment, capture_output=True, text=True, check=False)
    seconds = processor_seconds() - before
    print(f"{mistake}: {seconds:.1f} s")
    assert done.returncode == 1
    check_answer(mistake, desk, "run", done.stdout, done.stderr)
    assert seconds < limit
