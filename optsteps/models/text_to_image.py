"""Small text-to-image models of this package, ready to be sampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optsteps.datasets.prompts import Prompt, read_prompts
from optsteps.denoisers import Denoiser, GuidedDenoiser, NetworkDenoiser
from optsteps.models.base import Model
from optsteps.models.checkpoint import load_network
from optsteps.models.precision import in_precision
from optsteps.models.prompts import PromptConditions
from optsteps.models.text_unet import TextUNet
from optsteps.processes import Flow, Process


def text_to_image(
    name: str,
    weights: str,
    process: Process,
    device: torch.device,
    shape: Sequence[int],
    noise_max: float,
    noise_min: float,
    prompts: str | Sequence[Prompt],
    test_prompts: str | Sequence[Prompt],
    guidance: float = 1.0,
    precision: str = "float32",
) -> Model:
    """A flow conditioned on prompts, from a weights file (see `optsteps.models.checkpoint`).

    Args:
        weights: of a `TextUNet`, a path or `shipped:NAME`.
        process: a flow, on which it was trained.
        prompts, test_prompts: of the samples that searches see and of those of the comparison, see `PromptConditions`;
            a file (see `read_prompts`), or a list.
        guidance: scale of classifier-free guidance; 1 is the plain conditional model at 1 evaluation.
        precision: of the network's arithmetic, "float32" or "bfloat16" (by autocast); states stay float32.

    Raises:
        FileNotFoundError, ValueError: as `load_network` and `read_prompts`; a process that is no flow, an unknown
            precision, or a prompt with words that the model was not taught.
    """
    if not isinstance(process, Flow):
        raise ValueError(f"{weights} is a flow's velocity, not for {process!r}: choose process=flow")
    network, _ = load_network(weights, TextUNet)
    network = network.to(device)
    denoiser: Denoiser = NetworkDenoiser(in_precision(network, precision, device), process, "velocity")
    if guidance != 1.0:
        denoiser = GuidedDenoiser(denoiser, guidance, network.no_prompt.to(device))
    search_prompts, comparison_prompts = (
        read_prompts(part) if isinstance(part, str) else part for part in (prompts, test_prompts)
    )

    def encode(words: Sequence[str]) -> Tensor:
        return network.tokenizer(words).to(device)

    conditions = PromptConditions(encode, search_prompts, comparison_prompts)
    return Model(
        name,
        denoiser,
        process,
        tuple(shape),
        (noise_max, noise_min),
        conditions=conditions,
        prompts=conditions.words,
        metadata=conditions.metadata,
        encode=encode,
        final="zero",
        facts={
            "guidance": f"{guidance:g}",
            "prompts": f"{len(search_prompts)} in turn, {len(comparison_prompts)} others for the test samples",
        },
    )
