"""FID, KID, precision and recall of images as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from optsteps.metrics.extractors import extract_features
from optsteps.metrics.features import (
    DEFAULT_SETTINGS,
    FidelitySettings,
    checked_features,
    fidelity_intervals,
    fidelity_values,
)
from optsteps.metrics.statistics import Interval


class Fidelity(Metric):
    """`fidelity_values` of images that come in batches, on one or many devices.

    Args:
        extractor: uint8 [B, C, H, W] -> features [B, F], such as `build_extractor` returns.
        reference: features of real images [M, F], made by `extract_features` with the same extractor.
        settings: see `FidelitySettings`.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: the reference is not [M, F], too short or not finite.
    """

    is_differentiable = False
    full_state_update = False
    features: list[Tensor] | Tensor
    index: list[Tensor] | Tensor

    def __init__(
        self,
        extractor: Callable[[Tensor], Tensor],
        reference: Tensor,
        settings: FidelitySettings = DEFAULT_SETTINGS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.extractor = extractor
        self.reference = checked_features(reference, "reference", settings)
        self.settings = settings
        self.add_state("features", [], dist_reduce_fx="cat")
        self.add_state("index", [], dist_reduce_fx="cat")

    def update(self, images: Tensor, index: Tensor | None = None) -> None:
        """Adds images.

        Args:
            images: [B, C, H, W], floats in [-1, 1] or uint8, on the extractor's device.
            index: the samples' numbers [B]. Results follow their order, so that they do not depend on which device had
                which sample. Without it samples are numbered as they come.

        Raises:
            ValueError: there is not one index per image, or as in `extract_features`.
        """
        if index is None:
            seen = sum(len(part) for part in self.index)
            index = torch.arange(seen, seen + len(images))
        if index.shape != images.shape[:1]:
            raise ValueError(f"expected one index per image, got {tuple(index.shape)} for {len(images)} images")
        features = extract_features(self.extractor, images)
        assert isinstance(self.features, list)
        assert isinstance(self.index, list)
        self.features.append(features)
        self.index.append(index.to(features.device))

    def compute(self) -> dict[str, float]:
        """ "fid", "kid", "precision", "recall" of all images so far; raises as `fidelity_values`."""
        return fidelity_values(self._ordered(), self.reference, self.settings)

    def intervals(self, sets: int = 10) -> dict[str, Interval]:
        """The same with intervals, see `fidelity_intervals`.

        Not what `compute` returns, because loggers take numbers and torchmetrics refuses frozen dataclasses.
        """
        return fidelity_intervals(self.gathered(), self.reference, sets, self.settings)

    def gathered(self) -> Tensor:
        """Features [N, F] of the images of all devices, in the order of their index; for `fidelity_differences`."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        ):
            return self._ordered()

    def _ordered(self) -> Tensor:
        if len(self.features) == 0:
            raise ValueError("no images yet; call update first")
        return dim_zero_cat(self.features)[dim_zero_cat(self.index).argsort(stable=True)]
