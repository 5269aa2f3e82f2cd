"""Reference features for FID and its kin: those of the first 10,000 training images.

    python experiments/shipped_weights/reference_features.py --data $OPTSTEPS_DATA

writes optsteps/models/weights/mnist_features.safetensors. The same few lines serve any data set and classifier.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save

from optsteps.datasets import mnist
from optsteps.metrics.extractors import build_extractor, extract_features, register_extractor
from optsteps.models import FeatureClassifier, load_network
from optsteps.storage.files import write_atomically

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with MNIST, or where to download it")
    parser.add_argument("--classifier", default="shipped:mnist_classifier")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("optsteps/models/weights/mnist_features.safetensors"))
    options = parser.parse_args()

    register_extractor("reference", lambda: load_network(options.classifier, FeatureClassifier)[0])
    images = mnist(options.data).images[: options.count]
    features = extract_features(build_extractor("reference"), images).float()
    write_atomically(options.out, save({"features": features.contiguous()}))
    print(f"{tuple(features.shape)} features to {options.out}")
