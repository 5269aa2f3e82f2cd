"""Prompts of the samples of a text model, encoded once, and the metadata that their images are judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from optsteps.conditions import Cond, concatenate, take
from optsteps.datasets.geneval_prompts import Metadata
from optsteps.datasets.prompts import Prompt
from optsteps.noise import FIRST_TEST_SAMPLE

# number of prompts encoded together: always neighbours in the list, so that a prompt's encoding does not depend on the
# samples of a call
_TOGETHER = 8


class PromptConditions:
    """Conditions of samples by number: sample k has prompt k modulo the number of prompts.

    The samples of the comparison have other prompts where `test_prompts` are given.

    Args:
        encode: the conditions of prompts.
        prompts: of all samples, or of those that searches see.
        test_prompts: of the samples from `FIRST_TEST_SAMPLE` on, counted from it; where there are none, these samples
            have `prompts` too.
    """

    def __init__(
        self, encode: Callable[[Sequence[str]], Cond], prompts: Sequence[Prompt], test_prompts: Sequence[Prompt] = ()
    ) -> None:
        self.encode = encode
        self.prompts = [*prompts, *test_prompts]
        self._search_count = len(prompts)
        self._encoded: dict[int, Cond] = {}

    def __call__(self, index: Sequence[int] | range) -> Cond:
        numbers = [self.number(int(k)) for k in index]
        distinct = sorted(set(numbers))
        table = concatenate([self._cond_of(number) for number in distinct])
        return take(table, torch.tensor([distinct.index(number) for number in numbers]))

    def words(self, index: Sequence[int] | range) -> list[str]:
        """The samples' prompts."""
        return [_words(self.prompts[self.number(int(k))]) for k in index]

    def metadata(self, index: Sequence[int] | range) -> list[Metadata] | None:
        """The metadata that the samples' images are judged by; None where a prompt has none."""
        prompts = [self.prompts[self.number(int(k))] for k in index]
        metadata = [prompt for prompt in prompts if isinstance(prompt, Metadata)]
        return metadata if len(metadata) == len(prompts) else None

    def number(self, sample: int) -> int:
        """The position of the sample's prompt in `prompts`."""
        test_count = len(self.prompts) - self._search_count
        if test_count == 0 or sample < FIRST_TEST_SAMPLE:
            return sample % self._search_count
        return self._search_count + (sample - FIRST_TEST_SAMPLE) % test_count

    def _cond_of(self, number: int) -> Cond:
        group, position = divmod(number, _TOGETHER)
        if group not in self._encoded:
            neighbours = self.prompts[group * _TOGETHER : (group + 1) * _TOGETHER]
            self._encoded[group] = self.encode([_words(prompt) for prompt in neighbours])
        return take(self._encoded[group], slice(position, position + 1))


def _words(prompt: Prompt) -> str:
    return prompt.prompt if isinstance(prompt, Metadata) else prompt
