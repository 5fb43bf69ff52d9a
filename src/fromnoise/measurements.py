"""Linear measurements y = A x + noise of images and points: what is known, and what it is blind to.

A measurement offers `forward` (A), `adjoint` (A^T) and `solve` ((a A A^T + b I)^{-1}), each without
a matrix where A has structure; that is all that conditioning needs (`fromnoise.editing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fromnoise._shapes import check_same_shape


class Measurement(Protocol):
    """A linear map of data, ``(batch, *event)`` to ``(batch, *measured)``."""

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""
        ...

    def solve(self, y: Tensor, a: float, b: float) -> Tensor:
        """(a A A^T + b I)^{-1} y."""
        ...


def _positive(a: float, b: float) -> None:
    if a < 0.0 or b < 0.0 or a + b <= 0.0:
        raise ValueError(f"a={a} and b={b} must be at least 0 and not both 0.")


@dataclass(frozen=True, eq=False)
class Mask:
    """Some coordinates are seen and the others are not; y is 0 where nothing is seen.

    Attributes:
        seen: ``(*event)`` of booleans, or of zeros and ones.

    Raises:
        ValueError: an entry is neither 0 nor 1; when called: x has another shape.
    """

    seen: Tensor

    def __post_init__(self) -> None:
        """Check that it is a mask."""
        if not bool(((self.seen == 0) | (self.seen == 1)).all()):
            raise ValueError("seen must hold zeros and ones (or booleans): threshold it.")

    def forward(self, x: Tensor) -> Tensor:
        """x where it is seen, 0 elsewhere."""
        check_same_shape(x[0], self.seen, "a datum", "seen")
        return x * self.seen.to(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """The same map."""
        return self.forward(y)

    def solve(self, y: Tensor, a: float, b: float) -> Tensor:
        """y / (a + b) where it is seen, 0 elsewhere."""
        _positive(a, b)
        return self.forward(y) / (a + b)


@dataclass(frozen=True, eq=False)
class Matrix:
    """A given matrix, for points ``(batch, d)``.

    Attributes:
        matrix: ``(m, d)``.
    """

    matrix: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x A^T, ``(batch, m)``."""
        return x @ self.matrix.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        """y A, ``(batch, d)``."""
        return y @ self.matrix.to(y)

    def solve(self, y: Tensor, a: float, b: float) -> Tensor:
        """By a Cholesky factorization of a A A^T + b I."""
        _positive(a, b)
        matrix = self.matrix.to(y)
        identity = torch.eye(len(matrix), dtype=y.dtype, device=y.device)
        factor = torch.linalg.cholesky(a * matrix @ matrix.T + b * identity)
        return torch.cholesky_solve(y.T, factor).T


@dataclass(frozen=True, eq=False)
class Blur:
    """Circular convolution of images with a kernel: diagonal in Fourier space.

    Attributes:
        kernel: ``(k, k)``, k odd; centred.

    Raises:
        ValueError: the kernel is not square with an odd side.
    """

    kernel: Tensor

    def __post_init__(self) -> None:
        """Check the kernel."""
        side = self.kernel.shape[-1]
        if self.kernel.ndim != 2 or self.kernel.shape[0] != side or side % 2 == 0:
            raise ValueError(
                f"kernel has shape {tuple(self.kernel.shape)}: pass a square with an odd side."
            )

    def _spectrum(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        side = self.kernel.shape[-1]
        padded = x.new_zeros(height, width)
        padded[:side, :side] = self.kernel.to(x)
        return torch.fft.rfft2(padded.roll((-(side // 2), -(side // 2)), (0, 1)))

    def _filter(self, x: Tensor, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * spectrum, s=x.shape[-2:])

    def forward(self, x: Tensor) -> Tensor:
        """The blurred images, of the shape of x."""
        return self._filter(x, self._spectrum(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Convolution with the mirrored kernel."""
        return self._filter(y, self._spectrum(y).conj())

    def solve(self, y: Tensor, a: float, b: float) -> Tensor:
        """Division in Fourier space; b > 0 where the kernel loses a frequency."""
        _positive(a, b)
        return self._filter(y, 1.0 / (a * self._spectrum(y).abs().square() + b))


@dataclass(frozen=True)
class Downsample:
    """The mean over squares of factor x factor pixels.

    Attributes:
        factor: at least 1; must divide both sides.
    """

    factor: int

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, c, h, w)`` to ``(batch, c, h / factor, w / factor)``.

        Raises:
            ValueError: the factor does not divide the sides.
        """
        if self.factor < 1 or x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(
                f"factor={self.factor} must divide the sides of images {tuple(x.shape[-2:])}."
            )
        return torch.nn.functional.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        """Each value spread over its square, divided by its size."""
        big = y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return big / self.factor**2

    def solve(self, y: Tensor, a: float, b: float) -> Tensor:
        """A A^T = I / factor^2."""
        _positive(a, b)
        return y / (a / self.factor**2 + b)
