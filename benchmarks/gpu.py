"""What a GPU reaches: ceilings, a step of the DiT, the contenders' loops, time to a digit-FID.

    python benchmarks/gpu.py            on a machine with CUDA; writes results/gpu.json
    python benchmarks/gpu.py --smoke    everything at toy sizes, on any machine; writes nothing

1. Ceilings of the machine, measured (`fromnoise.roofline`): matrix products in bf16, fp16, fp32 and
   TF32, and a copy in memory.
2. One training step of the DiT in bf16 at the size of ``digits-dit``, at 10 and 100 million
   parameters, with and without `torch.compile`: loss, backward, clipping, AdamW, moving average.
   Operations are 3 x those of the forward pass (`networks.cost`; a backward pass is two of them).
   Beside the time stands what bounds it from below: operations at the measured peak; reading and
   writing what an optimizer step must, 48 bytes a parameter; and how many kernels are launched,
   of which each costs some microseconds however small it is. The small networks are bound by that.
3. Images per second of the loops of `contenders.py`, in turn, 20 steps each; ours also in bf16
   with the images on the GPU, and compiled. (Diffusers' tutorial trains in fp16 on a GPU, the other
   peers in fp32.)
4. Seconds of training until 2,000 samples have a given digit-FID: each loop trains from scratch,
   with twice the steps each time, until its samples reach it; the time of that run counts, since a
   loop whose learning rate falls must know its length. Samples take 50 steps of Heun's method.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import common
import torch
from contenders import (
    FLOW,
    SIZES,
    Contender,
    Runner,
    available,
    parameters,
    with_ours_in_bf16,
)
from torch import Tensor

from fromnoise import data, roofline
from fromnoise.networks import DiT
from fromnoise.networks.cost import dit_flops, parameter_count
from fromnoise.processes import ODE
from fromnoise.solvers import heun, solve_ode
from fromnoise.training import update_ema

# AdamW reads weight, gradient and two moments and writes all but the gradient; clipping reads and
# writes the gradient; the average is read with the weight and written: 12 numbers of 4 bytes.
STEP_BYTES = 48


@dataclass(frozen=True)
class Size:
    """A DiT with the batch it is measured at."""

    options: dict
    batch: int


DITS = {
    "digits-dit (0.8 M)": Size({"patch": 4, "dim": 104, "depth": 4, "heads": 4}, 256),
    "10 M": Size({"patch": 2, "dim": 256, "depth": 8, "heads": 4}, 256),
    "100 M, latents 4 x 32 x 32": Size(
        {"channels": 4, "size": 32, "patch": 2, "dim": 768, "depth": 9, "heads": 12}, 256
    ),
}
SMOKE_DITS = {"smoke": Size({"patch": 7, "dim": 8, "depth": 1, "heads": 2}, 2)}


def ceilings(device: str, smoke: bool) -> dict[str, dict]:
    """Peak and bandwidth for each kind of number."""
    side, length = (64, 2**12) if smoke else (8192, 2**28)
    found = {}
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    for name, dtype in kinds.items():
        limit = roofline.measure(device, dtype, side=side, length=length)
        found[name] = {"peak": limit.peak, "bandwidth": limit.bandwidth, "ridge": limit.ridge}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    limit = roofline.measure(device, torch.float32, side=side, length=length)
    torch.set_float32_matmul_precision(before)
    found["tf32"] = {"peak": limit.peak, "bandwidth": limit.bandwidth, "ridge": limit.ridge}
    return found


def step_of(size: Size, device: str, compiled: bool) -> tuple[DiT, Callable[[], None]]:
    """A DiT and a function that takes one training step with it, in bf16."""
    torch.manual_seed(0)
    net = DiT(**size.options).to(device)
    averaged = [p.detach().clone() for p in net.parameters()]
    parameters_of = list(net.parameters())
    optimizer = torch.optim.AdamW(parameters_of, 1e-4, fused=True)
    x = torch.randn(size.batch, net.channels, net.size, net.size, device=device)
    generator = torch.Generator(device).manual_seed(0)
    if compiled:
        net.compile()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = FLOW.loss(net, x, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters_of, 1.0)
        optimizer.step()
        update_ema(averaged, parameters_of, 0.999)

    return net, step


def kernels(step: Callable[[], None]) -> int | None:
    """How many kernels a step launches; None without CUDA."""
    if not torch.cuda.is_available():
        return None
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    on_device = torch.autograd.DeviceType.CUDA
    return sum(event.device_type == on_device for event in profile.events())


def dit_steps(device: str, limits: dict, sizes: dict[str, Size], compile_too: bool) -> dict:
    """Seconds of a training step, and the part of the ceiling that it reaches."""
    peak, bandwidth = limits["bf16"]["peak"], limits["fp32"]["bandwidth"]
    found = {}
    for name, size in sizes.items():
        for compiled in (False, True) if compile_too else (False,):
            net, step = step_of(size, device, compiled)
            for _ in range(3):
                step()
            repeat = 20 if device == "cuda" else 1
            seconds = roofline.seconds(step, device=device, repeat=repeat)
            flops = 3 * size.batch * dit_flops(net)
            found[f"{name}{', compiled' if compiled else ''}"] = {
                "parameters": parameter_count(net),
                "batch": size.batch,
                "tokens": net.side**2,
                "seconds": seconds,
                "flops": flops,
                "fraction_of_peak": flops / seconds / peak,
                "seconds_at_peak": flops / peak,
                "seconds_of_optimizer_traffic": STEP_BYTES * parameter_count(net) / bandwidth,
                "kernels": kernels(step),
            }
            print(name, compiled, found[f"{name}{', compiled' if compiled else ''}"], flush=True)
            del net, step
    return found


def in_bf16(contender: Contender, compiled: bool) -> Contender:
    """Our contender with the network's arithmetic in bf16."""
    label = f"{contender.name}, bf16{', compiled' if compiled else ''}"
    return replace(contender, name=label, loop=partial(with_ours_in_bf16, compiled=compiled))


