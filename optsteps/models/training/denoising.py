"""Training of denoisers and of flows' velocities on noised images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optsteps.datasets import ImageSet, to_unit_range
from optsteps.denoisers import EDMDenoiser, expand
from optsteps.models.text_unet import TextUNet
from optsteps.models.training.batches import Batch
from optsteps.models.training.task import Task
from optsteps.models.unet import UNet
from optsteps.processes import EDM, Flow


class _NoiseTask(Task, ABC):
    """A loss at quantiles of the noise's distribution, with conditions dropped for some samples.

    A network that is trained without some of its conditions can be sampled with classifier-free guidance.
    """

    dropout: float

    @property
    @abstractmethod
    def _null_cond(self) -> Tensor:
        """The condition that stands for no condition, for one sample."""

    @abstractmethod
    def _loss(
        self, network: Callable[..., Tensor], images: Tensor, cond: Tensor, quantiles: Tensor, eps: Tensor
    ) -> Tensor: ...

    def _augmented(self, images: Tensor) -> tuple[Callable[..., Tensor], Tensor]:
        """The network, given the labels of an augmentation, and the augmented images."""
        return self.network, images

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        _, images, cond = batch
        quantiles = stratified(len(images), self.device)
        dropped = torch.rand(len(images), device=self.device) < self.dropout
        cond = torch.where(expand(dropped, cond).bool(), self._null_cond.to(cond, non_blocking=True), cond)
        eps = torch.randn(images.shape, device=self.device)
        network, images = self._augmented(images)
        loss = self._loss(network, images, cond, quantiles, eps)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _scores(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
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
        learning_rate, weight_decay, warmup_steps, ema_decays, seed: see `Task`.
        mirrored: probability that an image is mirrored left to right. The network's first augmentation label is 1 for
            a mirrored image, so that it need not sample mirrored images.

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
    def _null_cond(self) -> Tensor:
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
        learning_rate, weight_decay, warmup_steps, ema_decays, seed: see `Task`.
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

    def conditions(self, images: ImageSet) -> Tensor:
        """The words of each caption, by number [N, L]."""
        return self.network.tokenizer(images.captions)

    @property
    def _null_cond(self) -> Tensor:
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
