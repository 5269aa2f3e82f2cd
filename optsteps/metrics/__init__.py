"""What a schedule is judged by: closeness to the teacher, fidelity to the data, likelihood, and honest intervals.

Here stands what needs torch alone. `accuracy`, `extractors`, `features`, `fidelity` and `judges` are imported by name:
they bring torchmetrics and torch-fidelity along.
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
