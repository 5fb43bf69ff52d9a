"""What a network costs: floating-point operations by formula, and bytes that training holds.

A multiplication and an addition are two operations; only matrix products and convolutions are
counted, as in `torch.utils.flop_counter` (norms, activations and sums are a few per cent more).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fromnoise.networks.dit import DiT
from fromnoise.networks.unet import UNet


def linear_flops(inputs: int, outputs: int, tokens: int = 1) -> int:
    """2 x inputs x outputs for each token."""
    return 2 * tokens * inputs * outputs


def attention_flops(tokens: int, dim: int, seen: int | None = None) -> int:
    """Scores and their use, 4 x tokens x seen x dim, where each looks at `seen` (all of them)."""
    return 4 * tokens * (tokens if seen is None else seen) * dim


def dit_flops(net: DiT, context_tokens: int = 0) -> int:
    """Operations of one forward pass for one image (`prp-dit-flops`).

    With n tokens of width d, depth L and an MLP of width m d:
    L (8 n d² + 4 n m d² + 4 n² d + 12 d²), and the two ends.

    Args:
        net: the network.
        context_tokens: length of the context, if it takes one.
    """
    n, d = net.side**2, net.first.out_features
    hidden = net.blocks[0].mlp[0].out_features
    block = (
        linear_flops(d, 3 * d, n)
        + attention_flops(n, d)
        + linear_flops(d, d, n)
        + 2 * linear_flops(d, hidden, n)
        + linear_flops(d, 6 * d)
    )
    if net.blocks[0].cross is not None:
        width = net.blocks[0].cross.kv.in_features
        block += (
            2 * linear_flops(d, d, n)
            + linear_flops(width, 2 * d, context_tokens)
            + attention_flops(n, d, context_tokens)
        )
    ends = (
        linear_flops(net.first.in_features, d, n)
        + linear_flops(d, 2 * d)
        + linear_flops(d, net.last.out_features, n)
        + linear_flops(net.time.frequencies, d)
        + linear_flops(d, d)
    )
    return len(net.blocks) * block + ends


def conv_flops(layer: nn.Conv2d, height: int, width: int) -> int:
    """2 x outputs x inputs x kernel area for each of height x width pixels of the result."""
    area = layer.kernel_size[0] * layer.kernel_size[1]
    return 2 * layer.out_channels * layer.in_channels // layer.groups * area * height * width


def unet_flops(net: UNet, height: int, width: int) -> int:
    """Operations of one forward pass for one image of this size, layer by layer.

    `prp-unet-flops` has the sum in closed form.
    """
    h, w = height // net.patch, width // net.patch

    def block(part: nn.Module, level: int) -> int:
        a, b = h >> level, w >> level
        total = conv_flops(part.enter, a, b) + conv_flops(part.leave, a, b)
        total += linear_flops(part.modulate.in_features, part.modulate.out_features)
        return total + (conv_flops(part.skip, a, b) if isinstance(part.skip, nn.Conv2d) else 0)

    total = conv_flops(net.first, h, w) + conv_flops(net.last, h, w)
    for level, (down, up) in enumerate(zip(net.down, net.up, strict=True)):
        total += sum(block(part, level) for part in [*down, *up])
    for level, (shrink, grow) in enumerate(zip(net.shrink, net.grow, strict=True)):
        total += conv_flops(shrink, h >> (level + 1), w >> (level + 1))
        total += conv_flops(grow, h >> level, w >> level)
    last = len(net.down) - 1
    a, b = h >> last, w >> last
    total += block(net.middle, last)
    total += conv_flops(net.attention.qkv, a, b) + conv_flops(net.attention.leave, a, b)
    total += attention_flops(a * b, net.attention.qkv.in_channels)
    embedding = net.middle.modulate.in_features
    return (
        total + linear_flops(net.time.frequencies, embedding) + linear_flops(embedding, embedding)
    )


def parameter_count(net: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def training_bytes(net: nn.Module, averages: int = 1) -> dict[str, int]:
    """Bytes that training holds whatever the batch: weights, gradients, Adam's two, averages.

    Args:
        net: in the precision it is trained in.
        averages: how many moving averages are kept.
    """
    sizes = [p.numel() * p.element_size() for p in net.parameters() if p.requires_grad]
    weights = sum(sizes)
    return {
        "weights": weights,
        "gradients": weights,
        "optimizer": 2 * weights,
        "averages": averages * weights,
        "total": (4 + averages) * weights,
    }


def dit_activation_bytes(net: DiT, size: int = 4) -> int:
    """Bytes that one image's forward pass keeps for the backward pass (`prp-dit-memory`).

    With n tokens of width d, h heads and an MLP of width m d, a block keeps
    (12 + 2 m) n d + (h + 4) n + 8 d numbers, or n d if its activations are computed again
    (``remember=False``); the ends keep 3 n d + 2 n + n c + 5 d + f, with c numbers in a patch and f
    sinusoids of the time. A label is an integer of 8 bytes.

    Args:
        net: the network, told a label if it has classes.
        size: bytes of a number: 4 or 8, for weights and inputs in one precision. (In half precision
            the statistics of norms and attention stay in single precision.)

    Raises:
        ValueError: the network looks at a context or rotates its positions.
    """
    if net.blocks[0].cross is not None or net.rotary:
        raise ValueError("net: the formula is for no context and positions='sincos'")
    n, d = net.side**2, net.first.out_features
    hidden, heads = net.blocks[0].mlp[0].out_features, net.blocks[0].heads
    block = n * (12 * d + 2 * hidden) + (heads + 4) * n + 8 * d if net.remember else n * d
    ends = n * (3 * d + 2 + net.first.in_features) + 5 * d + net.time.frequencies
    label = 0 if net.label is None else 8
    return size * (len(net.blocks) * block + ends) + label


def saved_bytes(net: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes of activations that a forward pass keeps for the backward pass.

    Each storage counts once, however many tensors show it; weights do not count, nor does what an
    activation checkpoint will compute again.

    Args:
        net: the network, whose parameters are not activations.
        run: the forward pass; its result's graph is what holds the tensors.
    """
    weights = {p.untyped_storage().data_ptr() for p in [*net.parameters(), *net.buffers()]}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = run()  # alive until the end, so that no address is used twice
    del result
    return sum(kept.values())
