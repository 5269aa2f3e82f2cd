"""Data for training and judging."""

from optsteps.datasets.images import ImageSet, captioned_scenes, cifar10, digits, mnist, to_unit_range

__all__ = ["ImageSet", "captioned_scenes", "cifar10", "digits", "mnist", "to_unit_range"]
