"""What training costs: our loop and our minibatch transport against theirs and a bare loop.

    python benchmarks/cost.py [--rounds 7]

Processor time on one thread, so that other work on the machine moves the numbers little; all
contenders take turns, and a ratio compares times of the same round.

A training step is measured in three loops with one network each: a bare loop in PyTorch as one
writes it by hand (AdamW, the loss of the straight path, nothing else), the same with what our loop
also does (clipping, a moving average of the weights, the loss as a number), and the loops of the
peers' examples. Ours is `fromnoise.training.train`; the time of its set-up is subtracted.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from functools import partial

import common
import numpy as np
import torch
from flow_matching.path import CondOTProbPath
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
from torchcfm.optimal_transport import OTPlanSampler

from fromnoise.couplings import optimal_assignment
from fromnoise.data import small_digits, to_unit
from fromnoise.distributions import TwoMoons
from fromnoise.networks import MLP, UNet
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT
from fromnoise.targets import ConditionalFlowMatching
from fromnoise.training import train

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # network, batch, steps a round
    "MLP, 2-D": (lambda: MLP(2, hidden=128, depth=3), 256, 150),
    "U-Net, digits": (lambda: UNet(widths=(32, 64), embedding=64), 128, 4),
}
BATCHES = (256, 1024, 4096)


def bare(net: nn.Module, data: Tensor, batch: int, steps: int, extras: bool = False) -> None:
    """A loop written by hand."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=extras)
    average = copy.deepcopy(net)
    for _ in range(steps):
        x1 = data[torch.randint(len(data), (batch,))]
        x0 = torch.randn_like(x1)
        t = torch.rand(batch)
        s = t.view(-1, *[1] * (x1.ndim - 1))
        loss = (net(s * x1 + (1 - s) * x0, t) - (x1 - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if extras:
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if extras:
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1e-3)
            loss.item()


def with_torchcfm(net: nn.Module, data: Tensor, batch: int, steps: int) -> None:
    """The loop of torchcfm's examples."""
    optimizer = torch.optim.Adam(net.parameters())
    matcher = ConditionalFlowMatcher(sigma=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        x1 = data[torch.randint(len(data), (batch,))]
        t, x, velocity = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = torch.mean((net(x, t) - velocity) ** 2)
        loss.backward()
        optimizer.step()


def with_flow_matching(net: nn.Module, data: Tensor, batch: int, steps: int) -> None:
    """The loop of flow_matching's examples."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    path = CondOTProbPath()
    for _ in range(steps):
        optimizer.zero_grad()
        x1 = data[torch.randint(len(data), (batch,))]
        sample = path.sample(t=torch.rand(batch), x_0=torch.randn_like(x1), x_1=x1)
        loss = torch.pow(net(sample.x_t, sample.t) - sample.dx_t, 2).mean()
        loss.backward()
        optimizer.step()


def with_ours(net: nn.Module, data: Tensor, batch: int, steps: int) -> None:
    """Our loop, with everything that it does by default."""
    target = ConditionalFlowMatching(GaussianPath(CondOT()))
    train(net, target, data, steps=steps, batch_size=batch, progress=False)


def afresh(loop, network, data: Tensor, batch: int, steps: int) -> None:
    """Run a loop on a new network with the same weights each time."""
    torch.manual_seed(0)
    loop(network(), data, batch, steps)


def steps_table(rounds: int) -> dict:
    """Milliseconds a step and the ratio to the bare loop, for each network."""
    sets = {"MLP, 2-D": TwoMoons().sample(20_000), "U-Net, digits": to_unit(small_digits().images)}
    loops = {
        "bare loop": bare,
        "bare loop, with clipping and average": partial(bare, extras=True),
        "torchcfm's loop": with_torchcfm,
        "flow_matching's loop": with_flow_matching,
        "ours": with_ours,
    }
    table = {}
    for name, (network, batch, steps) in NETWORKS.items():
        data = sets[name]
        # a long run minus a short one: what is left is steps alone
        runs = {}
        for label, loop in loops.items():
            runs[f"{label}/long"] = partial(afresh, loop, network, data, batch, steps + 1)
            runs[f"{label}/short"] = partial(afresh, loop, network, data, batch, 1)
        times = common.in_turn(runs, rounds)
        each = {
            label: [
                (a - b) / steps
                for a, b in zip(times[f"{label}/long"], times[f"{label}/short"], strict=True)
            ]
            for label in loops
        }
        table[name] = {
            label: {
                "milliseconds": 1e3 * float(np.median(values)),
                "ratio_to_bare": common.ratio(values, each["bare loop"]),
            }
            for label, values in each.items()
        }
        print(name, {k: round(v["ratio_to_bare"], 3) for k, v in table[name].items()}, flush=True)
    return table


def scipys(noise: Tensor, data: Tensor):
    """The pairing by SciPy on the same costs as torchcfm's."""
    return linear_sum_assignment((torch.cdist(noise.flatten(1), data.flatten(1)) ** 2).numpy())


def transport_table(rounds: int) -> dict:
    """Milliseconds a batch of pairing noise with data, and how much of the batch is used."""
    digits = to_unit(small_digits().images)
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    table = {}
    for dimension in (2, 784):
        for batch in BATCHES:
            generator = torch.Generator().manual_seed(batch)
            data = TwoMoons().sample(batch, generator) if dimension == 2 else digits[:batch]
            noise = torch.randn(data.shape, generator=generator)
            np.random.seed(0)
            sampler = OTPlanSampler("exact")
            contenders = {
                "torchcfm": partial(sampler.sample_plan, noise, data),
                "ours": partial(optimal_assignment, noise, data),
            }
            if batch <= 1024 or dimension > 2:  # in the plane 4096 points take it 20 s
                contenders["SciPy's assignment"] = partial(scipys, noise, data)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                times = common.in_turn(contenders, rounds if batch <= 1024 else 3)
                pairs = sampler.sample_map(sampler.get_map(noise, data), batch)
            row = {
                label: {
                    "milliseconds": 1e3 * float(np.median(values)),
                    "ratio_to_torchcfm": common.ratio(values, times["torchcfm"]),
                }
                for label, values in times.items()
            }
            row["torchcfm"]["stopped_early"] = any("numItermax" in str(w.message) for w in said)
            row["torchcfm"]["data_used"] = len(np.unique(pairs[1])) / batch
            row["ours"]["data_used"] = len(optimal_assignment(noise, data).unique()) / batch
            table[f"{dimension}-D, batch {batch}"] = row
            print(dimension, batch, {k: round(v["milliseconds"], 1) for k, v in row.items()})
    return table


def main() -> None:
    """Read the command line, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    common.one_thread()
    transport = transport_table(options.rounds)
    common.save("cost", {"steps": steps_table(options.rounds), "transport": transport})


if __name__ == "__main__":
    main()
