"""A U-Net conditioned on words: a tokenizer of whole words, a small transformer over them, and cross-attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optsteps.models.unet import UNet


class Tokenizer:
    """Whole words by number; 0 fills a prompt up, and a prompt of zeros is no prompt.

    Args:
        words: of the vocabulary.
        length: most words of a prompt.
    """

    def __init__(self, words: Sequence[str], length: int) -> None:
        self.length = length
        self._numbers = {word: number for number, word in enumerate(words, start=1)}

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """int64 [len(prompts), length].

        Raises:
            ValueError: a prompt with a word outside the vocabulary, or with too many words; the message names the
                prompt and the word.
        """
        return torch.stack([self._numbered(prompt, place) for place, prompt in enumerate(prompts, start=1)])

    def _numbered(self, prompt: str, place: int) -> Tensor:
        words = prompt.split()
        unknown = [word for word in words if word not in self._numbers]
        if unknown:
            raise ValueError(
                f"prompt {place}, {prompt!r}, has the word {unknown[0]!r}, which this model was not taught; it knows "
                f"{', '.join(self._numbers)}"
            )
        if len(words) > self.length:
            raise ValueError(f"prompt {place}, {prompt!r}, has {len(words)} words; this model reads {self.length}")
        numbers = [self._numbers[word] for word in words]
        return torch.tensor(numbers + [0] * (self.length - len(words)))


class TextEncoder(nn.Module):
    """Vectors [B, L, width] of words [B, L], each knowing its place, its two neighbours and then all others.

    Places are as large as words, and neighbours are told apart from the start: otherwise attention begins with a bag of
    words, and learns very slowly which of two colours belongs to which of two things.
    """

    def __init__(self, words: int, length: int, width: int, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words + 1, width)
        self.places = nn.Parameter(torch.randn(length, width))
        self.neighbours = nn.Conv1d(width, width, 3, padding=1)
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 32), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.words(tokens) + self.places
        return self.layers(h + self.neighbours(h.mT).mT)


class TextUNet(nn.Module):
    """The velocity of a flow, u(x, t, tokens) -> image of the shape of x.

    Args:
        words: of its prompts.
        length: most words of a prompt.
        text_width, text_layers: of the transformer over the words.
        image_channels, widths, blocks, embedding, patch, attended: of the U-Net.
    """

    def __init__(
        self,
        words: Sequence[str],
        length: int,
        text_width: int = 128,
        text_layers: int = 2,
        image_channels: int = 3,
        widths: Sequence[int] = (64, 128),
        blocks: int = 1,
        embedding: int = 256,
        patch: int = 2,
        attended: int = 1,
    ) -> None:
        super().__init__()
        self.config = {
            "words": list(words),
            "length": length,
            "text_width": text_width,
            "text_layers": text_layers,
            "image_channels": image_channels,
            "widths": list(widths),
            "blocks": blocks,
            "embedding": embedding,
            "patch": patch,
            "attended": attended,
        }
        self.tokenizer = Tokenizer(words, length)
        self.text = TextEncoder(len(words), length, text_width, text_layers)
        self.image = UNet(
            image_channels, list(widths), blocks, embedding, 0, patch=patch, attended=attended, context=text_width
        )

    @property
    def no_prompt(self) -> Tensor:
        """Tokens [1, L] of no prompt, for classifier-free guidance."""
        return torch.zeros(1, self.tokenizer.length, dtype=torch.long)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """x [B, C, H, W], t [B] in [0, 1], tokens [B, L] of `tokenizer` -> [B, C, H, W]."""
        return self.image(x, 4 * t, None, self.text(tokens))
