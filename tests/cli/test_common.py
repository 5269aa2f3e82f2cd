"""What all commands do alike."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from optsteps.cli.common import CONFIG_DIR, _home_cache
from optsteps.cli.errors import readable_errors
from optsteps.running.version import code_version


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("length", [10, 100_000])
def test_output_that_cannot_be_written_is_an_error(
    length: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether it is noticed while printing or at the end; nothing is left for the interpreter to fail at."""
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stopped:
            readable_errors(lambda: print("x" * length))()
    assert stopped.value.code == 1
    told = capsys.readouterr().err
    assert told.count("error:") == 1
    assert "No space left on device" in told


def test_output_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    readable_errors(lambda: print("caf\u00e9"))()
    assert plain.buffer.getvalue() == b"caf\\xe9\n"


def test_data_sets_of_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert _home_cache() == "/home/me/.cache/optsteps"
    monkeypatch.delenv("HOME")
    assert Path(_home_cache()).is_absolute()

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    assert Path(_home_cache()).is_absolute()


def test_the_version_of_the_code_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert code_version() == "unknown: git cannot be run (No such file or directory)"


def folder_and_run_name(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> tuple[str, str]:
    """The folder that a run's own lies in, and the name of the run in W&B."""
    hydra = HydraConfig.instance()
    monkeypatch.setattr(hydra, "cfg", hydra.cfg)
    given = [*overrides, "logger=wandb", "hydra.runtime.output_dir=run"]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("config", given, return_hydra_config=True)
        hydra.set_config(config)
        return Path(config.hydra.run.dir).parent.name, config.logger.name


def test_the_folder_of_a_pipeline_is_named_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(path: str) -> str:
        return folder_and_run_name(monkeypatch, "model=diffusers", f"model.path='{path}'")[0]

    assert folder("somebody/sd15") == folder("models/sd15/") == "sd15-auto"
    assert re.fullmatch(r"my-sd@\w+-auto", folder("models/my sd"))  # a name of letters that every system takes
    (tmp_path / "unet").mkdir()
    monkeypatch.chdir(tmp_path / "unet")
    assert folder(".") == folder("../unet") == folder("made/..") == "unet-auto"
    named = folder_and_run_name(monkeypatch, "model=diffusers", "model.path=a/b", "model.name=mine", "method=edm")
    assert named == ("mine-edm", "mine-edm-euler")
    assert folder_and_run_name(monkeypatch, "model=diffusers")[0] == "diffusers-auto"  # the command asks for the path
    assert folder_and_run_name(monkeypatch) == ("mnist-auto", "mnist-auto-euler")
