"""FID, KID, precision and recall of features, computed by torch-fidelity, of all samples, and what intervals come from.

- FID: Heusel et al. 2017, arXiv:1706.08500. Biased by an amount that depends on the number of samples: compare only
  values from equal numbers, and expect little of fewer samples than features.
- KID: Binkowski et al. 2018, arXiv:1801.01401. Unbiased, hence at times slightly negative.
- Precision and recall: Kynkaanniemi et al. 2019, arXiv:1904.06991. Shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
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

from optsteps.metrics.statistics import jackknife

HIGHER_IS_BETTER = {"fid": False, "kid": False, "precision": True, "recall": True}
# groups of a jackknife: more narrow the interval of FID no further, and all pairs of features take time
_GROUPS_OF_FID, _GROUPS_OF_SHARES = 20, 10


@dataclass(frozen=True)
class FidelitySettings:
    """torch-fidelity's settings, at its defaults.

    Attributes:
        kid_subsets: KID is the mean over this many random subsets of samples and reference.
        kid_subset_size: samples in a subset; all of them where there are fewer.
        neighbours: precision and recall draw the ball of a feature out to this nearest neighbour.
        seed: of the subsets, and of the sets and groups behind the intervals.
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


def fidelity_pseudo_values(
    samples: Tensor, reference: Tensor, settings: FidelitySettings = DEFAULT_SETTINGS
) -> dict[str, Tensor]:
    """The pseudo-values of FID [20], precision and recall [10] under a jackknife (see `jackknife`), as far as they are
    among the figures of the settings.

    Args:
        samples, reference: features [N, F] and [M, F], as of `fidelity_values`.
        settings: its seed deals the samples to the groups.
    """
    samples, reference = _checked(samples, "sample", settings), _checked(reference, "reference", settings)
    found: dict[str, Tensor] = {}
    if "fid" in settings.figures:
        fid = _fid_to(reference)
        found["fid"] = jackknife(lambda index: fid(samples[index]), len(samples), _GROUPS_OF_FID, settings.seed)
    shares = tuple(name for name in ("precision", "recall") if name in settings.figures)
    if shares:
        alone = replace(settings, figures=shares)

        def measured(index: Tensor) -> Tensor:
            return torch.tensor([*fidelity_values(samples[index], reference, alone).values()], dtype=torch.float64)

        values = jackknife(measured, len(samples), _GROUPS_OF_SHARES, settings.seed)
        found |= dict(zip(shares, values.unbind(1), strict=True))
    return found


def _fid_to(reference: Tensor) -> Callable[[Tensor], Tensor]:
    """FID of samples [n, F] to a reference [M, F], of which the root of the covariance is taken once."""
    mean, covariance = reference.mean(0), reference.T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T

    def fid(samples: Tensor) -> Tensor:
        own = samples.T.cov()
        shared = torch.linalg.eigvalsh(root @ own @ root).clamp_min(0).sqrt().sum()
        return (samples.mean(0) - mean).square().sum() + own.trace() + covariance.trace() - 2 * shared

    return fid


def kid_of_sets(samples: Tensor, reference: Tensor, sets: int, settings: FidelitySettings) -> Tensor:
    """KID of disjoint sets of equal size [sets]; the remainder of the division is left out.

    The split depends on the number of samples and the seed alone, so two rows of paired samples are split alike.

    Raises:
        ValueError: too few samples for that many sets, or as in `fidelity_values`.
    """
    size = size_of_sets(len(samples), sets, settings)
    # at random, because samples often come sorted or cycled by class
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(settings.seed)).to(samples.device)
    of_a_set = replace(settings, figures=("kid",), kid_subsets=max(1, settings.kid_subsets // sets))
    values = [fidelity_values(samples[part], reference, of_a_set)["kid"] for part in order[: sets * size].split(size)]
    return torch.tensor(values, dtype=torch.float64)


def check_number(samples: int, sets: int, settings: FidelitySettings) -> None:
    """Refuse so few samples that a figure or its interval is none.

    Raises:
        ValueError: fewer than two times what the neighbours of precision and recall need, or too few for KID's sets.
    """
    least = 2 * (settings.neighbours + 1)
    if samples < least:
        raise ValueError(f"{samples} samples are too few for {', '.join(settings.figures)}: take at least {least}")
    if "kid" in settings.figures:
        size_of_sets(samples, sets, settings)


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
            f"{samples} samples make {sets} sets of {size}, too few for KID: take at least "
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
