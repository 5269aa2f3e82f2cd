"""FID, KID, precision and recall of features, computed by torch-fidelity, of all samples and of disjoint sets.

- FID: Heusel et al. 2017, arXiv:1706.08500. Biased by an amount that depends on the number of samples: compare only
  values from equal numbers, and expect little of fewer samples than features.
- KID: Binkowski et al. 2018, arXiv:1801.01401. Unbiased, hence at times slightly negative.
- Precision and recall: Kynkaanniemi et al. 2019, arXiv:1904.06991. Shares in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch_fidelity.metric_fid import (  # type: ignore[import-untyped, unused-ignore]
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)
from torch_fidelity.metric_kid import (  # type: ignore[import-untyped, unused-ignore]
    KEY_METRIC_KID_MEAN,
    kid_features_to_metric,
)
from torch_fidelity.metric_prc import (  # type: ignore[import-untyped, unused-ignore]
    KEY_METRIC_PRECISION,
    KEY_METRIC_RECALL,
    prc_features_to_metric,
)

HIGHER_IS_BETTER = {"fid": False, "kid": False, "precision": True, "recall": True}
# of the jackknife of FID: more groups narrow the interval no further
_GROUPS = 20


@dataclass(frozen=True)
class FidelitySettings:
    """torch-fidelity's settings, at its defaults.

    Attributes:
        kid_subsets: KID is the mean over this many random subsets of samples and reference.
        kid_subset_size: samples in a subset; all of them where there are fewer.
        neighbours: precision and recall draw the ball of a feature out to this nearest neighbour.
        seed: of the subsets and of the disjoint sets behind the intervals.
        figures: which of "fid", "kid", "precision" and "recall" to compute; the last two compare all pairs of features.

    Raises:
        ValueError: an unknown figure.
    """

    kid_subsets: int = 100
    kid_subset_size: int = 1000
    neighbours: int = 3
    seed: int = 2020
    figures: tuple[str, ...] = tuple(HIGHER_IS_BETTER)

    def __post_init__(self) -> None:
        unknown = [name for name in self.figures if name not in HIGHER_IS_BETTER]
        if unknown or not self.figures:
            raise ValueError(
                f"expected some figures, and known ones; got {list(self.figures)}; known: {', '.join(HIGHER_IS_BETTER)}"
            )


DEFAULT_SETTINGS = FidelitySettings()


def fidelity_values(
    samples: Tensor, reference: Tensor, settings: FidelitySettings = DEFAULT_SETTINGS
) -> dict[str, float]:
    """FID, KID, precision and recall of generated features against real ones.

    Args:
        samples: features of generated images [N, F].
        reference: features of real images [M, F].
        settings: see `FidelitySettings`.

    Returns:
        those of `settings.figures` by name, as `torch_fidelity.calculate_metrics` gives them for float64 features.

    Raises:
        ValueError: features that are not finite or of different length, or no more of them than `neighbours`.
    """
    samples = _checked(samples, "sample", settings)
    reference = _checked(reference, "reference", settings)
    if samples.shape[1] != reference.shape[1]:
        raise ValueError(
            f"samples have {samples.shape[1]} features but the reference has {reference.shape[1]}; "
            "both must come from the same extractor"
        )
    values: dict[str, float] = {}
    if "fid" in settings.figures:
        statistics = (fid_features_to_statistics(features) for features in (samples, reference))
        values["fid"] = fid_statistics_to_metric(*statistics, False)[KEY_METRIC_FID]
    if "kid" in settings.figures:
        kid = kid_features_to_metric(
            samples,
            reference,
            kid_subsets=settings.kid_subsets,
            kid_subset_size=min(settings.kid_subset_size, len(samples), len(reference)),
            rng_seed=settings.seed,
            verbose=False,
        )
        values["kid"] = kid[KEY_METRIC_KID_MEAN]
    if {"precision", "recall"} & set(settings.figures):
        # in batches: the whole table of distances takes gigabytes
        prc = prc_features_to_metric(
            samples,
            reference,
            prc_neighborhood=settings.neighbours,
            prc_batch_size=1000,
            save_cpu_ram=True,
            verbose=False,
        )
        values |= {"precision": prc[KEY_METRIC_PRECISION], "recall": prc[KEY_METRIC_RECALL]}
    return {name: values[name] for name in settings.figures}


def fidelity_per_set(samples: Tensor, reference: Tensor, sets: int, settings: FidelitySettings) -> dict[str, Tensor]:
    """`fidelity_values` of disjoint sets of equal size -> [sets] each; the remainder of the division is left out.

    The split depends on the number of samples and the seed alone, so two rows of paired samples are split alike.

    Raises:
        ValueError: too few samples for that many sets, or as in `fidelity_values`.
    """
    size = size_of_sets(len(samples), sets, settings)
    order = _shuffled(samples, settings)
    per_set = replace(settings, kid_subsets=max(1, settings.kid_subsets // sets))
    values = [fidelity_values(samples[part], reference, per_set) for part in order[: sets * size].split(size)]
    return {name: torch.tensor([value[name] for value in values], dtype=torch.float64) for name in values[0]}


def fid_pseudo_values(samples: Tensor, reference: Tensor, settings: FidelitySettings = DEFAULT_SETTINGS) -> Tensor:
    """The pseudo-values of FID under a jackknife that leaves out one group of samples at a time -> [G], G at most 20.

    With F of all samples and F_g of all but group g they are G F - (G - 1) F_g, and their mean has FID's noise (Efron &
    Tibshirani 1993, chapter 11; Shao & Wu 1989 for groups). FID is a smooth function of moments, so this holds, and
    each F_g is nearly of all samples: FIDs of disjoint sets are of few samples, and vary more than their number makes
    up for.

    Args:
        samples, reference: features [N, F] and [M, F], as of `fidelity_values`.
        settings: its seed deals the samples to the groups, as in `fidelity_per_set`.
    """
    samples, reference = _checked(samples, "sample", settings), _checked(reference, "reference", settings)
    groups = _shuffled(samples, settings).tensor_split(min(_GROUPS, len(samples)))
    mean, covariance = reference.mean(0), reference.T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T

    def fid(features: Tensor) -> Tensor:
        own = features.T.cov()
        shared = torch.linalg.eigvalsh(root @ own @ root).clamp_min(0).sqrt().sum()
        return (features.mean(0) - mean).square().sum() + own.trace() + covariance.trace() - 2 * shared

    left = torch.ones(len(samples), dtype=torch.bool)
    without = [fid(samples[left.index_fill(0, group, False)]) for group in groups]
    return len(groups) * fid(samples) - (len(groups) - 1) * torch.stack(without)


def _shuffled(samples: Tensor, settings: FidelitySettings) -> Tensor:
    """The samples' numbers at random, because samples often come sorted or cycled by class."""
    return torch.randperm(len(samples), generator=torch.Generator().manual_seed(settings.seed)).to(samples.device)


def size_of_sets(samples: int, sets: int, settings: FidelitySettings) -> int:
    """The size of each of the disjoint sets of samples behind an interval.

    Raises:
        ValueError: too few samples for that many sets.
    """
    if sets < 2:
        raise ValueError(f"an interval needs at least 2 disjoint sets, got {sets}")
    size, least = samples // sets, settings.neighbours + 1
    if size < least:
        raise ValueError(
            f"{samples} samples make {sets} sets of {size}, too few for {', '.join(settings.figures)}: take at least "
            f"{sets * least} samples, or fewer sets (an interval needs sets of {least} or more)"
        )
    return size


def _checked(features: Tensor, what: str, settings: FidelitySettings) -> Tensor:
    """Features as torch-fidelity's functions want them: on the CPU, and float64 for exact sums."""
    if features.ndim != 2 or len(features) <= settings.neighbours or features.shape[1] < 2:
        raise ValueError(
            f"expected {what} features [N, F] with N above {settings.neighbours} (the neighbours of precision and "
            f"recall) and F above 1, got shape {tuple(features.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError(f"{what} features contain values that are not finite")
    return features.detach().to("cpu", torch.float64)
