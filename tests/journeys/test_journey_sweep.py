"""Somebody compares methods over seeds, and wants one page to send around."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_from_a_sweep_to_a_page(desk: Any) -> None:
    sweep = "optsteps -m model=mixture steps=[4] rivals=none test.oracle=0 hydra.sweep.dir=sweep logger=none"
    sweep += " teacher.steps=20 search.samples=8 test.samples=64"
    desk.types(f"{sweep} method=oss,emd seed=0,1", "did you mean edm", refused=True)
    desk.types(f"{sweep} method=oss,edm seed=0,1", "report and schedules:")
    assert len(list(desk.folder.glob("sweep/*/metrics.json"))) == 4
    desk.types("optsteps-report sweep --output page", "page/report.html")
    page, text = desk.reads("page/report.html"), desk.reads("page/report.md")
    for method in ("oss", "edm"):
        assert re.search(rf"^\| {method} \|", text, re.MULTILINE)
        assert re.search(rf">\s*{method}\s*<", page)
    assert "4 runs" in text
    assert "<html" in page
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?https?:", page), "the page fetches nothing"
