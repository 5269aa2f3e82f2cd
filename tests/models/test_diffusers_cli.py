"""`optsteps model=diffusers` on saved pipelines."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from overrides import with_oss
from tiny_pipelines import PIPELINES, PROMPTS, SIZES, diffusers, tiny_clip, tiny_mask2former, unet2d

from optsteps import Schedule, build_schedule
from optsteps.cli import run as command
from optsteps.datasets.geneval_prompts import Metadata, Objects
from optsteps.datasets.prompts import read_prompts
from optsteps.fingerprint import fingerprint_held
from optsteps.models.diffusers import load_pipeline, pretrained_pipeline
from optsteps.processes import VP, Flow
from optsteps.schedules import PUBLISHED

pytestmark = pytest.mark.usefixtures("blank_pictures")

CPU = torch.device("cpu")
TINY = ["steps=[2,3]", "teacher.steps=6", "search.samples=3", "test.samples=4", "test.oracle=0", "logger=none"]
# a network of random weights is no denoiser: the check would try all readings of it
TINY += ["runner=cpu", "teacher.family=time_uniform", "check_model=false"]


def start(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str, model: str = "diffusers") -> dict[str, Any]:
    """`optsteps OVERRIDES`, in this process, in a new folder run/ of `folder`; its metrics."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    monkeypatch.setattr(
        sys, "argv", ["optsteps", f"hydra.run.dir={folder}/run", f"model={model}", *with_oss([*TINY, *overrides])]
    )
    command.main()
    found: dict[str, Any] = json.loads((folder / "run" / "metrics.json").read_text())
    return found


def error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, *overrides: str) -> str:
    with pytest.raises(SystemExit):
        start(monkeypatch, folder, "store.folder=null", *overrides)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said[said.index("error:") :]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    PIPELINES["sd"]().save_pretrained(folder)
    return folder


