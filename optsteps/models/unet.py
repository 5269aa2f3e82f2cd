"""A small U-Net with residual blocks, for images of a few thousand pixels.

The raw network F of EDM (Karras et al., arXiv:2206.00364) or a flow's velocity: preconditioning is in
`optsteps.denoisers`, so the same network serves training, sampling and search.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    """F(x, c_noise, labels, context, augmentation) -> image of the shape of x.

    Args:
        image_channels: channels of the image.
        widths: channels at each resolution; the image is halved between two entries, so its sides must be divisible by
            patch * 2 ** (len(widths) - 1).
        blocks: residual blocks at each resolution on the way down (one more on the way up).
        embedding: width of the vector that carries noise level and class.
        num_classes: number of classes; 0 for an unconditional network. Label `num_classes` means "no class".
        dropout: probability in the residual blocks.
        patch: side of the pixel blocks that become channels, so that the first resolution is the image's / patch.
        attended: at so many of the lowest resolutions the residual blocks end with attention.
        context: width of the vectors that are attended to beside the pixels; 0 for none.
        augmentations: how many numbers say how an image was augmented (EDM's augmentation labels, arXiv:2206.00364,
            App. F.2): a network with such labels can learn from augmented images and yet sample none. 0 for none.
    """

    def __init__(
        self,
        image_channels: int = 1,
        widths: list[int] | tuple[int, ...] = (32, 64, 128),
        blocks: int = 1,
        embedding: int = 128,
        num_classes: int = 10,
        dropout: float = 0.0,
        patch: int = 1,
        attended: int = 0,
        context: int = 0,
        augmentations: int = 0,
    ) -> None:
        super().__init__()
        self.config = {
            "image_channels": image_channels,
            "widths": list(widths),
            "blocks": blocks,
            "embedding": embedding,
            "num_classes": num_classes,
            "dropout": dropout,
            "patch": patch,
            "attended": attended,
            "context": context,
            "augmentations": augmentations,
        }
        self.patch = patch
        self.num_classes = num_classes
        self.augmentations = augmentations
        self.noise_embedding = NoiseEmbedding(embedding)
        self.class_embedding = nn.Embedding(num_classes + 1, embedding)
        self.context_embedding = nn.Linear(context, embedding) if context else None
        self.augmentation_embedding = nn.Linear(augmentations, embedding, bias=False) if augmentations else None

        def block(level: int, width_in: int, width_out: int) -> ResidualBlock:
            attention = Attention(width_out, context) if level >= len(widths) - attended else None
            return ResidualBlock(width_in, width_out, embedding, dropout, attention)

        self.stem = nn.Conv2d(image_channels * patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        skips = [widths[0]]
        width = widths[0]
        for level, target in enumerate(widths):
            if level > 0:
                self.down.append(Downsample(width))
                skips.append(width)
            for _ in range(blocks):
                self.down.append(block(level, width, target))
                width = target
                skips.append(width)

        self.middle = nn.ModuleList(
            [
                ResidualBlock(width, width, embedding, dropout),
                Attention(width, context),
                ResidualBlock(width, width, embedding, dropout),
            ]
        )

        self.up = nn.ModuleList()
        for level, target in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(block(level, width + skips.pop(), target))
                width = target
            if level > 0:
                self.up.append(Upsample(width))
        self.head_norm = nn.GroupNorm(_groups(width), width)
        self.head = nn.Conv2d(width, image_channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        labels: Tensor | None = None,
        context: Tensor | None = None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """x [B, C, H, W], c_noise [B], labels [B] of integers (None: no class), context [B, L, width], augmentation
        [B, augmentations] (None: zeros, an image as it is) -> as x."""
        unit = self.patch * 2 ** (len(self.config["widths"]) - 1)  # type: ignore[arg-type]
        if x.shape[2] % unit or x.shape[3] % unit:
            raise ValueError(
                f"this network halves images down to blocks of {unit} pixels, so sides must be multiples of it; "
                f"got {x.shape[2]}x{x.shape[3]}"
            )
        if labels is None:
            labels = torch.full(x.shape[:1], self.num_classes, device=x.device)
        embedding = self.noise_embedding(c_noise) + self.class_embedding(labels)
        if context is not None:
            assert self.context_embedding is not None
            embedding = embedding + self.context_embedding(context.mean(1))
        if augmentation is not None:
            assert self.augmentation_embedding is not None
            embedding = embedding + self.augmentation_embedding(augmentation)
        embedding = F.silu(embedding)
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for layer in self.down:
            h = layer(h, embedding, context)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, embedding, context)
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                h = torch.cat([h, skips.pop()], dim=1)
            h = layer(h, embedding, context)
        return F.pixel_shuffle(self.head(F.silu(self.head_norm(h))), self.patch)


class NoiseEmbedding(nn.Module):
    """Sines and cosines of c_noise at geometric frequencies, then two layers."""

    frequencies: Tensor

    def __init__(self, width: int, count: int = 32, lowest: float = 0.125, highest: float = 8.0) -> None:
        super().__init__()
        cycles = torch.logspace(math.log10(lowest), math.log10(highest), count)
        self.register_buffer("frequencies", 2 * math.pi * cycles, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * count, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, c_noise: Tensor) -> Tensor:
        angle = c_noise[:, None] * self.frequencies
        return self.layers(torch.cat([angle.sin(), angle.cos()], dim=1))


class ResidualBlock(nn.Module):
    def __init__(
        self, width_in: int, width_out: int, embedding: int, dropout: float, attention: Attention | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(width_in), width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * width_out)
        self.norm2 = nn.GroupNorm(_groups(width_out), width_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        self.skip = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()
        self.attention = attention

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        h = self.skip(x) + self.conv2(self.dropout(h))
        return h if self.attention is None else self.attention(h, embedding, context)


class Attention(nn.Module):
    """Attention of pixels to pixels and, in the same softmax, to the context, with heads of 32 channels where the width
    allows. Beside a context, which may speak of left and right, pixels know their coordinates."""

    def __init__(self, width: int, context: int = 0) -> None:
        super().__init__()
        self.heads = next(n for n in range(max(1, width // 32), 0, -1) if width % n == 0)
        self.norm = nn.GroupNorm(_groups(width), width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.context = nn.Linear(context, 2 * width) if context else None
        self.place = nn.Conv2d(2, 3 * width, 1, bias=False) if context else None
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, _embedding: Tensor, context: Tensor | None) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x))
        if self.place is not None:
            qkv = qkv + self.place(_coordinates(x))
        q, k, v = qkv.reshape(b, 3, self.heads, c // self.heads, h * w).transpose(-1, -2).unbind(1)
        if self.context is not None:
            assert context is not None
            words = self.context(context).reshape(b, -1, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            k, v = torch.cat([k, words[0]], -2), torch.cat([v, words[1]], -2)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(-1, -2).reshape(b, c, h, w))


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, _embedding: Tensor, _context: Tensor | None) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, _embedding: Tensor, _context: Tensor | None) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _coordinates(x: Tensor) -> Tensor:
    """Of the pixels of x [B, C, H, W], [1, 2, H, W]: down and across, from -1 to 1."""
    down, across = (torch.linspace(-1, 1, side, dtype=x.dtype, device=x.device) for side in x.shape[2:])
    return torch.stack(torch.meshgrid(down, across, indexing="ij"))[None]


def _groups(width: int) -> int:
    return math.gcd(width, 8)
