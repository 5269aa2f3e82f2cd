"""A training task for Lightning: optimizer, learning rate, averages of the weights, and seeds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from optsteps.datasets import ImageSet
from optsteps.models.classifier import FeatureClassifier
from optsteps.models.text_unet import TextUNet
from optsteps.models.training.averages import Averages
from optsteps.models.training.batches import Batch, mixed_seed
from optsteps.models.unet import UNet


class Task(L.LightningModule, ABC):
    """A network with its loss, trained by AdamW with a linear warm-up and a cosine to zero.

    Averages of the weights are kept, and they are what is validated. Random numbers depend on (seed, number of the
    batch) alone, so a training that was interrupted goes on with the numbers that it would have drawn.

    Args:
        network: to be trained.
        learning_rate: after the warm-up.
        weight_decay: of AdamW.
        warmup_steps: optimizer steps; a tenth of the training at most.
        ema_decays: of the averages, see `Averages`.
        seed: of all that is drawn.
    """

    network: UNet | TextUNet | FeatureClassifier

    def __init__(
        self,
        network: UNet | TextUNet | FeatureClassifier,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        ema_decays: Sequence[float],
        seed: int,
    ) -> None:
        super().__init__()
        # the layout that convolutions of GPUs are fastest in; averages have their network's
        self.network = network.to(memory_format=torch.channels_last)
        self.averages = Averages(network, ema_decays)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.seed = seed

    def notes(self) -> dict[str, Any]:
        """Settings that must travel with the weights besides the network's own arguments."""
        return {}

    def conditions(self, images: ImageSet) -> Tensor:
        """The condition of each image [N, ...]: its class."""
        return images.labels

    @abstractmethod
    def _scores(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Scores of a network on a validation batch, by name; "loss" is one of them."""

    def on_train_batch_start(self, batch: Batch, _index: int) -> None:
        torch.manual_seed(mixed_seed(self.seed, batch.number, self.global_rank, 1))

    def on_train_batch_end(self, _outputs: Any, batch: Batch, _index: int) -> None:
        if (batch.number + 1) % self.trainer.accumulate_grad_batches == 0:
            self.averages.update(self.network, self.trainer.global_step)

    def validation_step(self, batch: Batch, _index: int) -> None:
        for decay, network in self.averages.by_decay().items():
            for name, score in self._scores(network, batch).items():
                self.log(f"val/{name}/{decay:g}", score, batch_size=len(batch.images))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = min(self.warmup_steps, max(1, total // 10))
        schedule = torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, warmup),
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, total - warmup)),
            ],
            milestones=[warmup],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