def test_a_saved_pipeline_and_a_file_of_prompts(
    sd: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = tmp_path / "test.jsonl"
    tested.write_text("".join(json.dumps({"tag": "x", "prompt": prompt}) + "\n" for prompt in PROMPTS[:2]))
    given = [f"model.path={sd}", f"model.prompts={prompts}", f"model.test_prompts={tested}", "metric=pixels"]
    given += ["check_model=true", "test.oracle=2"]
    found = start(monkeypatch, tmp_path, *given, f"store.folder={tmp_path}/store", "solver=dpmpp_2m")
    rows = {(row["method"], row["steps"]): row for row in found["rows"]}
    assert {"oss", "edm", "time_uniform", "logsnr", "own", "published"} <= {method for method, _ in rows}
    assert rows["oss", 3]["nfe"] == 6, "guidance 7.5, the pipeline's own default, counts twice"
    assert {"psnr", "pixel_psnr"} <= set(rows["oss", 3]["figures"])
    for (method, n), row in rows.items():  # all end at noise level 0, where pipelines do
        assert row["times"] is None or row["times"][-1] == -1, (method, n)
    facts = found["facts"]
    assert facts["pipeline"] == "StableDiffusionPipeline with EulerDiscreteScheduler"
    assert facts["prompts"] == "3 in turn, 2 for the test samples"
    assert isinstance(Schedule.load(tmp_path / "run" / "schedule_3.json").process, VP)
    assert (tmp_path / "run" / "samples_3.png").stat().st_size > 0
    use = (tmp_path / "run" / "use_in_diffusers.py").read_text()
    compile(use, "use_in_diffusers.py", "exec")
    assert use.count("# pipe: your pipeline, as loaded") == 2
    assert "DPMSolverMultistepScheduler" in use


@pytest.mark.parametrize("name", ["sd", pytest.param("flux", marks=pytest.mark.slow)])
def test_monitors_on_a_saved_pipeline(
    name: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the teacher's first time, a flow's of infinite noise level among them, to noise level 0."""
    PIPELINES[name]().save_pretrained(tmp_path / "pipeline")
    size = [f"model.{key}={value}" for key, value in SIZES.get(name, {}).items()]
    given = [f"model.path={tmp_path}/pipeline", f"model.prompts={prompts}", *size, f"store.folder={tmp_path}/store"]
    given += ["steps=[3]"]
    rivals = ["art", "solver_monitor", "tors", "entropic", "crs"]
    found = start(monkeypatch, tmp_path, *given, "method=curvature", f"rivals=[{','.join(rivals)}]", "solver=dpmpp_2m")
    rows = {row["method"]: row for row in found["rows"]}
    [first] = {row["times"][0] for row in found["rows"] if row["method"] == "teacher"}
    for method in ("curvature", *rivals):
        times = rows[method]["times"]
        assert times[0] == first
        assert times[-1] == (-1 if name == "sd" else 0)


@pytest.mark.parametrize(
    ("kind", "solver"),
    [("sd", "dpmpp_2m"), ("sd3", "euler"), ("sd3", "heun")],
)
@pytest.mark.slow
def test_paths_on_latents(
    kind: str, solver: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flow's teacher leaves from pure noise; both end at noise level 0; guidance counts twice."""
    PIPELINES[kind]().save_pretrained(tmp_path / "pipeline")
    size = [f"model.{name}={value}" for name, value in SIZES.get(kind, {}).items()]
    given = [f"model.path={tmp_path}/pipeline", f"model.prompts={prompts}", *size, f"solver={solver}"]
    chosen = ["method=path", "method.shard_size=2", "rivals=[boss,gits]", f"store.folder={tmp_path}/store"]
    first, again = (start(monkeypatch, tmp_path, *given, *chosen)["rows"] for _ in range(2))
    walk = 2 * (6 if solver != "heun" else 10)
    for rows in (first, again):
        costs = {row["method"]: row["search_nfe"] for row in rows}
        assert costs["boss"] == costs["gits"] == walk < costs["path"]
    for row, other in zip(first, again, strict=True):
        assert row | {"search_seconds": 0} == other | {"search_seconds": 0}
        assert row["times"] is None or row["times"][-1] == (-1 if kind == "sd" else 0)


@pytest.mark.slow
def test_published_is_of_the_pipelines_own_kind_however_it_is_named(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    PIPELINES["sdxl"]().save_pretrained(tmp_path / "sdxl")
    size = [f"model.{name}={value}" for name, value in SIZES.get("sdxl", {}).items()]
    given = [f"model.path={tmp_path}/sdxl", f"model.prompts={prompts}", *size, "store.folder=null", "steps=[3]"]
    process = VP.scaled_linear()
    expected = build_schedule("published", process, 3, model="sdxl", final="zero", snap=True).times.tolist()
    given += ["rivals=none"]
    for named in (["method=published"], ["method=time_uniform", "+method@rivals.published=published"]):
        rows = start(monkeypatch, tmp_path, *given, *named)["rows"]
        [row] = [row for row in rows if row["method"] == "published"]
        assert row["times"] == pytest.approx(expected, abs=0.1)
        assert row["range"] == "its authors'"
    others = [*given, "method=published", "method.model=sd15"]
    [row] = [row for row in start(monkeypatch, tmp_path, *others)["rows"] if row["method"] == "published"]
    sd15 = build_schedule("published", process, 3, model="sd15", final="zero", snap=True).times.tolist()
    assert row["times"] == pytest.approx(sd15, abs=0.1)
    unet2d().save_pretrained(tmp_path / "unet")
    said = error(monkeypatch, capsys, tmp_path, f"model.path={tmp_path}/unet", "process=ddpm", "method=published")
    assert f"constants for {', '.join(PUBLISHED)}, and unet is of none of these kinds" in said


def test_leading_spacing_is_compared_with_a_teacher_of_its_start(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = PIPELINES["sd"]()
    config = {**pipe.scheduler.config, "timestep_spacing": "leading", "steps_offset": 1}
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(config)
    pipe.save_pretrained(tmp_path / "sd")
    given = [f"model.path={tmp_path}/sd", f"model.prompts={prompts}", "store.folder=null", "steps=[3]"]
    found = start(monkeypatch, tmp_path, *given, "method=time_uniform", "rivals=[edm,logsnr]")
    rows = {row["method"]: row for row in found["rows"]}
    assert rows["own"]["times"] == [667, 334, 1, -1]
    assert (rows["own"]["teacher_start"], rows["time_uniform"]["teacher_start"]) == (667, None)
    assert "psnr" in {v["figure"] for v in found["verdicts"] if v["rival"] == "own"}
    report = (tmp_path / "run" / "report.md").read_text()
    assert "its users', compared with" in report
    assert "compared with a teacher from the same start" in report


@pytest.mark.slow
def test_perception_of_decoded_images(sd: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LPIPS and CLIP score, of networks with random weights; the teacher has no LPIPS to itself."""
    made = torchvision.models.squeezenet1_1
    monkeypatch.setattr(torchvision.models, "squeezenet1_1", lambda weights=None: made(weights=None))
    given = [f"model.path={sd}", f"model.prompts={prompts}", "store.folder=null", "metric=perception", "steps=[2]"]
    given += ["metric.judges.2.judge.network=squeeze", f"metric.judges.3.judge.path={tiny_clip(tmp_path / 'clip')}"]
    rows = {
        row["method"]: row["figures"]
        for row in start(monkeypatch, tmp_path, *given, "model.height=64", "model.width=64")["rows"]
    }
    assert {"psnr", "pixel_psnr", "pixel_lpips", "pixel_clip"} <= set(rows["oss"])
    assert set(rows["teacher"]) == {"pixel_clip"}


@pytest.mark.slow
def test_geneval_of_decoded_images(sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GenEval's figures of every row, with detector and CLIP of random weights, from prompts in GenEval's form."""
    classes = {name: [{"class": name, "count": 1}] for name in ("cat", "dog")}
    asked = [{"tag": "single_object", "include": one, "prompt": f"a {name}"} for name, one in classes.items()]
    asked += [{"tag": "counting", "include": one, "prompt": f"the {name}"} for name, one in classes.items()]
    (tmp_path / "geneval.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    given = [f"model.path={sd}", f"model.prompts={tmp_path}/geneval.jsonl", "store.folder=null", "metric=geneval"]
    detector = {"path": tiny_mask2former(tmp_path / "mask2former"), "clip": tiny_clip(tmp_path / "clip")}
    given += [f"metric.judges.2.judge.detector.{name}={folder}" for name, folder in detector.items()]
    with pytest.warns(UserWarning, match="no prompt of two_object, colors, position, color_attr"):
        rows = start(monkeypatch, tmp_path, *given, "steps=[2]", "model.height=64", "model.width=64")["rows"]
    figures = {row["method"]: row["figures"] for row in rows if not row["oracle"]}
    for found in figures.values():
        parts = [found[f"pixel_geneval_{task}"]["value"] for task in ("single_object", "counting")]
        assert found["pixel_geneval"]["value"] == pytest.approx(sum(parts) / 2)
    assert "pixel_geneval_retention" not in figures["teacher"]


def test_geneval_needs_metadata(
    sd: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error(monkeypatch, capsys, tmp_path, f"model.path={sd}", f"model.prompts={prompts}", "metric=geneval")
    assert "GenEvalJudge needs a model whose prompts, in GenEval's form" in said


def test_the_snippet_samples_with_the_schedule(
    sd: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pasted after loading the pipeline, it calls the network at the schedule's times."""
    start(
        monkeypatch,
        tmp_path,
        f"model.path={sd}",
        f"model.prompts={prompts}",
        "store.folder=null",
        "steps=[3]",
        "rivals=none",
    )
    pipe, times = PIPELINES["sd"](), []
    pipe.unet.register_forward_pre_hook(lambda _, args, kwargs: times.append(float(args[1])), with_kwargs=True)
    exec((tmp_path / "run" / "use_in_diffusers.py").read_text(), {"pipe": pipe})
    wanted = Schedule.load(tmp_path / "run" / "schedule_3.json").times[:-1].tolist()
    assert times == pytest.approx(wanted, rel=0, abs=1e-3)  # Euler finds times by its levels, in float32


@pytest.mark.slow
def test_times_of_a_pipeline_with_timesteps_are_timesteps(
    sd: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of searches between timesteps too, so that its scheduler is told them without optsteps."""
    given = [f"model.path={sd}", f"model.prompts={prompts}", "store.folder=null", "steps=[3]", "solver=dpmpp_2m"]
    ays = ["method=ays", "method.levels=8", "method.max_sweeps=1"]
    for row in start(monkeypatch, tmp_path, *given, *ays)["rows"]:
        assert row["times"] is None or row["times"] == [round(t) for t in row["times"]], row["method"]
    use = (tmp_path / "run" / "use_in_diffusers.py").read_text()
    assert "timesteps=[999, " in use
    assert "optsteps.apply" not in use
    between = start(monkeypatch, tmp_path, *given, "method=edm", "rivals=none", "teacher.snap=false")["rows"]
    assert any(t != round(t) for row in between if row["method"] == "edm" for t in row["times"])


@pytest.mark.slow
def test_a_flow_with_the_other_solvers_and_methods(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIPELINES["flux"]().save_pretrained(tmp_path / "flux")
    size = [f"model.{name}={value}" for name, value in SIZES["flux"].items()]
    given = [f"model.path={tmp_path}/flux", f"model.prompts={prompts}", *size, "store.folder=null"]
    found = start(monkeypatch, tmp_path, *given, "method=ays", "method.levels=8", "method.max_sweeps=1")
    assert {row["nfe"] for row in found["rows"] if row["steps"] == 2} == {2}
    schedule = Schedule.load(tmp_path / "run" / "schedule_2.json")
    assert isinstance(schedule.process, Flow)
    assert schedule.metadata["range"] == "chosen on the search's samples"
    found = start(monkeypatch, tmp_path, *given, "method=oss", "check_model=true")
    assert Schedule.load(tmp_path / "run" / "schedule_2.json").times[0] == 1, "as its pipeline starts"
    assert "latents=" not in (tmp_path / "run" / "use_in_diffusers.py").read_text()


def test_a_u_net_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unet2d().save_pretrained(tmp_path / "unet")
    given = [f"model.path={tmp_path}/unet", "store.folder=null", "steps=[3]"]
    found = start(monkeypatch, tmp_path, *given, "process=ddpm")
    assert "own" not in {row["method"] for row in found["rows"]}
    assert found["facts"]["pipeline"] == "UNet2DModel"
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "unet")  # beside it, as some trainers leave it
    assert "own" in {row["method"] for row in start(monkeypatch, tmp_path, *given)["rows"]}


def test_precision_is_the_networks(sd: Path) -> None:
    assert load_pipeline(str(sd), CPU, "bfloat16").unet.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="float32, float16, bfloat16, got 'int8'"):
        load_pipeline(str(sd), CPU, "int8")
    with pytest.raises(ValueError, match="offload='model' brings models from the CPU to a GPU"):
        load_pipeline(str(sd), CPU, offload="model")


def test_the_network_is_compiled(sd: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(diffusers.UNet2DConditionModel, "compile", lambda _, mode: modes.append(mode))
    pretrained_pipeline("sd", str(sd), None, CPU, str(prompts), compile="reduce-overhead")
    assert modes == ["reduce-overhead"]
    with pytest.raises(ValueError, match=r"compile must be null or one of default, .* got 'fast'"):
        pretrained_pipeline("sd", str(sd), None, CPU, str(prompts), compile="fast")


@pytest.mark.slow
def test_a_compiled_network_predicts_the_same(sd: Path, prompts: Path) -> None:
    plain, compiled = (
        pretrained_pipeline("sd", str(sd), None, CPU, str(prompts), compile=c) for c in (None, "default")
    )
    x, t, cond = torch.randn(2, *plain.shape), torch.tensor([700.5, 20.0]), plain.cond(range(2), CPU)
    with torch.no_grad():
        torch.testing.assert_close(compiled.denoiser(x, t, cond), plain.denoiser(x, t, cond), rtol=1e-4, atol=1e-4)


def test_a_pipeline_is_known_by_what_it_holds(tmp_path: Path) -> None:
    """Wherever its folder lies: the same weights are the same, others are others."""

    def held(name: str) -> str:
        return fingerprint_held(pretrained_pipeline("unet", str(tmp_path / name), VP.linear(), CPU).denoiser)

    unet2d().save_pretrained(tmp_path / "a")
    unet2d().save_pretrained(tmp_path / "b")
    assert held("a") == held("b")
    network = unet2d()
    next(network.parameters()).data.flatten()[0] += 1e-6
    network.save_pretrained(tmp_path / "b")
    assert held("a") != held("b")


def test_errors_are_one_paragraph(
    sd: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*overrides: str) -> str:
        return error(monkeypatch, capsys, tmp_path, *overrides)

    assert "there is no folder /no/such/folder" in said("model.path=/no/such/folder")
    assert "not on Flow()" in said(f"model.path={sd}", f"model.prompts={prompts}", "process=flow")
    assert "process=own, but mnist brings no process" in said("model=mnist", "process=own")
    assert "DecodedJudge needs a model" in said("model=mnist", "metric=pixels")


def test_what_is_no_pipeline_and_what_has_no_prompts(sd: Path, tmp_path: Path) -> None:
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "model_index.json").write_text('{"_class_name": "AudioPipeline"}')
    for path, prompts, message in (
        (tmp_path, None, "holds neither model_index.json nor config.json"),
        (tmp_path / "unknown", None, "holds a AudioPipeline, which is not supported"),
        (sd, None, "needs prompts: give model.prompts=FILE"),
        (sd, "/no/file", "there is no file of prompts /no/file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            pretrained_pipeline("diffusers", str(path), None, CPU, prompts)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("empty.txt", "\n  \n", r"empty.txt holds no prompts"),
        ("bad.jsonl", '{"prompt": "a cat"}\n\n{"prompt"\n', r"bad.jsonl, line 3 is not JSON"),
        ("none.jsonl", '{"prompt": "a cat"}\n{"text": "a dog"}\n', r'none.jsonl, line 2 has no "prompt"'),
        ("number.jsonl", '{"prompt": 3}\n', "line 1 has no"),
    ],
)
def test_a_bad_file_of_prompts_is_named(name: str, text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=expected):
        read_prompts(tmp_path / name)


def test_prompts_in_genevals_form(tmp_path: Path) -> None:
    asked = Metadata("colors", "a photo of a red cat", (Objects("cat", color="red"),))
    lines = [asked.as_json(), {"tag": "mine", "prompt": "a dog"}, {"prompt": "a cow"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_prompts(tmp_path / "a.jsonl") == [asked, "a dog", "a cow"]
    (tmp_path / "b.jsonl").write_text(json.dumps({**asked.as_json(), "tag": "colours"}) + "\n")
    with pytest.raises(ValueError, match=r"b.jsonl, line 1 has the tag 'colours'"):
        read_prompts(tmp_path / "b.jsonl")


def test_prompts_are_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat \n\n{a dog}\n")
    assert read_prompts(tmp_path / "a.txt") == ["a cat", "{a dog}"]


@pytest.mark.parametrize("kind", ["sd", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("flux", "wan"))])
def test_methods_without_a_search_of_their_own(
    kind: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On discrete timesteps, and on flows whose first noise level is infinite or large."""
    PIPELINES[kind]().save_pretrained(tmp_path / kind)
    given = [f"model.path={tmp_path}/{kind}", f"model.prompts={prompts}", "store.folder=null", "steps=[3]"]
    given += [f"model.{name}={value}" for name, value in SIZES.get(kind, {}).items()]
    chosen = ["method=gaussian", "method.iterations=10", "rivals=[dm,hso,olss,cosine_data]"]
    rows = start(monkeypatch, tmp_path, *given, *chosen, "solver=dpmpp_2m")["rows"]
    found = {row["method"]: row["times"] for row in rows}
    for method in ("gaussian", "dm", "hso", "olss", "cosine_data"):
        assert found[method][-1] == (-1 if kind == "sd" else 0)
        assert len(found[method]) == 4


@pytest.mark.slow
def test_a_pipeline_by_its_own_call(sd: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = [f"model.path={sd}", f"model.prompts={prompts}", "+model.arguments.guidance_scale=3.0"]
    run = ["steps=[2]", "method=logsnr", "rivals=none", "max_batch=4"]
    found = start(monkeypatch, tmp_path, *of, *run, model="pipeline")
    rows = {row["method"]: row for row in found["rows"]}
    assert rows["logsnr"]["nfe"] == 4
    assert Schedule.load(tmp_path / "run" / "schedule_2.json").steps == 2
