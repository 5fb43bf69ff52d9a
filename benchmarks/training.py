"""How fast small image models train, ours and the peers': networks and loops of `contenders.py`.

    python benchmarks/training.py [--threads 2] [--rounds 5] [--steps 300]

Throughput: ten contenders of equal parameters at two sizes train on MNIST in turn, a step each, so
that other work on the machine meets all of them alike; images per second from the median step by
the clock, and from its processor time.  They are compared by the clock, which is right on a machine
without other work; on one thread by processor time, which then is the work itself whatever else
runs.  (On more threads it counts waiting, too.)

Loss: at the smaller size each trains from the same seed on the same number of images, and its mean
squared error of the velocity is measured on held-out digits with the same noise and times for all,
with the standard error over the images, and that of the difference to our U-Net's. For a peer the
better of its last weights and its average counts. One seed: the difference that another seed makes
is not in the errors.

Finished parts are kept in ``_build/bench`` and not measured again while they are there. Writes
``results/training.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from functools import partial

import common
import torch
from contenders import Contender, Runner, available, parameters, with_ours
from torch import Tensor

from fromnoise import data
from fromnoise._files import write_bytes
from fromnoise.evaluation import mean_and_error

LOSS_SIZE = "1.6 M"


def throughput(size: str, images: Tensor, batch: int, rounds: int, threads: int) -> dict:
    """Seconds a step of every contender of a size, in turn."""
    found, missing = available(size)
    runners = {c.name: Runner(c, images, batch, rounds + 2) for c in found}
    for runner in runners.values():
        runner.turn()  # the first step makes the optimizer's state
    times = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            times[name].append(runner.turn())
    for runner in runners.values():
        runner.stop()
    clocks = {name: [wall for wall, _ in seconds] for name, seconds in times.items()}
    work = {name: [processor for _, processor in seconds] for name, seconds in times.items()}
    mine = ("ours, U-Net", "ours, DiT")
    by = work if threads == 1 else clocks
    rows = {}
    for c in found:
        ratios = {name: common.ratio(by[c.name], by[name]) for name in mine if c.name not in mine}
        rows[c.name] = {
            "group": c.group,
            "parameters": parameters(c),
            "wall_seconds": statistics.median(clocks[c.name]),
            "processor_seconds": statistics.median(work[c.name]),
            "wall_seconds_all": clocks[c.name],
            "processor_seconds_all": work[c.name],
            "images_per_second": batch / statistics.median(clocks[c.name]),
            "images_per_processor_second": batch / statistics.median(work[c.name]),
            "times_ours": ratios,
        }
        print(size, c.name, {k: rows[c.name][k] for k in ("wall_seconds", "processor_seconds")})
    return {"batch": batch, "rounds": rounds, "missing": missing, "rows": rows}


@torch.no_grad()
def errors(contender: Contender, net: torch.nn.Module, images: Tensor) -> Tensor:
    """The squared error of the velocity of each image, ``(n,)``: the same draws for everyone."""
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(images.shape, generator=generator)
    times = (torch.randperm(len(images), generator=generator) + 0.5) / len(images)
    found = []
    for rows in torch.arange(len(images)).split(100):
        x1, x0, t = (v[rows].to(device) for v in (images, noise, times))
        s = t[:, None, None, None]
        velocity = contender.velocity(net, s * x1 + (1 - s) * x0, t)
        found.append((velocity - (x1 - x0)).square().flatten(1).mean(1).cpu())
    return torch.cat(found)


def final_error(
    contender: Contender, images: Tensor, held_out: Tensor, batch: int, steps: int
) -> dict:
    """Train for so many steps; the errors of the weights that one would sample from."""
    torch.manual_seed(0)
    net = contender.build()
    began, work = time.monotonic(), time.process_time()
    weights = contender.loop(net, images, batch, steps)
    row = {"seconds": time.monotonic() - began, "processor_seconds": time.process_time() - work}
    tried = {}
    for name, state in weights.items():
        net.load_state_dict(state)
        tried[name] = errors(contender, net.eval(), held_out)
    best = min(tried, key=lambda name: tried[name].mean())
    row |= {"weights": best, "errors": tried[best].tolist()}
    return row


def kept(name: str, settings: dict, make) -> dict:
    """A finished part from `_build/bench`, else made and put there."""
    path = common.KEPT / f"training-{name}.json".replace(" ", "-").replace(",", "")
    if path.exists():
        found = json.loads(path.read_text())
        if found["settings"] == settings:
            return found["result"]
    result = make()
    write_bytes(path, json.dumps({"settings": settings, "result": result}).encode())
    return result


def losses(images: Tensor, held_out: Tensor, batch: int, steps: int, which: list[str]) -> dict:
    """The table of errors after equal images."""
    found, missing = available(LOSS_SIZE)
    falling = partial(with_ours, decay=True)
    found += [
        replace(c, name=f"{c.name}, falling rate", loop=falling) for c in found if c.group == "ours"
    ]
    settings = {"batch": batch, "steps": steps, "held_out": len(held_out), "version": 1}
    rows = {}
    for c in found:
        if c.group not in which:
            continue
        rows[c.name] = kept(
            f"loss-{c.name}", settings, lambda c=c: final_error(c, images, held_out, batch, steps)
        )
        rows[c.name]["group"] = c.group
        print(c.name, statistics.fmean(rows[c.name]["errors"]), flush=True)
    reference = torch.tensor(rows["ours, U-Net"]["errors"])
    rows = {name: dict(row) for name, row in rows.items()}
    for row in rows.values():
        values = torch.tensor(row.pop("errors"))
        row["error"], row["standard_error"] = mean_and_error(values)
        row["minus_ours"], row["minus_ours_error"] = mean_and_error(values - reference)
    return {**settings, "missing": missing, "groups": which, "rows": rows}


def main() -> None:
    """Read the command line, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--large-batch", type=int, default=64, help="at 10 M parameters")
    parser.add_argument("--steps", type=int, default=300, help="of the comparison of losses")
    parser.add_argument("--loss-batch", type=int, default=64)
    parser.add_argument("--groups", default="ours,folded,theirs", help="whose losses")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = data.to_unit(data.digits("train").images)
    held_out = data.to_unit(data.digits("test").images)[:1000]
    speeds = {}
    for size, batch in (("1.6 M", options.batch), ("10 M", options.large_batch)):
        settings = {"batch": batch, "rounds": options.rounds, "threads": options.threads}
        speeds[size] = kept(
            f"speed-{size}",
            settings,
            lambda size=size, batch=batch: throughput(
                size, images, batch, options.rounds, options.threads
            ),
        )
    table = losses(images, held_out, options.loss_batch, options.steps, options.groups.split(","))
    common.save("training", {"options": vars(options), "throughput": speeds, "loss": table})


if __name__ == "__main__":
    main()
