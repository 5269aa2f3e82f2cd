"""Judges of the likeness of many samples to data: FID, KID, precision and recall, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.metrics.base import Judge, Measurement, set_wise
from optsteps.metrics.extractors import build_extractor, extract_features, register_extractor
from optsteps.metrics.features import (
    DEFAULT_SETTINGS,
    HIGHER_IS_BETTER,
    FidelitySettings,
    check_number,
    fidelity_pseudo_values,
    fidelity_values,
    kid_of_sets,
)
from optsteps.metrics.toy import Distribution
from optsteps.models.checkpoint import load_network, resolve_weights
from optsteps.models.classifier import FeatureClassifier


def fidelity_measurements(
    features: Tensor, reference: Tensor, sets: int, settings: FidelitySettings = DEFAULT_SETTINGS
) -> dict[str, Measurement]:
    """`fidelity_values` of all samples, each value with a 95 % interval for the noise of drawing these samples.

    A bootstrap would shift FID, KID and recall (a copied sample is its own nearest neighbour), and torch-fidelity's
    standard deviation of KID is over overlapping subsets of the same samples. So the interval of KID, which has no
    bias, comes from how disjoint sets of the samples differ (see `spread`), and those of the others from a jackknife
    (`fidelity_pseudo_values`). FID's is about 0.6 as wide as what four sets give, and recall's is wider than it need
    be. The intervals say nothing of what another reference would change, nor of FID's bias.

    Two rows whose samples k were made from the same noise are split alike, so the noise that they share cancels in
    `Measurement.difference`.

    Args:
        features: of generated samples [N, F].
        reference: features of real samples [M, F].
        sets: number of disjoint sets for KID, at least 2. The KID of a set is the mean over `kid_subsets / sets`
            subsets.
        settings: see `FidelitySettings`.

    Raises:
        ValueError: too few samples for that many sets, or as in `fidelity_values`.
    """
    check_number(len(features), sets, settings)
    values = fidelity_values(features, reference, settings)
    repeated = fidelity_pseudo_values(features, reference, settings)
    if "kid" in values:
        repeated["kid"] = kid_of_sets(features, reference, sets, settings)
    return {name: set_wise(value, repeated[name], HIGHER_IS_BETTER[name]) for name, value in values.items()}


class _SetJudge(Judge):
    """Shared part of the judges that compare a whole set of samples with a reference.

    Args:
        figures, sets, kid_subsets: as in `FidelityJudge`.
    """

    needs_many = True

    def __init__(self, figures: Sequence[str], sets: int, kid_subsets: int) -> None:
        self.sets, self.settings = sets, FidelitySettings(kid_subsets, figures=tuple(figures))

    @property
    def figures(self) -> dict[str, bool | None]:
        return {name: HIGHER_IS_BETTER[name] for name in self.settings.figures}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        check_number(samples, self.sets, self.settings)


class FidelityJudge(_SetJudge):
    """FID, KID, precision and recall of features, by torch-fidelity.

    Args:
        features: safetensors file with the reference "features" [M, F], a path or `shipped:NAME`.
        figures: which of "fid", "kid", "precision" and "recall" to measure.
        sets: number of disjoint sets of samples behind the interval of KID.
        classifier: weights of the `FeatureClassifier` whose features are compared; None for `extractor`.
        extractor: name of one of torch-fidelity's own extractors, e.g. "inception-v3-compat".
        extractor_weights: that extractor's weights file.
        kid_subsets: KID is the mean over this many random subsets of 1000; half a second each.
    """

    def __init__(
        self,
        features: str,
        figures: list[str],
        sets: int,
        classifier: str | None = None,
        extractor: str | None = None,
        extractor_weights: str | None = None,
        kid_subsets: int = 100,
    ) -> None:
        if (classifier is None) == (extractor is None):
            raise ValueError("FidelityJudge takes either a classifier or the name of an extractor")
        if classifier is not None:
            extractor = f"optsteps-{resolve_weights(classifier).stem}".replace("_", "-")
            register_extractor(extractor, lambda: load_network(classifier, FeatureClassifier)[0])
        assert extractor is not None
        self.extractor = build_extractor(extractor, extractor_weights)
        self.reference = load_file(resolve_weights(features))["features"]
        super().__init__(figures, sets, kid_subsets)

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        if shape is not None:
            _check_images(shape)
            extract_features(self.extractor.cpu(), torch.zeros(1, *shape))

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        _check_images(x.shape[1:])
        features = extract_features(self.extractor.to(x.device), x)
        return fidelity_measurements(features, self.reference, self.sets, self.settings)


class CoordinateJudge(_SetJudge):
    """FID, KID, precision and recall of low-dimensional samples of a known distribution.

    The coordinates of a sample stand for the features of an image. So FID is the Frechet distance of the Gaussians that
    have the moments of the samples and of the truth.

    Args:
        distribution: what true samples are drawn from.
        samples: number of true samples to compare with.
        figures, sets, kid_subsets: as in `FidelityJudge`.
    """

    def __init__(
        self, distribution: Distribution, samples: int, figures: Sequence[str], sets: int, kid_subsets: int = 100
    ) -> None:
        self.truth = distribution.sample(samples, torch.Generator().manual_seed(0))
        super().__init__(figures, sets, kid_subsets)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        return fidelity_measurements(x.cpu().double(), self.truth, self.sets, self.settings)


def _check_images(shape: Sequence[int]) -> None:
    if len(shape) != 3:
        raise ValueError(f"FID and its kin compare images [B, C, H, W], not samples of shape {tuple(shape)}")
