"""From images to the features that FID and its kin compare, by torch-fidelity's feature extractors.

torch-fidelity's extractors take bytes. `to_uint8` is the only place where images become bytes, and reference and
samples pass through it alike: it is part of the metric, as the file format is of an FID computed from PNG files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity import (  # type: ignore[import-untyped, unused-ignore]
    FeatureExtractorBase,
    register_feature_extractor,
)
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY  # type: ignore[import-untyped, unused-ignore]
from torch_fidelity.utils import create_feature_extractor  # type: ignore[import-untyped, unused-ignore]

from optsteps.datasets import to_unit_range
from optsteps.storage.unpickling import tensors_alone

_networks: dict[str, Callable[[], nn.Module]] = {}


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes, the inverse of `optsteps.datasets.to_unit_range`.

    Rounds to the nearest of the 256 levels and clips what overshoots; bytes pass unchanged.

    Raises:
        ValueError: a value is not finite, or the images are integers other than bytes.
    """
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ValueError(f"expected floats in [-1, 1] or uint8, got {images.dtype}")
    if not images.isfinite().all():
        raise ValueError("images contain values that are not finite; the sampler that made them diverged")
    return (images.float() + 1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


class NetworkExtractor(FeatureExtractorBase):  # type: ignore[misc, unused-ignore]
    """torch-fidelity's view of a registered classifier: `features`, and `logits` for the inception score (ISC).

    torch-fidelity makes it by name; see `register_extractor`.
    """

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        if feature_extractor_weights_path is not None:
            raise ValueError(f'"{name}" brings its own weights; do not pass {feature_extractor_weights_path}')
        # torch-fidelity freezes and moves its extractors; the caller's network stays as it is
        self.network: Any = copy.deepcopy(_networks[name]())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, C, H, W] -> the requested outputs, float64.

        float64, because torch-fidelity accumulates in the dtype it is given: with 10,000 float32 features means were
        seen 3e-6 off, and KID 3e-4 of itself.
        """
        images = to_unit_range(images)
        output = {"features": self.network.features, "logits": self.network}
        return tuple(output[layer](images).double() for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False


def register_extractor(name: str, load: Callable[[], nn.Module]) -> None:
    """Makes a network known to torch-fidelity, so that `calculate_metrics(feature_extractor=name)` works with it.

    Args:
        name: a name that torch-fidelity does not use itself. Registering it again replaces the network; but
            torch-fidelity's file cache knows features by name alone, so give new weights a new name or pass it
            `cache=False`. (`Fidelity` uses no cache.)
        load: called whenever an extractor is made; returns a module with `features(images) -> [B, F]` and
            `forward(images) -> logits`, for float32 images [B, C, H, W] in [-1, 1]. It is copied.

    Raises:
        ValueError: the name belongs to one of torch-fidelity's extractors or is not a valid one.
    """
    if FEATURE_EXTRACTORS_REGISTRY.get(name) is not NetworkExtractor:
        register_feature_extractor(name, NetworkExtractor)
    _networks[name] = load


class Extractor(nn.Module):
    """A torch-fidelity extractor as a plain function, uint8 [B, C, H, W] -> features [B, F].

    torch-fidelity's built-in networks want colour: grey images are repeated to three channels for them.
    """

    def __init__(self, network: FeatureExtractorBase) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] == 1 and not isinstance(self.network, NetworkExtractor):
            images = images.expand(-1, 3, -1, -1)
        features: Tensor = self.network(images)[0]
        return features

    def train(self, mode: bool = True) -> Extractor:
        """Stays in evaluation mode, also as part of a module that is trained."""
        return super().train(False)


def build_extractor(name: str, weights_path: str | PathLike[str] | None = None) -> Extractor:
    """An extractor by its name in torch-fidelity's registry, on the CPU; move it with `.to(device)`.

    Args:
        name: a name given to `register_extractor`, or torch-fidelity's own: "inception-v3-compat" for the FID of the
            literature, "vgg16", "dinov2-vit-s-14", ...
        weights_path: the weights of one of torch-fidelity's own extractors (for Inception, the file
            weights-inception-2015-12-05-6726825d.pth of its releases). A file that holds anything
            but tensors is refused. Without a path torch-fidelity downloads the weights into the torch hub folder.

    Raises:
        ValueError: nothing is registered under that name, or weights are given to a registered network.
        FileNotFoundError: there is no file at `weights_path`.
    """
    if name not in FEATURE_EXTRACTORS_REGISTRY:
        raise ValueError(f'no feature extractor "{name}"; known are {", ".join(sorted(FEATURE_EXTRACTORS_REGISTRY))}')
    if weights_path is not None and not Path(weights_path).is_file():
        raise FileNotFoundError(f'no weights for "{name}" at {weights_path}')
    layer = FEATURE_EXTRACTORS_REGISTRY[name].get_default_feature_layer_for_metric("fid")
    path = None if weights_path is None else str(weights_path)
    try:
        with tensors_alone():  # torch-fidelity unpickles weights without restriction
            network = create_feature_extractor(
                name, [layer], cuda=False, feature_extractor_weights_path=path, verbose=False
            )
    except (UnpicklingError, RuntimeError, EOFError) as error:
        if name in _networks:  # a fault of the caller's own
            raise
        file = f"weights file {path}" if path else f"the weights file of {name!r} in the torch hub folder"
        raise ValueError(f"{file} is damaged or holds more than tensors ({error})") from error
    return Extractor(network)


def extract_features(extractor: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = 256) -> Tensor:
    """Features of images, quantised by `to_uint8` first; of samples and reference alike.

    Args:
        extractor: uint8 [B, C, H, W] -> [B, F], such as `build_extractor` returns.
        images: [N, C, H, W], floats in [-1, 1] or uint8, on the extractor's device.
        batch_size: images at a time.

    Returns:
        [N, F] in the extractor's dtype, on its device, without a graph.

    Raises:
        ValueError: the extractor's output is not [B, F], or as in `to_uint8`.
    """
    with torch.no_grad():
        features = torch.cat([extractor(to_uint8(part)) for part in images.split(batch_size)])
    if features.ndim != 2 or len(features) != len(images):
        raise ValueError(f"expected features [{len(images)}, F] from the extractor, got {tuple(features.shape)}")
    return features
