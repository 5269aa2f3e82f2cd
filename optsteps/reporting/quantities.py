"""How each figure is written: its label, unit, scale and digits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optsteps.metrics.statistics import Interval
from optsteps.text.escaping import printable


@dataclass(frozen=True)
class Quantity:
    """How a figure is written: `scale` times the number, in `unit`, by `digits`; a difference of it as `amount`.

    `higher_is_better` is its direction, None where neither is or nothing is known.
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
            interval = Interval(-interval.value, -interval.high, -interval.low)
        return f"{self.number(interval.value)} {self.amount or self.label} {self.interval(interval)}"


QUANTITIES = {
    "psnr": Quantity("PSNR", "dB", digits=".2f", amount="dB PSNR", higher_is_better=True),
    "mse": Quantity("MSE", higher_is_better=False),
    "pixel_psnr": Quantity("PSNR in pixels", "dB", digits=".2f", amount="dB PSNR in pixels", higher_is_better=True),
    "pixel_mse": Quantity("MSE in pixels", higher_is_better=False),
    "pixel_lpips": Quantity("LPIPS", higher_is_better=False),
    "pixel_clip": Quantity("CLIP score", digits=".2f", higher_is_better=True),
    **{
        f"{space}geneval{part}": Quantity(label, digits=".3f", higher_is_better=True)
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
        f"{space}geneval_retention": Quantity("retention", "%", 100, ".1f", "points of retention", True)
        for space in ("", "pixel_")
    },
    "accuracy": Quantity("accuracy", "%", 100, ".1f", "points of accuracy", True),
    "kid": Quantity("KID", "x 1000", 1000, ".2f", "thousandths of KID", False),
    "fid": Quantity("FID", digits=".2f", higher_is_better=False),
    "precision": Quantity("precision", digits=".3f", higher_is_better=True),
    "recall": Quantity("recall", digits=".3f", higher_is_better=True),
    "nll": Quantity("NLL", "nats", digits=".3f", amount="nats of NLL"),
    "sliced_wasserstein": Quantity("sliced Wasserstein", higher_is_better=False),
}


def quantity(name: str) -> Quantity:
    """How the figure `name` is written; a figure unknown here under its own name with three digits."""
    return QUANTITIES.get(name, Quantity(printable(name)))
