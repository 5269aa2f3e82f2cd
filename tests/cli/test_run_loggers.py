"""What loggers hold when a run is through, read back with their own readers, and what W&B may cost where it fails."""

from __future__ import annotations

import csv
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from overrides import with_oss
from test_run import TINY, TINY_PLANE, start
from wandb.proto.wandb_internal_pb2 import Record

from optsteps.cli import run as command

pytestmark = pytest.mark.usefixtures("blank_pictures")

SMALL = [*(o for o in TINY if not o.startswith("logger")), *TINY_PLANE]


def records(folder: Path) -> list[Record]:
    """Those of a folder's only `.wandb` file: LevelDB's log format behind a header of 7 bytes."""
    (file,) = folder.glob("*.wandb")
    data, found, record, at = file.read_bytes(), [], b"", 7
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for a head: the rest of a block is empty
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<4xHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several parts
            found.append(Record.FromString(record))
            record = b""
    return found


def offline(folder: Path) -> list[list[Record]]:
    """The records of every offline run of a folder, in the order of their start."""
    return [records(run) for run in sorted(folder.glob("wandb/offline-run-*"))]


def values(items: Any) -> dict[str, Any]:
    """The values of history, summary or config items, by name."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(run: list[Record]) -> list[dict[str, Any]]:
    return [values(r.history.item) for r in run if r.HasField("history")]


def start_of(run: list[Record]) -> Any:
    return next(r.run for r in run if r.HasField("run"))


def scalars(metrics: dict[str, Any]) -> dict[tuple[str, int], float]:
    """Every number of metrics.json that a logger is to hold, by name and step count."""
    found = {}
    for row in metrics["rows"]:
        cost = ("search_nfe", "search_evaluations", "search_seconds")
        numbers = {key: row[key] for key in ("steps", "nfe", "samples", *cost)}
        for name, figure in row["figures"].items():
            numbers |= {name: figure["value"], f"{name}/low": figure["low"], f"{name}/high": figure["high"]}
        found |= {(f"{row['method']}/{name}", row["steps"]): value for name, value in numbers.items()}
    for said in metrics["verdicts"]:
        name, difference = f"{said['method']}_minus_{said['rival']}/{said['figure']}", said["difference"]
        numbers = {name: difference["value"], f"{name}/low": difference["low"], f"{name}/high": difference["high"]}
        found |= {(name, said["steps"]): value for name, value in numbers.items()}
    assert len(found) > 100
    return found


def test_an_offline_run_of_wandb_holds_every_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, tmp_path, *SMALL, "logger=wandb", "logger.mode=offline", "logger.tags=[tiny]")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    (run,) = offline(tmp_path)
    lines = history(run)
    for (name, steps), value in scalars(metrics).items():
        assert [line[name] for line in lines if line.get("trainer/global_step") == steps and name in line] == [value]
    assert 0 < next(line["wall_seconds"] for line in lines if "wall_seconds" in line) < 300

    summary: dict[str, Any] = {}
    for record in run:
        if record.HasField("summary"):
            summary |= values(record.summary.update)
    assert list(summary["rows"].values()) == metrics["rows"]
    assert summary["rows"]["oss/3"]["path_error"] == next(
        row["path_error"] for row in metrics["rows"] if row["method"] == "oss" and row["steps"] == 3
    )
    assert {key: summary[key] for key in metrics if key != "rows"} == {k: v for k, v in metrics.items() if k != "rows"}

    config: dict[str, Any] = {}
    for record in run:
        config |= values(record.run.config.update) | values(record.config.update)
    assert config["seed"] == 0
    assert config["teacher"].items() >= {"family": "edm", "steps": 6, "solver": None}.items()
    assert start_of(run).display_name == "mixture-oss-euler"
    assert start_of(run).run_group == ""
    assert list(start_of(run).tags) == ["tiny"]

    files = next(tmp_path.glob("wandb/offline-run-*/files/media"))
    pictures = {path.name.split("_")[0] for path in files.glob("images/pictures/*.png")}
    assert pictures == {"schedules", "path", "samples"}
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in files.glob("table/*.json")}
    assert {name: len(table["data"]) for name, table in tables.items()} == {
        "comparison": len(metrics["rows"]),
        "verdicts": len(metrics["verdicts"]),
        "schedules": sum(len(row["times"] or ()) for row in metrics["rows"]),
    }
    first = dict(zip(tables["schedules"]["columns"], tables["schedules"]["data"][0], strict=True))
    assert first == {
        "method": "teacher",
        "steps": 6,
        "i": 0,
        "time": 80,
        "noise level": 80,
        "log-SNR": first["log-SNR"],
    }
    assert first["log-SNR"] == pytest.approx(-4.382, abs=1e-3)


@pytest.mark.slow
def test_a_run_started_again_goes_on_under_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with another logger mode; another configuration, which has a folder of its own, is another run."""
    own = [*SMALL, "test.oracle=0", "logger=wandb"]
    for further in ([], ["logger.init_timeout=9"]):
        start(monkeypatch, tmp_path, *own, *further)
        time.sleep(1)  # W&B names its folders by the second
    first, again = (start_of(run) for run in offline(tmp_path))
    assert first.run_id == again.run_id
    assert first.resume
    for further in ([], ["seed=1"]):
        folder = tmp_path / f"elsewhere{len(further)}"
        start(monkeypatch, folder, *own, *further)
        assert start_of(*offline(folder)).run_id != first.run_id


