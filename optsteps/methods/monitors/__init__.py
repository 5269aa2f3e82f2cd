"""Monitors: steps of equal shares of a profile, which one walk of the teacher or one table of AYS gives."""

from optsteps.methods.monitors.curvature import Curvature
from optsteps.methods.monitors.equidistribute import equidistribute
from optsteps.methods.monitors.rates import CRS, Entropic
from optsteps.methods.monitors.solver_monitor import SolverMonitor
from optsteps.methods.monitors.tors import TORS

__all__ = ["CRS", "TORS", "Curvature", "Entropic", "SolverMonitor", "equidistribute"]
