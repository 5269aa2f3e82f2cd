import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from optsteps.datasets import ImageSet, cifar10, digits, mnist, to_unit_range

DATA = Path(os.environ.get("OPTSTEPS_DATA", "nowhere"))


def _needs(file: str) -> None:
    if not (DATA / file).is_file():
        pytest.skip(f"no {file} in the folder that OPTSTEPS_DATA names ({DATA})")


def _idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def _write_mnist(folder: Path, images: np.ndarray, labels: np.ndarray, prefix: str = "train") -> Path:
    file = folder / f"{prefix}-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(_idx(images)))
    (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(labels)))
    return file


def test_unit_range() -> None:
    out = to_unit_range(torch.arange(256, dtype=torch.uint8))
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out, np.linspace(-1, 1, 256), atol=1e-6)
    assert out[[0, -1]].tolist() == [-1, 1]


def test_digits_are_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    train, test, bunch = digits(), digits(train=False), sklearn.load_digits()
    assert (len(train), len(test), train.name) == (1500, 297, "digits")
    assert (train.images.shape[1:], train.images.dtype) == ((1, 8, 8), torch.uint8)
    images = torch.cat([train.images, test.images])[:, 0]
    np.testing.assert_array_equal(images, np.round(bunch.images * 255 / 16))
    np.testing.assert_array_equal(torch.cat([train.labels, test.labels]), bunch.target)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 2**16))
def test_idx_files(
    tmp_path_factory: pytest.TempPathFactory, count: int, height: int, width: int, train: bool, seed: int
) -> None:
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("idx")
    images, labels = rng.integers(0, 256, (count, height, width)), rng.integers(0, 10, count)
    _write_mnist(folder, images, labels, "train" if train else "t10k")
    read = mnist(str(folder), train)
    assert (read.images.dtype, read.labels.dtype, read.name) == (torch.uint8, torch.int64, "MNIST")
    np.testing.assert_array_equal(read.images, images[:, None])
    np.testing.assert_array_equal(read.labels, labels)


@pytest.mark.parametrize("content", ["values", "sizes", "magic", "empty", "float", "archive", "not gzip"])
def test_broken_idx_files_are_named(tmp_path: Path, content: str) -> None:
    file = _write_mnist(tmp_path, np.arange(24).reshape(2, 3, 4), np.arange(2))
    archive, whole = file.read_bytes(), gzip.decompress(file.read_bytes())
    broken = {
        "values": gzip.compress(whole[:-1]),
        "sizes": gzip.compress(whole[:10]),
        "magic": gzip.compress(whole[:3]),
        "empty": gzip.compress(b""),
        "float": gzip.compress(whole[:2] + b"\x0d" + whole[3:]),
        "archive": archive[:-12],
        "not gzip": whole,
    }
    file.write_bytes(broken[content])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
        mnist(str(tmp_path))


def test_missing_labels_are_named(tmp_path: Path) -> None:
    _write_mnist(tmp_path, np.zeros((2, 3, 4)), np.zeros(2))
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="train-labels-idx1-ubyte"):
        mnist(str(tmp_path))


def test_jpeg_archives(tmp_path: Path) -> None:
    colours = {"cat": (255, 0, 0), "airplane": (0, 255, 0), "truck": (0, 0, 255)}
    with zipfile.ZipFile(tmp_path / "cifar10-jpeg-test.zip", "w") as archive:
        archive.writestr("README.md", "not an image")
        for name, colour in colours.items():
            for number in range(2):
                Image.new("RGB", (32, 32), colour).save(content := io.BytesIO(), "JPEG", quality=95)
                archive.writestr(f"test/{name}/000{number}.jpg", content.getvalue())
    read = cifar10(str(tmp_path), train=False)
    assert (read.images.shape, read.images.dtype, read.name) == ((6, 3, 32, 32), torch.uint8, "CIFAR-10 (JPEG)")
    assert read.labels.tolist() == [0, 0, 1, 1, 2, 2]  # classes in alphabetical order
    expected = np.array([colours[name] for name in ("airplane", "cat", "truck") for _ in range(2)])
    np.testing.assert_allclose(read.images.float().mean((2, 3)), expected, atol=2)


def _check(images: ImageSet, shape: tuple[int, ...], per_class: list[int], mean: float) -> None:
    assert images.images.shape == shape
    assert torch.bincount(images.labels).tolist() == per_class
    assert images.images.float().mean().item() / 255 == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize(
    ("train", "per_class", "mean"),
    [
        (True, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], 0.1307),
        (False, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009], 0.1325),
    ],
)
def test_mnist(train: bool, per_class: list[int], mean: float) -> None:
    _needs(f"{'train' if train else 't10k'}-images-idx3-ubyte.gz")
    images = mnist(str(DATA), train)
    _check(images, (60_000 if train else 10_000, 1, 28, 28), per_class, mean)
    if not train:
        assert images.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_cifar10() -> None:
    _needs("cifar10-jpeg-test.zip")
    images = cifar10(str(DATA), train=False)
    _check(images, (10_000, 3, 32, 32), [1000] * 10, 0.4759)
    channels = images.images.float().mean((0, 2, 3)) / 255
    np.testing.assert_allclose(channels, [0.4942, 0.4851, 0.4504], atol=2e-3)
