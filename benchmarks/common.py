"""What the benchmarks share: where results go, on what they ran, and how processor time is read."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
KEPT = Path(__file__).parent.parent / "_build" / "bench"  # finished parts of a run under way
# 97.5 % points of Student's t, by degrees of freedom: half the width of a 95 % interval is this
# times the standard error.
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def one_thread() -> None:
    """Peers differ in what they run in parallel; on one thread times are work."""
    torch.set_num_threads(1)


def machine() -> dict[str, Any]:
    """What a reader needs to know about where the numbers come from."""
    versions = {}
    for name in ("fromnoise", "torch", "numpy", "scipy", "POT", "torchcfm", "flow_matching"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
    }


def save(name: str, content: dict[str, Any]) -> Path:
    """Write `results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    whole = {"machine": machine(), **content}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.name}", flush=True)
    return path


def load(name: str) -> dict[str, Any]:
    """Read `results/NAME.json`."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def processor_seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call. On one thread that is its duration on an idle machine."""
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turn(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round; within a round all run once, one after the other."""
    for work in contenders.values():
        work()  # caches, imports, the first allocation
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            times[name].append(processor_seconds(work))
    return times


def ratio(times: list[float], reference: list[float]) -> float:
    """Median over the rounds of time / reference time in the same round."""
    return statistics.median(a / b for a, b in zip(times, reference, strict=True))


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of the 95 % confidence interval (Student's t)."""
    n = len(values)
    half = T_975[n - 1] * statistics.stdev(values) / n**0.5
    return statistics.fmean(values), half
