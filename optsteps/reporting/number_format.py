"""Format of each measured number: its label, unit, scale and digits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from optsteps.metrics.second import SECOND
from optsteps.metrics.statistics import Interval
from optsteps.text.escaping import printable


@dataclass(frozen=True)
class NumberFormat:
    """The way in which a measured number is written.

    Attributes:
        label: its name in headings.
        unit: behind the label; empty for none.
        scale: what is written is this times the number.
        digits: a format specification.
        amount: the unit in which a sentence gives a difference; empty for the label.
        higher_is_better: direction of the number, None where neither is better or nothing is known.
    """

    label: str
    unit: str = ""
    scale: float = 1.0
    digits: str = "#.3g"
    amount: str = ""
    higher_is_better: bool | None = None

    def number(self, value: float, sign: str = "") -> str:
        """`value` in this unit."""
        places = int(self.digits[1]) if self.digits.endswith("f") else 15
        rounded = round(self.scale * value, places) + 0.0  # never -0.00
        digits = self.digits if not 1e6 <= abs(rounded) < math.inf else ".1e"
        return f"{rounded:{sign}{digits}}".removesuffix(".")

    def interval(self, interval: Interval, sign: str = "") -> str:
        """[low, high] in this unit."""
        return f"[{self.number(interval.low, sign)}, {self.number(interval.high, sign)}]"

    def difference(self, interval: Interval) -> str:
        """The size of a difference in words, its direction left to the sentence around it."""
        if interval.value < 0:
            interval = -interval
        return f"{self.number(interval.value)} {self.amount or self.label} {self.interval(interval)}"


NUMBER_FORMATS = {
    "psnr": NumberFormat("PSNR", "dB", digits=".2f", amount="dB PSNR", higher_is_better=True),
    "mse": NumberFormat("MSE", higher_is_better=False),
    "pixel_psnr": NumberFormat("PSNR in pixels", "dB", digits=".2f", amount="dB PSNR in pixels", higher_is_better=True),
    "pixel_mse": NumberFormat("MSE in pixels", higher_is_better=False),
    "pixel_lpips": NumberFormat("LPIPS", higher_is_better=False),
    "pixel_clip": NumberFormat("CLIP score", digits=".2f", higher_is_better=True),
    **{
        f"{space}geneval{part}": NumberFormat(label, digits=".3f", higher_is_better=True)
        for space in ("", "pixel_")
        for part, label in (
            ("", "GenEval"),
            ("_single_object", "single object"),
            ("_two_object", "two objects"),
            ("_counting", "counting"),
            ("_colors", "colours"),
            ("_position", "position"),
            ("_color_attr", "colour attribution"),
        )
    },
    **{
        f"{space}geneval_retention": NumberFormat("retention", "%", 100, ".1f", "points of retention", True)
        for space in ("", "pixel_")
    },
    "accuracy": NumberFormat("accuracy", "%", 100, ".1f", "points of accuracy", True),
    "kid": NumberFormat("KID", "x 1000", 1000, ".2f", "thousandths of KID", False),
    "fid": NumberFormat("FID", digits=".2f", higher_is_better=False),
    "precision": NumberFormat("precision", digits=".3f", higher_is_better=True),
    "recall": NumberFormat("recall", digits=".3f", higher_is_better=True),
    "nll": NumberFormat("NLL", "nats", digits=".3f", amount="nats of NLL"),
    "sliced_wasserstein": NumberFormat("sliced Wasserstein", higher_is_better=False),
}


def number_format(name: str) -> NumberFormat:
    """The format of the number `name`: of a second judge that of the first's, with a label of its own. One that is not
    listed has its own name as label, and three digits."""
    if name.startswith(SECOND):
        first = number_format(name.removeprefix(SECOND))
        return replace(
            first, label=f"second {first.label}", amount=first.amount and f"{first.amount} of the second judge"
        )
    return NUMBER_FORMATS.get(name, NumberFormat(printable(name)))
