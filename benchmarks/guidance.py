"""Fidelity and diversity of guided digits: writes ``book/_static/records/guidance.json``.

    python benchmarks/guidance.py

Samples the registered weights of ``digits-conditional`` from the same noise with guidance of many
kinds and scales, and measures how often a classifier reads the digit that was asked for, how far
two samples of one class are apart (in units of real test digits), and the energy distance to test
digits of the class. About six minutes on one free core.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from fromnoise import checkpoints, data, records
from fromnoise.evaluation import diversity, ink_classifier, mean_and_error
from fromnoise.fields import Field
from fromnoise.guidance import Guided, Limited, classifier_free
from fromnoise.metrics import energy_distance
from fromnoise.samplers import dpmpp

PER_CLASS, STEPS = 50, 20
SCALES = (0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0, 15.0)
AUTO = (1.25, 1.5, 2.0, 3.0)
HIGH = 5.0  # the scale that is limited to an interval of lambda
INTERVALS = ((-20.0, -1.0), (-1.0, 1.0), (1.0, 20.0), (-1.0, 3.0))
RESCALE, RESCALED = 8.0, (0.5, 1.0)
LABELS = torch.arange(10).repeat_interleave(PER_CLASS)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for every draw."""
    return torch.Generator().manual_seed(seed)


def of_classes(images: torch.Tensor, labels: torch.Tensor, first: int, n: int) -> torch.Tensor:
    """The n images of each class after its first ones, sorted by class."""
    return torch.cat([images[labels == k][first : first + n] for k in range(10)])


class Measure:
    """What is measured of a set of images, sorted by class, `PER_CLASS` of each."""

    def __init__(self):
        train, test = data.digits("train"), data.digits("test")
        images = data.to_unit(test.images)
        self.source = (train.source, test.source)
        self.classifier = ink_classifier(data.to_unit(train.images), train.labels, epochs=8)
        right = self.classifier(images).argmax(1) == test.labels
        self.accuracy = right.float().mean().item()
        self.real = of_classes(images, test.labels, 0, PER_CLASS)
        self.others = of_classes(images, test.labels, PER_CLASS, 4 * PER_CLASS).split(4 * PER_CLASS)
        self.unit = diversity(self.real, LABELS)

    def __call__(self, x: torch.Tensor) -> dict:
        """Fidelity, diversity relative to real digits, energy distance; with standard errors."""
        x = x.clamp(-1.0, 1.0)
        logits = self.classifier(x)
        right = (logits.argmax(1) == LABELS).float()
        sure = logits.softmax(1)[torch.arange(len(x)), LABELS]
        spread = diversity(x, LABELS) / self.unit
        pairs = zip(x.split(PER_CLASS), self.others, strict=True)
        energy = torch.tensor([energy_distance(a, b) for a, b in pairs])
        return {
            "read_as_asked": mean_and_error(right)[0],
            "read_as_asked_standard_error": mean_and_error(right)[1],
            "probability": mean_and_error(sure)[0],
            "diversity": spread.mean().item(),
            "diversity_by_class": spread.tolist(),
            "energy_distance": energy.mean().item(),
            "ink": x.mean().item(),
        }


def main() -> None:
    """Sample, measure, and write the record."""
    began = time.monotonic()
    names = ("digits-conditional", "digits-conditional-weak")
    good, weak = (checkpoints.load(name).field for name in names)
    noise = torch.randn(len(LABELS), 1, 28, 28, generator=seeded(0))
    times = torch.linspace(0.0, 1.0, STEPS + 1)
    measure = Measure()

    def sampled(make: Callable[[torch.Tensor], Field]) -> dict:
        parts = zip(noise.split(100), LABELS.split(100), strict=True)
        found = measure(torch.cat([dpmpp(make(labels), x, times) for x, labels in parts]))
        brief = {k: round(v, 3) for k, v in found.items() if isinstance(v, float)}
        print(f"{time.monotonic() - began:5.0f} s  {brief}", flush=True)
        return found

    def limited(low: float, high: float) -> Callable[[torch.Tensor], Field]:
        return lambda y: Limited(classifier_free(good, y, HIGH), good.given(y), low, high)

    record = {
        "command": "python benchmarks/guidance.py",
        "data_source": list(measure.source),
        "sha256": {name: checkpoints.registry()[name]["sha256"] for name in names},
        "sampler": f"dpmpp, order 2, {STEPS} equal steps of t",
        "samples": {"per_class": PER_CLASS, "seed": 0},
        "classifier_accuracy": measure.accuracy,
        "real": measure(measure.real),
        "classifier_free": [
            {"scale": w, **sampled(lambda y, w=w: classifier_free(good, y, w))} for w in SCALES
        ],
        "weak": sampled(weak.given),
        "autoguidance": [
            {"scale": w, **sampled(lambda y, w=w: Guided(weak.given(y), good.given(y), w))}
            for w in AUTO
        ],
        "interval": [
            {"scale": HIGH, "half_log_snr": list(ends), **sampled(limited(*ends))}
            for ends in INTERVALS
        ],
        "rescaled": [
            {
                "scale": RESCALE,
                "rescale": phi,
                **sampled(
                    lambda y, phi=phi: classifier_free(good, y, RESCALE, rescale=phi),
                ),
            }
            for phi in RESCALED
        ],
        "wall_seconds": round(time.monotonic() - began),
        "versions": {"torch": torch.__version__},
    }
    print(records.write("guidance", records.rounded(record)))


if __name__ == "__main__":
    main()
