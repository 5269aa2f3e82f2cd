"""LD3: times learned by gradients through the whole walk (Tong et al., arXiv:2405.15506)."""

from optsteps.deprecation import old_names
from optsteps.methods.ld3.search import LD3

__all__ = ["LD3"]

__getattr__ = old_names(
    __name__,
    Grid=f"{__name__}.gaps.GapSchedules",
    Learned=f"{__name__}.training.Learned",
    Training=f"{__name__}.training.Training",
    into_ball=f"{__name__}.training.into_ball",
)
