"""Quality of class-conditional models: writes ``book/_static/records/quality.json``.

    python benchmarks/quality.py [NAME ...] [--weights NAME=PATH ...] [--per-class 100]
    python benchmarks/quality.py --data fashion fashion-conditional fashion-dit

For each model 100 samples of each class, with guidance 1 and 2 (the transformers of pixels 4 too),
against as many random images of the test split: distances in the features of the shipped reader (it
is not Inception-FID: see `fromnoise.digit_quality`), precision, recall, two-sample test, classes
read as asked, memorization, each with its standard error; bits per dimension of 100 test images; a
picture, the first 12 samples of each class with the most guidance. Random images of the training
split in place of samples are the floor. Models of latents are decoded; they have no bits per
dimension here. What is measured is entered into the record, and models that it has already stay,
unless the reader or the samples' numbers are others: then the record begins anew. About four
minutes a model on one free core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import KEPT, one_thread
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from fromnoise import checkpoints, data, digit_quality, records
from fromnoise._files import replacing, sha256
from fromnoise.checkpoints import Pretrained
from fromnoise.evaluation import mean_and_error
from fromnoise.likelihood import log_likelihood
from fromnoise.quality import Estimate
from fromnoise.samplers import dpmpp
from fromnoise.solvers import rk4
from fromnoise.variational import bits_per_dim, dequantize, dequantized_nats

NAMES = {
    "digits": ("digits-conditional", "digits-dit"),
    "fashion": ("fashion-conditional", "fashion-dit"),
}
SETS = {"digits": data.digits, "fashion": data.fashion}
PER_CLASS, STEPS, SCALES, BATCH = 100, 20, (1.0, 2.0), 100  # PER_CLASS unless told otherwise
# Strokes that are broken after so few steps: at 2 not every digit can be told by eye.
FURTHER = {"digits-dit": (4.0,), "fashion-dit": (4.0,)}
BITS_PER_CLASS, BITS_STEPS, CHECKED = 10, 16, 20
COLUMNS, GAP = 12, 2  # of the picture
MOST = 100_000  # bytes of a picture


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for every draw."""
    return torch.Generator().manual_seed(seed)


def sampled(model: Pretrained, noise: Tensor, labels: Tensor, scale: float) -> Tensor:
    """DPM-Solver++ 2M along equal steps of t, then the decoder if there is one."""
    first, last = model.span
    times = torch.linspace(first, last, STEPS + 1)
    ends = []
    for x, y in zip(noise.split(BATCH), labels.split(BATCH), strict=True):
        field = model.guided(y if model.classes else None, scale)
        x = dpmpp(field, x, times)
        ends.append(field.denoise(x, last) if float(field.schedule.sigma(last)) > 0.0 else x)
    x, decoder = torch.cat(ends), getattr(model, "decoder", None)
    return x if decoder is None else decoder(x)


def kept(name: str, make: Callable[[], Tensor]) -> Tensor:
    """Images as they would be saved: from a run that was cut short, else made and kept."""
    path = KEPT / f"{name}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            save_file({"pixels": data.to_pixels(make())}, part)
    return data.to_unit(load_file(path)["pixels"])


def numbers(found: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    """Estimates as JSON."""
    return {k: {"value": e.value, "standard_error": e.error} for k, e in found.items()}


def bits(model: Pretrained, test: data.Images) -> dict | None:
    """A bound on the bits per dimension of dequantized test images given their labels.

    The density along the flow, with one probe of the divergence for each image. None for latents.
    """
    if getattr(model, "decoder", None) is not None:
        return None
    some = digit_quality.per_class(test, BITS_PER_CLASS)
    # the first CHECKED shall have all classes
    order = torch.arange(len(some)).reshape(10, BITS_PER_CLASS).T.flatten()
    x, labels = dequantize(some.images[order], seeded(3)), some.labels[order]
    event, (first, last) = x.shape[1:], model.span

    def found(points: Tensor, steps: int) -> Tensor:
        # closely spaced at the data, where the background is pressed together: equal steps need
        # many more for the same error
        spacing, probes = torch.linspace(0.0, 1.0, steps + 1) ** 3, seeded(4)
        times = last - (last - first) * spacing
        each = []
        for part, y in zip(points.split(CHECKED), labels.split(CHECKED), strict=False):
            field = model.guided(y if model.classes else None)
            each.append(log_likelihood(field, part, times, rk4, "hutchinson", probes))
        return bits_per_dim(dequantized_nats(torch.cat(each), event), event)

    coarse = found(x, BITS_STEPS)
    change = found(x[:CHECKED], 2 * BITS_STEPS) - coarse[:CHECKED]
    (mean, error), (moved, spread) = mean_and_error(coarse), mean_and_error(change)
    return {
        "value": mean,
        "standard_error": error,
        "images": len(x),
        "method": f"rk4, {BITS_STEPS} steps of 1 - s^3, one Rademacher probe, given the label",
        "change_with_twice_the_steps": {
            "value": moved,
            "standard_error": spread,
            "images": CHECKED,
        },
    }


def picture(x: Tensor, labels: Tensor, path: Path) -> dict:
    """The first samples of each class in a row, as a PNG.

    Raises:
        ValueError: the file would be larger than 100 kB.
    """
    chosen = [torch.nonzero(labels == k)[:COLUMNS, 0] for k in range(10)]
    rows = data.to_pixels(x)[torch.stack(chosen)]  # (classes, columns, h, w)
    rows = torch.nn.functional.pad(rows, (GAP, GAP, GAP, GAP), value=96)
    whole = rows.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)
    for zoom in (2, 1):  # grey pictures of clothes may be too large twofold
        large = whole.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
        with replacing(path) as part:
            Image.fromarray(large.numpy()).save(part, format="png", optimize=True)
        content = path.read_bytes()
        if len(content) <= MOST:
            break
    else:
        raise ValueError(f"{path.name} has {len(content)} bytes: lower COLUMNS.")
    return {"file": path.name, "sha256": sha256(content), "bytes": len(content)}


