"""Example method of the guide, run from a package outside this one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import optsteps
from optsteps.fingerprint import PROBES
from optsteps.methods import base

README = Path(base.__file__).with_name("README.md")
SMALL = ["model=mixture", "metric=toy", "metric.judges.1.samples=32", "steps=[2,3]", "teacher.steps=8", "logger=none"]
SMALL += ["search.samples=10", "test.samples=32", "test.oracle=0", "runner=cpu"]
# the command with a count of the network evaluations that it makes, in a file
COUNTED = """
import sys
from optsteps import denoisers
from optsteps.cli.run import main
evaluate, evaluations = denoisers.evaluate, 0
def counted(denoiser, x, t, cond=None):
    global evaluations
    evaluations += len(x)
    return evaluate(denoiser, x, t, cond)
denoisers.evaluate = counted
count = sys.argv.pop(1)
main()
open(count, "w").write(str(evaluations))
"""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with the files of the guide."""
    blocks = re.findall(r"`([\w/]+\.(?:py|yaml))`[^`]*\n```\w+\n(.*?)```", README.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == [
        "my_package/best_rho.py",
        "my_conf/method/best_rho.yaml",
        "my_package/sharded_best_rho.py",
        "my_conf/method/sharded_best_rho.yaml",
        "tests/test_best_rho.py",
    ]
    for name, text in blocks:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "my_package" / "__init__.py").touch()
    return tmp_path


def python(folder: Path, *arguments: str) -> None:
    """Run Python in a folder whose packages can be imported beside this one."""
    path = os.pathsep.join([str(folder), str(Path(optsteps.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def rows(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's table without wall times."""
    listed = json.loads((run / "metrics.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if key != "search_seconds"} for row in listed]


def test_the_plain_example_is_forty_lines_of_code(outside: Path) -> None:
    lines = (outside / "my_package" / "best_rho.py").read_text().splitlines()
    assert len([line for line in lines if line]) <= 45


@pytest.mark.slow
def test_the_examples_own_test(outside: Path) -> None:
    python(outside, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_best_rho.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["best_rho", "sharded_best_rho"])
def test_command_line_and_resume(method: str, outside: Path) -> None:
    options = ["--config-dir", "my_conf", f"method={method}", *SMALL]
    for folder in ("first", "again"):
        python(outside, "-c", COUNTED, f"count_{folder}", *options, f"hydra.run.dir={folder}")
    assert int((outside / "count_first").read_text()) > 3 * PROBES
    # of all that was found in the store nothing; the model itself is probed three times by every run
    assert int((outside / "count_again").read_text()) == 3 * PROBES
    assert rows(outside / "again") == rows(outside / "first")
    assert {row["method"] for row in rows(outside / "first")} >= {method, "edm", "teacher"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sweep_and_rival(outside: Path) -> None:
    options = ["method=best_rho,sharded_best_rho", "+method@rivals.given_rho=best_rho", "rivals.given_rho.rhos=[7.0]"]
    python(
        outside, "-m", "optsteps.cli.run", "--config-dir", "my_conf", "-m", *options, *SMALL, "hydra.sweep.dir=sweep"
    )
    plain, sharded = (rows(path.parent) for path in sorted((outside / "sweep").glob("*/metrics.json")))
    for a, b in zip(plain, sharded, strict=True):
        assert a | {"method": ""} == b | {"method": ""}
    assert {row["method"] for row in plain} >= {"best_rho", "given_rho"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes(outside: Path) -> None:
    options = ["--config-dir", "my_conf", "method=sharded_best_rho", "method.shard_size=3", *SMALL]
    python(outside, "-m", "optsteps.cli.run", *options, "hydra.run.dir=alone", "store.folder=store_alone")
    python(
        outside, "-m", "optsteps.cli.run", *options, "hydra.run.dir=both", "store.folder=store_both", "runner.devices=2"
    )
    assert rows(outside / "alone") == rows(outside / "both")


SUBSETS = '''
import torch
from optsteps.methods import Method, SearchResult


class Subsets(Method):
    """The teacher's first n times and its last; by itself every sample takes its last n and its first."""

    def __init__(self, by_itself: bool = False) -> None:
        self.by_itself = by_itself

    def find(self, problem, steps, workers):
        last = problem.teacher.steps
        paths = {n: torch.tensor([*range(n), last]) for n in steps}
        own = {n: torch.tensor([[0, *range(last - n + 1, last + 1)]] * len(problem.noise)) for n in steps}
        schedules = {n: self.path_schedule(problem, path) for n, path in paths.items()}
        return SearchResult(schedules, per_sample=own if self.by_itself else None)

    def alone(self):
        return Subsets(by_itself=True)
'''


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_method_outside_has_an_oracle_row(outside: Path) -> None:
    (outside / "my_package" / "subsets.py").write_text(SUBSETS)
    (outside / "my_conf" / "method" / "subsets.yaml").write_text("_target_: my_package.subsets.Subsets\n")
    options = ["--config-dir", "my_conf", "method=subsets", *SMALL, "test.oracle=4"]
    python(outside, "-m", "optsteps.cli.run", *options, "plan=true")
    python(outside, "-m", "optsteps.cli.run", *options, "hydra.run.dir=run")
    oracle = [row for row in rows(outside / "run") if row["oracle"]]
    assert [(row["method"], row["steps"], row["samples"]) for row in oracle] == [
        ("subsets_per_sample", 2, 4),
        ("subsets_per_sample", 3, 4),
    ]
