"""Models that cannot be relied on are refused in a sentence that says why and what to do, before anything is spent."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from overrides import with_oss
from torch import Tensor

from optsteps.cli import run as command
from optsteps.denoisers import EDMDenoiser, GuidedDenoiser, ModelError, NetworkDenoiser
from optsteps.fingerprint import PROBES, probe_inputs
from optsteps.models import mixture, pretrained
from optsteps.processes import EDM, VP, Flow
from optsteps.running.probe import probe

pytestmark = pytest.mark.usefixtures("blank_pictures")

CPU = torch.device("cpu")
SHAPE = (1, 4, 4)


def shrunk(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    """The exact denoiser of unit Gaussian data under EDM."""
    return x / (1 + t.to(x).reshape(-1, 1, 1, 1) ** 2)


class Dropping:
    """Dropout left on."""

    def __init__(self, part: float = 0.1) -> None:
        self.network = torch.nn.Dropout(part)

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.network(shrunk(x, t))


class Counting:
    """Answers with the number of its calls."""

    calls = 0

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        self.calls += 1
        return shrunk(x, t) * (1 + 0.01 * self.calls)


class Overwriting:
    """Answers in memory of its own, as a CUDA graph does."""

    def __init__(self) -> None:
        self.out = torch.empty(PROBES, *SHAPE)

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.out[: len(x)].copy_(shrunk(x, t))


class Averaging(torch.nn.Module):
    """A network with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.norm(x)


class Failing:
    """Raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        raise self.error


def changing_x(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    x *= 0.5
    return x / (1 + t.to(x).reshape(-1, 1, 1, 1) ** 2)


def changing_t(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    t.log_()
    return shrunk(x, t.exp())


def changing_cond(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    cond.pop("label")
    return shrunk(x, t)


def changing_numpy(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    """In place, but behind torch's back."""
    out = shrunk(x, t)
    array = x.numpy()
    array += 1
    return out


def returning(change: Callable[[Tensor], Any]) -> Callable[..., Any]:
    return lambda x, t, cond=None: change(shrunk(x, t))


