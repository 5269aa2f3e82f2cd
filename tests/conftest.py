from __future__ import annotations

import gc
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import pytest
import torch
from hypothesis import settings
from PIL import Image

# half of what hypothesis tries by default, for tests that do not say a number
settings.register_profile("half", max_examples=50, deadline=None)
settings.load_profile("half")


@pytest.hookimpl(tryfirst=True)  # before the cases are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the cases of a test marked `mostly_slow(k)` the first stays, and one of k of the others; the rest are slow.

    The names choose, so the cases that stay are of all values of all parameters, and are the same in every process.
    """
    first = set[str]()
    for item in items:
        mark = item.get_closest_marker("mostly_slow")
        if mark is None or item.get_closest_marker("slow") is not None:
            continue
        test = item.nodeid.partition("[")[0]
        if test in first and crc32(item.nodeid.encode()) % mark.args[0]:
            item.add_marker(pytest.mark.slow)
        first.add(test)


# PSNR at 5 NFE by method, and how the seeds move it; 6 dB more at 10 NFE
PSNR = {"oss": 24.0, "ays": 23.0, "edm": 22.7, "logsnr": 22.75}
OFFSETS = {
    "oss": (0.0, 0.5, 1.0),
    "ays": (0.1, 0.4, 1.1),
    "edm": (0.0, 0.4, 1.1),
    "logsnr": (0.3, 0.1, 1.2),
    "oss_per_sample": (0.0, 0.2, 0.1),
}


def _psnr(method: str, seed: int, nfe: int) -> float:
    return PSNR.get(method, 30.0) + OFFSETS[method][seed] + 6 * (nfe // 10)


def _figure(value: float, width: float) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


@pytest.fixture(autouse=True)
def own_random_numbers() -> None:
    """What a test draws from torch's own generator does not depend on the tests that its process ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """A function that writes a made-up run's folder: `write_run(folder, method="oss", solver="euler", seed=0)`.

    Its main method is compared with edm and logsnr; oss has an oracle; the teacher has a FID alone.
    """

    def write(folder: Path, method: str = "oss", solver: str = "euler", seed: int = 0) -> Path:
        (folder / ".hydra").mkdir(parents=True)
        config = {"seed": seed, "nfe": None, "steps": [5, 10], "model": {"name": "blobs"}, "test": {"samples": 64}}
        config |= {"solver": {"name": solver, "order": 2 if solver == "dpmpp_2m" else None}, "method": {"kind": method}}
        (folder / ".hydra" / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        rows, verdicts = [], []
        levels = [80.0, 5.0, 1.0, 0.3, 0.05, 0.0]
        for nfe in (5, 10):
            for name in (method, "edm", "logsnr", *(["oss_per_sample"] if method == "oss" else [])):
                psnr, oracle = _psnr(name, seed, nfe), name == "oss_per_sample"
                figures = {"psnr": _figure(psnr, 0.5), "fid": _figure((50 - psnr) / 100, 0.01)}
                found = {"oracle": oracle, "noise_levels": None if oracle else levels[:-1] + [0.01] * (nfe - 5) + [0.0]}
                cost = 4950.0 if name == method else 0.0
                found |= {"search_nfe": cost, "search_evaluations": 32 * int(cost)}
                rows.append({"method": name, "steps": nfe, "nfe": nfe, "figures": figures, **found})
            for rival in ("edm", "logsnr"):
                difference = _figure(_psnr(method, seed, nfe) - _psnr(rival, seed, nfe), 0.2)
                said = "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "no better"
                names = {"method": method, "rival": rival, "steps": nfe, "nfe": nfe, "figure": "psnr"}
                verdicts.append({**names, "difference": difference, "verdict": said})
            Image.new("RGB", (64, 32), "#ccddee").save(folder / f"samples_{nfe}.png")
        teacher = {"method": "teacher", "steps": 100, "nfe": 100, "oracle": False}
        rows.insert(0, {**teacher, "figures": {"fid": _figure(0.1, 0.01)}})
        metrics = {"method": method, "facts": {"device": "cpu"}, "rows": rows, "verdicts": verdicts}
        metrics |= {"evaluations_per_second": 440.0}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    return write


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and labelled, and saved as one white pixel.

    Rendering takes most of the time of a tiny run. tests/reporting and some runs of tests/cli/test_run.py render.
    """
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1), "white").save(pixel, "PNG")

    def save(_figure: object, file: BinaryIO, **_: object) -> None:
        file.write(pixel.getvalue())

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save)


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory, write_run: Callable[..., Path]) -> Path:
    """Runs of two methods with three seeds, and of another solver with one."""
    folder = tmp_path_factory.mktemp("sweep")
    for k, method in enumerate(("oss", "ays")):
        for seed in range(3):
            write_run(folder / str(3 * k + seed), method, seed=seed)
    write_run(folder / "6", "oss", "dpmpp_2m")
    return folder


def pytest_collection_finish() -> None:
    """What imports left is not looked through again whenever garbage is collected."""
    gc.freeze()
