"""Reference features for FID and its kin: those of 10,000 images, by a shipped classifier.

    python experiments/shipped_weights/reference_features.py --data $OPTSTEPS_DATA --of mnist
    python experiments/shipped_weights/reference_features.py --data $OPTSTEPS_DATA --of cifar10
    python experiments/shipped_weights/reference_features.py --data $OPTSTEPS_DATA --of cifar10_second

write optsteps/models/weights/{mnist,cifar10,cifar10_second}_features.safetensors. These few lines serve any data set
and classifier.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save

from optsteps.datasets import cifar10, mnist
from optsteps.metrics.extractors import build_extractor, extract_features, register_extractor
from optsteps.models import FeatureClassifier, load_network
from optsteps.models.checkpoint import SHIPPED
from optsteps.storage.files import write_atomically

# the images, and the precision that keeps 10,000 of their features below 6 MB
REFERENCES = {
    "mnist": (lambda folder: mnist(folder, train=True), torch.float32),
    "cifar10": (lambda folder: cifar10(folder, train=False), torch.float16),
    "cifar10_second": (lambda folder: cifar10(folder, train=False), torch.float16),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the images, or where to download them")
    parser.add_argument("--of", choices=sorted(REFERENCES), required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="another file than the shipped one")
    options = parser.parse_args()

    read, precision = REFERENCES[options.of]
    out = options.out or SHIPPED / f"{options.of}_features.safetensors"
    register_extractor("reference", lambda: load_network(f"shipped:{options.of}_classifier", FeatureClassifier)[0])
    features = extract_features(build_extractor("reference"), read(options.data).images[: options.count]).to(precision)
    write_atomically(out, save({"features": features.contiguous()}))
    print(f"{tuple(features.shape)} features to {out}")
