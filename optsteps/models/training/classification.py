"""Training of classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optsteps.datasets import to_unit_range
from optsteps.models.classifier import FeatureClassifier
from optsteps.models.training.batches import Batch
from optsteps.models.training.task import Task


class ClassifierTraining(Task):
    """Cross-entropy with label smoothing, on images shifted, turned and scaled a little, parts of which are erased.

    Args:
        network: of class logits.
        max_shift: the largest shift along each axis, as a fraction of the image's side. Shifts are by whole pixels, so
            that an image which is only shifted is as sharp as it was.
        max_degrees: the largest rotation.
        max_scale: the largest relative change of the scale.
        label_smoothing: probability mass spread over all classes.
        learning_rate, weight_decay, warmup_steps, ema_decays, seed: see `Task`.
        mirrored: probability that an image is mirrored left to right.
        cutout: side of the square that is erased from every image (DeVries & Taylor, arXiv:1708.04552), as a fraction
            of the image's side. It lies anywhere within the image.

    Raises:
        ValueError: cutout is not in [0, 1).
    """

    def __init__(
        self,
        network: FeatureClassifier,
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
        cutout: float = 0.0,
    ) -> None:
        if not 0 <= cutout < 1:
            raise ValueError(f"cutout = {cutout:g} must be a fraction of the image's side, 0 or more and less than 1")
        super().__init__(network, learning_rate, weight_decay, warmup_steps, ema_decays, seed)
        self.max_shift, self.max_degrees, self.max_scale = max_shift, max_degrees, max_scale
        self.label_smoothing, self.mirrored, self.cutout = label_smoothing, mirrored, cutout

    def _augment(self, images: Tensor) -> Tensor:
        """A random small affine map per image; what comes from outside the frame is the darkest level, -1."""
        side = images.shape[-1]
        uniform = torch.rand(4, len(images), device=images.device) * 2 - 1
        angle = uniform[0] * self.max_degrees * torch.pi / 180
        scale = 1 + uniform[1] * self.max_scale
        cos, sin = angle.cos() * scale, angle.sin() * scale
        shift = (uniform[2:] * self.max_shift * side).round() / side * 2
        matrix = torch.stack([torch.stack([cos, -sin, shift[0]], -1), torch.stack([sin, cos, shift[1]], -1)], -2)
        if self.mirrored > 0:
            mirrored = torch.rand(len(images), device=images.device) < self.mirrored
            matrix[mirrored, :, 0] *= -1
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        moved = F.grid_sample(images + 1, grid, align_corners=False) - 1
        return self._cut_out(moved) if self.cutout > 0 else moved

    def _cut_out(self, images: Tensor) -> Tensor:
        """One square of each image at the middle level, 0."""
        side = images.shape[-1]
        erased = round(self.cutout * side)
        first = torch.randint(side - erased + 1, (2, len(images), 1), device=images.device)
        place = torch.arange(side, device=images.device)
        rows, columns = (place >= first) & (place < first + erased)
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)

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