def loops_of(size: str, compile_too: bool) -> tuple[list[Contender], list[str]]:
    """The contenders of a size and ours in bf16; those that are not installed."""
    found, missing = available(size)
    ours = [c for c in found if c.group == "ours"]
    found += [in_bf16(c, False) for c in ours]
    if compile_too:
        found += [in_bf16(c, True) for c in ours]
    return found, missing


def throughput(size: str, images: Tensor, batch: int, rounds: int, steps: int, compile_too: bool):
    """Images per second of every loop, in turn, so many steps each."""
    found, missing = loops_of(size, compile_too)
    total = steps * (rounds + 1) + 1
    runners = {c.name: Runner(c, images, batch, total) for c in found}
    times = {name: [] for name in runners}
    for runner in runners.values():
        runner.turn(steps)  # compilation, allocation
    for _ in range(rounds):
        for name, runner in runners.items():
            times[name].append(runner.turn(steps)[0])
    for runner in runners.values():
        runner.stop()
    theirs = [statistics.median(times[c.name]) for c in found if c.group == "theirs"]
    rows = {}
    for c in found:
        seconds = statistics.median(times[c.name])
        rows[c.name] = {
            "group": c.group,
            "parameters": parameters(c),
            "images_per_second": batch / seconds,
            "ratio_to_best_of_theirs": min(theirs) / seconds if theirs else None,
        }
    return {"batch": batch, "missing": missing, "rows": rows}


@torch.no_grad()
def samples(contender: Contender, net: torch.nn.Module, n: int, steps: int) -> Tensor:
    """Images by a trained network, from the same noise for all, on the CPU."""
    device = next(net.parameters()).device
    noise = torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(7))
    times = torch.linspace(0.0, 1.0, steps + 1)

    def field(x: Tensor, t: Tensor | float) -> Tensor:
        t = torch.as_tensor(t, device=x.device, dtype=x.dtype).expand(len(x))
        return contender.velocity(net, x, t)

    parts = [solve_ode(ODE(field), p.to(device), times, heun).cpu() for p in noise.split(500)]
    return torch.cat(parts)


def digit_fid() -> Callable[[Tensor], float]:
    """The squared Fréchet distance of samples to test digits in the features of the digit reader.

    Raises:
        ModuleNotFoundError: this checkout has no `fromnoise.digit_quality`.
    """
    try:
        from fromnoise import digit_quality
    except ImportError as error:
        raise ModuleNotFoundError(
            "fromnoise.digit_quality is missing: the time to a digit-FID needs its features; "
            "update the checkout, or pass --skip-fid"
        ) from error
    return lambda x: digit_quality.report(x)["digit_frechet"].value


