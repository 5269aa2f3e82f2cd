"""`optsteps new`: what it writes passes its own test, runs by the command that it prints, and overwrites nothing."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from overrides import with_oss

import optsteps
from optsteps.cli import run as command
from optsteps.cli.new import commands, files, new

TINY = ["steps=[2]", "teacher.steps=4", "search.samples=2", "test.samples=8", "test.oracle=0", "logger=none"]
TINY += ["store.folder=null", "rivals=none", "hydra.run.dir=run"]
# one name for each group, another than the starters' own
PARTS = {"model": "blurred_digits", "method": "nearest_of_three", "metric": "gap"}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("group", [pytest.param(g, marks=[pytest.mark.slow] * (g != "method")) for g in PARTS])
def test_the_written_test_passes_and_the_printed_command_runs(
    group: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = PARTS[group]
    monkeypatch.setattr(sys, "argv", ["optsteps", "new", group, name])
    command.main()
    written = {str(path.relative_to(desk)) for path in desk.rglob("*") if path.is_file()}
    assert written == {f"conf/{group}/{name}.yaml", f"{name}.py", f"tests/test_{name}.py"}
    said = capsys.readouterr().out.splitlines()
    assert {line.strip() for line in said} >= {*written, *commands(group, name)}
    assert not any("my_" in (desk / path).read_text() or "My" in (desk / path).read_text() for path in written)

    environment = {**os.environ, "PYTHONPATH": str(Path(optsteps.__file__).parents[1])}
    test, run = map(shlex.split, commands(group, name))
    assert (test[0], run[0]) == ("python", "optsteps")
    done = subprocess.run([sys.executable, *test[1:]], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setattr(sys, "argv", [run[0], *with_oss([*run[1:], *TINY])])
    command.main()
    results = json.loads((desk / "run" / "metrics.json").read_text())
    if group == "model":
        assert results["facts"]["model"] == name
    elif group == "method":
        assert results["method"] == name
    else:
        assert "absolute_difference" in results["rows"][-1]["figures"]


@pytest.mark.parametrize("group", PARTS)
def test_nothing_is_overwritten(group: str, desk: Path) -> None:
    (desk / "tests").mkdir()
    (desk / "tests" / "test_mine.py").write_text("mine")
    with pytest.raises(ValueError, match=r"tests/test_mine\.py is there already, and nothing was written"):
        new([group, "mine"])
    assert [path.name for path in desk.rglob("*") if path.is_file()] == ["test_mine.py"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "it is optsteps new model|method|metric NAME"),
        (["model"], "it is optsteps new model|method|metric NAME"),
        (["solver", "mine"], "it is optsteps new model|method|metric NAME"),
        (["model", "mine", "more"], "it is optsteps new model|method|metric NAME"),
        (["model", "my-model"], "'my-model' cannot name a Python module"),
        (["model", "../up"], "'../up' cannot name a Python module"),
        (["model", "class"], "'class' cannot name a Python module"),
        (["model", "mnist"], "model=mnist is a choice of optsteps already"),
        (["method", "torch"], "torch is the name of an installed module"),
    ],
)
def test_a_bad_name_is_refused_in_a_sentence(
    arguments: list[str],
    said: str,
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["optsteps", "new", *arguments])
    with pytest.raises(SystemExit):
        command.main()
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(desk.iterdir())


@given(group=st.sampled_from(sorted(PARTS)), name=st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True))
def test_any_name_makes_python_that_compiles(group: str, name: str) -> None:
    for path, text in files(group, name).items():
        assert not path.is_absolute()
        if path.suffix == ".py":
            compile(text, str(path), "exec")
