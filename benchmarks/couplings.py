"""What couplings of noise and digits change: writes ``book/_static/records/couplings.json``.

    python benchmarks/couplings.py

How much of the cost optimal transport in a batch saves, by the size of the batch; and, for the
registered weights of ``digits-velocity``, ``digits-ot`` and two rounds of reflow, the straightness
and the cost of the trajectories and the energy distance to test digits of Euler's samples by the
number of steps, from the same noise for all.
About eight minutes on one free core.
"""

from __future__ import annotations

import time

import torch

from fromnoise import checkpoints, data, records
from fromnoise.couplings import MinibatchOT, independent
from fromnoise.evaluation import jackknife, mean_and_error
from fromnoise.metrics import energy_distance, straightness, transport_cost
from fromnoise.processes import probability_flow
from fromnoise.solvers import euler, heun, solve_ode

NAMES = ("digits-velocity", "digits-ot", "digits-reflow-1", "digits-reflow-2")
STEPS = (1, 2, 4, 8, 16, 64)  # of Euler's method
SAMPLES, LINES, LINE_STEPS = 1000, 250, 16  # of Heun's method for the lines
BATCHES = {4: 512, 16: 256, 64: 128, 256: 32, 1024: 8, 4096: 2}  # size: how many are drawn
BATCH = 250


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for every draw, so that none depends on what was done before."""
    return torch.Generator().manual_seed(seed)


def gains(images: torch.Tensor) -> dict:
    """What pairing saves of the squared distance in a batch, against the same points unpaired."""
    paired, found = MinibatchOT(), {}
    for size, number in BATCHES.items():
        saved = []
        for k in range(number):
            rows = torch.randperm(len(images), generator=seeded(k))[:size]
            batch, seed = images[rows], 10_000 + k
            free = transport_cost(*independent(batch, seeded(seed)))
            saved.append(free - transport_cost(*paired(batch, seeded(seed))))
        mean, error = mean_and_error(torch.tensor(saved))
        found[str(size)] = {"gain": mean, "standard_error": error, "batches": number}
    return found


def quality(x: torch.Tensor, test: torch.Tensor) -> dict:
    """Energy distance to test digits."""
    distance, error = jackknife(energy_distance, x, test)
    return {"energy_distance": distance, "energy_distance_standard_error": error}


@torch.no_grad()
def main() -> None:
    """Measure everything and write the record."""
    began = time.monotonic()
    test, train = data.digits("test"), data.digits("train")
    images, everything = data.to_unit(test.images), data.to_unit(train.images)
    models = {name: checkpoints.load(name) for name in NAMES}
    record = {
        "command": "python benchmarks/couplings.py",
        "data_source": f"{train.source}; {test.source}",
        "models": {
            name: {
                "sha256": checkpoints.registry()[name]["sha256"],
                "steps": model.record["steps"],
                "training_seconds": model.record["wall_seconds"],
            }
            for name, model in models.items()
        },
        "data": {
            "mean_distance_from_mean": (everything - everything.mean(0)).flatten(1).norm(dim=1),
            "mean_square": everything.square().flatten(1).sum(1),
        },
        "batches": gains(everything),
        "samples": {
            "number": SAMPLES,
            "method": "euler",
            "seed": 7,
            "real": quality(images[SAMPLES : 2 * SAMPLES], images[:SAMPLES]),
            "by_model": {},
        },
        "lines": {"number": LINES, "method": f"heun, {LINE_STEPS} steps", "seed": 8},
    }
    record["data"] = {key: value.mean().item() for key, value in record["data"].items()}
    lines = record["lines"]["by_model"] = {}
    times = torch.linspace(0.0, 1.0, LINE_STEPS + 1)
    for name, model in models.items():
        rows = record["samples"]["by_model"][name] = {}
        for steps in STEPS:
            x = model.sample(
                SAMPLES, steps=steps, method=euler, generator=seeded(7), batch_size=BATCH
            )
            rows[str(steps)] = quality(x, images[:SAMPLES])
        start = model.draw_source(LINES, seeded(8))
        path = solve_ode(probability_flow(model.field), start, times, heun, trajectory=True)
        lines[name] = {
            "straightness": straightness(path, times),
            "cost": transport_cost(path[0], path[-1]),
        }
        print(name, rows, lines[name], flush=True)
    record["wall_seconds"] = round(time.monotonic() - began)
    record["versions"] = {"torch": torch.__version__}
    print(records.write("couplings", records.rounded(record)))


if __name__ == "__main__":
    main()