def time_to_quality(
    contender: Contender,
    images: Tensor,
    metric: Callable[[Tensor], float],
    threshold: float,
    *,
    batch: int = 128,
    first: int = 500,
    longest: int = 32_000,
    number: int = 2000,
    steps: int = 50,
) -> dict:
    """Train with twice the steps until the metric of the samples is at most the threshold.

    Args:
        contender: whose loop trains.
        images: what it trains on.
        metric: a number of samples ``(n, 1, 28, 28)``; smaller is better.
        threshold: to reach.
        batch: of the training.
        first: steps of the first run.
        longest: steps after which it is given up.
        number: of samples.
        steps: of Heun's method that draws them.

    Returns:
        the runs; and of the one that reached it ``steps`` and ``seconds``, else None for both.
    """
    runs, budget = [], first
    while budget <= longest:
        torch.manual_seed(0)
        net = contender.build()
        begin = time.perf_counter()
        weights = contender.loop(net, images, batch, budget)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        values = {}
        for name, state in weights.items():
            net.load_state_dict(state)
            values[name] = metric(samples(contender, net.eval(), number, steps))
        best = min(values.values())
        runs.append({"steps": budget, "seconds": seconds, "values": values})
        print(contender.name, runs[-1], flush=True)
        if best <= threshold:
            return {"steps": budget, "seconds": seconds, "runs": runs}
        budget *= 2
    return {"steps": None, "seconds": None, "runs": runs}


def times_to_fid(images: Tensor, threshold: float, compile_too: bool, metric=None) -> dict:
    """Seconds to the threshold for every loop of the smaller size."""
    metric = digit_fid() if metric is None else metric
    found, missing = loops_of("1.6 M", compile_too)
    rows = {c.name: time_to_quality(c, images, metric, threshold) for c in found}
    return {"threshold": threshold, "missing": missing, "rows": rows}


def smoke() -> dict:
    """Every part once, at toy sizes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    limits = ceilings(device, smoke=True)
    found, _ = available("smoke")
    reached = time_to_quality(
        found[0], images, lambda x: 1.0 / len(x), 0.5, batch=4, first=2, number=4, steps=1
    )
    never = time_to_quality(
        found[1], images, lambda x: 1.0, 0.5, batch=4, first=1, longest=2, number=4, steps=1
    )
    return {
        "ceilings": limits,
        "dit": dit_steps(device, limits, SMOKE_DITS, compile_too=False),
        "throughput": {"smoke": throughput("smoke", images, 4, 1, 1, compile_too=False)},
        "time_to_fid": {"rows": {found[0].name: reached, found[1].name: never}},
    }


def main() -> None:
    """Read the command line, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="toy sizes, any machine, no file")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--skip-fid", action="store_true")
    parser.add_argument("--threshold", type=float, default=10.0, help="the digit-FID to reach")
    parser.add_argument("--batch", type=int, default=128, help="of the loops")
    options = parser.parse_args()
    if options.smoke:
        smoke()
        print("all parts ran; nothing was written")
        return
    if not torch.cuda.is_available():
        sys.exit(
            "no CUDA here (torch.cuda.is_available() is False): run this on a machine with an "
            "NVIDIA GPU and a PyTorch built for it, or say --smoke to try the script at toy sizes"
        )
    metric = None if options.skip_fid else digit_fid()  # what is missing is said at once
    compile_too = not options.no_compile
    images = data.to_unit(data.digits("train").images)
    limits = ceilings("cuda", smoke=False)
    print(limits, flush=True)
    content = {"gpu": torch.cuda.get_device_name(), "ceilings": limits}
    content["dit"] = dit_steps("cuda", limits, DITS, compile_too)
    content["throughput"] = {}
    for size in (name for name in SIZES if name != "smoke"):
        content["throughput"][size] = throughput(size, images, options.batch, 3, 20, compile_too)
        common.save("gpu", content)  # each part as soon as there is one
    if metric is not None:
        content["time_to_fid"] = times_to_fid(images, options.threshold, compile_too, metric)
        common.save("gpu", content)


if __name__ == "__main__":
    main()
