"""Data sets: where they come from, and every way in which that can fail."""

import dataclasses
import gzip
import hashlib
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fromnoise import data

SMALL = "2913c6b6527114b7307e1086335a7665e3f94c74aba3d67525e6f116bf5ae20f"  # SHA-256
FOLDER = os.environ.get("FROMNOISE_DATA")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """Neither folder nor filled cache, whatever the machine has."""
    monkeypatch.delenv("FROMNOISE_DATA", raising=False)
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))


def idx(array):
    return (
        b"\x00\x00\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + (array.tobytes())
    )


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def tiny(monkeypatch):
    """A data set like MNIST with 7 + 3 random images, put in the place of both sets."""
    generator = np.random.default_rng(0)
    files = {}
    for split, n in (("train", 7), ("test", 3)):
        images, labels = data._FILES[split]
        files[images] = idx(generator.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        files[labels] = idx(generator.integers(0, 10, n, dtype=np.uint8))
    archives = {name: gzip.compress(content, mtime=0) for name, content in files.items()}
    hashes = {"archive_md5": {name: md5(content) for name, content in archives.items()}}
    mnist = dataclasses.replace(
        data.MNIST, **hashes, content_md5={name: md5(content) for name, content in files.items()}
    )
    monkeypatch.setattr(data, "MNIST", mnist)
    monkeypatch.setattr(data, "FASHION", dataclasses.replace(data.FASHION, **hashes))
    return archives


def put(archives, root, name="mnist"):
    folder = root / name
    folder.mkdir(parents=True)
    for file, content in archives.items():
        (folder / file).write_bytes(content)
    return folder


def serve_from(monkeypatch, address):
    for which in ("MNIST", "FASHION"):
        changed = dataclasses.replace(getattr(data, which), addresses=(address,))
        monkeypatch.setattr(data, which, changed)


# The folder --------------------------------------------------------------------------------------


def test_reads_the_folder(tiny, tmp_path, monkeypatch, no_network):
    put(tiny, tmp_path)
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    found = data.digits("train")
    assert found.images.shape == (7, 28, 28) and found.images.dtype == torch.uint8
    assert found.labels.shape == (7,) and found.labels.dtype == torch.int64
    content = gzip.decompress(tiny["train-images-idx3-ubyte.gz"])[16:]
    assert found.images.numpy().tobytes() == content
    assert len(data.digits("test")) == 3
    assert "FROMNOISE_DATA" in found.source


def test_the_same_content_packed_otherwise_is_accepted(tiny, tmp_path, monkeypatch):
    packed = {k: gzip.compress(gzip.decompress(v), 1, mtime=9) for k, v in tiny.items()}
    put(packed, tmp_path)
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    assert len(data.digits("train")) == 7


def test_fashion_reads_the_folder(tiny, tmp_path, monkeypatch, no_network):
    put(tiny, tmp_path, "fashion-mnist")
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    assert len(data.fashion("train")) == 7 and len(data.fashion("test")) == 3


@pytest.mark.parametrize(("load", "name"), [("digits", "mnist"), ("fashion", "fashion-mnist")])
def test_a_changed_file_is_refused(tiny, tmp_path, monkeypatch, load, name):
    folder = put(tiny, tmp_path, name)
    path = folder / "train-images-idx3-ubyte.gz"
    other = bytearray(gzip.decompress(path.read_bytes()))
    other[100] ^= 1
    path.write_bytes(gzip.compress(bytes(other)))
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    with pytest.raises(data.DataError) as caught:
        getattr(data, load)("train")
    message = str(caught.value)
    which = data.MNIST.content_md5 if load == "digits" else data.FASHION.archive_md5
    assert str(path) in message and which[path.name] in message and "replace the file" in message


def test_a_truncated_file_is_refused(tiny, tmp_path, monkeypatch):
    path = put(tiny, tmp_path) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    with pytest.raises(data.DataError, match=r"train-images.* is damaged: not a whole gzip file"):
        data.digits("train")


def test_a_missing_file_is_named(tiny, tmp_path, monkeypatch):
    (put(tiny, tmp_path) / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    assert len(data.digits("train")) == 7
    with pytest.raises(data.DataError, match=r"t10k-labels-idx1-ubyte\.gz is missing"):
        data.digits("test")


def test_a_folder_without_the_set_leads_to_the_network(tiny, tmp_path, monkeypatch, no_network):
    put(tiny, tmp_path, "mnist")
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path))
    with pytest.raises(data.Unreachable):
        data.fashion("train")


def test_a_folder_that_is_none_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("FROMNOISE_DATA", str(tmp_path / "nix"))
    with pytest.raises(data.DataError, match="which is no folder"):
        data.digits("train")


