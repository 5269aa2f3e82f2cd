"""Optimal Stepsize Distillation (Pei et al., arXiv:2503.21774)."""

from optsteps.methods.oss.amplitude import calibrate_amplitude
from optsteps.methods.oss.search import OSS

__all__ = ["OSS", "calibrate_amplitude"]
