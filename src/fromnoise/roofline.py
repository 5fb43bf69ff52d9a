"""How fast a machine can be at best, and how near to that a piece of work comes.

A piece of work of F operations that moves B bytes takes at least max(F / peak, B / bandwidth)
seconds (`prp-roofline`; Williams, Waterman & Patterson 2009).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
