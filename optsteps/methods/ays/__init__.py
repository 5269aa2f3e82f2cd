"""Align Your Steps (Sabour et al., arXiv:2404.14507)."""

from optsteps.methods.ays.published import PublishedAYS
from optsteps.methods.ays.search import AYS

__all__ = ["AYS", "PublishedAYS"]
