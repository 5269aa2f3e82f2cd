"""Names of all judges in one place, as configs give them (`_target_: optsteps.metrics.judges.TeacherJudge`).

A judge's own module is loaded when the judge is first asked for: some bring torch-fidelity or torchmetrics along, which
take seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from optsteps.deprecation import old_names

if TYPE_CHECKING:
    from optsteps.metrics.accuracy import ClassJudge
    from optsteps.metrics.base import Judge, Measurement, sample_wise, set_wise
    from optsteps.metrics.criterion import MeasurementCriterion
    from optsteps.metrics.data_distance import DataJudge
    from optsteps.metrics.decoded import DecodedJudge
    from optsteps.metrics.fidelity import CoordinateJudge, FidelityJudge
    from optsteps.metrics.own_function import FunctionJudge
    from optsteps.metrics.perception import ClipJudge, PerceptualJudge
    from optsteps.metrics.second import SecondJudge
    from optsteps.metrics.teacher_judge import TeacherJudge
    from optsteps.metrics.toy import DistributionJudge

__all__ = [
    "ClassJudge",
    "ClipJudge",
    "CoordinateJudge",
    "DataJudge",
    "DecodedJudge",
    "DistributionJudge",
    "FidelityJudge",
    "FunctionJudge",
    "Judge",
    "Measurement",
    "MeasurementCriterion",
    "PerceptualJudge",
    "SecondJudge",
    "TeacherJudge",
    "sample_wise",
    "set_wise",
]

_MODULES = {
    "accuracy": ("ClassJudge",),
    "base": ("Judge", "Measurement", "sample_wise", "set_wise"),
    "criterion": ("MeasurementCriterion",),
    "data_distance": ("DataJudge",),
    "decoded": ("DecodedJudge",),
    "fidelity": ("CoordinateJudge", "FidelityJudge"),
    "own_function": ("FunctionJudge",),
    "perception": ("ClipJudge", "PerceptualJudge"),
    "second": ("SecondJudge",),
    "teacher_judge": ("TeacherJudge",),
    "toy": ("DistributionJudge",),
}
_old_name = old_names(__name__, Figure="Measurement", FigureCriterion="MeasurementCriterion")


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"optsteps.metrics.{module}"), name)
    return _old_name(name)
