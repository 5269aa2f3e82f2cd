"""Training of the shipped networks, and of a user's own, with Lightning's Trainer.

Batch number b of a training, and everything that is drawn for it, are functions of (seed, b) alone: a training that was
interrupted goes on with what it would have seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from optsteps.datasets import ImageSet, to_unit_range
from optsteps.denoisers import EDMDenoiser, expand
from optsteps.models.classifier import Classifier
from optsteps.models.text_unet import TextUNet
from optsteps.models.unet import UNet
from optsteps.processes import EDM, Flow


class Batch(NamedTuple):
    """Images as bytes and what the network is told of each.

    Attributes:
        number: 0, 1, ... from the start of the training (or of the validation).
        images: uint8 [B, C, H, W].
        told: [B, ...].
    """

    number: int
    images: Tensor
    told: Tensor


class Averages(nn.Module):
    """Exponential moving averages of a network's weights, one for each decay.

    After step n the decay is (n - 1) / (n + 9) at most, so an average is over about the last tenth of the steps until
    it has its own length: it forgets the weights that the training began with, and in a training of n steps decays
    above 1 - 10 / n cannot be told apart.

    Args:
        network: to be averaged.
        decays: in (0, 1), different from each other.
    """

    def __init__(self, network: nn.Module, decays: Sequence[float]) -> None:
        super().__init__()
        if not decays or not all(0 < decay < 1 for decay in decays) or len(set(decays)) < len(decays):
            raise ValueError(f"ema_decays must be different numbers between 0 and 1, at least one; got {list(decays)}")
        self.decays = tuple(decays)
        self.networks = nn.ModuleList(deepcopy(network).eval().requires_grad_(False) for _ in decays)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after step number `step` = 1, 2, ..."""
        latest = [*network.parameters(), *network.buffers()]
        floating = [value for value in latest if value.is_floating_point()]
        for decay, average in self.by_decay().items():
            means = [*average.parameters(), *average.buffers()]
            average_into = get_ema_multi_avg_fn(min(decay, (step - 1) / (step + 9)))
            average_into([mean for mean in means if mean.is_floating_point()], floating, step)
            for mean, value in zip(means, latest, strict=True):
                if not value.is_floating_point():
                    mean.copy_(value)

    def by_decay(self) -> dict[float, nn.Module]:
        """The averaged networks, in evaluation mode."""
        return dict(zip(self.decays, self.networks, strict=True))


