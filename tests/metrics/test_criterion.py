"""A judge's figure as a search's criterion."""

import pytest
import torch

from optsteps.metrics.judges import DistributionJudge, MeasurementCriterion, TeacherJudge
from optsteps.models.analytic import GaussianMixture

MIXTURE = GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.1, 0.2])


def test_the_figure_of_the_samples() -> None:
    x = MIXTURE.sample(64, torch.Generator().manual_seed(1))
    judge = DistributionJudge(MIXTURE, 256)
    expected = judge.judge(x, x, None)["sliced_wasserstein"].interval.value
    assert MeasurementCriterion(judge, "sliced_wasserstein")(x, x) == expected > 0


def test_higher_is_better_turns_the_sign() -> None:
    x = MIXTURE.sample(64, torch.Generator().manual_seed(1))
    near, far = x + 0.01, x + 0.1
    criterion = MeasurementCriterion(TeacherJudge(2.0), "psnr")
    assert criterion(near, x) < criterion(far, x)
    assert criterion(near, x) == pytest.approx(-46.02, abs=0.01)  # 10 log10(4 / 1e-4)


def test_an_unknown_figure() -> None:
    x = torch.randn(8, 2)
    with pytest.raises(ValueError, match="TeacherJudge has no figure 'fid'; it has mse, psnr"):
        MeasurementCriterion(TeacherJudge(2.0), "fid")(x, x + 1)
