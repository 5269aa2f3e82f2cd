"""Methods: anything that maps a problem and step counts to schedules."""

from optsteps.methods.ays import AYS, PublishedAYS
from optsteps.methods.base import Evaluations, Method, SearchProblem, SearchResult, ShardedMethod
from optsteps.methods.handmade import Given, HandMade
from optsteps.methods.oss import OSS, calibrate_amplitude
from optsteps.methods.restated import Restated

__all__ = [
    "AYS",
    "OSS",
    "Evaluations",
    "Given",
    "HandMade",
    "Method",
    "PublishedAYS",
    "Restated",
    "SearchProblem",
    "SearchResult",
    "ShardedMethod",
    "calibrate_amplitude",
]