class _Task(L.LightningModule, ABC):
    """What the trainings share: AdamW, a linear warm-up and a cosine to zero, averages of the weights, which are what
    is validated, and random numbers that depend on (seed, number of the batch)."""

    network: UNet | TextUNet | Classifier

    def __init__(
        self,
        network: UNet | TextUNet | Classifier,
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
        """What must travel with the weights besides the network's own arguments."""
        return {}

    def told(self, images: ImageSet) -> Tensor:
        """What the network is told of each image [N, ...]: its class."""
        return images.labels

    @abstractmethod
    def _figures(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Of a network on a batch to test with, by name; "loss" is one of them."""

    def on_train_batch_start(self, batch: Batch, _index: int) -> None:
        torch.manual_seed(_mixed(self.seed, batch.number, self.global_rank, 1))

    def on_train_batch_end(self, _outputs: Any, batch: Batch, _index: int) -> None:
        if (batch.number + 1) % self.trainer.accumulate_grad_batches == 0:
            self.averages.update(self.network, self.trainer.global_step)

    def validation_step(self, batch: Batch, _index: int) -> None:
        for decay, network in self.averages.by_decay().items():
            for name, figure in self._figures(network, batch).items():
                self.log(f"val/{name}/{decay:g}", figure, batch_size=len(batch.images))

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
    def _loss(
        self, network: Callable[..., Tensor], images: Tensor, cond: Tensor, quantiles: Tensor, eps: Tensor
    ) -> Tensor: ...

    def _augmented(self, images: Tensor) -> tuple[Callable[..., Tensor], Tensor]:
        """The images as they are trained on, and the network, told what was done to them."""
        return self.network, images

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        _, images, cond = batch
        quantiles = stratified(len(images), self.device)
        dropped = torch.rand(len(images), device=self.device) < self.dropout
        cond = torch.where(expand(dropped, cond).bool(), self._nothing.to(cond, non_blocking=True), cond)
        eps = torch.randn(images.shape, device=self.device)
        network, images = self._augmented(images)
        loss = self._loss(network, images, cond, quantiles, eps)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _figures(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        number, images, cond = batch
        # the same noise at every validation, so that two losses can be compared
        eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(number)).to(self.device)
        quantiles = (torch.arange(len(images), device=self.device, dtype=torch.float64) + 0.5) / len(images)
        return {"loss": self._loss(network, images, cond, quantiles, eps)}


class DenoiserTraining(_NoiseTask):
    """EDM's denoising objective (Karras et al., arXiv:2206.00364, Eq. 2 and Table 1): log-normal noise levels,
    weight 1 / c_out^2.

    Args:
        network: the raw network F.
        sigma_data: standard deviation of the data.
        p_mean, p_std: mean and standard deviation of the log noise level.
        label_dropout: probability that a sample is trained without its class, for classifier-free guidance.
        mirrored: probability that an image is mirrored left to right; the network is told so (its first augmentation
            label is 1) and need not sample mirrored images.

    Raises:
        ValueError: images are to be mirrored, but the network has no augmentation labels.
    """

    network: UNet

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
        ema_decays: Sequence[float],
        seed: int,
        mirrored: float = 0.0,
    ) -> None:
        if mirrored and not network.augmentations:
            raise ValueError(
                f"mirrored = {mirrored:g} needs a network that can be told of it; give it augmentations = 1"
            )
        super().__init__(network, learning_rate, weight_decay, warmup_steps, ema_decays, seed)
        self.mirrored, self.labels = mirrored, network.augmentations
        self.sigma_data = sigma_data
        self.null_label = network.num_classes
        self.p_mean, self.p_std = p_mean, p_std
        self.dropout = label_dropout

    def notes(self) -> dict[str, Any]:
        return {"sigma_data": self.sigma_data}

    @property
    def _nothing(self) -> Tensor:
        return torch.tensor(self.null_label)

    def _augmented(self, images: Tensor) -> tuple[Callable[..., Tensor], Tensor]:
        if not self.mirrored:
            return self.network, images
        mirrored = torch.rand(len(images), device=self.device) < self.mirrored
        labels = F.pad(mirrored[:, None].float(), (0, self.labels - 1))
        return partial(self.network, augmentation=labels), torch.where(
            expand(mirrored, images).bool(), images.flip(-1), images
        )

    def _loss(
        self, network: Callable[..., Tensor], images: Tensor, labels: Tensor, quantiles: Tensor, eps: Tensor
    ) -> Tensor:
        clean = to_unit_range(images)
        level = torch.exp(self.p_mean + self.p_std * torch.special.ndtri(quantiles))
        weight = (level**2 + self.sigma_data**2) / (level * self.sigma_data) ** 2
        denoiser = EDMDenoiser(network, EDM(), self.sigma_data)
        denoised = denoiser(clean + expand(level, clean) * eps, level, labels)
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
        ema_decays: Sequence[float],
        seed: int,
    ) -> None:
        super().__init__(network, learning_rate, weight_decay, warmup_steps, ema_decays, seed)
        self.t_mean, self.t_std, self.dropout = t_mean, t_std, prompt_dropout

    def told(self, images: ImageSet) -> Tensor:
        """The words of its caption, by number [N, L]."""
        return self.network.tokenizer(images.captions)

    @property
    def _nothing(self) -> Tensor:
        return self.network.no_prompt

    def _loss(
        self, network: Callable[..., Tensor], images: Tensor, tokens: Tensor, quantiles: Tensor, eps: Tensor
    ) -> Tensor:
        clean = to_unit_range(images)
        t = torch.sigmoid(self.t_mean + self.t_std * torch.special.ndtri(quantiles)).float()
        alpha, sigma = (expand(part, clean) for part in (Flow().alpha(t), Flow().sigma(t)))
        velocity = network(alpha * clean + sigma * eps, t, tokens)
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
        ema_decays: Sequence[float],
        seed: int,
    ) -> None:
        super().__init__(network, learning_rate, weight_decay, warmup_steps, ema_decays, seed)
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

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        _, images, labels = batch
        logits = self.network(self._augment(to_unit_range(images)))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _figures(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        _, images, labels = batch
        logits = network(to_unit_range(images))
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}


def _mixed(*numbers: int) -> int:
    """A seed of 64 bits that is a function of the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class TrainingBatches:
    """Batches number `first`, `first` + 1, ... of a training: every epoch in a new order, without what is left over at
    its end when batches do not fill it.

    Args:
        images, told: all of them, see `Batch`.
        size: of a batch, on all ranks together; at most all images.
        seed: of the orders.
        first: number of the first batch.
        total: number of all batches of the training.
        rank, ranks: this process takes every `ranks`-th of a batch's images, beginning with number `rank`.
    """

    def __init__(
        self, images: Tensor, told: Tensor, size: int, seed: int, first: int, total: int, rank: int, ranks: int
    ) -> None:
        self.images, self.told, self.size, self.seed = images, told, min(size, len(images)), seed
        self.first, self.total, self.rank, self.ranks = first, total, rank, ranks

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Batch]:
        each = len(self.images) // self.size
        order = self._order(self.first // each)
        for number in range(self.first, self.total):
            epoch, place = divmod(number, each)
            if place == 0:
                order = self._order(epoch)
            chosen = order[place * self.size : (place + 1) * self.size][self.rank :: self.ranks]
            yield Batch(number, self.images[chosen], self.told[chosen])

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(_mixed(self.seed, epoch, 0, 0))
        return torch.randperm(len(self.images), generator=generator).to(self.images.device)


class ValidationBatches:
    """All images in their order."""

    def __init__(self, images: Tensor, told: Tensor, size: int) -> None:
        self.images, self.told, self.size = images, told, size

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        for number, parts in enumerate(zip(self.images.split(self.size), self.told.split(self.size), strict=True)):
            yield Batch(number, *parts)


class ImageData(L.LightningDataModule):
    """Training batches and test batches, from images that lie on the device as bytes, with what the network is `told`
    of each. To Lightning the whole training is one epoch, so a part of it is where validations are asked for.

    Args:
        batch_size: on all ranks together.
        seed: of the order of the training images.
    """

    def __init__(
        self, train: ImageSet, test: ImageSet, batch_size: int, seed: int, told: Callable[[ImageSet], Tensor]
    ) -> None:
        super().__init__()
        self.train, self.test, self.batch_size, self.seed, self.told = train, test, batch_size, seed, told

    def _on_device(self, data: ImageSet) -> tuple[Tensor, Tensor]:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        return data.images.to(device), self.told(data).to(device)

    def train_dataloader(self) -> TrainingBatches:
        trainer = self.trainer
        assert trainer is not None
        first, total = (steps * trainer.accumulate_grad_batches for steps in (trainer.global_step, trainer.max_steps))
        rank, ranks = trainer.global_rank, trainer.world_size
        return TrainingBatches(*self._on_device(self.train), self.batch_size, self.seed, first, total, rank, ranks)

    def val_dataloader(self) -> ValidationBatches:
        return ValidationBatches(*self._on_device(self.test), self.batch_size)


class LossHistory(Callback):
    """Keeps the training loss (mean over `every` steps) and validation figures, through interruptions too.

    Attributes:
        rows: one dict per record: "step" and figures by name.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.rows: list[dict[str, float]] = []
        self._sum, self._count = torch.zeros((), dtype=torch.float64), 0

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *_: Any) -> None:
        # a tensor: the device is waited for once in `every` steps only
        self._sum = self._sum.to(outputs["loss"].device) + outputs["loss"].detach()
        self._count += 1
        if trainer.global_step % self.every == 0:
            self.rows.append({"step": trainer.global_step, "train/loss": float(self._sum / self._count)})
            self._sum, self._count = torch.zeros_like(self._sum), 0

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            figures = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            self.rows.append({"step": trainer.global_step, **figures})

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "sum": float(self._sum), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])
        self._sum, self._count = torch.tensor(state["sum"], dtype=torch.float64), state["count"]


def best_decay(rows: Sequence[Mapping[str, float]], decays: Sequence[float]) -> float:
    """The decay whose average had the least loss at the last validation; without a validation the first.

    Args:
        rows: of `LossHistory`.
    """
    last = next((row for row in reversed(rows) if f"val/loss/{decays[0]:g}" in row), None)
    return decays[0] if last is None else min(decays, key=lambda decay: last[f"val/loss/{decay:g}"])
