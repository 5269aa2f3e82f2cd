"""Paths on a grid of nodes: the teacher's times with the errors of steps between them as costs."""

from optsteps.methods.paths.base import EulerPath
from optsteps.methods.paths.boss import BOSS
from optsteps.methods.paths.gits import GITS
from optsteps.methods.paths.olss import OLSS
from optsteps.methods.paths.path import Path
from optsteps.methods.paths.shortest_path import shortest_path

__all__ = ["BOSS", "GITS", "OLSS", "EulerPath", "Path", "shortest_path"]
