"""A plan says what the run then counts, stage by stage."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from optsteps.cli import run as command

TINY = ["model=mixture", "metric=teacher", "logger=none", "store.folder=null", "steps=[2,4]", "teacher.steps=9"]
TINY += ["search.samples=3", "test.samples=40", "test.oracle=2", "runner=cpu", "runner.threads=1"]


def start(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> None:
    named = {override.split("=")[0] for override in overrides}
    kept = [override for override in TINY if override.split("=")[0] not in named]
    monkeypatch.setattr(sys, "argv", ["optsteps", f"hydra.run.dir={folder}", *kept, *overrides])
    command.main()


def planned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, str]:
    """The evaluations of the plan's table, by stage; none of them is made, only timed calls of the model."""
    with monkeypatch.context() as patch:
        patch.setattr("optsteps.denoisers.CountedDenoiser.__call__", lambda *_: pytest.fail("an evaluation"))
        start(patch, Path("/nowhere"), "plan=true", "hydra.output_subdir=null", "hydra.run.dir=.", *overrides)
    said = capsys.readouterr().out
    rows = [line.split("  ") for line in said.splitlines() if re.search(r"\d (s|min|h)$|\?$", line.strip())]
    return {row[0].strip(): row[-2].strip().replace(",", "") for row in ([c for c in r if c.strip()] for r in rows)}


def spent(said: str) -> dict[str, int]:
    """What the progress of a run counted."""
    lines = re.findall(r"^\S+ (.+): done in [\d.]+ s, ([\d,]+) evaluations", said, re.M)
    return {name: int(count.replace(",", "")) for name, count in lines}


@pytest.mark.parametrize(
    "overrides",
    [
        [],  # pooled, its mean as a rival, hand-made ones, the oracle
        ["method=oss_mean", "solver=dpmpp_2m", "test.oracle=0"],
        ["process=flow", "teacher.family=flow_shift", "test.oracle=0"],  # ranges of edm and logsnr are tried
        ["solver=heun", "teacher.final=zero", "method.grid_steps=6"],
        ["solver=heun", "teacher.solver=euler", "method.start=free", "process=flow", "steps=3"],
        ["method=oss", "method.amplitude=true", "model=digits", "model.guidance=2"],
        ["method=ays", "method.choose=optimum", "method.levels=16", "search.data=200"],
        ["method=ays", "method.choose=last", "method.levels=16", "solver=ddim_stochastic"],
        ["method=oss_euler", "method.samples=2", "solver=sde_dpmpp_2m", "nfe=[2,4]"],
    ],
    ids=lambda overrides: " ".join(overrides) or "default",
)
def test_a_plan_is_what_the_run_counts(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    plan = planned(monkeypatch, capsys, *overrides)
    start(monkeypatch, tmp_path / "run", *overrides)
    counted = spent(capsys.readouterr().err)
    checks = re.findall(r"(\d+) evaluations to see .*, (\d+) to see", (tmp_path / "run" / "report.md").read_text())[0]
    assert int(plan.pop("check the model")) == sum(map(int, checks))
    compared = int(plan.pop("compare: samples")) + int(plan.pop("compare: along the way"))
    assert int(plan.pop("in all")) == sum(counted.values()) + sum(map(int, checks))
    assert {name: int(count) for name, count in plan.items() if count != "0"} | {"compare": compared} == counted


def test_what_depends_on_the_network_is_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many schedules AYS tries is known afterwards; what the released OSS evaluates is so much at most."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rivals = ["method=ays", "+method@rivals.released=oss_published", "~method@rivals.oss", "~method@rivals.oss_mean"]
    plan = planned(monkeypatch, capsys, *rivals)
    start(monkeypatch, tmp_path / "run", *rivals)
    counted = spent(capsys.readouterr().err)
    assert plan["search ays"].startswith("~")
    assert 0.5 < int(plan["search ays"][1:]) / counted["search ays"] < 2
    assert counted["search released"] <= int(plan["search released"][1:]) <= 2 * counted["search released"]
    assert plan["in all"].startswith("~")


def test_a_store_spends_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    plan = planned(monkeypatch, capsys)
    start(monkeypatch, tmp_path / "run", f"store.folder={tmp_path / 'store'}")
    counted = spent(capsys.readouterr().err)
    assert counted["search oss"] == int(plan["search oss"])
    assert counted["search oss_mean"] <= int(plan["search oss_mean"]) - 3 * (
        9 + 1 + 8
    )  # the walk, and what one step reaches
    assert torch.tensor(list(counted.values())).sum() < int(plan["in all"])
