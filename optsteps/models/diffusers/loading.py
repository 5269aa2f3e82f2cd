"""Pipelines from folders and the hub, for the command line."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from optsteps.datasets.prompts import Prompt, read_prompts
from optsteps.export.diffusers.arguments import scheduler_in
from optsteps.models.base import Model
from optsteps.models.diffusers.families import FAMILIES
from optsteps.models.diffusers.wrapping import from_pipeline
from optsteps.processes import Process
from optsteps.storage.documents import read_json
from optsteps.storage.unpickling import tensors_alone

PRECISIONS = ("float32", "float16", "bfloat16")
MODES = ("default", "reduce-overhead", "max-autotune")
OFFLOADS = (None, "model", "sequential")


def load_pipeline(
    path: str,
    device: torch.device,
    precision: str = "float32",
    variant: str | None = None,
    offload: str | None = None,
    classes: Collection[str] | None = tuple(FAMILIES),
) -> Any:
    """A pipeline, or a `UNet2DModel` alone (in a pipeline where a scheduler lies beside it).

    Args:
        path: a folder written by `save_pretrained`, or the name of a repository on the hub, "owner/name".
        device: where it runs.
        precision: of all its models: "float32", "float16" or "bfloat16".
        variant: of the weights' files, such as "fp16".
        offload: None, "model" or "sequential": models wait on the CPU until they are called, whole or piece by piece.
        classes: of pipelines that may be loaded; None for all of diffusers.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds neither a pipeline nor a `UNet2DModel`, or a class that is not among `classes`; an
            unknown precision or way to offload.
        ImportError: diffusers is missing.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if offload not in OFFLOADS:
        raise ValueError(f"offload must be null, 'model' or 'sequential', got {offload!r}")
    if offload is not None and device.type == "cpu":
        raise ValueError(f"offload={offload!r} brings models from the CPU to a GPU, and this runs on the CPU; use null")
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("pipelines need diffusers and transformers: pip install 'optsteps[diffusers]'") from error
    kind = _kind(path, classes)
    options = {"torch_dtype": getattr(torch, precision), "variant": variant}
    if kind == "UNet2DModel":
        with tensors_alone():
            network = diffusers.UNet2DModel.from_pretrained(path, **options).to(device)
        scheduler = scheduler_in(Path(path))
        return network if scheduler is None else diffusers.DDPMPipeline(network, scheduler)
    with tensors_alone():
        pipeline = diffusers.DiffusionPipeline.from_pretrained(path, **options)
    pipeline.set_progress_bar_config(disable=True)
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return pipeline


def pretrained_pipeline(
    name: str,
    path: str,
    process: Process | None,
    device: torch.device,
    prompts: str | Sequence[Prompt] | None = None,
    test_prompts: str | Sequence[Prompt] | None = None,
    precision: str = "float32",
    variant: str | None = None,
    offload: str | None = None,
    compile: str | None = None,
    **options: Any,
) -> Model:
    """The pipeline that `load_pipeline` loads from `path`, wrapped by `from_pipeline`.

    Args:
        process: None for the pipeline's own.
        prompts, test_prompts: files for `read_prompts`, or lists.
        compile: a mode of torch.compile for the network: "default", "reduce-overhead" (CUDA graphs), "max-autotune".
        options: further arguments of `from_pipeline`.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `load_pipeline`, `read_prompts` and `from_pipeline`; a pipeline
            that takes prompts, without any.
    """
    files_or_lists = {"prompts": prompts, "test_prompts": test_prompts}
    lists = {key: read_prompts(part) if isinstance(part, str) else part for key, part in files_or_lists.items() if part}
    pipeline = load_pipeline(path, device, precision, variant, offload)
    if compile is not None:
        if compile not in MODES:
            raise ValueError(f"compile must be null or one of {', '.join(MODES)}, got {compile!r}")
        (getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", pipeline)).compile(mode=compile)
    model = from_pipeline(pipeline, name, process, **lists, **options)  # type: ignore[arg-type]
    if model.encode is not None and not prompts:
        raise ValueError(f"a {type(pipeline).__name__} needs prompts: give model.prompts=FILE, one prompt a line")
    return model


def saved_pipeline(
    name: str,
    path: str,
    device: torch.device,
    prompts: str | Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    precision: str = "float32",
    variant: str | None = None,
    offload: str | None = None,
) -> Model:
    """A saved pipeline of any class as `walked_pipeline` makes a model of it.

    Args:
        prompts: a file for `read_prompts`, or a list; None for a pipeline without.
        arguments: further ones of every call, as JSON data.
        path, device, precision, variant, offload: as of `load_pipeline`.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `load_pipeline`, `read_prompts` and `walked_pipeline`.
    """
    from optsteps.models.diffusers.walks import walked_pipeline  # which needs diffusers

    listed = read_prompts(prompts) if isinstance(prompts, str) else prompts or ()
    words = [prompt if isinstance(prompt, str) else prompt.prompt for prompt in listed]
    pipeline = load_pipeline(path, device, precision, variant, offload, classes=None)
    calls = [{"prompt": prompt, **(arguments or {})} for prompt in words] or [dict(arguments or {})]
    return walked_pipeline(pipeline, calls, name)


def _kind(path: str, classes: Collection[str] | None) -> str | None:
    """The name of the class that a folder holds, from its files; None for a repository of the hub."""
    folder = Path(path)
    if not folder.is_dir():
        if path.count("/") == 1 and not folder.is_absolute() and not path.startswith("."):
            return None
        raise FileNotFoundError(
            f"there is no folder {path}; give one that save_pretrained wrote, or a hub's OWNER/NAME"
        )
    for file in ("model_index.json", "config.json"):
        if (folder / file).is_file():
            index = read_json(folder / file)
            kind = index.get("_class_name") if isinstance(index, dict) else index
            if not isinstance(kind, str) or (classes is not None and kind not in classes):
                raise ValueError(f"{path} holds a {kind}, which is not supported; known: {', '.join(classes or ())}")
            _refuse_code(folder, index)
            return kind
    raise ValueError(f"{path} holds neither model_index.json nor config.json: save_pretrained writes them")


def _refuse_code(folder: Path, index: dict[str, Any]) -> None:
    """Raises ValueError where a component's folder holds a module of the name of its library.

    A component is [library, class], and the library must be an installed one. Some versions of diffusers import a
    module of that name from the component's folder, trusted or not.
    """
    for component, parts in index.items():
        code = folder / component / f"{parts[0]}.py" if isinstance(parts, list) and parts else None
        if code is not None and code.exists():
            raise ValueError(
                f"{code} is code that comes with the weights, and is not run: load the pipeline yourself and wrap it "
                "by optsteps.models.diffusers.from_pipeline"
            )
