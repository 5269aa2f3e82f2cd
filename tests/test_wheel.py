"""What a user installs: the wheel carries configs and weights and runs from any directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from overrides import with_oss

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of a wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_configs_weights_and_types_travel(unpacked: Path) -> None:
    for kind in ("yaml", "safetensors"):
        source = {f.name for folder in ("conf", "optsteps") for f in (ROOT / folder).rglob(f"*.{kind}")}
        assert source
        assert source == {f.name for f in unpacked.rglob(f"*.{kind}")}
    assert (unpacked / "optsteps" / "py.typed").exists()
    assert (unpacked / "optsteps" / "reporting" / "sweep" / "page.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["experiment=mixture"], id="mixture", marks=pytest.mark.slow),
        pytest.param(["test.samples=16"], id="mnist"),
    ],
)
def test_the_job_runs_from_any_directory(unpacked: Path, tmp_path: Path, overrides: list[str]) -> None:
    small = ["steps=[2]", "teacher.steps=4", "search.samples=2", "test.oracle=0", "rivals=none", "hydra.run.dir=out"]
    done = subprocess.run(
        [sys.executable, "-m", "optsteps.cli.run", *with_oss([*overrides, *small])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "schedule_2.json").exists()
    # the checkout would have named its commit
    assert "not a checkout" in (tmp_path / "out" / "report.md").read_text()
