"""Images per second at a fixed quality: our samplers and 🤗 Diffusers' on one network.

    python benchmarks/sampling_quality.py [SAMPLES OF EACH CLASS, 50 unless given]

The network is ``digits-conditional``, given a label each and no guidance, along its own straight
path. Ours and the schedulers of Diffusers for flow models start from the same noise. The quality is
the digit-Fréchet distance (`fromnoise.digit_quality`; not Inception-FID) of samples, as many of
each class, to as many test digits. What a perfect solver would reach is measured with 32 steps of
our second-order method; a sampler has got there at the least number of evaluations of the network
at which its distance is at most a tenth above that. More evaluations than that are not tried. DDIM
is not among them: on this path its steps are Euler's. Images per second are then measured in turn,
on one thread, at each sampler's number. Writes ``results/sampling_quality.json``; about ten minutes
on one free core.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import common
import diffusers
import torch
from torch import Tensor

from fromnoise import checkpoints, data, digit_quality, grids, quality, samplers
from fromnoise.fields import Field

MODEL = "digits-conditional"
PER_CLASS, BATCH, SEED = 50, 100, 11
BUDGETS = (3, 4, 5, 6, 8, 10, 12, 16, 24)
REFERENCE, SLACK = 32, 1.1
ROUNDS, TIMED = 5, 100

Run = Callable[[Field, Tensor, int], Tensor]  # field, noise, evaluations


def ours() -> dict[str, Run]:
    """Name to a sampler of a number of evaluations."""

    def one(sampler, grid=grids.uniform, **options) -> Run:
        return lambda field, x, n: sampler(field, x, grid(field.schedule, n), **options)

    unipc = {"order": 2, "variant": "exact", "lower_final": False}
    return {
        "Euler": one(samplers.flow_euler),
        "Heun": lambda field, x, n: samplers.flow_heun(
            field, x, grids.uniform(field.schedule, n // 2)
        ),
        "DPM-Solver++ 2M": one(samplers.dpmpp),
        "DPM-Solver++ 2M, shifted": one(samplers.dpmpp, grids.shifted),
        "UniPC-2": one(samplers.unipc, **unipc),
        "Adams-2": one(samplers.adams, order=2),
        "Adams-3": one(samplers.adams, order=3),
    }


def theirs() -> dict[str, Run]:
    """The same of Diffusers' schedulers: they count noise levels 1 - t and predict -velocity."""
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

    def one(make, evaluations=1, **options) -> Run:
        def run(field: Field, x: Tensor, n: int) -> Tensor:
            scheduler = make(**options)
            scheduler.set_timesteps((n + 1) // 2 if evaluations == 2 else n)
            for t in scheduler.timesteps:
                level = float(t) / scheduler.config.num_train_timesteps
                x = scheduler.step(-field.velocity(x, 1.0 - level), t, x).prev_sample
            return x

        return run

    return {
        "FlowMatchEuler": one(diffusers.FlowMatchEulerDiscreteScheduler),
        "FlowMatchHeun": one(diffusers.FlowMatchHeunDiscreteScheduler, 2),
        "DPMSolverMultistep-2": one(diffusers.DPMSolverMultistepScheduler, **flow),
        "DPMSolverMultistep-2, shift 3": one(
            diffusers.DPMSolverMultistepScheduler, **flow, flow_shift=3.0
        ),
        "DPMSolverMultistep-3": one(diffusers.DPMSolverMultistepScheduler, **flow, solver_order=3),
        "UniPCMultistep-2": one(diffusers.UniPCMultistepScheduler, **flow),
        "DEISMultistep-2": one(diffusers.DEISMultistepScheduler, **flow),
    }


def libraries() -> dict[str, dict[str, Run]]:
    """Both."""
    diffusers.utils.logging.set_verbosity_error()
    return {"ours": ours(), "Diffusers": theirs()}


class Counted:
    """A network that counts for how many samples it was asked."""

    def __init__(self, net):
        self.net, self.asked = net, 0

    def __call__(self, module, arguments):
        """Before each call of the network."""
        self.asked += len(arguments[0])


@torch.no_grad()
def main() -> None:
    """Find the numbers of evaluations, then time them in turn."""
    common.one_thread()
    per_class = int(sys.argv[1]) if len(sys.argv) > 1 else PER_CLASS
    began = time.monotonic()
    model = checkpoints.load(MODEL)
    test, train = data.digits("test"), data.digits("train")
    reader = digit_quality.load_reader()
    features = {
        name: digit_quality.read(
            reader, data.to_unit(digit_quality.per_class(images, per_class).images)
        )[0]
        for name, images in (("test", test), ("train", train))
    }
    order = torch.randperm(10 * per_class, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10).repeat_interleave(per_class)[order]
    real = features["test"][order]
    noise = model.draw_source(len(labels), torch.Generator().manual_seed(SEED))
    counted = Counted(model.net)
    model.net.register_forward_pre_hook(counted)

    def distance(run: Run, n: int) -> dict:
        counted.asked = 0
        parts = zip(noise.split(BATCH), labels.split(BATCH), strict=True)
        x = torch.cat([run(model.guided(y), part, n) for part, y in parts])
        found = quality.frechet(real, digit_quality.read(reader, x)[0])
        return {
            "evaluations": counted.asked / len(x),
            "value": found.value,
            "standard_error": found.error,
        }

    floor = quality.frechet(real, features["train"][order])
    best = distance(ours()["DPM-Solver++ 2M"], REFERENCE)
    threshold = SLACK * best["value"]
    print("floor", floor, "reference", best, "threshold", threshold, flush=True)
    result: dict = {
        "model": MODEL,
        "sha256": checkpoints.registry()[MODEL]["sha256"],
        "samples": len(labels),
        "floor": {"value": floor.value, "standard_error": floor.error},
        "reference": best,
        "threshold": threshold,
        "distances": {},
        "reached": {},
        "images_per_second": {},
    }
    chosen: dict[str, tuple[Run, int]] = {}
    for library, runs in libraries().items():
        rows = result["distances"][library] = {}
        for name, run in runs.items():
            rows[name] = []
            for n in BUDGETS:
                row = distance(run, n)
                if rows[name] and row["evaluations"] == rows[name][-1]["evaluations"]:
                    continue  # two evaluations a step: the budget was not used up
                rows[name].append(row)
                print(f"{time.monotonic() - began:5.0f} s", library, name, row, flush=True)
                if row["value"] <= threshold:
                    chosen[f"{library}: {name}"] = (run, n)
                    result["reached"][f"{library}: {name}"] = row["evaluations"]
                    break
    x, y = noise[:TIMED], labels[:TIMED]
    work = {
        key: (lambda run=run, n=n: run(model.guided(y), x, n)) for key, (run, n) in chosen.items()
    }
    for key, times in common.in_turn(work, ROUNDS).items():
        speed = [TIMED / seconds for seconds in times]
        result["images_per_second"][key] = {
            "median": statistics.median(speed),
            "least": min(speed),
            "most": max(speed),
        }
    result["rounds"], result["batch"] = ROUNDS, TIMED
    result["seconds"] = round(time.monotonic() - began)
    common.save("sampling_quality", result)


if __name__ == "__main__":
    main()
