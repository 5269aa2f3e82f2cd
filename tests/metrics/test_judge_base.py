"""What is loaded with a judge, and what a measurement says of the teacher."""

import subprocess
import sys

import pytest
import torch

from optsteps.metrics import judges
from optsteps.metrics.base import Measurement, sample_wise
from optsteps.metrics.decoded import DecodedJudge
from optsteps.metrics.second import SecondJudge
from optsteps.metrics.teacher_judge import TeacherJudge

# torchmetrics brings transformers along; both take seconds
HEAVY = ("torchmetrics", "torch_fidelity", "transformers", "torchvision", "matplotlib", "lightning", "scipy.stats")
IMPORT = """
import sys, time
import torch
began = time.process_time()
import {module}
print(time.process_time() - began, *(name for name in {heavy} if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("module", "seconds"),
    [
        ("optsteps.metrics.judges", 0.3),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (("optsteps.comparison", 0.3), ("optsteps.metrics.geneval", 2.0))
        ),
    ],
)
def test_imports_are_quick(module: str, seconds: float) -> None:
    """Beyond torch, in a fresh interpreter; one time of three, because other processes share the machine."""
    command = [sys.executable, "-c", IMPORT.format(module=module, heavy=HEAVY)]
    durations = list[float]()
    while len(durations) < 3 and (not durations or durations[-1] >= seconds):
        duration, *loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert loaded == []
        durations.append(float(duration))
    assert min(durations) < seconds


def test_every_judge_by_its_name_in_configs() -> None:
    assert {name: getattr(judges, name).__name__ for name in judges.__all__} == {name: name for name in judges.__all__}


def test_a_measurement_says_whether_it_compares_with_the_teacher() -> None:
    x = torch.arange(12.0).reshape(4, 3)
    measured = TeacherJudge(2.0).judge(x, x + 1, None)
    decoded = DecodedJudge(lambda latents: 2 * latents, TeacherJudge(2.0)).judge(x, x + 1, None)
    assert [list(measured), list(decoded)] == [["mse", "psnr"], ["pixel_mse", "pixel_psnr"]]
    assert all(measurement.compares_with_teacher for measurement in (*measured.values(), *decoded.values()))
    assert not sample_wise(x[0], True).compares_with_teacher
    assert not Measurement(measured["mse"].interval, None).compares_with_teacher


def test_a_second_judge_measures_what_the_first_does_under_names_of_its_own() -> None:
    x = torch.arange(12.0).reshape(4, 3)
    first = TeacherJudge(2.0)
    second = SecondJudge(first)
    measured, again = first.judge(x, x + 1, None), second.judge(x, x + 1, None)
    assert list(again) == ["second_mse", "second_psnr"]
    assert [again[f"second_{name}"].interval for name in measured] == [one.interval for one in measured.values()]
    assert second.figures == {f"second_{name}": higher for name, higher in first.figures.items()}
    with pytest.raises(ValueError, match="at least 2 samples"):
        second.check(1, None)
