"""A model of the user's own, from a Python file and a YAML to a report, with as little as they may write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from overrides import with_oss

from optsteps.cli import run as command
from optsteps.cli.common import CONFIG_DIR
from optsteps.models import Gaussian, Model
from optsteps.processes import EDM
from optsteps.running.judges import choose_metric

pytestmark = pytest.mark.usefixtures("blank_pictures")

TINY = ["steps=2", "teacher.steps=4", "search.samples=2", "test.samples=8", "test.oracle=0", "logger=none"]
TINY += ["store.folder=null", "rivals=none", "check_model=false"]
MODULE = """
from optsteps.denoisers import NetworkDenoiser
from optsteps.models import Model
from optsteps.processes import EDM

def made(name="of its own", process=EDM(), device="no device", **more):
    model = Model(name, NetworkDenoiser(lambda x, t: x / 2, process, "x0"), process, (2,), (10.0, 0.1))
    return Model(**{**vars(model), "facts": {"made on": str(device)}})

def none(): return made()
def one(process): return made(process=process)
def two(name, device): return made(name, device=device)
def three(device, process, name): return made(name, process, device)
def keywords(**given): return made(**given)
def positional(name, process, device): return made(name, process, device)
def other(name): return name
class Own(Model):
    def __init__(self, process): super().__init__(**{**vars(made()), "name": "a class", "process": process})
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "minimal_models.py").write_text(MODULE)
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "minimal_models", raising=False)
    return tmp_path


