"""The config group of rivals: the usual ones, none, or a list of methods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from overrides import with_oss
from test_run import TINY, TINY_PLANE, start

from optsteps.cli.common import CONFIG_DIR

pytestmark = pytest.mark.usefixtures("blank_pictures")

DEFAULT = ["oss", "edm", "time_uniform", "logsnr", "flow_shift"]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("config", with_oss(["logger=none", *overrides]))


@pytest.mark.parametrize(
    ("overrides", "rivals", "optional"),
    [
        ([], DEFAULT, DEFAULT),
        (["rivals=default"], DEFAULT, DEFAULT),
        (["rivals=none"], [], []),
        (["rivals=[]"], [], []),
        (["rivals=edm"], ["edm"], []),
        (["rivals=[edm,ays]"], ["edm", "ays"], []),
        (["rivals=[default,cosine]"], [*DEFAULT, "cosine"], DEFAULT),
        (["+method@rivals.mine=cosine"], [*DEFAULT, "mine"], DEFAULT),
        (["rivals=none", "+method@rivals.mine=cosine"], ["mine"], []),
        (["rivals=[edm]", "+method@rivals.mine=cosine"], ["edm", "mine"], []),
        (["~method@rivals.oss", "~method@rivals.edm"], sorted({*DEFAULT} - {"oss", "edm"}), DEFAULT),
        (["rivals=[edm,ays]", "~method@rivals.ays"], ["edm"], []),
        (["experiment=teacher_edm"], ["naive"], []),
        (["experiment=teacher_edm", "rivals=[logsnr]"], ["logsnr", "naive"], []),
    ],
)
def test_choices(overrides: list[str], rivals: list[str], optional: list[str]) -> None:
    config = composed(*overrides)
    assert sorted(config.get("rivals", {})) == sorted(rivals)
    assert config.optional_rivals == optional


def test_all_rivals_are_all_methods() -> None:
    """But schedules that somebody gives, another name of a method, what asks all others or trains with gradients, and
    what other models or commands are needed for."""
    others = {"file", "published", "oss_pooled", "oss_euler", "oss_few", "ays_fid", "ays_published"}
    others |= {"auto", "ld3", "ld3_published", "timestep_aligner", "evolution", "bayesian", "cmaes"}
    config = composed("rivals=all")
    assert set(config.rivals) == {path.stem for path in (CONFIG_DIR / "method").glob("*.yaml")} - others
    assert list(config.rivals) == config.optional_rivals
    assert config.rivals == composed("rivals=none", *(f"+method@rivals.{name}={name}" for name in config.rivals)).rivals


def test_a_rival_of_the_list_is_the_method_of_that_name() -> None:
    assert composed("rivals=[ays]").rivals == composed("rivals=none", "+method@rivals.ays=ays").rivals
    assert composed("rivals=[edm]", "method@rivals.edm=logsnr").rivals.edm.family == "logsnr"
    assert composed("rivals=[edm]", "rivals.edm.rho=5").rivals.edm.rho == 5


@pytest.mark.parametrize(
    ("process", "added", "there"),
    [
        ("flow", [], True),
        ("edm", [], False),
        ("vp", [], False),
        ("edm", ["rivals=[flow_shift]"], True),
        ("edm", ["method@rivals.flow_shift=flow_shift"], True),
    ],
)
@pytest.mark.mostly_slow(3)
def test_flow_shift_is_a_flow_s_rival_by_default(
    process: str, added: list[str], there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(monkeypatch, tmp_path, *TINY, *TINY_PLANE, f"process={process}", *added)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert ("flow_shift" in {row["method"] for row in metrics["rows"]}) == there
    assert ("flow_shift" in OmegaConf.load(tmp_path / "config.yaml").rivals) == there
    assert "left out" not in metrics["facts"]


def test_no_such_method() -> None:
    with pytest.raises(MissingConfigException, match="Could not find 'rivals/edn'"):
        composed("rivals=[edm,edn]")


def test_a_method_in_a_folder_of_the_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rival that is named takes part, or the command refuses."""
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text("defaults: [edm]\nrho: 3.0\n")
    added = ["rivals=[mine,logsnr]", f"--config-dir={tmp_path / 'conf'}"]
    start(monkeypatch, tmp_path / "run", *TINY, *TINY_PLANE, *added)
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())["rows"]
    assert {row["method"] for row in rows if not row["oracle"]} == {"teacher", "oss", "mine", "logsnr"}
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path / "no", *TINY, *TINY_PLANE, "method=edm", "solver=er_sde_2", "rivals=[oss]")
    assert "error: oss: oss compares" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path / "no", *TINY, *TINY_PLANE, "rivals=[edn]")
    said = capsys.readouterr().err
    assert "there is no rivals=edn; there are all, beside_auto, default, none," in said
    assert "did you mean edm" in said


def test_rivals_in_a_folder_of_the_user_s_come_before_a_method_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pair", "ays"):
        file = tmp_path / "conf" / "rivals" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        chosen = "[/method@rivals.edm: edm, /method@rivals.mine: logsnr]"
        file.write_text(f"# @package _global_\ndefaults: {chosen}\noptional_rivals: []\n")
        start(monkeypatch, tmp_path / name, *TINY, *TINY_PLANE, f"rivals={name}", f"--config-dir={tmp_path / 'conf'}")
        rows = json.loads((tmp_path / name / "metrics.json").read_text())["rows"]
        assert {row["method"] for row in rows if not row["oracle"]} == {"teacher", "oss", "edm", "mine"}


def test_completion_offers_the_methods() -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        choices = GlobalHydra.instance().config_loader().get_group_options("rivals")
    assert {"default", "none", "edm", "ays", "oss"} <= set(choices)
    assert len(choices) == len(set(choices))


def test_runner_ddp_is_all_gpus_now() -> None:
    assert composed("runner=ddp").runner == composed("runner=all_gpus").runner
