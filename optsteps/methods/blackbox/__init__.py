"""Searches for any figure of any judge, which need its number and standard error alone."""

from optsteps.methods.blackbox.bayesian import Bayesian
from optsteps.methods.blackbox.cma_es import CMAES
from optsteps.methods.blackbox.evolution import Evolution

__all__ = ["CMAES", "Bayesian", "Evolution"]
