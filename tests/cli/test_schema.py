"""Config values are checked at the door: types, ranges, near names, in one paragraph with the value as typed."""

from __future__ import annotations

import re
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from overrides import with_oss

from optsteps.cli import run as command
from optsteps.cli.common import CONFIG_DIR
from optsteps.cli.schema import Part, Run, Train, checked


@cache
def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        given = ["logger=none", *overrides]
        return compose(name, with_oss(given) if name == "config" else given)


def run(*overrides: str) -> DictConfig:
    return checked(deepcopy(composed("config", *overrides)), Run)


def with_value(name: str, override: str) -> DictConfig:
    """The default config with one value as somebody typed it; composing is slow."""
    config, (key, value) = deepcopy(composed(name)), override.split("=")
    OmegaConf.update(config, key, yaml.safe_load(value))
    return config


@pytest.mark.parametrize(
    ("override", "value"), [("steps=5", [5]), ("steps=[5,10]", [5, 10]), ("nfe=5", [5]), ("nfe=[6,10]", [6, 10])]
)
def test_one_count_is_a_list_of_one(override: str, value: list[int]) -> None:
    assert checked(with_value("config", override), Run)[override.split("=")[0]] == value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps=null", "Step counts of the students, such as [5,10]; 5 is [5]."),
        ("steps=true", "list"),
        ("steps=[]", "at least 1 item"),
        ("steps=[5,0]", "greater than or equal to 1"),
        ("steps=[2,2,2]", "2 is named more than once"),
        ("nfe=[5,5]", "5 is named more than once"),
        ("seed=1.5", "integer"),
        ("seed=null", "integer from 0 on"),
        ("seed=-1", "greater than or equal to 0"),
        ("runner.threads=0", "null for torch's choice"),
        ("runner.threads=abc", "integer"),
        ("runner.devices=1.5", "'auto'"),
        ("runner.devices=true", "'auto'"),
        ("runner.states=tape", "'device', 'cpu' or 'disk'"),
        ("search.data=-5", "greater than or equal to 1"),
        ("search.samples=0", "greater than or equal to 1"),
        ("test.samples=1", "greater than or equal to 2"),
        ("test.oracle=1", "give 0 for none"),
        ("store.limit_gb=-1", "greater than 0"),
        ("store.precision=float8", "'bfloat16'"),
        ("max_batch=0", "or it should be 'auto'"),
        ("teacher.steps=0", "Steps of the teacher in searches."),
        ("teacher.steps=10.0", "integer"),
        ("teacher.family=edn", "(did you mean edm?)"),
        ("teacher.solver=dpmp_2m", "(did you mean dpmpp_2m?)"),
        ("teacher.snap=1", "boolean"),
        ("objective.steps=0", "greater than or equal to 1"),
        ("metric.verdicts=[psnr,psnr]", "psnr is named more than once"),
        ("method.max_batch=1.5", "integer, for OSS"),
        ("method.shard_size=true", "integer, for OSS"),
        ("method.average=meen", "'mean', 'median' or 'pooled', for OSS"),
        ("model.shape=[1,28.5,28]", "integer, for pretrained"),
        ("model.noise_max=null", "pretrained needs it, as float"),
    ],
)
def test_values_out_of_range_are_refused_as_they_were_typed(override: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{override}: ")) as refused:
        checked(with_value("config", override), Run)
    said = str(refused.value)
    assert said.startswith(f"{override}: ")
    assert expected in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model=mixture", "model.means=null"], "model.means=null: mixture needs it, as Sequence[Sequence[float]]"),
        (
            ["+store.limt=3"],
            "there is no store.limt; there are folder, limit_gb, shared, precision (did you mean limit_gb?)",
        ),
        (["+method.averge=mean"], "(did you mean average?)"),
        (["+method.chanels=[0]"], "(did you mean channels?)"),
        (["model=diffusers"], "model.path has no default: give model.path=..."),
        (["model=mixture", "~model.means"], "model.means is missing: mixture needs it"),
        (["~search.samples"], "search.samples is missing: How many samples of noise the searches see."),
    ],
)
def test_names_that_are_missing_or_not_known(overrides: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        run(*overrides)


def test_somebody_s_own_node_is_free_in_its_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as their function goes: any type, null where it says nothing, whatever its **keywords take."""
    (tmp_path / "mine_for_the_schema.py").write_text(
        "def model(process, device, path, size: int = 3, scale: float = 1.0, **more): ...\n"
        "def strict(process, device, size: int): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = {"_target_": "mine_for_the_schema.model", "name": "mine", "path": None, "size": "large", "other": [1, None]}
    config = deepcopy(composed("config"))
    config.model = own
    assert checked(config, Run).model == own
    config.model = {"_target_": "mine_for_the_schema.strict", "size": None}
    with pytest.raises(ValueError, match=r"model\.size=null: strict needs it, as int"):
        checked(config, Run)
    config.model = {"_target_": "mine_for_the_schema.strict", "sise": 3}
    with pytest.raises(ValueError, match=r"model\.sise: strict takes size \(did you mean size\?\)"):
        checked(config, Run)


def test_the_experiment_of_a_pipeline_is_valid() -> None:
    """tests/cli/test_run.py plans all others."""
    run("experiment=geneval_flux", "model.test_prompts=some.jsonl")


@pytest.mark.parametrize("training", sorted(file.stem for file in (CONFIG_DIR / "training").glob("*.yaml")))
def test_every_training_is_valid(training: str) -> None:
    needed = ["dataset.schedule=some.json"] if training == "straighten" else []
    checked(deepcopy(composed("train", f"training={training}", *needed)), Train)


@pytest.mark.parametrize(
    "override",
    [
        "training.batch_size=0",
        "training.ema_decays=[1]",
        "weights_precision=int8",
        "seed=1.5",
        "training.task.p_std=abc",
    ],
)
def test_a_training_s_values_are_checked_too(override: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(override)}: "):
        checked(with_value("train", override), Train)


def test_every_field_has_a_sentence() -> None:
    for kind in Part.__subclasses__():
        for name, field in kind.model_fields.items():
            inner = field.annotation
            described = isinstance(inner, type) and issubclass(inner, Part)
            assert described or (field.description or "").endswith("."), (kind, name)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["solver=dpmp_2m"], "there is no solver=dpmp_2m"),
        (["solver=dpmp_2m"], "(did you mean dpmpp_2m?)"),
        (["method=osss"], "(did you mean oss?)"),
        (["solver=ipndm", "solver.ordr=3"], "there is no solver.ordr"),
        (["solver=ipndm", "solver.ordr=3"], "(did you mean order?)"),
        (["serach.samples=5"], "there is no serach (did you mean search?)"),
        (["datset=mnist"], "(did you mean dataset?)"),
        (["steps=null"], "steps=null: "),
    ],
)
def test_the_command_suggests_near_names(
    overrides: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(sys, "argv", ["optsteps", f"hydra.run.dir={tmp_path}", "logger=none", *with_oss(overrides)])
    with pytest.raises(SystemExit):
        command.main()
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