def costing(nfe: Any) -> Callable[..., Tensor]:
    def denoiser(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return shrunk(x, t)

    denoiser.nfe = nfe  # type: ignore[attr-defined]
    return denoiser


# every misbehaving denoiser makes its own instance, since some have a state
MISBEHAVING: dict[str, tuple[Callable[[], Any], str]] = {
    "dropout": (Dropping, r"does not answer the same twice .*dropout.* model.eval\(\)"),
    "a state": (Counting, "does not answer the same twice .* let no call depend on the calls before"),
    "its own memory": (Overwriting, r"same memory at every call.* out.clone\(\)"),
    "batch norm": (
        lambda: NetworkDenoiser(Averaging(), EDM(), "x0"),
        r"depends on the others in the batch .*batch normalisation.*model.eval\(\)",
    ),
    "batch norm under EDM": (lambda: EDMDenoiser(Averaging(), EDM()), "depends on the others in the batch"),
    "neighbours": (
        lambda: lambda x, t, cond=None: shrunk(x, t) + 0.01 * x.mean(0),
        "depends on the others in the batch .* compute nothing over dimension 0",
    ),
    "the last in the batch": (
        lambda: lambda x, t, cond=None: shrunk(x, t) + 0.1 * (x[-1:] > x).float(),
        "depends on the others",
    ),
    "x in place": (lambda: changing_x, r"changes its input x in place.*x = x \* 2"),
    "x in place through numpy": (lambda: changing_numpy, "changes its input x in place"),
    "t in place": (lambda: changing_t, "changes its input t in place"),
    "cond in place": (lambda: changing_cond, "changes its input cond in place"),
    "one number for a sample": (
        lambda: returning(lambda out: out.mean((1, 2, 3), keepdim=True)),
        r"the denoiser returned shape \(8, 1, 1, 1\) for an input of shape \(8, 1, 4, 4\)",
    ),
    "a network's one number for a sample": (
        lambda: NetworkDenoiser(lambda x, t, cond: x.mean((1, 2, 3), keepdim=True), EDM(), "eps"),
        r"the network returned shape \(8, 1, 1, 1\) for an input of shape \(8, 1, 4, 4\)",
    ),
    "an EDM network's one number": (
        lambda: EDMDenoiser(lambda x, t, cond: x[:, :, :1, :1], EDM()),
        r"the network returned shape \(8, 1, 1, 1\)",
    ),
    "guidance of another shape": (
        lambda: GuidedDenoiser(returning(lambda out: out[..., 0]), 2.0, {"label": torch.zeros(1)}),
        r"the denoiser returned shape \(16, 1, 4\) for an input of shape \(16, 1, 4, 4\)",
    ),
    "integers": (lambda: returning(Tensor.int), r"numbers of torch.int32 .* return floating point numbers"),
    "a network's integers": (
        lambda: NetworkDenoiser(lambda x, t, cond: x.round().long(), EDM(), "eps"),
        "the network returned numbers of torch.int64",
    ),
    "booleans": (lambda: returning(lambda out: out > 0), r"numbers of torch.bool"),
    "complex numbers": (lambda: returning(lambda out: out.to(torch.complex64)), r"numbers of torch.complex64"),
    "a tuple": (lambda: returning(lambda out: (out,)), r"returned a tuple of 1; return .* its first entry \[0\]"),
    "a list": (lambda: returning(list), r"returned a list of 8; return the one tensor"),
    "a dict": (lambda: returning(lambda out: {"pred": out}), r"returned a dict with the keys 'pred'; return the one"),
    "None": (lambda: returning(lambda out: None), r"returned NoneType; .* is there no return\?"),
    "numpy": (lambda: returning(lambda out: out.numpy()), r"returned a ndarray; .* torch.from_numpy\(out\)"),
    "numpy of a network": (
        lambda: NetworkDenoiser(lambda x, t, cond: np.zeros(x.shape), EDM(), "v"),
        r"the network returned a ndarray",
    ),
    "an output of diffusers": (
        lambda: NetworkDenoiser(lambda x, t, cond: SimpleNamespace(sample=x), EDM(), "eps"),
        r"the network returned a SimpleNamespace; return its tensor: .sample",
    ),
    "another device": (
        lambda: returning(lambda out: out.to("meta")),
        r"on meta for an input on cpu.*out.to\(x.device\)",
    ),
    "NaN": (lambda: returning(lambda out: out / 0 * 0), "returned NaN or inf at time 80"),
    "nfe 0": (lambda: costing(0), "nfe is 0; .* an integer of at least 1"),
    "nfe -1": (lambda: costing(-1), "nfe is -1"),
    "nfe 1.5": (lambda: costing(1.5), "nfe is 1.5"),
    "nfe True": (lambda: costing(True), "nfe is True"),
    "KeyError": (
        lambda: Failing(KeyError("text")),
        r"raised KeyError, called with 8 samples of shape \(1, 4, 4\) .*'text'",
    ),
    "IndexError": (
        lambda: Failing(IndexError("index 12 is\nout of bounds")),
        "raised IndexError.*: index 12 is out of",
    ),
    "RuntimeError": (lambda: Failing(RuntimeError()), "raised RuntimeError.*OPTSTEPS_DEBUG=1 shows where"),
    "ValueError": (lambda: Failing(ValueError("no")), "raised ValueError.*: no;"),
    "out of memory": (
        lambda: Failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
        "ran out of memory, called with 8 samples.* give a smaller max_batch, or max_batch=auto",
    ),
    "sys.exit": (lambda: Failing(SystemExit(0)), r"called sys.exit\(0\), called with 8 samples.*; it must answer"),
}


def inputs(shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor, Any]:
    return probe_inputs(EDM(), shape, (80.0, 0.002), lambda index: {"label": torch.tensor(list(index))})


@pytest.mark.parametrize("name", MISBEHAVING)
def test_a_model_that_cannot_be_relied_on_is_refused(name: str) -> None:
    make, said = MISBEHAVING[name]
    with pytest.raises(ModelError, match=f"(?s){said}") as refused:
        probe(make(), *inputs())
    assert "\n" not in str(refused.value)


def test_rare_dropout_is_refused() -> None:
    """Two calls differ in some 490 of the probe's 24,576 numbers. Of the 128 above, they may differ in none."""
    with pytest.raises(ModelError, match="does not answer the same twice"):
        probe(Dropping(0.01), *inputs((3, 32, 32)))


def test_the_users_own_error_is_the_cause() -> None:
    error = KeyError("text")
    with pytest.raises(ModelError) as refused:
        probe(Failing(error), *inputs())
    assert refused.value.__cause__ is error


def test_ctrl_c_stays_what_it_is() -> None:
    with pytest.raises(KeyboardInterrupt):
        probe(Failing(KeyboardInterrupt()), *inputs())


def half_precision(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    """Arithmetic that depends on a sample's place in the batch in its last digits, as kernels' may."""
    place = torch.arange(len(x)).reshape(-1, 1, 1, 1)
    return (shrunk(x, t) * (1 + 0.003 * place)).bfloat16().float()


@pytest.mark.parametrize(
    "denoiser",
    [
        shrunk,
        returning(Tensor.half),
        returning(Tensor.double),
        returning(lambda out: out.requires_grad_()),
        returning(lambda out: out.t() if out.ndim == 2 else out.transpose(2, 3).contiguous().transpose(2, 3)),
        half_precision,
        costing(np.int64(2)),
        NetworkDenoiser(Averaging().eval(), EDM(), "x0"),
        lambda x, t, cond=None: x,
    ],
)
def test_a_model_that_can_be_relied_on_passes(denoiser: Any) -> None:
    found = probe(denoiser, *inputs())
    assert found.outputs.shape == (PROBES, *SHAPE)
    assert found.evaluations == 3 * PROBES * getattr(denoiser, "nfe", 1)


@pytest.mark.parametrize("max_batch", [1, 3, 8, 100])
def test_no_more_samples_in_a_call_than_there_is_room_for(max_batch: int) -> None:
    sizes = []

    def denoiser(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        sizes.append(len(x))
        return shrunk(x, t)

    found = probe(denoiser, *inputs(), max_batch=max_batch)
    assert max(sizes) == min(max_batch, PROBES)
    assert sum(sizes) == found.evaluations
    torch.testing.assert_close(found.outputs, shrunk(*inputs()), rtol=0, atol=0)
    if max_batch > 1:
        with pytest.raises(ModelError, match="depends on the others"):
            probe(MISBEHAVING["neighbours"][0](), *inputs(), max_batch=max_batch)
    with pytest.raises(ModelError, match=r"same memory|same twice"):
        probe(Overwriting(), *inputs(), max_batch=max_batch)


@pytest.mark.parametrize("process", [EDM(), VP.scaled_linear(), Flow()], ids=lambda process: process.name)
@pytest.mark.parametrize("name", ["digits", "mixture"])
def test_shipped_models_pass_in_every_precision(name: str, process: Any) -> None:
    if name == "mixture":
        models = [mixture("m", process, CPU, [[0.0, 1.0], [2.0, 0.0]], [0.1, 0.0], 80.0, 0.002)]
    else:
        settings = [("float32", 1.0), ("bfloat16", 1.0), ("float32", 3.0)]
        given = ("digits", "shipped:digits", process, CPU, (1, 8, 8), 80.0, 0.002)
        models = [pretrained(*given, guidance, precision) for precision, guidance in settings]
    for model in models:
        x, t, cond = probe_inputs(process, model.shape, model.time_range, lambda some, m=model: m.cond(some, CPU))
        probe(model.denoiser, x, t, cond)


OF_THE_USER = '''
import sys
import torch
from optsteps.models import Model, mixture

samples = 0


def model(process, device, kind, after=0, **settings):
    """The mixture, misbehaving once it was asked for so many samples."""
    right = mixture(process=process, device=device, **settings)

    def denoiser(x, t, cond=None):
        global samples
        samples += len(x)
        out = right.denoiser(x, t, cond)
        return BEHAVIOURS[kind](x, out) if samples > after else out

    denoiser.nfe = 0 if kind == "nfe" else 1
    conditions = (lambda index: {}["prompts"]) if kind == "conditions" else None
    return Model(
        "own",
        denoiser,
        process,
        right.shape,
        right.noise_levels,
        distribution=right.distribution,
        conditions=conditions,
    )


def key_error(x, out):
    return {}["weights"]


def memory(x, out):
    raise torch.OutOfMemoryError("CUDA out of memory.\\nTried to allocate 2 GiB")


BEHAVIOURS = {
    "right": lambda x, out: out,
    "nfe": lambda x, out: out,
    "conditions": lambda x, out: out,
    "exit": lambda x, out: sys.exit(0),
    "key": key_error,
    "memory": memory,
    "random": lambda x, out: torch.nn.functional.dropout(out, 0.1),
    "neighbours": lambda x, out: out + x.mean(0),
    "in place": lambda x, out: (x.mul_(0.5), out)[1],
    "tuple": lambda x, out: (out,),
    "one": lambda x, out: out[:, :1],
    "integers": lambda x, out: out.long(),
}
'''
TINY = ["steps=[2,3]", "teacher.steps=6", "search.samples=3", "test.samples=32", "test.oracle=0", "logger=none"]
TINY += ["store.folder=null", "model=mixture", "model._target_=misbehaving.model", "metric=toy"]
TINY += ["metric.judges.1.samples=64", "runner=cpu"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`optsteps OVERRIDES` with a model of the user's; the module it lies in, which has counted its samples."""
    (tmp_path / "misbehaving.py").write_text(OF_THE_USER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "misbehaving", raising=False)

    def start(kind: str, *overrides: str) -> Any:
        given = [f"hydra.run.dir={tmp_path / 'run'}", *TINY, f"+model.kind={kind}", *overrides]
        monkeypatch.setattr(sys, "argv", ["optsteps", *with_oss(given)])
        command.main()
        return sys.modules["misbehaving"]

    return start


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("exit", "the model called sys.exit(0)"),
        ("key", "the model raised KeyError"),
        ("memory", "the model ran out of memory, called with 8 samples"),
        ("random", "does not answer the same twice"),
        ("neighbours", "depends on the others in the batch"),
        ("'in place'", "changes its input x in place"),
        ("tuple", "returned a tuple of 1"),
        ("one", "returned shape (8, 1) for an input of shape (8, 2)"),
        ("integers", "numbers of torch.int64"),
        ("nfe", "nfe is 0"),
        ("conditions", "the model raised KeyError, asked for the conditions of samples 0 to"),
    ],
)
@pytest.mark.mostly_slow(3)
def test_the_command_refuses_before_the_search(
    kind: str, said: str, start: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(kind)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    paragraph = error[error.index("optsteps: error:") :].strip()
    assert said in paragraph
    assert "\n" not in paragraph
    assert sys.modules["misbehaving"].samples <= 3 * PROBES
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("kind", "said"), [("exit", "called sys.exit(0)"), ("key", "raised KeyError"), ("memory", "ran out of memory")]
)
def test_a_model_that_fails_during_the_search_is_named(
    kind: str, said: str, start: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With status 1, also where it exits with 0."""
    with pytest.raises(SystemExit) as stopped:
        start(kind, "+model.after=100", "check_model=false")
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_the_users_traceback_is_kept(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTSTEPS_DEBUG", "1")
    with pytest.raises(ModelError) as refused:
        start("key")
    cause = refused.value.__cause__
    assert isinstance(cause, KeyError)
    assert cause.__traceback__ is not None
    frames = []
    place = cause.__traceback__
    while place is not None:
        frames.append(place.tb_frame.f_code.co_name)
        place = place.tb_next
    assert frames[-1] == "key_error"


def test_the_report_says_what_the_checks_cost(start: Callable[..., Any], tmp_path: Path) -> None:
    start("right")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["facts"]["checks of the model"].startswith(f"{3 * PROBES} evaluations to see that it answers")
    assert "remark" not in found["facts"]
    (tmp_path / "run").rename(tmp_path / "checked")
    start("random", "check_model=false")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["facts"]["checks of the model"] == "left out (check_model=false)"
