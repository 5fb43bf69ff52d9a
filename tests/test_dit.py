"""The diffusion transformer: what it is at the start, positions, cost, precision, bad input."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fromnoise.networks import DiT, UNet
from fromnoise.networks.cost import (
    dit_flops,
    parameter_count,
    training_bytes,
    unet_flops,
)
from fromnoise.networks.dit import grid_angles, images, patches, rotated

SMALL = {"size": 8, "patch": 2, "dim": 32, "depth": 2, "heads": 2}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def awake(net):
    """Seeded weights away from their start at zero, so that every part matters."""
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            scale = 1.0 if p.ndim == 1 else p.shape[1] ** -0.5
            p.copy_(0.5 * scale * torch.randn(p.shape, generator=seeded(k)))
    return net


def test_patches_are_inverted_by_images():
    x = torch.randn(3, 2, 12, 12, generator=seeded())
    tokens = patches(x, 4)
    assert tokens.shape == (3, 9, 32)
    assert torch.equal(images(tokens, 4, 3), x)
    # the first token is the upper left corner, the second its right neighbour
    assert set(tokens[0, 1].tolist()) == set(x[0, :, :4, 4:8].flatten().tolist())


def test_untrained_network_returns_zero_and_blocks_are_the_identity():
    net = DiT(**SMALL)
    x = torch.randn(2, 1, 8, 8, generator=seeded())
    assert torch.equal(net(x, 0.3), torch.zeros_like(x))
    h = torch.randn(2, 16, 32, generator=seeded(1))
    assert torch.equal(net.blocks[0](h, torch.randn(2, 32, generator=seeded(2)), None, None), h)


def test_rotary_products_depend_on_the_difference_of_places_alone():
    """`prp-rotary`, to the float32 in which the angles are kept."""
    angles = grid_angles(5, 8)
    turn = torch.cat([angles.cos(), angles.sin()], 1).double()
    q, k = torch.randn(2, 16, generator=seeded(3), dtype=torch.float64)
    turned_q = rotated(q.expand(1, 1, 25, 16), turn)[0, 0].unflatten(0, (5, 5))
    turned_k = rotated(k.expand(1, 1, 25, 16), turn)[0, 0].unflatten(0, (5, 5))
    scores = torch.einsum("ijd,kld->ijkl", turned_q, turned_k)
    for i, j in ((0, 0), (1, 2)):
        assert scores[i, j, i + 2, j + 1].item() == pytest.approx(
            scores[0, 0, 2, 1].item(), abs=1e-5
        )
    assert torch.allclose(turned_q.norm(dim=-1), q.norm().expand(5, 5))


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_tokens_know_their_places(positions):
    """Moving the image by a patch does not move the result: positions break the symmetry."""
    net = awake(DiT(**SMALL, positions=positions))
    x = torch.randn(1, 1, 8, 8, generator=seeded(4))
    moved = net(x.roll(2, -1), 0.4).roll(-2, -1)
    assert (moved - net(x, 0.4)).abs().max() > 1e-3


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_labels_context_and_outputs(positions):
    net = awake(DiT(**SMALL, positions=positions, classes=3, context=5, outputs=2))
    x = torch.randn(4, 1, 8, 8, generator=seeded(5))
    text = torch.randn(4, 7, 5, generator=seeded(6))
    t = torch.linspace(0, 1, 4)
    y = net(x, t, torch.tensor([0, 1, 2, 3]), text)
    assert y.shape == (4, 2, 8, 8)
    assert (y - net(x, t, None, text)).abs().max() > 1e-3
    assert (y - net(x, t, torch.tensor([0, 1, 2, 3]), 2 * text)).abs().max() > 1e-3
    # rows do not interact
    alone = net(x[1:2], t[1:2], torch.tensor([1]), text[1:2])
    assert (alone - y[1:2]).abs().max() < 1e-5


def test_checkpointing_gives_the_same_gradients():
    x, t = torch.randn(2, 1, 8, 8, generator=seeded(7)), torch.tensor([0.2, 0.7])
    grads = []
    for remember in (True, False):
        net = awake(DiT(**SMALL, remember=remember))
        net(x, t).square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_precisions(dtype):
    net = awake(DiT(**SMALL)).to(dtype)
    x = torch.randn(2, 1, 8, 8, generator=seeded(8)).to(dtype)
    y = net(x, 0.5)
    assert y.dtype == dtype and torch.isfinite(y).all()


def test_compiles_without_graph_breaks():
    net = awake(DiT(**SMALL))
    x, t = torch.randn(2, 1, 8, 8, generator=seeded(9)), torch.tensor([0.1, 0.9])
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch.compile(net, fullgraph=True, backend="eager")(x, t)
        assert (found - net(x, t)).abs().max() < 1e-5


def counted(run):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


class Explicit:
    """Attention written out, where the counter does not know the fused kernel of a CPU."""

    def __enter__(self):
        self.backends = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        self.backends.__enter__()

    def __exit__(self, *_):
        self.backends.__exit__(None, None, None)


@pytest.mark.parametrize("options", [{}, {"context": 6}, {"positions": "rotary", "classes": 4}])
def test_flops_of_the_transformer_agree_with_the_counter(options):
    net = DiT(size=28, patch=4, dim=64, depth=3, heads=4, **options)
    x = torch.zeros(1, 1, 28, 28)
    context = torch.zeros(1, 9, 6) if "context" in options else None
    with Explicit():
        found = counted(lambda: net(x, 0.5, None, context))
    assert dit_flops(net, 9 if context is not None else 0) == pytest.approx(found, rel=0.01)


def test_flops_of_the_unet_agree_with_the_counter():
    net = UNet(widths=(32, 64), blocks=2)
    with Explicit():
        found = counted(lambda: net(torch.zeros(1, 1, 28, 28), 0.5))
    assert unet_flops(net, 28, 28) == pytest.approx(found, rel=0.01)


def test_bytes_of_training():
    net = DiT(**SMALL)
    held = training_bytes(net)
    assert held["weights"] == 4 * parameter_count(net)
    assert held["total"] == 5 * held["weights"]
    assert training_bytes(net.half())["weights"] == 2 * parameter_count(net)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DiT(size=9, patch=2), "divide"),
        (lambda: DiT(dim=30, heads=4), "divide"),
        (lambda: DiT(dim=24, heads=4, positions="rotary"), "multiple of 4"),
        (lambda: DiT(positions="learned"), "positions"),
        (lambda: DiT(**SMALL)(torch.zeros(1, 1, 10, 10), 0.5), "size"),
        (lambda: DiT(**SMALL)(torch.zeros(1, 1, 8, 8), 0.5, 1), "labels"),
        (lambda: DiT(**SMALL)(torch.zeros(1, 1, 8, 8), 0.5, None, torch.zeros(1, 2, 3)), "without"),
        (lambda: DiT(**SMALL, context=3)(torch.zeros(1, 1, 8, 8), 0.5), "context"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
