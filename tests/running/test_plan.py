"""A plan says what the run then counts, stage by stage."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from overrides import with_oss

from optsteps.cli import run as command
from optsteps.running.progress import Progress

pytestmark = pytest.mark.usefixtures("blank_pictures")

TINY = ["model=mixture", "metric=teacher", "logger=none", "store.folder=null", "steps=[2,4]", "teacher.steps=9"]
TINY += ["search.samples=3", "test.samples=40", "test.oracle=2", "runner=cpu", "runner.threads=1"]
# without the rival that decides on the way how much it evaluates
TINY += ["~method@rivals.oss"]
WHOLE = ["method.grid_steps=all", "+method@rivals.oss_mean=oss_mean"]


def start(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> None:
    named = {override.split("=")[0] for override in overrides}
    kept = [override for override in TINY if override.split("=")[0] not in named]
    monkeypatch.setattr(sys, "argv", ["optsteps", f"hydra.run.dir={folder}", *with_oss([*kept, *overrides])])
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
        WHOLE,  # pooled, its mean as a rival, others, the oracle
        # ranges of edm and logsnr are tried
        ["process=flow", "teacher.family=flow_shift", "method.grid_steps=all", "test.oracle=0"],
        ["method=ays", "method.choose=optimum", "method.levels=16", "search.data=200"],
        *(
            pytest.param(overrides.split(), marks=pytest.mark.slow)
            for overrides in (
                "method=oss_mean solver=dpmpp_2m test.oracle=0",
                "solver=heun teacher.final=zero method.grid_steps=6",
                "solver=heun teacher.solver=euler method.grid_steps=all method.start=free process=flow steps=3",
                "method=oss method.grid_steps=all method.amplitude=true model=digits model.guidance=2",
                "method=ays method.choose=last method.levels=16 solver=ddim_stochastic",
                "method=oss_euler method.method.grid_steps=all method.samples=2 solver=sde_dpmpp_2m nfe=[2,4]",
            )
        ),
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
    assert int(plan.pop("in all")) == sum(counted.values()) + sum(map(int, checks))
    assert {name: int(count) for name, count in plan.items() if count != "0"} == counted


def test_what_depends_on_the_network_is_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many schedules AYS tries is known afterwards; what the released OSS evaluates is so much at most."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rivals = ["method=ays", "+method@rivals.released=oss_published", "~method@rivals.oss"]
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
    plan = planned(monkeypatch, capsys, *WHOLE)
    start(monkeypatch, tmp_path / "run", f"store.folder={tmp_path / 'store'}", *WHOLE)
    counted = spent(capsys.readouterr().err)
    assert counted["search oss"] == int(plan["search oss"])
    assert counted["search oss_mean"] <= int(plan["search oss_mean"]) - 3 * (
        9 + 8
    )  # the walk, and what one step reaches
    assert torch.tensor(list(counted.values())).sum() < int(plan["in all"])


def test_stages_end_when_the_planned_evaluations_are_made_or_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run finds all of them in the store, and the first what one search has from another."""
    monkeypatch.chdir(tmp_path)
    ends = dict[str, tuple[int, int]]()

    def look(progress: Progress) -> None:
        if progress._stage is not None and progress._stage.total is not None:
            ends[progress._stage.name] = progress._done(progress._stage), progress._stage.total

    monkeypatch.setattr(Progress, "_look", look)
    for run in range(2):
        ends.clear()
        start(monkeypatch, tmp_path / f"run {run}", f"store.folder={tmp_path / 'store'}", *WHOLE)
        assert ends["search oss"][1] > 0
        assert ends["oracle"][1] > 0
        assert all(done == planned for done, planned in ends.values()), ends
    assert not spent(capsys.readouterr().err.split("run 0")[-1]).get("search oss")


def test_a_run_says_what_it_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    start(monkeypatch, tmp_path / "run", f"store.folder={tmp_path / 'store'}", *WHOLE)
    said = capsys.readouterr().err
    plan = said[: said.index("begins")].splitlines()
    assert "loading mixture" in plan[0]
    first = plan.index(next(line for line in plan if line.startswith(" stage")))
    rows = plan[first : first + 12]
    assert [row.split("  ")[0].strip() for row in rows[2:6]] == [
        "check the model",
        "teacher",
        "search oss",
        "search oss_mean",
    ]
    assert sum("in all" in row for row in rows) == 1
    assert re.search(r"store \S*\s*takes\s+about [\d.]+ MB, and [\d,.]+ [GM]B\s+are\s+free", " ".join(plan))


@pytest.mark.parametrize(("budget", "plan"), [("100", "plan=true"), ("0s", "plan=false")])
def test_a_plan_above_the_budget_is_refused(
    budget: str, plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("optsteps.denoisers.CountedDenoiser.__call__", lambda *_: pytest.fail("an evaluation"))
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path / "run", f"budget={budget}", plan)
    assert re.search(
        f"the plan takes [\\d,]+ evaluations.* and budget={budget}: its largest part is", capsys.readouterr().err
    )


def test_a_budget_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path / "run", "budget=soon")
    assert "'soon' is no time such as 10min" in capsys.readouterr().err
