"""LD3: times learned by gradients through the whole walk (Tong et al., arXiv:2405.15506)."""

from optsteps.methods.ld3.search import LD3

__all__ = ["LD3"]
