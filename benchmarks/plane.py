"""Quality in the plane: ours against torchcfm and flow_matching, by the Wasserstein distance.

    python benchmarks/plane.py [--seeds 5] [--steps 4000] [--only moons]

Same network, same data, same batches and steps, same seeds for all. Each contender is trained in
two ways:

- "one loop": everybody's loss in our training loop, so that only target and coupling differ;
- "own loop": the peers in the loop of their own examples (Adam, constant learning rate, the last
  weights), which is what their users run.

Samples are drawn with Euler's and the midpoint method at equal numbers of network evaluations; the
better of the two counts, for everybody. The distance is exact between `POINTS` samples and as many
fresh data, averaged over `DRAWS` pairs of such sets that are the same for all contenders; its floor
is the same average between two independent data sets.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass

import common
import numpy as np
import torch
from flow_matching.path import CondOTProbPath
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import (
    ConditionalFlowMatcher,
    ExactOptimalTransportConditionalFlowMatcher,
)

from fromnoise.couplings import MinibatchOT
from fromnoise.distributions import Checkerboard, TwoMoons, eight_gaussians
from fromnoise.metrics import wasserstein2
from fromnoise.networks import MLP
from fromnoise.paths import GaussianPath
from fromnoise.processes import ODE
from fromnoise.schedules import CondOT
from fromnoise.solvers import euler, midpoint, solve_ode
from fromnoise.targets import ConditionalFlowMatching, Regression
from fromnoise.time_samplers import LowDiscrepancyTimes
from fromnoise.training import train

LAWS = {"moons": TwoMoons(), "8 Gaussians": eight_gaussians(), "checkerboard": Checkerboard()}
POINTS, DRAWS = 1024, 4
TRAINING_POINTS = 50_000
BATCH = 256
NFE = (1, 2, 4, 8, 10, 100)
PATH = GaussianPath(CondOT())


# Their losses as targets of our loop ----------------------------------------------------------


@dataclass(frozen=True)
class TorchCFM:
    """torchcfm's loss: its matcher draws time, point and conditional velocity."""

    transport: bool

    @property
    def matcher(self):
        """A fresh matcher; sigma = 0, the straight lines themselves."""
        kind = ExactOptimalTransportConditionalFlowMatcher if self.transport else None
        return (kind or ConditionalFlowMatcher)(sigma=0.0)

    def loss(self, net, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As in their examples."""
        noise = torch.randn(data.shape, generator=generator)
        t, x, velocity = self.matcher.sample_location_and_conditional_flow(noise, data)
        return torch.mean((net(x, t) - velocity) ** 2)


@dataclass(frozen=True)
class FlowMatching:
    """flow_matching's loss on its path of conditional optimal transport."""

    def loss(self, net, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As in their examples."""
        noise = torch.randn(data.shape, generator=generator)
        t = torch.rand(len(data), generator=generator)
        sample = CondOTProbPath().sample(t=t, x_0=noise, x_1=data)
        return torch.pow(net(sample.x_t, sample.t) - sample.dx_t, 2).mean()


OURS = {
    "ours, independent": ConditionalFlowMatching(PATH),
    "ours, minibatch OT": Regression(PATH, coupling=MinibatchOT(), times=LowDiscrepancyTimes()),
}
BEST = "ours, minibatch OT"  # what the others are compared with, at every number of evaluations
THEIRS = {
    "torchcfm, I-CFM": TorchCFM(transport=False),
    "torchcfm, OT-CFM": TorchCFM(transport=True),
    "flow_matching, CondOT": FlowMatching(),
}


def own_loop(net: nn.Module, target, data: Tensor, steps: int, seed: int) -> nn.Module:
    """The loop of torchcfm's and flow_matching's examples in the plane."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        rows = torch.randint(len(data), (BATCH,), generator=generator)
        loss = target.loss(net, data[rows], generator)
        loss.backward()
        optimizer.step()
    return net.eval()


def our_loop(net: nn.Module, target, data: Tensor, steps: int, seed: int) -> nn.Module:
    """Our loop, as the recipes of the plane use it."""
    return train(
        net,
        target,
        data,
        steps=steps,
        batch_size=BATCH,
        lr=2e-3,
        warmup=100,
        seed=seed,
        ema_decay=0.999,
        progress=False,
    ).net


def contenders():
    """(name, loop, target): five in one loop, and the peers in their own."""
    for name, target in {**OURS, **THEIRS}.items():
        yield f"{name}", our_loop, target
    for name, target in THEIRS.items():
        yield f"{name}, own loop", own_loop, target


@torch.no_grad()
def distances(net: nn.Module, noises: list[Tensor], data: list[Tensor]) -> dict[str, float]:
    """The mean distance for each number of evaluations, with the better of the two methods."""
    ode = ODE(lambda x, t: net(x, t))

    def mean_distance(method, steps: int) -> float:
        times = torch.linspace(0, 1, steps + 1)
        ends = [solve_ode(ode, noise, times, method=method) for noise in noises]
        return statistics.fmean(wasserstein2(e, d) for e, d in zip(ends, data, strict=True))

    out = {}
    for nfe in NFE:
        found = [mean_distance(euler, nfe)]
        if nfe % 2 == 0:
            found.append(mean_distance(midpoint, nfe // 2))
        out[str(nfe)] = min(found)
    return out


def run(law_name: str, seed: int, steps: int) -> dict[str, dict[str, float]]:
    """All contenders on one law with one seed."""
    law = LAWS[law_name]
    draws = torch.Generator().manual_seed(1000 + seed)
    data = law.sample(TRAINING_POINTS, draws)
    fresh = [law.sample(POINTS, draws) for _ in range(DRAWS)]
    noises = [torch.randn(POINTS, 2, generator=draws) for _ in range(DRAWS)]
    floor = statistics.fmean(wasserstein2(law.sample(POINTS, draws), other) for other in fresh)
    out = {"floor": {"": floor}}
    for name, loop, target in contenders():
        torch.manual_seed(seed)  # torchcfm draws times and pairs from the global generators
        np.random.seed(seed)
        net = MLP(2, hidden=64, depth=3)
        out[name] = distances(loop(net, target, data, steps, seed), noises, fresh)
        print(law_name, seed, name, {k: round(v, 3) for k, v in out[name].items()}, flush=True)
    return out


def summary(runs: list[dict[str, dict[str, float]]]) -> dict:
    """Mean distance with its interval, ratio to the floor, paired difference from our best."""
    floor = statistics.fmean(run["floor"][""] for run in runs)
    table = {}
    for name in runs[0]:
        if name == "floor":
            continue
        row = {}
        for nfe in runs[0][name]:
            values = [run[name][nfe] for run in runs]
            ours = [run[BEST][nfe] for run in runs]
            mean, half = common.interval(values)
            gap, gap_half = common.interval([a - b for a, b in zip(values, ours, strict=True)])
            row[nfe] = {
                "w2": mean,
                "half": half,
                "ratio": mean / floor,
                "minus_ours": gap,
                "minus_ours_half": gap_half,
            }
        table[name] = row
    return {"floor": floor, "contenders": table}


def main() -> None:
    """Read the command line; every finished run is kept, so that a second call goes on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--only", choices=list(LAWS), default=None)
    options = parser.parse_args()
    common.one_thread()
    cache = common.KEPT / "plane-runs.json"
    kept = json.loads(cache.read_text()) if cache.exists() else {}
    chosen = [options.only] if options.only else list(LAWS)
    for seed in range(options.seeds):
        for law in chosen:
            key = f"{law}/{seed}/{options.steps}"
            if key not in kept:
                kept[key] = run(law, seed, options.steps)
                cache.parent.mkdir(parents=True, exist_ok=True)
                cache.write_text(json.dumps(kept))
    result = {
        law: summary([kept[f"{law}/{seed}/{options.steps}"] for seed in range(options.seeds)])
        for law in chosen
    }
    settings = {"steps": options.steps, "batch": BATCH, "seeds": options.seeds}
    settings |= {"points": POINTS, "draws": DRAWS, "network": "MLP(2, hidden=64, depth=3)"}
    common.save("plane", {"settings": settings, "laws": result})


if __name__ == "__main__":
    main()