@pytest.mark.slow
def test_a_sweep_is_a_group_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job has its own, the failed one in the middle too."""
    folder = tmp_path / "my_sweep"
    own = [*SMALL, "test.oracle=0", "logger=wandb", "logger.mode=offline", f"hydra.sweep.dir={folder}"]
    monkeypatch.setattr(sys, "argv", ["optsteps", "-m", *with_oss(own), "steps=[2],[9],[3]"])
    with pytest.raises(SystemExit):
        command.main()
    runs = [run for job in sorted(folder.glob("*-*")) for run in offline(job)]
    assert {start_of(run).run_group for run in runs} == {"my_sweep"}
    assert len({start_of(run).run_id for run in runs}) == len(runs) == 3
    assert [next(r.exit.exit_code for r in run if r.HasField("exit")) for run in runs] == [0, 1, 0]
    assert [any("oss/mse" in line for line in history(run)) for run in runs] == [True, False, True]


def test_disabled_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    start(monkeypatch, tmp_path, *SMALL, "logger=wandb", "logger.mode=disabled")
    assert (tmp_path / "metrics.json").exists()
    assert not list(tmp_path.rglob("*wandb*"))
    assert "W&B" not in capsys.readouterr().err


def test_a_mode_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path, *SMALL, "logger=wandb", "logger.mode=nonsense")
    assert "logger.mode=nonsense: it should be 'online', 'offline' or 'disabled'" in capsys.readouterr().err


class Server(BaseHTTPRequestHandler):
    """Enough of W&B to start a run; then it answers nobody."""

    protocol_version = "HTTP/1.1"
    gone = threading.Event()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.gone.is_set():
            time.sleep(100)
        project = {"id": "p", "name": "optsteps", "entity": {"id": "e", "name": "me"}}
        data: dict[str, Any] = {"model": None}
        if asked.get("operationName") == "UpsertBucket":
            bucket = {"id": "b", "name": asked["variables"]["name"], "displayName": "a", "project": project}
            data = {"upsertBucket": {"bucket": {**bucket, "config": "{}", "historyLineCount": 0}, "inserted": True}}
            self.gone.set()
        answer = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        """Not to the terminal."""


@pytest.fixture
def silent_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def online(folder: Path, address: str, key: str) -> tuple[str, float]:
    """`optsteps logger=wandb` from the shell: what it said, and how many seconds it took."""
    own = with_oss([*SMALL, f"hydra.run.dir={folder}", "logger=wandb", "logger.mode=online"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_BASE_URL": address, "WANDB_HTTP_TIMEOUT": "2", "HOME": str(folder)}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "optsteps.cli.run", *own, "logger.init_timeout=3", "logger.finish_timeout=3"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment | ({"WANDB_API_KEY": key} if key else {}),
        check=True,
    )
    return done.stderr, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "said"),
    [
        pytest.param("", "No API key configured", id="no key"),
        pytest.param("a" * 40, "connection refused", id="closed port"),
    ],
)
def test_without_wandb_a_run_goes_on_offline(key: str, said: str, tmp_path: Path) -> None:
    error, seconds = online(tmp_path, "http://127.0.0.1:9", key)
    (run,) = offline(tmp_path)
    assert "online mode failed" in error
    assert said in error
    assert f"upload it with: wandb sync {next(tmp_path.glob('wandb/offline-run-*'))}\n" in error
    assert any("oss/mse/low" in line for line in history(run))
    assert seconds < 60


@pytest.mark.slow
def test_a_network_lost_in_the_middle_costs_the_upload_alone(tmp_path: Path, silent_server: str) -> None:
    error, seconds = online(tmp_path, silent_server, "a" * 40)
    (run,) = offline(tmp_path)
    assert f"W&B: {silent_server}/me/optsteps/runs/{start_of(run).run_id}\n" in error
    assert f"upload it with: wandb sync {next(tmp_path.glob('wandb/offline-run-*'))}\n" in error
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for name, steps in scalars(metrics):
        assert sum(name in line for line in history(run) if line.get("trainer/global_step") == steps) == 1
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/table/*.json"))) == 3
    assert seconds < 120


def test_tensorboard_holds_figures_pictures_and_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    start(monkeypatch, tmp_path, *SMALL, "logger=tensorboard")
    (file,) = tmp_path.glob("tensorboard/*/events*")
    events = EventAccumulator(str(file), size_guidance={"tensors": 0}).Reload()
    for (name, steps), value in scalars(json.loads((tmp_path / "metrics.json").read_text())).items():
        found = [event.value for event in events.Scalars(name) if event.step == steps]
        assert found == [pytest.approx(value, rel=1e-6, abs=1e-12)]  # TensorBoard's are float32
    assert set(events.Tags()["images"]) == {f"pictures/{path.stem}" for path in tmp_path.glob("*.png")}
    text = events.Tensors("report/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == (tmp_path / "report.md").read_text()


def test_csv_holds_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, tmp_path, *SMALL, "logger=csv")
    (file,) = tmp_path.glob("csv/*/metrics.csv")
    lines = {int(line["step"]): line for line in csv.DictReader(file.read_text().splitlines())}
    assert float(lines[0]["wall_seconds"]) > 0
    for (name, steps), value in scalars(json.loads((tmp_path / "metrics.json").read_text())).items():
        assert float(lines[steps][name]) == value
