"""Training of classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optsteps.datasets import to_unit_range
from optsteps.models.classifier import Classifier
from optsteps.models.training.batches import Batch
from optsteps.models.training.task import Task


class ClassifierTraining(Task):
    """Cross-entropy with label smoothing, on images shifted, turned and scaled a little.

    Args:
        network: of class logits.
        max_shift: the largest shift along each axis, as a fraction of the image's side.
        max_degrees: the largest rotation.
        max_scale: the largest relative change of the scale.
        label_smoothing: probability mass spread over all classes.
        learning_rate, weight_decay, warmup_steps, ema_decays, seed: see `Task`.
        mirrored: probability that an image is mirrored left to right.
    """

    def __init__(
        self,
        network: Classifier,
        max_shift: float,
        max_degrees: float,
        max_scale: float,
        label_smoothing: float,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        ema_decays: Sequence[float],
        seed: int,
        mirrored: float = 0.0,
    ) -> None:
        super().__init__(network, learning_rate, weight_decay, warmup_steps, ema_decays, seed)
        self.max_shift, self.max_degrees, self.max_scale = max_shift, max_degrees, max_scale
        self.label_smoothing, self.mirrored = label_smoothing, mirrored

    def _augment(self, images: Tensor) -> Tensor:
        """A random small affine map per image; what comes from outside the frame is the darkest level, -1."""
        uniform = torch.rand(4, len(images), device=images.device) * 2 - 1
        angle = uniform[0] * self.max_degrees * torch.pi / 180
        scale = 1 + uniform[1] * self.max_scale
        cos, sin = angle.cos() * scale, angle.sin() * scale
        shift = uniform[2:] * self.max_shift * 2
        matrix = torch.stack([torch.stack([cos, -sin, shift[0]], -1), torch.stack([sin, cos, shift[1]], -1)], -2)
        if self.mirrored > 0:
            mirrored = torch.rand(len(images), device=images.device) < self.mirrored
            matrix[mirrored, :, 0] *= -1
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images + 1, grid, align_corners=False) - 1

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        _, images, labels = batch
        logits = self.network(self._augment(to_unit_range(images)))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _scores(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        _, images, labels = batch
        logits = network(to_unit_range(images))
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}