def start(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
    monkeypatch.setattr(sys, "argv", ["optsteps", "--config-dir=my_conf", "model=mine", *with_oss([*TINY, *overrides])])
    command.main()


@pytest.mark.parametrize("more", [[], ["method=edm", "solver=er_sde_2"]], ids=" ".join)
def test_a_plain_flow_needs_no_further_argument(more: list[str], desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From t = 1 to t = 0 with the default teacher, whose formula needs finite levels: it takes some, and says so."""
    plain = "Model('plain', NetworkDenoiser(lambda x, t: x, Flow(), 'velocity'), Flow(), (2,), (float('inf'), 0.0))"
    source = f"from optsteps.processes import Flow\ndef flow(): return {plain}\n"
    (desk / "minimal_models.py").write_text(MODULE + source)
    model_yaml(desk, "_target_: minimal_models.flow\n")
    start(monkeypatch, "rivals=default", "test.samples=32", "hydra.run.dir=run", *more)
    metrics = json.loads(Path("run", "metrics.json").read_text())
    rows, left_out = {row["method"]: row for row in metrics["rows"]}, metrics["facts"].get("left out", "")
    for name in ("oss", "edm", "time_uniform", "logsnr", "flow_shift"):
        assert (name in rows) != (f"{name}: " in left_out)
    assert {"edm", "time_uniform", "logsnr", "flow_shift"} <= set(rows)
    said = "edm is a formula between finite noise levels, and takes 999 to 0.001001 of the model's range"
    assert metrics["facts"]["teacher"].endswith(said)
    (log,) = Path("run").glob("*.log")
    assert log.read_text().count(said) == 1
    assert "the teacher's, the formula's from 999 to 0.001001" in Path("run", "report.md").read_text()


def model_yaml(desk: Path, text: str) -> None:
    (desk / "my_conf" / "model" / "mine.yaml").write_text(text)


def facts_and_config() -> tuple[dict[str, str], DictConfig]:
    """Of the one run there is, below its default folder."""
    (metrics,) = Path("outputs").glob("mine-oss/*/metrics.json")
    config = OmegaConf.load(metrics.with_name("config.yaml"))
    assert isinstance(config, DictConfig)
    return json.loads(metrics.read_text())["facts"], config


@pytest.mark.parametrize(
    ("function", "name", "process", "device"),
    [
        ("none", "of its own", "EDM()", "no device"),
        ("one", "of its own", "Flow()", "no device"),
        ("two", "mine", "EDM()", "cpu"),
        ("three", "mine", "Flow()", "cpu"),
        ("keywords", "mine", "Flow()", "cpu"),
        ("Own", "a class", "Flow()", "no device"),
    ],
)
@pytest.mark.mostly_slow(2)
def test_a_model_s_function_takes_none_some_or_all_of_name_process_and_device(
    function: str, name: str, process: str, device: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_yaml(desk, f"_target_: minimal_models.{function}\n")
    start(monkeypatch, "runner=cpu", "process=flow")
    facts, config = facts_and_config()
    assert facts["model"] == name
    assert facts["process"].startswith(process[:-1])
    assert facts["made on"] == device
    assert config.model.name == "mine"
    assert config.metric == {
        "verdicts": ["mse"],
        "judges": [{"_target_": "optsteps.metrics.judges.TeacherJudge", "data_range": None}],
    }
    assert (config.process is None) == (process == "EDM()")


@pytest.mark.parametrize(
    ("shape", "parts", "metric"),
    [
        ((2,), {}, "points"),
        ((2,), {"distribution": Gaussian([0.0, 0.0], 1.0)}, "toy"),
        ((1, 28, 28), {}, "teacher"),
        ((4, 8, 8), {"decode": torch.nn.Identity()}, "pixels"),
        ((16,), {"decode": torch.nn.Identity()}, "pixels"),
    ],
)
@pytest.mark.mostly_slow(3)
def test_the_metric_that_fits(shape: tuple[int, ...], parts: dict[str, Any], metric: str) -> None:
    model = Model("mine", lambda x, t, cond=None: x, EDM(), shape, (10.0, 0.1), **parts)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        auto, chosen = (compose("config", ["method=edm", f"metric={name}"]).metric for name in ("auto", metric))
        mine = compose("config", ["method=edm", "metric=auto", "metric.verdicts=[mse]"]).metric
        default = compose("config", ["method=edm"]).metric
        images = compose("config", ["method=edm", "metric=images"]).metric
    choose_metric(auto, model)
    assert auto == chosen
    choose_metric(mine, model)
    assert mine == {**chosen, "verdicts": ["mse"]}
    assert default == images  # the shipped model's


def test_a_metric_that_says_nothing_of_such_a_model() -> None:
    model = Model("mine", lambda x, t, cond=None: x, EDM(), (2,), (10.0, 0.1))
    with pytest.raises(ValueError, match=r"metric\.judges is null, and metric\.by_model has none for points; give"):
        choose_metric(OmegaConf.create({"verdicts": ["mse"], "judges": None}), model)


def test_arguments_by_position(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_yaml(desk, "_target_: minimal_models.positional\n_args_: [by position]\n")
    start(monkeypatch, "metric=teacher")
    assert facts_and_config()[0]["model"] == "by position"


def test_what_is_no_model_is_named(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model_yaml(desk, "_target_: minimal_models.other\n")
    with pytest.raises(SystemExit):
        start(monkeypatch, "metric=teacher")
    assert "minimal_models.other returned str; let it return an optsteps.models.Model" in capsys.readouterr().err


NEWCOMER = """
from optsteps.denoisers import NetworkDenoiser
from optsteps.models import Model
from optsteps.processes import Flow

def network(x, t):  # the velocity of a flow whose data are normal with deviation 0.5
    t = t[:, None, None, None]
    return (t - 0.25 * (1 - t)) / (t**2 + 0.25 * (1 - t) ** 2) * x

def my_model():
    return Model("mine", NetworkDenoiser(network, Flow(), "velocity"), Flow(), (1, 8, 8), (80.0, 0.01))
"""


@pytest.fixture
def console(tmp_path: Path) -> Callable[..., None]:
    """A function that runs the installed command `optsteps`, as a script in a folder of its own, in a newcomer's."""
    script = tmp_path / "bin" / "optsteps"
    script.parent.mkdir()
    script.write_text("from optsteps.cli.run import main\nif __name__ == '__main__':\n    main()\n")
    here = tmp_path / "here"
    (here / "conf" / "model").mkdir(parents=True)
    (here / "my_model.py").write_text(NEWCOMER)
    (here / "conf" / "model" / "mine.yaml").write_text("_target_: my_model.my_model\n")
    # Python itself cannot be told before 3.11
    for module in ("wandb", "lightning") if sys.version_info >= (3, 11) else ():
        (here / f"{module}.py").write_text("raise RuntimeError('the installed package has precedence')\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(command.__file__).parents[2])}

    def run(*arguments: str) -> None:
        few = [
            "steps=2",
            "teacher.steps=4",
            "search.samples=4",
            "test.samples=8",
            "test.oracle=0",
            "rivals=none",
            "method=oss",
        ]
        line = [sys.executable, str(script), "--config-dir=conf", *arguments, "model=mine", *few]
        subprocess.run(line, cwd=here, env=environment, check=True)

    return run


@pytest.mark.slow
def test_modules_of_the_current_folder_come_after_installed_ones(console: Callable[..., None], tmp_path: Path) -> None:
    """In a run, in its further ranks, and in the jobs of a sweep."""
    console("runner=cpu", "runner.devices=2", "hydra.run.dir=run")
    facts = json.loads((tmp_path / "here" / "run" / "metrics.json").read_text())["facts"]
    assert facts["model"] == "mine"
    (log,) = (tmp_path / "here" / "run" / "ranks").glob("*.log")
    assert "Traceback" not in log.read_text()
    console("-m", "seed=0,1", "hydra.sweep.dir=sweep")
    jobs = [json.loads(path.read_text()) for path in (tmp_path / "here" / "sweep").glob("*/job.json")]
    assert [job.get("failed") for job in jobs] == [None, None]
