"""A diffusion transformer: patches as tokens, the time as the scale and shift of every norm."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fromnoise.networks.embeddings import (
    LabelEmbedding,
    TimeEmbedding,
    check_conditional,
    time_vector,
)
from fromnoise.networks.mlp import check_dtype

Positions = Literal["sincos", "rotary"]


class DiT(nn.Module):
    """A transformer f(x, t) of image patches: ``(batch, channels, height, width)`` to the same.

    Peebles & Xie 2023. Every block is told time and label by adaLN-Zero: six vectors, made from
    the embedding by a linear map that starts at zero, scale, shift and gate its two halves. So
    every block is the identity at first and an untrained network returns 0 (`prp-adaln-zero`).

    Args:
        channels: channels of the image.
        size: its height and width, of one number; a multiple of ``patch``.
        patch: side of a patch; (size / patch)^2 tokens.
        dim: width of a token; a multiple of ``heads``, and of 4 (with rotary positions, dim / heads
            a multiple of 4).
        depth: number of blocks.
        heads: attention heads.
        ratio: width of the hidden layer of a block's MLP, in units of ``dim``.
        positions: "sincos" adds sinusoids of row and column to the tokens once; "rotary" rotates
            queries and keys by them in every block.
        outputs: channels returned, if not ``channels``.
        classes: number of labels that it can be told; None for a network without labels.
        context: width of the tokens of another sequence, such as text, that every block looks at by
            cross-attention; None for none.
        remember: keep the blocks' activations for the backward pass; False computes them again
            (activation checkpointing): a third more work for far less memory.

    Raises:
        ValueError: the sizes do not divide one another as said above.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        patch: int = 4,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        ratio: float = 4.0,
        positions: Positions = "sincos",
        outputs: int | None = None,
        classes: int | None = None,
        context: int | None = None,
        remember: bool = True,
    ):
        super().__init__()
        if size % patch or dim % heads or dim % 4:
            raise ValueError(
                f"size={size}, patch={patch}, dim={dim}, heads={heads}: patch must divide size, "
                "and heads and 4 must divide dim"
            )
        if positions not in ("sincos", "rotary"):
            raise ValueError(f"positions must be 'sincos' or 'rotary', but it is {positions!r}")
        if positions == "rotary" and (dim // heads) % 4:
            raise ValueError(
                f"dim / heads is {dim // heads}: rotary positions need a multiple of 4"
            )
        self.channels, self.size, self.patch, self.classes = channels, size, patch, classes
        self.side, self.remember = size // patch, remember
        self.outputs = channels if outputs is None else outputs
        self.time = TimeEmbedding(dim)
        self.label = None if classes is None else LabelEmbedding(classes, dim)
        self.first = nn.Linear(channels * patch**2, dim)
        rotary = positions == "rotary"
        self.blocks = nn.ModuleList(Block(dim, heads, ratio, context, rotary) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.modulate = zeroed(nn.Linear(dim, 2 * dim))
        self.last = zeroed(nn.Linear(dim, self.outputs * patch**2))
        angles = grid_angles(self.side, (dim // heads if rotary else dim) // 2)  # (n, .)
        table = torch.cat([angles.cos(), angles.sin()], 1)  # (n, dim), or a head's width
        self.register_buffer("positions", table, persistent=False)
        self.rotary = rotary

    def forward(
        self,
        x: Tensor,
        t: float | Tensor,
        labels: int | Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Evaluate at images, times, labels and a context ``(batch, tokens, width)``.

        Raises:
            ValueError: x is not a batch of images of the network's size; t, labels or context do
                not fit its batch; or the network was built without labels or context.
            TypeError: x has another dtype than the weights.
        """
        wanted = (self.channels, self.size, self.size)
        if x.ndim != 4 or tuple(x.shape[1:]) != wanted:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: this DiT takes (batch, {self.channels}, "
                f"{self.size}, {self.size}), its positions are made for that size"
            )
        check_dtype(x, self)
        check_conditional(self.label, labels)
        if (context is None) != (self.blocks[0].cross is None):
            built, given = ("with", "no") if context is None else ("without", "a")
            raise ValueError(f"context: the network was built {built} one and got {given} context")
        embedding = self.time(time_vector(t, x))  # (b, d)
        if self.label is not None:
            embedding = embedding + self.label(labels, len(x))  # (b, d)
        h = self.first(patches(x, self.patch))  # (b, n, d), n = (size / patch)²
        table = self.positions.to(x.dtype)
        turn = table if self.rotary else None
        if turn is None:
            h = h + table  # (b, n, d)
        for block in self.blocks:
            if self.remember or not torch.is_grad_enabled():
                h = block(h, embedding, turn, context)  # (b, n, d)
            else:
                h = checkpoint(block, h, embedding, turn, context, use_reentrant=False)
        scale, shift = self.modulate(embedding)[:, None].chunk(2, dim=-1)  # (b, 1, d)
        h = self.last(self.norm(h) * (1 + scale) + shift)  # (b, n, outputs patch²)
        return images(h, self.patch, self.side)  # (b, outputs, size, size)


class Block(nn.Module):
    """x + gate Attention(norm x), then x + gate MLP(norm x), norms scaled and shifted by time."""

    def __init__(self, dim: int, heads: int, ratio: float, context: int | None, rotary: bool):
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.leave = nn.Linear(dim, dim)
        hidden = int(ratio * dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim)
        )
        self.modulate = zeroed(nn.Linear(dim, 6 * dim))
        self.cross = None if context is None else Cross(dim, context, heads)

    def forward(
        self, x: Tensor, embedding: Tensor, turn: Tensor | None, context: Tensor | None
    ) -> Tensor:
        """Map tokens ``(b, n, d)`` and the embedding ``(b, d)`` to tokens."""
        parts = self.modulate(embedding)[:, None].chunk(6, dim=-1)  # six of (b, 1, d)
        scale, shift, gate, scale_mlp, shift_mlp, gate_mlp = parts
        h = self.norm(x) * (1 + scale) + shift  # (b, n, d)
        q, k, v = (split(part, self.heads) for part in self.qkv(h).chunk(3, dim=-1))
        if turn is not None:
            q, k = rotated(q, turn), rotated(k, turn)  # (b, heads, n, d / heads)
        seen = functional.scaled_dot_product_attention(q, k, v)  # (b, heads, n, d / heads)
        x = x + gate * self.leave(joined(seen))  # (b, n, d)
        if self.cross is not None:
            x = x + self.cross(self.norm(x), context)
        h = self.norm(x) * (1 + scale_mlp) + shift_mlp
        return x + gate_mlp * self.mlp(h)  # (b, n, d)


class Cross(nn.Module):
    """Attention of the tokens to another sequence; its output starts at zero."""

    def __init__(self, dim: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(context, 2 * dim)
        self.leave = zeroed(nn.Linear(dim, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map ``(b, n, d)`` and ``(b, m, context)`` to ``(b, n, d)``."""
        q = split(self.q(x), self.heads)
        k, v = (split(part, self.heads) for part in self.kv(context).chunk(2, dim=-1))
        return self.leave(joined(functional.scaled_dot_product_attention(q, k, v)))


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and bias set to zero, so that it contributes nothing at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def patches(x: Tensor, patch: int) -> Tensor:
    """``(b, c, h, w)`` to ``(b, h w / patch², c patch²)``, row by row."""
    return functional.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def images(tokens: Tensor, patch: int, side: int) -> Tensor:
    """The inverse of `patches`: ``(b, side², c patch²)`` to ``(b, c, patch side, patch side)``."""
    square = tokens.transpose(1, 2).unflatten(2, (side, side))
    return functional.pixel_shuffle(square, patch)


def split(x: Tensor, heads: int) -> Tensor:
    """``(b, n, d)`` to ``(b, heads, n, d / heads)``."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """``(b, heads, n, d / heads)`` to ``(b, n, d)``."""
    return x.transpose(1, 2).flatten(2)


def grid_angles(side: int, count: int, highest: float = math.pi / 2) -> Tensor:
    """Angles ``(side², count)``: half of them of the row, half of the column, of each token.

    Frequencies fall geometrically from `highest` radians a token by a factor of 100, so that the
    fastest tells neighbours apart and the slowest one end of an image from the other.
    """
    frequency = highest * 0.01 ** torch.linspace(0.0, 1.0, count // 2)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    place = torch.stack([row.flatten(), column.flatten()], 1).float()  # (n, 2)
    return (place[:, :, None] * frequency).flatten(1)  # (n, count)


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """Pairs of features turned by the token's angles: ``(b, heads, n, w)``, turn ``(n, w)``.

    The product of two rotated vectors depends on their places by the difference alone
    (`prp-rotary`; Su et al. 2021).
    """
    cos, sin = turn.chunk(2, dim=-1)  # (n, w / 2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
