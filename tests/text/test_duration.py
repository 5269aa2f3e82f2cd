"""Durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optsteps.text.duration import duration, seconds_of


@given(st.floats(1, 1e7))
def test_a_duration_can_be_read_back(seconds: float) -> None:
    assert seconds_of(duration(seconds).replace(",", "")) == pytest.approx(seconds, rel=0.5 if seconds < 10 else 0.05)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (0.2, "<1 s"), (89, "89 s"), (90, "1.5 min"), (9e5, "250 h")]
)
def test_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("text", ["", "10", "10 m", "min", "-1s", "1e3s", "10min "])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"10min, 90s or 1\.5h"):
        seconds_of(text)
