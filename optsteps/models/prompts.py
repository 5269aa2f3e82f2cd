"""What every sample of a text model is told: its prompt, encoded once, and what its image is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from optsteps.conditions import Cond, concatenate, take
from optsteps.datasets.geneval import Metadata
from optsteps.datasets.prompts import Prompt
from optsteps.noise import FIRST_TEST_SAMPLE

# prompts encoded together: always those beside each other in the list, so that a prompt's encoding does not depend on
# which samples are asked for
_TOGETHER = 8


class PromptConditions:
    """Sample k has prompt k modulo their number; samples that are judged have prompts of their own where given.

    Args:
        encode: the conditions of prompts.
        prompts: of all samples, or of those that searches see.
        test_prompts: of the samples from `FIRST_TEST_SAMPLE` on, counted from it; none: `prompts` serve them too.
    """

    def __init__(
        self, encode: Callable[[Sequence[str]], Cond], prompts: Sequence[Prompt], test_prompts: Sequence[Prompt] = ()
    ) -> None:
        self.encode = encode
        self.prompts = [*prompts, *test_prompts]
        self._searched = len(prompts)
        self._encoded: dict[int, Cond] = {}

    def __call__(self, index: Sequence[int] | range) -> Cond:
        numbers = [self.number(int(k)) for k in index]
        distinct = sorted(set(numbers))
        table = concatenate([self._one(number) for number in distinct])
        return take(table, torch.tensor([distinct.index(number) for number in numbers]))

    def words(self, index: Sequence[int] | range) -> list[str]:
        """The samples' prompts."""
        return [_words(self.prompts[self.number(int(k))]) for k in index]

    def metadata(self, index: Sequence[int] | range) -> list[Metadata] | None:
        """What the samples' images are held to; None where a prompt does not say."""
        asked = [self.prompts[self.number(int(k))] for k in index]
        found = [one for one in asked if isinstance(one, Metadata)]
        return found if len(found) == len(asked) else None

    def number(self, sample: int) -> int:
        """Place of the sample's prompt in `prompts`."""
        judged = len(self.prompts) - self._searched
        if judged == 0 or sample < FIRST_TEST_SAMPLE:
            return sample % self._searched
        return self._searched + (sample - FIRST_TEST_SAMPLE) % judged

    def _one(self, number: int) -> Cond:
        group, place = divmod(number, _TOGETHER)
        if group not in self._encoded:
            together = self.prompts[group * _TOGETHER : (group + 1) * _TOGETHER]
            self._encoded[group] = self.encode([_words(prompt) for prompt in together])
        return take(self._encoded[group], slice(place, place + 1))


def _words(prompt: Prompt) -> str:
    return prompt.prompt if isinstance(prompt, Metadata) else prompt
