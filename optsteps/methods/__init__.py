"""Methods: anything that maps a problem and step counts to schedules."""

from optsteps.deprecation import old_names
from optsteps.methods.auto import Auto
from optsteps.methods.ays import AYS, PublishedAYS
from optsteps.methods.base import Evaluations, Method, SearchProblem, SearchResult, ShardedMethod
from optsteps.methods.blackbox import CMAES, Bayesian, Evolution
from optsteps.methods.bounds import DM, HSO, Gaussian
from optsteps.methods.changed_problem import ChangedProblem
from optsteps.methods.file import FileSchedules
from optsteps.methods.given import GivenSchedules
from optsteps.methods.handmade import HandMade
from optsteps.methods.ld3 import LD3
from optsteps.methods.monitors import CRS, TORS, Curvature, Entropic, SolverMonitor
from optsteps.methods.oss import OSS, calibrate_amplitude
from optsteps.methods.paths import BOSS, GITS, OLSS, Path
from optsteps.methods.timestep_aligner import TimestepAligner

__all__ = [
    "AYS",
    "BOSS",
    "CMAES",
    "CRS",
    "DM",
    "GITS",
    "HSO",
    "LD3",
    "OLSS",
    "OSS",
    "TORS",
    "Auto",
    "Bayesian",
    "ChangedProblem",
    "Curvature",
    "Entropic",
    "Evaluations",
    "Evolution",
    "FileSchedules",
    "Gaussian",
    "GivenSchedules",
    "HandMade",
    "Method",
    "Path",
    "PublishedAYS",
    "SearchProblem",
    "SearchResult",
    "ShardedMethod",
    "SolverMonitor",
    "TimestepAligner",
    "calibrate_amplitude",
]

__getattr__ = old_names(__name__, Given="GivenSchedules", Restated="ChangedProblem")
