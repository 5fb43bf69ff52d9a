"""How good generated digits are: distances in the features of a small reader that is shipped.

The reader is ``digits-features`` (:class:`fromnoise.networks.DigitFeatures`), trained on MNIST's
training split only. Nothing here is Inception-FID or Inception-KID, and none of the numbers can be
compared with published ones: they are comparable within this project only, at equal numbers of
samples and the same weights of the reader (the Fréchet distance is biased in proportion to 1 / n,
`prp-frechet-bias`). Samples are first rounded to the 256 values of a saved image.

The statistics are those of :mod:`fromnoise.quality`; each comes with its standard error.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from fromnoise import checkpoints, data, quality
from fromnoise.networks import DigitFeatures
from fromnoise.quality import Estimate

READER = "digits-features"


def load_reader(name: str = READER, device: str | torch.device = "cpu") -> DigitFeatures:
    """The shipped reader of digits, in evaluation mode; any weights file of one.

    Its record (`fromnoise info digits-features`) has its accuracy on test digits.

    Raises:
        CheckpointError: the weights cannot be had.
        ValueError: they are those of another network.
    """
    net = checkpoints.load(name, device).net
    if not isinstance(net, DigitFeatures):
        raise ValueError(f"{name} is a {type(net).__name__}: pass the name of a reader of digits.")
    return net.requires_grad_(False)


def as_saved(x: Tensor) -> Tensor:
    """Images ``(n, 1, 28, 28)`` as they come back from a file: clipped to [-1, 1], 256 values."""
    return data.to_unit(data.to_pixels(x))


@torch.no_grad()
def read(reader: DigitFeatures, x: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Features ``(n, features)`` and classes ``(n,)`` of images ``(n, 1, 28, 28)`` as saved.

    Args:
        reader: from `load_reader`.
        x: images; what lies outside [-1, 1] is clipped.
        batch_size: how many are read at once; it changes nothing else.
    """
    found = [reader.features(part) for part in as_saved(x).split(batch_size)]
    features = torch.cat(found)
    return features, reader.head(features.relu()).argmax(1)


def rows_per_class(labels: Tensor, n: int, first: int = 0, classes: int = 10) -> Tensor:
    """The numbers of n random data of each class, sorted by class; the same in every call.

    At random, since MNIST's test split is not in random order: its first half was collected
    from other people than its second, and is easier to read.

    Args:
        labels: of all data, ``(m,)``.
        n: how many of each class.
        first: how many to leave out before, so that two calls give different data.
        classes: how many there are.

    Raises:
        ValueError: a class has not as many.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    rows = [order[labels[order] == k][first : first + n] for k in range(classes)]
    if min(len(r) for r in rows) < n:
        raise ValueError(f"n={n}, first={first}: a class has fewer data; lower one of them.")
    return torch.cat(rows)


def per_class(images: data.Images, n: int, first: int = 0, classes: int = 10) -> data.Images:
    """So many random images of each class, sorted by class; see `rows_per_class`."""
    kept = rows_per_class(images.labels, n, first, classes)
    return data.Images(images.images[kept], images.labels[kept], images.source)


@functools.cache
def _split(split: data.Split) -> Tensor:
    """All images of a split in a random order, the same in every call."""
    images = data.digits(split).images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return data.to_unit(images[order])


def report(
    samples: Tensor,
    wanted: Tensor | None = None,
    *,
    real: Tensor | None = None,
    train: Tensor | None = None,
    held_out: Tensor | None = None,
    reader: DigitFeatures | None = None,
    neighbours: int = 3,
    paired: bool = False,
) -> dict[str, Estimate]:
    """Everything about samples of digits. Not Inception-FID; comparable within this project only.

    - ``digit_frechet``: squared Fréchet distance of the features ("FID" on digit features);
    - ``digit_kid``: squared MMD of the features with the cubic kernel ("KID" on digit features);
    - ``precision``, ``recall``: of the manifolds of nearest neighbours in the features;
    - ``c2st``: leave-one-out accuracy of a nearest-neighbour rule, samples against data, in the
      features; 1/2 if they cannot be told apart;
    - ``accuracy``: how many are read as the digit that was asked for, if `wanted` is given;
    - ``memorization``: share of pairs (sample, held-out digit) in which the sample is nearer, in
      pixels, to its nearest training digit; 1/2 without memorization, 1 for copies. It is taken
      in pixels, since the reader has been trained on the training digits. A sample that is more
      ordinary than a digit is nearer too, so compare with other models before calling it copying.

    Args:
        samples: ``(n, 1, 28, 28)``, digits in [-1, 1]; more is clipped.
        wanted: ``(n,)``, the label that each was asked to have.
        real: ``(n, 1, 28, 28)``, as many data; n random test digits unless given.
        train: ``(k, 1, 28, 28)``, what the model has been trained on; all training digits unless
            given.
        held_out: ``(m, 1, 28, 28)``, digits that no model has seen; `real` unless given.
        reader: from `load_reader`; the shipped one unless given.
        neighbours: k of precision and recall.
        paired: say True if real[i] is of the class wanted[i], as `per_class` makes them. Equal
            numbers of each class make digit_frechet more exact, and digit_kid must know of them.

    Returns:
        Name to estimate with standard error.

    Raises:
        ValueError: samples and data differ in number, there are not n labels or none for paired
            data, or too few samples (see `fromnoise.quality.frechet`: more than about 72).
    """
    real = _split("test")[: len(samples)] if real is None else real
    if len(samples) != len(real):
        raise ValueError(
            f"there are {len(samples)} samples and {len(real)} data: pass as many of both, since "
            "the Fréchet distance depends on the number."
        )
    if wanted is not None and wanted.shape != (len(samples),):
        raise ValueError(
            f"wanted has shape {tuple(wanted.shape)} for {len(samples)} samples: pass one label "
            "for each."
        )
    if paired and wanted is None:
        raise ValueError("paired=True without wanted: pass the labels of samples and data.")
    train = _split("train") if train is None else train
    held_out = real if held_out is None else held_out
    reader = load_reader() if reader is None else reader
    x, seen = read(reader, samples)
    y, _ = read(reader, real)
    # the jackknife leaves out blocks of rows: in a random order each has all classes
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    precision, recall = quality.precision_recall(y, x, neighbours)
    found = {
        "digit_frechet": quality.frechet(y, x),
        "digit_kid": quality.kernel_distance(y, x, strata=wanted[order] if paired else None),
        "precision": precision,
        "recall": recall,
        "c2st": quality.two_sample_test(y, x)[0],
    }
    if wanted is not None:
        found["accuracy"] = quality.proportion(seen == wanted)
    flat = (as_saved(samples).flatten(1), train.flatten(1), held_out.flatten(1))
    found["memorization"] = quality.memorization(*flat)[0]
    return found
