"""FID's own noise: real CIFAR-10 images against the shipped reference, by how many there are.

    python experiments/ays_images/fid_noise.py --data $OPTSTEPS_DATA > experiments/ays_images/fid_noise.md

The training images are divided into disjoint sets, with as many of every class as the model's samples have. Their FID
against the features of the test images is the least that samples can have. The spread over sets says what difference
between samples of unrelated noise can be told; that of the difference to the same images with a tenth of each replaced
by its blur, what rows of a comparison that share their noise can tell.
"""

from __future__ import annotations

import argparse
from statistics import fmean, stdev

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import avg_pool2d

from optsteps.datasets import cifar10, to_unit_range
from optsteps.metrics.extractors import build_extractor, extract_features, register_extractor
from optsteps.metrics.features import FidelitySettings, fidelity_values
from optsteps.models import FeatureClassifier, load_network
from optsteps.models.checkpoint import resolve_weights
from optsteps.reporting.markdown import NOTHING, markdown_lines

# of a normal distribution: 95 % lie within so many standard deviations
WIDTH = 1.96


def fid(features: Tensor, reference: Tensor) -> float:
    return fidelity_values(features, reference, FidelitySettings(figures=("fid",)))["fid"]


def interleaved(labels: Tensor, count: int) -> Tensor:
    """Numbers [count] of images in an order in which the classes take turns."""
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    each = min(map(len, numbers))
    return torch.stack([of[torch.randperm(len(of), generator=generator)[:each]] for of in numbers], 1).flatten()[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the images, or where to download them")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--counts", type=int, nargs="+", default=[128, 384, 1000, 2500, 5000, 10_000])
    parser.add_argument("--sets", type=int, default=12, help="most disjoint sets of a count")
    options = parser.parse_args()

    register_extractor("judge", lambda: load_network("shipped:cifar10_classifier", FeatureClassifier)[0])
    extractor = build_extractor("judge")
    reference = load_file(resolve_weights("shipped:cifar10_features"))["features"].double()
    found = cifar10(options.data, train=True)
    images = to_unit_range(found.images[interleaved(found.labels, options.images)])
    blurred = images + 0.1 * (avg_pool2d(images, 3, 1, 1, count_include_pad=False) - images)
    features, others = (extract_features(extractor, part).double() for part in (images, blurred))
    lines = []
    for count in options.counts:
        parts = list(zip(features.split(count), others.split(count), strict=True))[: options.images // count]
        values = [(fid(a, reference), fid(b, reference)) for a, b in parts[: options.sets]]
        if len(values) < 2:
            continue
        alone, differences = [a for a, _ in values], [b - a for a, b in values]
        told = f"{WIDTH * 2**0.5 * stdev(alone):.2f}", f"{WIDTH * stdev(differences):.3f}"
        lines.append([f"{count:,}", str(len(values)), f"{fmean(alone):.2f}", f"{stdev(alone):.3f}", *told])
        lines[-1].append(f"{fmean(differences):+.3f}")
    heads = ["images", "sets", "FID", "its standard deviation", "difference that is told, unrelated noise"]
    heads += ["the same noise", "of the blur"]
    print(markdown_lines(heads, lines or [[NOTHING] * len(heads)]))


if __name__ == "__main__":
    main()
