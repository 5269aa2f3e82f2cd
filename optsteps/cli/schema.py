"""The schema of the configs of `optsteps` and `optsteps-train`: every field with its type, its range and a sentence.

A composed config is held to this before anything is built of it. The parts that name a `_target_`, such as a model, a
method or a solver, have the fields of the function or class that they name: see `optsteps.cli.targets`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from optsteps.cli.targets import check_packages, check_targets, typed
from optsteps.running.targets import MODEL_ARGUMENTS
from optsteps.text.duration import seconds_of
from optsteps.text.suggestion import suggestion


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _distinct(values: list[Any]) -> list[Any]:
    repeated = [value for k, value in enumerate(values) if value in values[:k]]
    if repeated:
        raise ValueError(f"{repeated[0]} is named more than once")
    return values


def _not_one(count: int) -> int:
    if count == 1:
        raise ValueError("an interval needs 2 samples; give 0 for none")
    return count


def _duration(text: str) -> str:
    seconds_of(text)
    return text


def _one_of(kind: str) -> Callable[[str, ValidationInfo], str]:
    """A check that a name is one of its kind, where the context of the validation lists these."""

    def check(name: str, info: ValidationInfo) -> str:
        names = (info.context or {}).get(kind)
        if names is not None and name not in names:
            raise ValueError(f"known are {', '.join(names)}{suggestion(name, names)}")
        return name

    return check


def _names() -> dict[str, Collection[str]]:
    """The names that a config may choose, by their kind."""
    from optsteps.schedules import FAMILIES  # which load torch: any other mistake is reported before
    from optsteps.solvers import SOLVERS

    return {"family": FAMILIES, "solver": SOLVERS}


Count = Annotated[int, Field(ge=1)]
Counts = Annotated[list[Count], Field(min_length=1), BeforeValidator(_as_list), AfterValidator(_distinct)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1)]
Node = dict[str, Any]  # with a _target_
Kind = Literal["density", "points", "latents", "images"]  # of a model's samples


class Part(BaseModel):
    """A part of a config: its fields, and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Teacher(Part):
    """The many-step schedule; further fields are the family's parameters."""

    model_config = ConfigDict(extra="allow")

    family: Annotated[str, AfterValidator(_one_of("family"))]
    """Hand-made family of the teacher's schedule."""
    steps: Count
    """Steps of the teacher in searches."""
    final: Literal["zero", "t_min"] | None
    """Where the last step goes: zero, to noise level 0; t_min, to the model's least; null, as the model is used."""
    solver: Annotated[str, AfterValidator(_one_of("solver"))] | None
    """Solver that walks the teacher's schedule, by name; null for the students'."""
    snap: bool | None
    """Whether times of schedules are rounded to timesteps; null, as the model is used."""


class Search(Part):
    """The samples that searches see."""

    samples: Count
    """How many samples of noise the searches see."""
    data: Count | None
    """How many clean samples methods get that need them; null for 1024 of a dataset, or for none without one."""


class Test(Part):
    """The samples of the comparison."""

    samples: Annotated[int, Field(ge=2)]
    """How many unseen samples are compared; an interval needs 2."""
    oracle: Annotated[int, Field(ge=0), AfterValidator(_not_one)]
    """How many of them are also searched one by one, as a bound: none, or the 2 and more that an interval needs."""
    teacher_steps: Count
    """Steps of the teacher that samples are compared with."""


class Store(Part):
    """Where finished work is kept."""

    folder: Name | None
    """Folder of the store; null keeps nothing."""
    limit_gb: Annotated[float, Field(gt=0)] | None
    """Size in GB that the store is held to; null for no limit."""
    shared: bool
    """Whether all processes see the folder; otherwise they send each other their shards, and rank 0 keeps them."""
    precision: Literal["float32", "float16", "bfloat16"] | None
    """Number format of kept trajectories and predictions; null for the one they have."""


class Objective(Part):
    """The number that a job returns to a sweeper."""

    figure: str | None
    """Figure of the main method that a sweeper looks for the best of, such as psnr; null for none."""
    steps: Count | None
    """Step count of that figure; null for the mean over all."""
    direction: Literal["minimize", "maximize"] | None
    """Whether the sweeper minimizes or maximizes it."""


class Runner(Part):
    """The machine."""

    accelerator: str
    """Kind of device, by Lightning's names: auto, cpu, gpu, ..."""
    devices: Count | Literal["auto"]
    """Processes on a node; auto for one a GPU."""
    num_nodes: Count
    """Nodes that the run has."""
    timeout: Annotated[float, Field(ge=1)]
    """Seconds without a sign of life of a process after which all others have ended."""
    precision: Literal["float32", "float16", "bfloat16"]
    """Number format of the network's arithmetic."""
    threads: Count | None
    """Threads of each process; null for torch's choice."""
    states: Literal["device", "cpu", "disk"]
    """Where the states of a search lie."""
    scratch: Name
    """Folder for those states where they lie on disk."""


class Metric(Part):
    """What is measured, and what is said of it."""

    verdicts: Annotated[list[str], AfterValidator(_distinct)] | None
    """Figures in which the main method is compared with its rivals; null for those that fit the model."""
    judges: Annotated[list[Node], Field(min_length=1)] | None
    """What measures; null for what fits the model."""
    trained_on: Name | None = None
    """What the shipped classifier that judges images was trained on: mnist or cifar10."""
    by_model: dict[Kind, Metric] = {}
    """What is measured by the kind of the model's samples, where verdicts or judges are null."""


class Paths(Part):
    """Folders."""

    data: Name
    """Folder of the data sets."""
    outputs: Name
    """Folder of what runs leave."""


