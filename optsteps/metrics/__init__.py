"""What a schedule is judged by: closeness to the teacher, fidelity to the data, likelihood, and honest intervals."""

from optsteps.metrics.accuracy import class_correct
from optsteps.metrics.extractors import (
    Extractor,
    NetworkExtractor,
    build_extractor,
    extract_features,
    register_extractor,
    to_uint8,
)
from optsteps.metrics.features import (
    HIGHER_IS_BETTER,
    FidelitySettings,
    fidelity_differences,
    fidelity_intervals,
    fidelity_values,
)
from optsteps.metrics.fidelity import Fidelity
from optsteps.metrics.judges import (
    ClassJudge,
    CoordinateJudge,
    DistributionJudge,
    FidelityJudge,
    Figure,
    Judge,
    TeacherJudge,
)
from optsteps.metrics.statistics import Interval, Verdict, bootstrap, paired_difference, spread, verdict
from optsteps.metrics.teacher import mse, psnr
from optsteps.metrics.toy import Distribution, entropy, negative_log_likelihood, sliced_wasserstein

__all__ = [
    "HIGHER_IS_BETTER",
    "ClassJudge",
    "CoordinateJudge",
    "Distribution",
    "DistributionJudge",
    "Extractor",
    "Fidelity",
    "FidelityJudge",
    "FidelitySettings",
    "Figure",
    "Interval",
    "Judge",
    "NetworkExtractor",
    "TeacherJudge",
    "Verdict",
    "bootstrap",
    "build_extractor",
    "class_correct",
    "entropy",
    "extract_features",
    "fidelity_differences",
    "fidelity_intervals",
    "fidelity_values",
    "mse",
    "negative_log_likelihood",
    "paired_difference",
    "psnr",
    "register_extractor",
    "sliced_wasserstein",
    "spread",
    "to_uint8",
    "verdict",
]
