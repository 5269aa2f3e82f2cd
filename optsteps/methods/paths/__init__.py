"""Paths on a grid of nodes, such as the teacher's times."""

from optsteps.methods.paths.shortest_path import shortest_path

__all__ = ["shortest_path"]
