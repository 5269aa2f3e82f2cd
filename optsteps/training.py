"""Training of the shipped networks, and of a user's own, with Lightning's Trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from optsteps.datasets import ImageSet, to_unit_range
from optsteps.denoisers import EDMDenoiser, expand
from optsteps.models.classifier import Classifier
from optsteps.models.text_unet import TextUNet
from optsteps.models.unet import UNet
from optsteps.processes import EDM, Flow


class _Task(L.LightningModule):
    """What the trainings share: AdamW, a linear warm-up and a cosine to zero."""

    network: UNet | TextUNet | Classifier

    def __init__(
        self, network: UNet | TextUNet | Classifier, learning_rate: float, weight_decay: float, warmup_steps: int
    ) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps

    def notes(self) -> dict[str, Any]:
        """What must travel with the weights besides the network's own arguments."""
        return {}

    def told(self, images: ImageSet) -> Tensor:
        """What the network is told of each image [N, ...]: its class."""
        return images.labels

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


class _NoiseTask(_Task, ABC):
    """What trainings on noised images share: a loss at given quantiles of the noise's distribution, of batches whose
    conditions are dropped for some samples, for classifier-free guidance."""

    dropout: float

    @property
    @abstractmethod
    def _nothing(self) -> Tensor:
        """The condition of no condition, for one sample."""

    @abstractmethod
    def _loss(self, images: Tensor, cond: Tensor, quantiles: Tensor, eps: Tensor) -> Tensor: ...

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, cond = batch
        quantiles = stratified(len(images), self.device)
        dropped = torch.rand(len(images), device=self.device) < self.dropout
        cond = torch.where(expand(dropped, cond).bool(), self._nothing.to(cond), cond)
        loss = self._loss(images, cond, quantiles, torch.randn(images.shape, device=self.device))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, cond = batch
        # the same noise at every validation, so that two losses can be compared
        eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(index)).to(self.device)
        quantiles = (torch.arange(len(images), device=self.device, dtype=torch.float64) + 0.5) / len(images)
        loss = self._loss(images, cond, quantiles, eps)
        self.log("val/loss", loss, prog_bar=True, batch_size=len(images))


class DenoiserTraining(_NoiseTask):
    """EDM's denoising objective (Karras et al., arXiv:2206.00364, Eq. 2 and Table 1): log-normal noise levels,
    weight 1 / c_out^2.

    Args:
        network: the raw network F.
        sigma_data: standard deviation of the data.
        p_mean, p_std: mean and standard deviation of the log noise level.
        label_dropout: probability that a sample is trained without its class, for classifier-free guidance.
    """

    def __init__(
        self,
        network: UNet,
        sigma_data: float,
        p_mean: float,
        p_std: float,
        label_dropout: float,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
    ) -> None:
        super().__init__(network, learning_rate, weight_decay, warmup_steps)
        self.sigma_data = sigma_data
        self.null_label = network.num_classes
        self.p_mean, self.p_std = p_mean, p_std
        self.dropout = label_dropout
        self.denoiser = EDMDenoiser(network, EDM(), sigma_data)

    def notes(self) -> dict[str, Any]:
        return {"sigma_data": self.sigma_data}

    @property
    def _nothing(self) -> Tensor:
        return torch.tensor(self.null_label)

    def _loss(self, images: Tensor, labels: Tensor, quantiles: Tensor, eps: Tensor) -> Tensor:
        clean = to_unit_range(images)
        level = torch.exp(self.p_mean + self.p_std * torch.special.ndtri(quantiles))
        weight = (level**2 + self.sigma_data**2) / (level * self.sigma_data) ** 2
        denoised = self.denoiser(clean + expand(level, clean) * eps, level, labels)
        return (expand(weight, clean) * (denoised.float() - clean) ** 2).mean()


