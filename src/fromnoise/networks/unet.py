"""A small time-conditioned U-Net for images: residual blocks, attention where it is cheap."""

from __future__ import annotations

from collections.abc import Sequence

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


class UNet(nn.Module):
    """A U-Net f(x, t): ``(batch, channels, height, width)`` to the same shape (or `outputs`).

    The image is first folded into ``patch`` × ``patch`` patches (28 × 28 pixels of one channel
    become 14 × 14 pixels of four), because convolutions at full resolution cost most and add
    least on small images. Then it goes down through the ``widths``, halving the resolution
    between levels, and up again; every level hands its features across. Attention stands at the
    coarsest level only, where its cost, quadratic in the number of pixels, is small.

    The last convolution starts at zero: an untrained network returns 0, so that training begins
    from a loss that does not depend on the seed.

    Args:
        channels: channels of the image (1 for digits).
        widths: features at each level, finest first; multiples of ``groups``.
        blocks: residual blocks at each level, on each way.
        patch: side of the patches, 1 to fold nothing. Height and width must be multiples of
            ``patch * 2 ** (len(widths) - 1)``.
        embedding: width of the time embedding.
        groups: groups of the group normalization.
        heads: attention heads.
        outputs: channels returned, if not ``channels``: 2 ``channels`` for a network that also
            learns a variance.
        classes: number of labels that it can be told; None for a network without labels.
        remember: keep the blocks' activations for the backward pass; False computes them again
            (activation checkpointing).
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (64, 128),
        blocks: int = 1,
        patch: int = 2,
        embedding: int = 128,
        groups: int = 8,
        heads: int = 4,
        outputs: int | None = None,
        classes: int | None = None,
        remember: bool = True,
    ):
        super().__init__()
        if any(w % groups or w < 1 for w in widths) or widths[-1] % heads:
            raise ValueError(
                f"widths is {tuple(widths)}: each must be a positive multiple of groups={groups}, "
                f"and the last one of heads={heads}"
            )
        self.channels, self.patch, self.classes = channels, patch, classes
        self.remember = remember
        self.stride = patch * 2 ** (len(widths) - 1)
        self.time = TimeEmbedding(embedding)
        self.label = None if classes is None else LabelEmbedding(classes, embedding)
        self.first = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        kind = (embedding, groups)
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList(ResBlock(width, width, *kind) for _ in range(blocks)))
            # On the way up each block also takes in the features that its twin handed across.
            self.up.append(nn.ModuleList(ResBlock(2 * width, width, *kind) for _ in range(blocks)))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
                self.grow.append(nn.Conv2d(widths[level + 1], width, 3, padding=1))
        self.middle = ResBlock(widths[-1], widths[-1], *kind)
        self.attention = Attention(widths[-1], groups, heads)
        self.norm = nn.GroupNorm(groups, widths[0])
        outputs = channels if outputs is None else outputs
        self.last = zeroed(nn.Conv2d(widths[0], outputs * patch**2, 3, padding=1))

    def forward(self, x: Tensor, t: float | Tensor, labels: int | Tensor | None = None) -> Tensor:
        """Evaluate at images ``x``, times ``t`` and labels (one, or one for each image).

        Raises:
            ValueError: if ``x`` is not a batch of images of a size that the levels can halve,
                ``t`` or ``labels`` do not fit its batch, or there are labels and the network has
                no classes.
            TypeError: if ``x`` has another dtype than the weights.
        """
        if x.ndim != 4 or x.shape[1] != self.channels or any(n % self.stride for n in x.shape[2:]):
            raise ValueError(
                f"x has shape {tuple(x.shape)}: this U-Net takes (batch, {self.channels}, height, "
                f"width) with height and width multiples of {self.stride}; reshape or pad x"
            )
        check_dtype(x, self)
        check_conditional(self.label, labels)
        embedding = self.time(time_vector(t, x))  # (b, e)
        if self.label is not None:
            embedding = embedding + self.label(labels, len(x))  # (b, e)
        h = self.first(functional.pixel_unshuffle(x, self.patch))  # (b, w0, H, W), H = height/patch
        handed = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                h = self._through(block, h, embedding)  # (b, w, H / 2^level, W / 2^level)
                handed.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)  # (b, w', H / 2^(level + 1), ...)
        h = self.attention(self._through(self.middle, h, embedding))  # (b, w_last, h, w)
        for level in reversed(range(len(self.up))):
            for block in self.up[level]:
                h = torch.cat([h, handed.pop()], dim=1)  # (b, 2 w, ...)
                h = self._through(block, h, embedding)  # (b, w, ...)
            if level > 0:
                h = functional.interpolate(h, scale_factor=2.0, mode="nearest")
                h = self.grow[level - 1](h)  # (b, w of the finer level, ...)
        h = self.last(functional.silu(self.norm(h)))  # (b, outputs * patch², H, W)
        return functional.pixel_shuffle(h, self.patch)  # (b, outputs, height, width)

    def _through(self, block: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if self.remember or not torch.is_grad_enabled():
            return block(h, embedding)
        return checkpoint(block, h, embedding, use_reentrant=False)


class ResBlock(nn.Module):
    """Two 3 × 3 convolutions around which the features pass; the time scales and shifts between."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int):
        super().__init__()
        self.norm_in = nn.GroupNorm(groups, inputs)
        self.enter = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * outputs)
        self.norm_out = nn.GroupNorm(groups, outputs)
        self.leave = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map features ``(b, inputs, h, w)`` and times ``(b, e)`` to ``(b, outputs, h, w)``."""
        h = self.enter(functional.silu(self.norm_in(x)))  # (b, o, h, w)
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, dim=1)  # (b, o, 1, 1)
        h = self.norm_out(h) * (1 + scale) + shift  # (b, o, h, w)
        return self.skip(x) + self.leave(functional.silu(h))  # (b, o, h, w)


class Attention(nn.Module):
    """Self-attention over all pixels, with a residual connection."""

    def __init__(self, features: int, groups: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, features)
        self.qkv = nn.Conv2d(features, 3 * features, 1)
        self.leave = zeroed(nn.Conv2d(features, features, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Let every pixel of ``x`` ``(b, c, h, w)`` look at every other."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # (b, heads, h w, c / heads)
        seen = functional.scaled_dot_product_attention(q, k, v)  # (b, heads, h w, c / heads)
        return x + self.leave(seen.transpose(-1, -2).reshape(b, c, h, w))  # (b, c, h, w)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights and bias set to zero, so that it contributes nothing at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