class Run(Part):
    """The config of `optsteps`."""

    process: Node | None = None
    """Noising process; empty for the one that the model brings."""
    solver: Node
    """Solver of the students."""
    dataset: Node | None = None
    """Clean samples for methods that need them."""
    method: Node
    """The main method."""
    rivals: dict[str, Node | None] = {}
    """What the main method is compared with, by name."""
    optional_rivals: list[str]
    """Rivals that are left out, with a sentence, where they cannot take part."""
    flow_rivals: list[str]
    """Of these, rivals that only a flow has."""
    metric: Metric
    model: Node
    """The model that is sampled."""
    runner: Runner
    logger: Node
    """Where figures go besides the run's folder."""
    plan: bool
    """Whether to print the network evaluations of every stage, and stop there."""
    budget: Annotated[int, Field(ge=1)] | Annotated[str, AfterValidator(_duration)] | None
    """What the plan may take, as evaluations (200000) or as a time (10min, 90s, 1.5h); null for any."""
    steps: Counts
    """Step counts of the students, such as [5,10]; 5 is [5]."""
    nfe: Counts | None
    """Network evaluations per sample instead of step counts; null for none."""
    seed: Seed
    """Seed of everything that is drawn, an integer from 0 on."""
    teacher: Teacher
    search: Search
    test: Test
    check_model: bool
    """Whether the model is called a few times to see that it can be relied on."""
    max_batch: Count | Literal["auto"]
    """Most samples that the network sees at once; auto for what fits."""
    store: Store
    objective: Objective
    paths: Paths


class Training(Part):
    """What is trained."""

    name: Name
    """Name of the weights that come of it."""
    batch_size: Count
    """Images in a batch."""
    max_steps: Count
    """Steps of the optimiser."""
    ema_decays: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1), AfterValidator(_distinct)]
    """Decays of averaged weights, per step; those of the least validation loss are kept."""
    task: Node
    """Network and loss."""


class Train(Part):
    """The config of `optsteps-train`."""

    dataset: Node
    """Images to learn from."""
    training: Training
    logger: Node
    """Where the losses go besides the run's folder."""
    seed: Seed
    """Seed of everything that is drawn, an integer from 0 on."""
    weights: Name | None
    """Weights to start from, a file or shipped:NAME; null for random ones."""
    paths: Paths
    weights_precision: Literal["float32", "bfloat16"]
    """Number format of the weights that come of it."""
    compile: bool
    """Whether the network is compiled by torch.compile."""
    trainer: Node
    """Lightning's Trainer."""


# arguments that the program gives itself
_SUPPLIED = {"model": MODEL_ARGUMENTS, "training.task": ("ema_decays", "seed")}


def checked(config: DictConfig, kind: type[Run] | type[Train]) -> DictConfig:
    """`config`, resolved and held to its schema; `steps=5` has become [5].

    Raises:
        ValueError: one paragraph for the first part that is not as it should be, with the value as it was given.
    """
    OmegaConf.resolve(config)
    try:
        content: Any = OmegaConf.to_container(config, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ValueError(f"{error.full_key} has no default: give {error.full_key}=...") from None
    try:
        kind.model_validate(content)
        check_packages(content)
        valid = kind.model_validate(content, context=_names())
    except ValidationError as error:
        raise ValueError(_paragraph(error.errors(), content, kind)) from None
    check_targets(content, _SUPPLIED)
    for field in ("steps", "nfe"):
        if field in config:
            config[field] = getattr(valid, field)
    return config


def _paragraph(errors: list[ErrorDetails], content: Any, kind: type[Part]) -> str:
    """A paragraph on the first field that is wrong; where its type has several alternatives, on each of them."""
    path = _path(errors[0]["loc"], content)
    alternatives = [error for error in errors if _path(error["loc"], content) == path]
    if path and path[-1].isdecimal():  # one entry of a list, which is shown whole, as it was typed
        path = path[:-1]
    name, field = ".".join(path), _field(path, kind)
    if alternatives[0]["type"] == "extra_forbidden":
        part = _field(path[:-1], kind)
        fields = list(part.model_fields) if isinstance(part, type) and issubclass(part, Part) else []
        return f"there is no {name}; there are {', '.join(fields)}{suggestion(path[-1], fields)}"
    if alternatives[0]["type"] == "missing":
        return f"{name} is missing: {_sentence(field)}"
    value = content
    for key in path:
        value = value[int(key)] if isinstance(value, list) else value[key]
    messages = [
        error["msg"].removeprefix("Value error, ").replace("Input", "it").replace("String", "it")
        for error in alternatives
    ]
    return f"{name}={typed(value)}: {' or '.join(messages)}. {_sentence(field)}".strip()


def _path(loc: tuple[int | str, ...], content: Any) -> tuple[str, ...]:
    """The part of an error's location that lies in the config; the rest names one of several types."""
    path: list[str] = []
    for key in loc:
        inside = isinstance(content, Mapping) or (isinstance(content, list) and isinstance(key, int))
        if not inside:
            break
        path.append(str(key))
        content = content.get(key) if isinstance(content, Mapping) else content[int(key)]
    return tuple(path)


def _field(path: tuple[str, ...], kind: type[Part]) -> Any:
    """The field at a path of a config's schema, the part itself for the path of one; None inside a node."""
    field: Any = kind
    for key in path:
        fields = field.model_fields if isinstance(field, type) and issubclass(field, Part) else {}
        if key not in fields:
            return field if not isinstance(field, type) else None
        inner = fields[key].annotation
        field = inner if isinstance(inner, type) and issubclass(inner, Part) else fields[key]
    return field


def _sentence(field: Any) -> str:
    return (getattr(field, "description", None) or getattr(field, "__doc__", None) or "").strip()