class FlowTraining(_NoiseTask):
    """Conditional flow matching on straight paths (Lipman et al., arXiv:2210.02747): the velocity eps - x_0 at
    x_t = (1 - t) x_0 + t eps, with times logit-normal (Esser et al., arXiv:2403.03206, Sec. 3.1).

    Args:
        network: of the velocity.
        t_mean, t_std: mean and standard deviation of logit(t).
        prompt_dropout: probability that a sample is trained without its prompt, for classifier-free guidance.
    """

    network: TextUNet

    def __init__(
        self,
        network: TextUNet,
        t_mean: float,
        t_std: float,
        prompt_dropout: float,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
    ) -> None:
        super().__init__(network, learning_rate, weight_decay, warmup_steps)
        self.t_mean, self.t_std, self.dropout = t_mean, t_std, prompt_dropout

    def told(self, images: ImageSet) -> Tensor:
        """The words of its caption, by number [N, L]."""
        return self.network.tokenizer(images.captions)

    @property
    def _nothing(self) -> Tensor:
        return self.network.no_prompt

    def _loss(self, images: Tensor, tokens: Tensor, quantiles: Tensor, eps: Tensor) -> Tensor:
        clean = to_unit_range(images)
        t = torch.sigmoid(self.t_mean + self.t_std * torch.special.ndtri(quantiles)).float()
        alpha, sigma = (expand(part, clean) for part in (Flow().alpha(t), Flow().sigma(t)))
        velocity = self.network(alpha * clean + sigma * eps, t, tokens)
        return (velocity.float() - (eps - clean)).square().mean()


def stratified(count: int, device: torch.device) -> Tensor:
    """Random quantiles [count], float64, one of each stratum of the distribution: the same expectation as independent
    ones, with less variance."""
    strata = torch.randperm(count, device=device)
    return ((strata + torch.rand(count, device=device, dtype=torch.float64)) / count).clamp(1e-6, 1 - 1e-6)


class ClassifierTraining(_Task):
    """Cross-entropy with label smoothing, on images shifted, turned and scaled a little."""

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
    ) -> None:
        super().__init__(network, learning_rate, weight_decay, warmup_steps)
        self.max_shift, self.max_degrees, self.max_scale = max_shift, max_degrees, max_scale
        self.label_smoothing = label_smoothing

    def _augment(self, images: Tensor) -> Tensor:
        """A random small affine map per image; what comes from outside the frame is the darkest level, -1."""
        uniform = torch.rand(4, len(images), device=images.device) * 2 - 1
        angle = uniform[0] * self.max_degrees * torch.pi / 180
        scale = 1 + uniform[1] * self.max_scale
        cos, sin = angle.cos() * scale, angle.sin() * scale
        shift = uniform[2:] * self.max_shift * 2
        matrix = torch.stack([torch.stack([cos, -sin, shift[0]], -1), torch.stack([sin, cos, shift[1]], -1)], -2)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images + 1, grid, align_corners=False) - 1

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, labels = batch
        logits = self.network(self._augment(to_unit_range(images)))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        images, labels = batch
        logits = self.network(to_unit_range(images))
        self.log("val/loss", F.cross_entropy(logits, labels), batch_size=len(images))
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log("val/accuracy", accuracy, prog_bar=True, batch_size=len(images))


class ImageData(L.LightningDataModule):
    """Shuffled training batches and ordered test batches of bytes, with what the network is `told` of each image."""

    def __init__(
        self, train: ImageSet, test: ImageSet, batch_size: int, workers: int, told: Callable[[ImageSet], Tensor]
    ) -> None:
        super().__init__()
        self.train, self.test, self.batch_size, self.workers, self.told = train, test, batch_size, workers, told

    def _loader(self, data: ImageSet, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            TensorDataset(data.images, self.told(data)),
            batch_size=self.batch_size,
            shuffle=shuffle,
            drop_last=shuffle and len(data) > self.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.test, shuffle=False)


class LossHistory(Callback):
    """Keeps the training loss (mean over `every` steps) and validation figures, through interruptions too.

    Attributes:
        rows: one dict per record: "step" and figures by name.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.rows: list[dict[str, float]] = []
        self._sum, self._count = 0.0, 0

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self._sum += float(outputs["loss"])
        self._count += 1
        if trainer.global_step % self.every == 0:
            self.rows.append({"step": trainer.global_step, "train/loss": self._sum / self._count})
            self._sum, self._count = 0.0, 0

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            figures = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            self.rows.append({"step": trainer.global_step, **figures})

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])
