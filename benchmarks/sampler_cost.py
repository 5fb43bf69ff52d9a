"""What a step costs beyond the network: ours, 🤗 Diffusers' and a loop written by hand.

    python benchmarks/sampler_cost.py

The network is a function that returns a tensor it holds, so that what is timed is everything else.
Batch 256 of points in the plane and of 4 x 64 x 64 latents, 50 steps, one thread; microseconds of
processor time a step, as the median over the rounds, and ratios within a round. Writes
``results/sampler_cost.json``.
"""

from __future__ import annotations

import math
import statistics
import sys
from itertools import pairwise

import common
import torch
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from fromnoise import grids, samplers
from fromnoise.discrete_schedules import DiscreteVP, scaled_linear_betas
from fromnoise.fields import NetworkField
from fromnoise.grids import Grid
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT

STEPS = 50
SHAPES = {"plane": (256, 2), "latents": (256, 4, 64, 64)}
ROUNDS = {"plane": 40, "latents": 5}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE = DiscreteVP(scaled_linear_betas())


def theirs(make, x, held):
    """Their loop, as their pipelines write it; the scheduler is prepared outside."""
    scheduler = make()
    scheduler.set_timesteps(STEPS)
    times = scheduler.timesteps

    def run():
        scheduler._step_index = None
        if hasattr(scheduler, "lower_order_nums"):
            scheduler.lower_order_nums = 0
        sample = x
        for t in times:
            inner = scheduler.scale_model_input(sample, t) if scales else sample
            sample = scheduler.step(held(inner, t), t, sample).prev_sample
        return sample

    scales = hasattr(scheduler, "scale_model_input")
    return run


def by_hand(grid, x, held, kind):
    """The shortest loop one would write in a notebook, coefficients worked out beforehand."""
    p = grid.points
    t = [torch.full(x.shape[:1], q.t) for q in p]

    if kind == "ddim":
        rows = [(q.alpha, q.sigma, r.alpha, r.sigma) for q, r in pairwise(p)]

        def run():
            y = x
            for i, (a, s, b, c) in enumerate(rows):
                eps = held(y, t[i])
                y = b * ((y - s * eps) / a) + c * eps
            return y

    elif kind == "2m":
        lam = [q.half_log_snr for q in p]

        def run():
            y, old = x, None
            for i in range(len(p) - 1):
                q, r = p[i], p[i + 1]
                clean = (y - q.sigma * held(y, t[i])) / q.alpha
                guess = clean
                if old is not None and math.isfinite(lam[i + 1]):
                    ratio = (lam[i] - lam[i - 1]) / (lam[i + 1] - lam[i])
                    guess = clean + (clean - old) / (2 * ratio)
                y = (r.sigma / q.sigma) * y - r.alpha * math.expm1(lam[i] - lam[i + 1]) * guess
                old = clean
            return y

    else:
        gaps = [r.t - q.t for q, r in pairwise(p)]

        def run():
            y = x
            for i, h in enumerate(gaps):
                y = y + h * held(y, t[i])
            return y

    return run


def contenders(x, held):
    """Name of a pair to {"ours", "Diffusers"[, "by hand"]}."""
    grid = grids.of_steps(SCHEDULE, STEPS, "trailing")
    line = grids.uniform(CondOT(), STEPS)
    noise = NetworkField(held, GaussianPath(SCHEDULE), "noise")
    flow = NetworkField(held, GaussianPath(CondOT()), "velocity")
    spaced = BETAS | {"timestep_spacing": "trailing"}
    signal = Grid.of(SCHEDULE, grid.times)

    def ours(sampler, field, g, **options):
        return lambda: sampler(field, x, g, **options)

    return {
        "DDIM": {
            "ours": ours(samplers.ddim, noise, grid),
            "Diffusers": theirs(lambda: DDIMScheduler(**spaced, clip_sample=False), x, held),
            "by hand": by_hand(grid, x, held, "ddim"),
        },
        "Euler": {
            "ours": ours(samplers.ddim, noise, signal),
            "Diffusers": theirs(lambda: EulerDiscreteScheduler(**spaced), x, held),
            "by hand": by_hand(grid, x, held, "ddim"),
        },
        "DPM-Solver++ 2M": {
            "ours": ours(samplers.dpmpp, noise, grid, form="paper"),
            "Diffusers": theirs(lambda: DPMSolverMultistepScheduler(**spaced), x, held),
            "by hand": by_hand(grid, x, held, "2m"),
        },
        "UniPC-2": {
            "ours": ours(samplers.unipc, noise, grid),
            "Diffusers": theirs(lambda: UniPCMultistepScheduler(**spaced), x, held),
        },
        "DEIS-3": {
            "ours": ours(samplers.deis, noise, grid, start="low"),
            "Diffusers": theirs(lambda: DEISMultistepScheduler(**spaced, solver_order=3), x, held),
        },
        "flow Euler": {
            "ours": ours(samplers.flow_euler, flow, line),
            "Diffusers": theirs(lambda: FlowMatchEulerDiscreteScheduler(), x, held),
            "by hand": by_hand(line, x, held, "flow"),
        },
    }


@torch.no_grad()
def main() -> None:
    """Time all pairs in turn."""
    common.one_thread()
    result: dict = {"steps": STEPS, "shapes": {k: list(v) for k, v in SHAPES.items()}, "pairs": {}}
    for name, shape in SHAPES.items():
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        out = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))

        def held(state, t, out=out):
            return out

        rows = result["pairs"][name] = {}
        for pair, work in contenders(x, held).items():
            if name == "latents" and pair in ("Euler", "DEIS-3"):
                continue
            times = common.in_turn(work, ROUNDS[name])
            row = rows[pair] = {
                who: {"microseconds": 1e6 * statistics.median(t) / STEPS}
                for who, t in times.items()
            }
            for other in ("Diffusers", "by hand"):
                if other in times:
                    row["ours"][f"ratio to {other}"] = common.ratio(times["ours"], times[other])
            print(name, pair, row, flush=True)
    common.save("sampler_cost", result)


if __name__ == "__main__":
    sys.exit(main())