def test_unknown_split(tiny):
    for load in (data.digits, data.fashion):
        with pytest.raises(ValueError, match="split is 'valid'"):
            load("valid")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no idx file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "no idx file"),
        (b"\x00\x00\x08\x03\x00\x00", "no idx file"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], "cut short"),
    ],
)
def test_what_is_no_idx_file_is_refused(content, problem):
    with pytest.raises(data.DataError, match=problem):
        data.parse_idx(content, "some file")


# The network -------------------------------------------------------------------------------------


def test_downloads_once(tiny, tmp_path, monkeypatch, served, capfd):
    folder, address = served
    put(tiny, folder.parent, folder.name + "/set")
    serve_from(monkeypatch, address + "set/")
    assert len(data.digits("train")) == 7
    for file in (folder / "set").iterdir():
        file.unlink()
    assert len(data.digits("train")) == 7  # from the cache
    kept = {p.name for p in (tmp_path / "cache" / "mnist").iterdir()}
    assert kept == set(data._FILES["train"])
    assert "100%" in capfd.readouterr().err  # the progress bar


def test_a_damaged_cache_is_fetched_anew(tiny, tmp_path, monkeypatch, served):
    folder, address = served
    put(tiny, folder.parent, folder.name + "/set")
    serve_from(monkeypatch, address + "set/")
    data.digits("train")
    cached = tmp_path / "cache" / "mnist" / "train-labels-idx1-ubyte.gz"
    cached.write_bytes(b"broken")
    assert len(data.digits("train")) == 7
    assert md5(cached.read_bytes()) == data.MNIST.archive_md5[cached.name]


def test_a_wrong_file_from_the_network_is_not_kept(tiny, tmp_path, monkeypatch, served):
    folder, address = served
    put({k: v + b"x" for k, v in tiny.items()}, folder.parent, folder.name + "/set")
    serve_from(monkeypatch, address + "set/")
    with pytest.raises(data.DataError, match="is not the published file"):
        data.digits("train")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_the_second_address_serves_if_the_first_does_not(tiny, monkeypatch, served):
    folder, address = served
    put(tiny, folder.parent, folder.name + "/set")
    both = dataclasses.replace(data.MNIST, addresses=(address + "gone/", address + "set/"))
    monkeypatch.setattr(data, "MNIST", both)
    assert len(data.digits("train")) == 7


def test_without_network_the_small_digits_serve_and_say_so(no_network, capsys):
    data.small_digits()  # parsing them is not what is timed below
    start = time.monotonic()
    train, test = data.digits("train"), data.digits("test")
    assert time.monotonic() - start < 5
    assert len(train) == 4000 and len(test) == 1000
    assert train.labels.bincount().tolist() == [400] * 10
    assert test.labels.bincount().tolist() == [100] * 10
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("MNIST could not be downloaded; using 4,000 of the 5,000")
    assert "FROMNOISE_DATA" in lines[0]


def test_fashion_without_network_is_one_sentence_with_the_ways_out(no_network):
    with pytest.raises(data.Unreachable) as caught:
        data.fashion("train")
    message = str(caught.value)
    assert "\n" not in message
    assert "Fashion-MNIST could not be downloaded" in message
    assert "connect to the network" in message and "set FROMNOISE_DATA" in message


# The digits themselves ---------------------------------------------------------------------------


def test_small_digits_are_what_they_were():
    small = data.small_digits()
    assert small.images.shape == (5000, 28, 28) and small.images.dtype == torch.uint8
    assert torch.equal(small.labels, torch.arange(10).repeat_interleave(500))
    content = small.images.numpy().tobytes()
    assert hashlib.sha256(content).hexdigest() == SMALL
    small.images.zero_()  # each caller has its own
    assert data.small_digits().images.any()


def test_the_digits_of_this_machine(monkeypatch, no_network):
    """With the full set at hand all of it, verified, in canonical order; else the small one."""
    if FOLDER is not None:
        monkeypatch.setenv("FROMNOISE_DATA", FOLDER)
    train, test = data.digits("train"), data.digits("test")
    if FOLDER is not None and (Path(FOLDER) / "mnist").is_dir():
        assert len(train) == 60_000 and len(test) == 10_000
        assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
        assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    else:
        assert len(train) == 4_000 and len(test) == 1_000


def test_units_and_pixels():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    x = data.to_unit(images)
    assert x.shape == (1, 1, 16, 16) and x.dtype == torch.float32
    assert x.min() == -1 and x.max() == 1
    assert torch.equal(data.to_pixels(x), images)
    assert data.to_pixels(torch.tensor([[[[-7.0, 7.0]]]])).tolist() == [[[0, 255]]]
    with pytest.raises(TypeError, match="takes uint8"):
        data.to_unit(x[:, 0])
    with pytest.raises(ValueError, match="to_unit takes"):
        data.to_unit(images[0])
    with pytest.raises(ValueError, match="to_pixels takes"):
        data.to_pixels(x[0])
