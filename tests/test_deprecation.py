"""Names of the version before, which lead to the new ones with a warning."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from hydra.utils import get_object

from optsteps.deprecation import MODULES


@pytest.mark.parametrize(("old", "new"), MODULES.items())
def test_old_modules(old: str, new: str) -> None:
    with pytest.warns(FutureWarning, match=rf"optsteps\.{old} is optsteps\.{new} now"):
        module = importlib.reload(importlib.import_module(f"optsteps.{old}"))
    new_module = importlib.import_module(f"optsteps.{new}")
    public = [name for name in vars(new_module) if not name.startswith("_")]
    assert public
    assert all(getattr(module, name) is getattr(new_module, name) for name in public)
    with pytest.raises(ImportError):
        importlib.import_module(f"optsteps.{old}_2")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("no_logger.NoLogger", "loggers.none.NoLogger"),
        ("runner.run", "running.run.run"),
        ("runner.compute", "running.share.compute"),
        ("experiment.Experiment", "running.experiment.Experiment"),
        ("experiment.launched", "running.device.only_device"),
        ("experiment.code_version", "running.version.code_version"),
        ("training.DenoiserTraining", "models.training.DenoiserTraining"),
        ("methods.Given", "methods.GivenSchedules"),
        ("methods.Restated", "methods.ChangedProblem"),
        ("metrics.judges.FigureCriterion", "metrics.judges.MeasurementCriterion"),
        ("metrics.geneval_judge.GenEvalJudge", "metrics.geneval.judge.GenEvalJudge"),
        ("metrics.detectors.Mask2FormerDetector", "metrics.geneval.detectors.Mask2FormerDetector"),
        ("metrics.geneval.counted", "metrics.geneval.rules.counted"),
        ("metrics.detections.Limited", "metrics.geneval.detections.LimitedDetector"),
        ("wandb_logger.SparingWandbLogger", "loggers.wandb.FallbackWandbLogger"),
        ("reporting.pivot.read_records", "reporting.sweep.run_rows.read_run_rows"),
        ("methods.restated.Restated", "methods.ChangedProblem"),
        ("methods.handmade.Given", "methods.GivenSchedules"),
        ("methods.handmade.GivenSchedules", "methods.GivenSchedules"),
        ("methods.handmade.BetweenEnds", "methods.between_ends.BetweenEnds"),
        ("methods.handmade.with_range", "methods.between_ends.with_range"),
        ("methods.ld3.Grid", "methods.ld3.gaps.GapSchedules"),
        ("methods.ld3.into_ball", "methods.ld3.training.into_ball"),
        ("methods.ld3.Training", "methods.ld3.training.Training"),
        ("methods.ld3.Learned", "methods.ld3.training.Learned"),
        ("shards.storable", "storage.shards.storable"),
        ("comparison.Trial", "comparison.Comparison"),
        ("methods.oss.entries.Entries", "methods.oss.entries.EntrySubset"),
        ("trajectories.Keeping", "trajectories.Cache"),
        ("denoisers.ElsewhereDenoiser", "denoisers.DeviceDenoiser"),
        ("export.diffusers.schedulers.Kind", "export.diffusers.schedulers.SchedulerKind"),
        ("solvers.dpmpp.Kind", "solvers.dpmpp.SolverType"),
        ("training.ClassifierTraining", "models.training.ClassifierTraining"),
        ("training.FlowTraining", "models.training.FlowTraining"),
        ("datasets.geneval.some_of_each_task", "datasets.geneval_prompts.some_of_each_task"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_targets_of_configs(old: str, new: str) -> None:
    assert get_object(f"optsteps.{old}") is get_object(f"optsteps.{new}")


@pytest.mark.parametrize(
    "old",
    [
        pytest.param("training import DenoiserTraining", marks=pytest.mark.slow),
        pytest.param("runner import run", marks=pytest.mark.slow),
        "methods.klub import TabulatedKlub",
    ],
)
def test_old_modules_in_a_fresh_interpreter(old: str) -> None:
    """Nothing that the new module imports is loaded before."""
    command = [sys.executable, "-c", f"from optsteps.{old}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "FutureWarning" in done.stderr


def test_old_names_warn_and_others_are_missing() -> None:
    methods = importlib.import_module("optsteps.methods")
    with pytest.warns(FutureWarning, match=r"optsteps\.methods\.Given is optsteps\.methods\.GivenSchedules now"):
        assert methods.Given is methods.GivenSchedules
    with pytest.raises(AttributeError, match=r"module 'optsteps\.methods' has no attribute 'Gevin'"):
        _ = methods.Gevin
