"""Methods that know what the model does from a formula: bounds of its errors, or the Gaussian of its data."""

from optsteps.methods.bounds.dm import DM
from optsteps.methods.bounds.gaussian import Gaussian
from optsteps.methods.bounds.hso import HSO

__all__ = ["DM", "HSO", "Gaussian"]
