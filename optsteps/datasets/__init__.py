"""Data for training and judging."""

from optsteps.datasets.images import ImageSet, cifar10, digits, mnist, to_unit_range

__all__ = ["ImageSet", "cifar10", "digits", "mnist", "to_unit_range"]
