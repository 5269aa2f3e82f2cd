"""The search that asks a pool of methods for candidates, measures them with the real solver, and refines the best."""

from optsteps.methods.auto.search import Auto

__all__ = ["Auto"]
