"""Measures of a schedule's samples: closeness to the teacher, fidelity to the data, likelihood, and their intervals.

These names need torch alone. A judge hands such measures to a comparison: `base` says what a judge is, and `judges`
names all of them. Modules that bring torchmetrics, torch-fidelity or transformers along are imported by name.
"""

from optsteps.metrics.statistics import Interval, Verdict, bootstrap, paired_difference, spread, verdict
from optsteps.metrics.teacher import mse, psnr
from optsteps.metrics.toy import Distribution, entropy, negative_log_likelihood, sliced_wasserstein

__all__ = [
    "Distribution",
    "Interval",
    "Verdict",
    "bootstrap",
    "entropy",
    "mse",
    "negative_log_likelihood",
    "paired_difference",
    "psnr",
    "sliced_wasserstein",
    "spread",
    "verdict",
]
