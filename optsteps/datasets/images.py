"""Labelled image sets held in memory: MNIST, scikit-learn's digits, CIFAR-10, drawn scenes with captions."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optsteps.datasets.geneval_prompts import TASKS
from optsteps.datasets.scenes import scene_set

# bytes of an unpacked file: twenty times those of MNIST
_LARGEST = 2**30


@dataclass(frozen=True)
class ImageSet:
    """Images as bytes.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        name: what the set is called in reports.
        captions: [N] where images have any.
    """

    images: Tensor
    labels: Tensor
    name: str
    captions: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.images)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1], the range every model here works in."""
    return images.float().div(127.5).sub(1)


def mnist(folder: str, train: bool = True) -> ImageSet:
    """MNIST (LeCun et al. 1998), 60,000 + 10,000 images of 1x28x28.

    Reads `{train,t10k}-images-idx3-ubyte.gz` and its labels from `folder` where they lie there; otherwise torchvision
    downloads the set into `folder`.
    """
    prefix = "train" if train else "t10k"
    images_file = Path(folder) / f"{prefix}-images-idx3-ubyte.gz"
    if images_file.exists():
        images = _read_idx(images_file)
        labels = _read_idx(Path(folder) / f"{prefix}-labels-idx1-ubyte.gz")
    else:
        from torchvision.datasets import MNIST

        downloaded = MNIST(folder, train=train, download=True)
        images, labels = downloaded.data, downloaded.targets
    return ImageSet(images[:, None], labels.long(), "MNIST")


def _read_idx(path: Path) -> Tensor:
    """An array in LeCun's idx format: two zero bytes, type 8 (uint8), rank, sizes as big-endian int32, data."""
    try:
        with gzip.open(path) as file:
            content = file.read(_LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is truncated or not a gzip file ({error}); fetch it again") from error
    if len(content) > _LARGEST:
        raise ValueError(f"{path} unpacks to more than {_LARGEST / 2**30:g} GiB, and is not read; fetch it again")
    rank = content[3] if len(content) > 3 else 0
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * rank:
        raise ValueError(f"{path} is not an idx file of bytes; delete it and fetch it again")
    shape = np.frombuffer(content, ">i4", count=rank, offset=4)
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if data.size != shape.prod():
        raise ValueError(f"{path} holds {data.size} values where its header says {shape.prod()}; fetch it again")
    return torch.from_numpy(data.reshape(*shape).copy())


def digits(folder: str = "", train: bool = True) -> ImageSet:
    """scikit-learn's digits, 1x8x8, levels 0 to 16 stretched to bytes: the first 1,500 for training, 297 to test.

    `folder` is not used: the set comes with scikit-learn (`pip install optsteps[digits]`).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 16 * 255).round().to(torch.uint8)
    part = slice(None, 1500) if train else slice(1500, None)
    return ImageSet(images[part, None], torch.from_numpy(bunch.target)[part].long(), "digits")


def cifar10(folder: str, train: bool = True) -> ImageSet:
    """CIFAR-10 (Krizhevsky 2009), 50,000 + 10,000 images of 3x32x32.

    Reads `cifar10-jpeg-{train,test}.zip` (files like `train/airplane/0000.jpg`; slightly compressed, so figures are
    comparable within that data only) from `folder` where they lie there; otherwise torchvision downloads the original.
    """
    part = "train" if train else "test"
    archive = Path(folder) / f"cifar10-jpeg-{part}.zip"
    if archive.exists():
        images, labels = _read_jpeg_zip(archive)
        return ImageSet(images, labels, "CIFAR-10 (JPEG)")
    from torchvision.datasets import CIFAR10

    downloaded = CIFAR10(folder, train=train, download=True)
    images = torch.from_numpy(downloaded.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(downloaded.targets), "CIFAR-10")


def _read_jpeg_zip(archive: Path) -> tuple[Tensor, Tensor]:
    from PIL import Image

    with zipfile.ZipFile(archive) as content:
        names = sorted(name for name in content.namelist() if name.endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})
        arrays = [np.asarray(Image.open(io.BytesIO(content.read(name))).convert("RGB")) for name in names]
    labels = torch.tensor([classes.index(name.split("/")[-2]) for name in names])
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), labels


def captioned_scenes(
    train_images: int, test_images: int, train: bool = True, seed: int = 0, train_tasks: Sequence[str] = TASKS
) -> ImageSet:
    """Drawn scenes with captions (see `optsteps.datasets.scenes`), 3x32x32, labelled with the number of the task among
    `TASKS`. About a thousand are drawn in a second.

    Args:
        train_images, test_images: how many of each.
        train: which of the two.
        seed: of everything random.
        train_tasks: tasks of the training scenes; a task that is named twice is drawn twice as often. Those to test
            with are always of every task evenly.
    """
    if train:
        images, captions, metadata = scene_set(train_images, "train", seed, train_tasks)
    else:
        images, captions, metadata = scene_set(test_images, "test", seed)
    return ImageSet(images, torch.tensor([TASKS.index(entry.tag) for entry in metadata]), "scenes", captions)
