"""How fast a machine can be at best, and how near to that a piece of work comes.

A piece of work of F operations that moves B bytes takes at least max(F / peak, B / bandwidth)
seconds (`prp-roofline`; Williams, Waterman & Patterson 2009). `measure` finds the two ceilings,
`tally` counts F and B of a training step kind by kind, `profile` says where its time goes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

KINDS = ("products", "attention", "norms", "the rest")


@dataclass(frozen=True)
class Ceiling:
    """What a machine reaches: ``peak`` in operations a second, ``bandwidth`` in bytes a second.

    Raises:
        ValueError: one of them is not positive.
    """

    peak: float
    bandwidth: float

    def __post_init__(self):
        for name in ("peak", "bandwidth"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be positive")

    @property
    def ridge(self) -> float:
        """Operations per byte from which on the peak, not the bandwidth, is the limit."""
        return self.peak / self.bandwidth

    def seconds(self, flops: float, moved: float) -> float:
        """The least time for so many operations and bytes moved (`eq-roofline`)."""
        return max(flops / self.peak, moved / self.bandwidth)


# The data sheet of the GPU that Colab lends for free: half precision with tensor cores, 16 GB.
T4 = Ceiling(peak=65e12, bandwidth=320e9)


def seconds(
    run: Callable[[], Any], *, device: str | torch.device = "cpu", repeat: int = 5
) -> float:
    """The median time of a call, in seconds, after one call that does not count.

    Args:
        run: what is called.
        device: where it computes; a GPU is waited for.
        repeat: number of calls measured, at least 1.
    """
    if repeat < 1:
        raise ValueError(f"repeat is {repeat}: measure at least one call")
    cuda = torch.device(device).type == "cuda"
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeat // 2]


def matmul_intensity(rows: int, inner: int, columns: int, size: int = 4) -> float:
    """Operations per byte of a matrix product whose three matrices are each moved once.

    2 rows inner columns / (size (rows inner + inner columns + rows columns)) (`prp-intensity`).

    Args:
        rows: rows of the first matrix.
        inner: its columns, the rows of the second.
        columns: columns of the second.
        size: bytes of a number.
    """
    moved = size * (rows * inner + inner * columns + rows * columns)
    return 2 * rows * inner * columns / moved


def measure(
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    side: int = 1024,
    length: int = 2**24,
) -> Ceiling:
    """The ceilings of this machine: its best matrix product, and its best copy.

    Args:
        device: where to measure.
        dtype: of the numbers.
        side: of the square matrices multiplied; larger on a GPU, such as 8192.
        length: numbers copied, enough to be larger than the caches.
    """
    a = torch.ones(side, side, device=device, dtype=dtype)
    source = torch.ones(length, device=device, dtype=dtype)
    target: Tensor = torch.empty_like(source)
    product = seconds(lambda: a @ a, device=device)
    copy = seconds(lambda: target.copy_(source), device=device)
    return Ceiling(2 * side**3 / product, 2 * length * source.element_size() / copy)


@dataclass
class Work:
    """What operations of one kind do.

    Attributes:
        calls: how many operations; views, which move nothing, do not count.
        flops: floating-point operations in them, of matrix products and convolutions.
        moved: bytes of their operands and results, each moved once for each operation.
        least: the sum of each one's least time, in seconds, if a machine was given.
    """

    calls: int = 0
    flops: float = 0.0
    moved: float = 0.0
    least: float = 0.0


def kind_of(name: str) -> str:
    """One of `KINDS` for the name of an operation such as ``aten::addmm``."""
    name = name.rpartition("::")[2].partition(".")[0].lower()
    if "attention" in name:
        return "attention"
    if "norm" in name and "linalg" not in name:
        return "norms"
    return "products" if any(word in name for word in ("mm", "conv", "linear")) else "the rest"


def _flops(func: Any, args: tuple, kwargs: dict, out: Any) -> int:
    name = func.name()
    if "flash_attention_for_cpu" in name:  # which the registry does not know
        backward = "backward" in name
        count = sdpa_backward_flop_count if backward else sdpa_flop_count
        return count(*(x.shape for x in args[: 4 if backward else 3]))
    known = flop_registry.get(func.overloadpacket)
    return 0 if known is None else known(*args, **kwargs, out_val=out)


class _Tally(TorchDispatchMode):
    def __init__(self, machine: Ceiling | None):
        super().__init__()
        self.machine, self.found = machine, {kind: Work() for kind in KINDS}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.is_view or func.namespace != "aten":
            return out
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        # an expanded tensor is as small as what it shows; a written operand is also the result
        parts = {id(x): min(x.nbytes, x.untyped_storage().nbytes()) for x in tensors}
        flops = _flops(func, args, kwargs, out)
        work = self.found[kind_of(func.name())]
        moved = sum(parts.values())
        work.calls += 1
        work.flops += flops
        work.moved += moved
        work.least += 0.0 if self.machine is None else self.machine.seconds(flops, moved)
        return out


def tally(run: Callable[[], Any], machine: Ceiling | None = None) -> dict[str, Work]:
    """Operations, bytes and least times of a piece of work, for each of `KINDS`.

    Args:
        run: what is called, once. (The first step of an optimizer also makes its moments: for a
            step like the later ones call it before.)
        machine: whose ceilings give the least time of each operation (`eq-roofline`).
    """
    with _Tally(machine) as mode:
        run()
    return mode.found


def profile(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds that a piece of work spends in each of `KINDS`, on a CPU, by `torch.profiler`.

    The second of two calls is measured. "the rest" has everything that is no matrix product,
    attention or norm: activation functions, sums, copies, and what Python and autograd spend
    between operations as far as the profiler sees it.
    """
    run()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it writes to the terminal
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as found:
        run()
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in found.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total * 1e-6
    return seconds


def counted_flops(run: Callable[[], Any]) -> int:
    """Operations of a piece of work by `torch.utils.flop_counter`.

    Attention is computed as matrix products here: the counter does not know the fused kernel of
    every machine.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
