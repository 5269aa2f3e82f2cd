"""Networks as safetensors files that describe themselves: class, constructor arguments, and notes.

Nothing is unpickled: the class must be one of `NETWORKS`, its arguments are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from optsteps.models.classifier import Classifier, FeatureClassifier
from optsteps.models.residual_classifier import ResidualClassifier
from optsteps.models.text_unet import TextUNet
from optsteps.models.unet import UNet
from optsteps.storage.files import write_atomically

NETWORKS: dict[str, type[nn.Module]] = {
    network.__name__: network for network in (UNet, TextUNet, Classifier, ResidualClassifier)
}
SHIPPED = Path(__file__).parent / "weights"

N = TypeVar("N", bound=nn.Module)


def save_network(
    network: UNet | TextUNet | FeatureClassifier,
    path: str | Path,
    notes: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write weights, constructor arguments and `notes` (JSON data, e.g. sigma_data); the file appears whole or not.

    Weights are written as `dtype` (bfloat16: half the size) and become float32 when they are loaded; integers stay.
    """
    header = {"class": type(network).__name__, "config": json.dumps(network.config), "notes": json.dumps(dict(notes))}
    state = {
        name: value.detach().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in network.state_dict().items()
    }
    write_atomically(Path(path), save(state, header))


def load_network(path: str | Path, expected: type[N]) -> tuple[N, dict[str, Any]]:
    """The network in evaluation mode, on the CPU and without gradients, and the notes saved with it.

    Its weights lie channels last, the layout in which convolutions are quickest, on CPUs and GPUs alike.

    Args:
        path: a file, or `shipped:NAME` for the weights that come with the package.
        expected: the class the caller needs, or a base of those that serve.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, not safetensors, without description, of another class, or not fitting its network.
    """
    path = resolve_weights(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"weights file {path} is truncated or not a safetensors file ({error})") from error
    if "class" not in header:
        raise ValueError(
            f"weights file {path} does not say which network it belongs to; write it with optsteps-train or "
            "optsteps.models.checkpoint.save_network"
        )
    # the class that is expected may be the caller's own
    described = expected if header["class"] == expected.__name__ else NETWORKS.get(header["class"], nn.Module)
    if not issubclass(described, expected):
        raise ValueError(f"weights file {path} holds a {header['class']}, but a {expected.__name__} is needed here")
    try:
        network, notes = described(**json.loads(header["config"])), json.loads(header["notes"])
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"weights file {path} does not fit the {header['class']} it describes: {error}") from error
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False), notes  # type: ignore[call-overload]


def resolve_weights(path: str | Path) -> Path:
    """The file of `shipped:NAME` in the package, any other path as it is; FileNotFoundError where there is none."""
    text = str(path)
    shipped = {f"shipped:{file.stem}": file for file in sorted(SHIPPED.glob("*.safetensors"))}
    resolved = shipped.get(text, Path(text))
    if not resolved.is_file():
        raise FileNotFoundError(f"no weights file at {resolved}; give a path, or one of {', '.join(shipped)}")
    return resolved
