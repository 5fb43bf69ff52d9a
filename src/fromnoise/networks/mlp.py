"""A time-conditioned multilayer perceptron for points in R^d."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fromnoise.networks.embeddings import (
    LabelEmbedding,
    TimeEmbedding,
    check_conditional,
    time_vector,
)


class MLP(nn.Module):
    """A residual multilayer perceptron f(x, t): ``(batch, dim)`` to ``(batch, dim)``.

    Every block sees the time again, as a shift of its hidden layer, so that no depth of the
    network has to remember it.

    Args:
        dim: dimension d of the points.
        hidden: width of the hidden layers.
        depth: number of residual blocks.
        frequencies: number of sinusoidal features of the time (even).
        classes: number of labels that it can be told; None for a network without labels.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 128,
        depth: int = 3,
        frequencies: int = 64,
        classes: int | None = None,
    ):
        super().__init__()
        for name, value in {"dim": dim, "hidden": hidden, "depth": depth}.items():
            if value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        self.dim, self.classes = dim, classes
        self.time = TimeEmbedding(hidden, frequencies)
        self.label = None if classes is None else LabelEmbedding(classes, hidden)
        self.first = nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(_Block(hidden) for _ in range(depth))
        self.last = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, t: float | Tensor, labels: int | Tensor | None = None) -> Tensor:
        """Evaluate at points ``x`` of shape ``(batch, dim)``, times ``t`` and labels.

        Raises:
            ValueError: if ``x`` is not ``(batch, dim)``, ``t`` or ``labels`` do not fit its batch,
                or there are labels and the network has no classes.
            TypeError: if ``x`` has another dtype than the weights.
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: this MLP takes (batch, {self.dim}); "
                "reshape x, or build the network with another dim"
            )
        check_dtype(x, self)
        check_conditional(self.label, labels)
        embedding = self.time(time_vector(t, x))  # (batch, hidden)
        if self.label is not None:
            embedding = embedding + self.label(labels, len(x))
        h = self.first(x)  # (batch, hidden)
        for block in self.blocks:
            h = block(h, embedding)  # (batch, hidden)
        return self.last(torch.nn.functional.silu(h))  # (batch, dim)


class _Block(nn.Module):
    """h + W₂ silu(W₁ silu(h) + W_t e), with e the embedded time."""

    def __init__(self, hidden: int):
        super().__init__()
        self.shift = nn.Linear(hidden, hidden)
        self.enter = nn.Linear(hidden, hidden)
        self.leave = nn.Linear(hidden, hidden)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        silu = torch.nn.functional.silu
        return h + self.leave(silu(self.enter(silu(h)) + self.shift(embedding)))


def check_dtype(x: Tensor, net: nn.Module) -> None:
    """Raise a ``TypeError`` that says what to do if ``x`` and the weights differ in dtype."""
    dtype = next(net.parameters()).dtype
    if x.dtype != dtype:
        raise TypeError(
            f"x is {x.dtype} but the weights are {dtype}: "
            f"cast one of them, x.to({dtype}) or net.to({x.dtype})"
        )
