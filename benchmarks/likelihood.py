"""Bits per dimension on MNIST's test digits: writes ``book/_static/records/likelihood.json``.

    python benchmarks/likelihood.py

For ``digits-ddpm`` the full variational bound of its 1000 steps, with the learned, the small and
the large variance, from the same draws; for ``digits-velocity`` the density along the flow with
dequantized pixels and Hutchinson's estimate of the divergence, which bounds the same quantity.
About seven minutes on one free core. Most of a digit is background, exactly 0 in every image: bits
per dimension of MNIST are therefore few, and say little about the quality of the strokes.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from fromnoise import checkpoints, data, records
from fromnoise.evaluation import mean_and_error
from fromnoise.likelihood import log_likelihood
from fromnoise.recipes.digits_ddpm import bound
from fromnoise.solvers import rk4
from fromnoise.variational import (
    LearnedVarianceField,
    bits_per_dim,
    dequantize,
    dequantized_nats,
    prior_nats,
)

VARIANCES = ("learned", "small", "large")
DRAWS = 20  # of the 999 denoising steps for each image, one in each twentieth of them
FLOW_IMAGES, FLOW_STEPS, CHECKED = 512, 16, 64
BATCH = 250


def summary(nats: Tensor, event: tuple[int, ...]) -> dict[str, float]:
    """Mean and standard error over the images, in bits per dimension."""
    mean, error = mean_and_error(bits_per_dim(nats, event))
    return {"bits": mean, "standard_error": error}


@torch.no_grad()
def chain(field: LearnedVarianceField, images: Tensor) -> dict:
    """The bound in its parts for each variance; the network is called once for all of them."""
    bounds = {name: bound(name) for name in VARIANCES}
    some = bounds["learned"]
    inner, schedule = some.steps - 1, some.schedule
    parts = {name: {"diffusion": [], "reconstruction": []} for name in VARIANCES}
    prior = []
    generator = torch.Generator().manual_seed(0)
    for batch in images.split(BATCH):
        prior.append(prior_nats(batch, 0.0, schedule))
        sums = {name: torch.zeros(len(batch)) for name in VARIANCES}
        for k in range(DRAWS + 1):
            if k < DRAWS:
                first, beyond = k * inner // DRAWS, (k + 1) * inner // DRAWS
                n = torch.randint(first, beyond, (len(batch),), generator=generator)
            else:
                n = torch.full((len(batch),), inner)
            t = some.times[n].to(batch)
            alpha, sigma = (v.view(-1, 1, 1, 1) for v in (schedule.alpha(t), schedule.sigma(t)))
            noise = torch.randn(batch.shape, generator=generator)
            x = alpha * batch + sigma * noise
            predicted, fraction = field.both(x, t)
            denoised = (x - sigma * predicted) / alpha
            for name, one in bounds.items():
                nats = one.step_nats(x, batch, n, denoised, fraction)
                if k < DRAWS:
                    sums[name] += (beyond - first) * nats
                else:
                    parts[name]["reconstruction"].append(nats)
        for name in VARIANCES:
            parts[name]["diffusion"].append(sums[name])
    event, prior = images.shape[1:], torch.cat(prior)
    out = {}
    for name in VARIANCES:
        whole = {part: torch.cat(values) for part, values in parts[name].items()}
        out[name] = {
            "prior": summary(prior, event),
            **{part: summary(values, event) for part, values in whole.items()},
            "total": summary(prior + sum(whole.values()), event),
        }
    return out


def flow(field, pixels: Tensor) -> dict:
    """The bound by the flow's density, and how much a grid twice as fine changes it."""
    generator = torch.Generator().manual_seed(1)
    x = dequantize(pixels, generator)
    event = x.shape[1:]

    def nats(points: Tensor, steps: int) -> Tensor:
        probes = torch.Generator().manual_seed(2)
        times = torch.linspace(1.0, 0.0, steps + 1)
        found = [
            log_likelihood(field, part, times, rk4, "hutchinson", probes)
            for part in points.split(64)
        ]
        return dequantized_nats(torch.cat(found), event)

    coarse = nats(x, FLOW_STEPS)
    change = nats(x[:CHECKED], 2 * FLOW_STEPS) - coarse[:CHECKED]
    return {
        "total": summary(coarse, event),
        "change_with_twice_the_steps": {"images": CHECKED, **summary(change, event)},
    }


def main() -> None:
    """Measure both and write the record."""
    began = time.monotonic()
    test = data.digits("test")
    images = data.to_unit(test.images)
    ddpm, velocity = checkpoints.load("digits-ddpm"), checkpoints.load("digits-velocity")
    names = ("digits-ddpm", "digits-velocity")
    record = {
        "command": "python benchmarks/likelihood.py",
        "data_source": test.source,
        "split": "test",
        "sha256": {name: checkpoints.registry()[name]["sha256"] for name in names},
        "chain": {
            "model": "digits-ddpm",
            "images": len(images),
            "steps": bound().steps,
            "draws": DRAWS,
            "seed": 0,
            "variance": chain(ddpm.field, images),
        },
        "flow": {
            "model": "digits-velocity",
            "images": FLOW_IMAGES,
            "method": f"rk4, {FLOW_STEPS} steps, one Rademacher probe",
            "seeds": [1, 2],
            **flow(velocity.field, test.images[:FLOW_IMAGES]),
        },
    }
    record["wall_seconds"] = round(time.monotonic() - began)
    record["versions"] = {"torch": torch.__version__}
    print(records.write("likelihood", records.rounded(record)))


if __name__ == "__main__":
    main()