@torch.no_grad()
def measure(
    name: str, model: Pretrained, digest: str, labels: Tensor, folder: Path, test, report
) -> dict:
    """All of one model."""
    began = time.monotonic()
    noise = model.draw_source(len(labels), seeded(0))
    entry: dict = {
        "sha256": digest,
        **{key: model.record[key] for key in ("recipe", "budget", "parameters", "steps")},
        "training_seconds": model.record["wall_seconds"],
        "guidance": {},
    }
    scales = (*SCALES, *FURTHER.get(name, ())) if model.classes else SCALES[:1]
    for scale in scales:
        key = f"{digest[:16]}-{len(labels)}-{STEPS}-{scale:g}"
        x = kept(key, lambda scale=scale: sampled(model, noise, labels, scale))
        found = report(x, labels if model.classes else None)
        entry["guidance"][f"{scale:g}"] = numbers(found)
        print(f"{name}, guidance {scale:g}:", {k: str(e) for k, e in found.items()}, flush=True)
    entry["picture"] = picture(x, labels, folder / f"samples-{name}.png") | {"guidance": scales[-1]}
    entry["bits_per_dim"] = bits(model, test)
    print(f"{name}: {entry['bits_per_dim']}, {time.monotonic() - began:.0f} s", flush=True)
    return entry


def main() -> None:
    """Measure the models named on the command line, or those of the data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="registered models")
    parser.add_argument("--data", choices=sorted(SETS), default="digits")
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--per-class", type=int, default=PER_CLASS, metavar="N")
    given = parser.parse_args()
    n = given.per_class
    files = dict(pair.split("=", 1) for pair in given.weights)
    names = [*given.names, *(k for k in files if k not in given.names)] or NAMES[given.data]
    one_thread()
    began = time.monotonic()
    reader_name = f"{given.data}-features"
    reader_file = files.pop(reader_name, reader_name)
    reader = digit_quality.load_reader(reader_file)
    names = [name for name in names if name != reader_name]
    models = {name: checkpoints.load(files.get(name, name)) for name in names}
    digests = {
        name: sha256(Path(files[name] if name in files else checkpoints.find(name)).read_bytes())
        for name in names
    }
    test, train = SETS[given.data]("test"), SETS[given.data]("train")
    everything = data.to_unit(train.images)
    few = digit_quality.per_class(test, n)
    real, labels = data.to_unit(few.images), few.labels
    own = digit_quality.rows_per_class(train.labels, n)

    def report(x: Tensor, labels: Tensor | None, known: Tensor = everything) -> dict:
        paired = labels is not None
        return digit_quality.report(x, labels, real=real, train=known, reader=reader, paired=paired)

    about = {
        "command": "python benchmarks/quality.py"
        + ("" if given.data == "digits" else f" --data {given.data}")
        + ("" if n == PER_CLASS else f" --per-class {n}"),
        "data_source": f"{train.source}; {test.source}",
        "reader": {
            "name": reader_name,
            "sha256": sha256(
                (
                    Path(reader_file)
                    if reader_file != reader_name
                    else checkpoints.find(reader_name)
                ).read_bytes()
            ),
            **checkpoints.load(reader_file).record["evaluation"],
        },
        "samples": {
            "per_class": n,
            "sampler": f"dpmpp, order 2, {STEPS} equal steps of t",
            "seed": 0,
        },
    }
    record_name = "quality" if given.data == "digits" else f"quality-{given.data}"
    old = records.load(record_name) if record_name in records.registry() else {}
    if any(old.get(key) != value for key, value in records.rounded(about).items()):
        old = {}
    record = {**about, "floor": old.get("floor"), "models": dict(old.get("models", {}))}
    if record["floor"] is None:
        keep = torch.ones(len(train), dtype=torch.bool)
        keep[own] = False  # these play the samples, the others are what was seen
        found = report(everything[own], labels, everything[keep])
        record["floor"] = numbers(found)
        print("floor:", {k: str(e) for k, e in found.items()}, flush=True)
    folder = records.checkout_folder()
    for name, model in models.items():
        record["models"][name] = measure(name, model, digests[name], labels, folder, test, report)
        record["versions"] = {"torch": torch.__version__}
        print(records.write(record_name, records.rounded(record)), flush=True)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
