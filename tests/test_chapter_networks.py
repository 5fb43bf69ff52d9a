"""What the chapter on networks and training craft claims, measured."""

import math

import pytest
import torch
from torch.nn import functional

from fromnoise import checkpoints, roofline
from fromnoise.networks import DiT, UNet
from fromnoise.networks.cost import (
    dit_activation_bytes,
    dit_flops,
    parameter_count,
    saved_bytes,
    unet_flops,
)
from fromnoise.networks.dit import grid_angles, rotated

D = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# Attention ---------------------------------------------------------------------------------------


def test_scores_have_the_variance_of_the_width():
    """`prp-attention-scale`, also for laws that are not normal: 4.5 standard errors, odds 1e-5."""
    n = 20_000
    for d in (1, 5, 40):
        q = torch.randn(n, d, generator=seeded(d), dtype=D)
        k = (torch.rand(n, d, generator=seeded(d + 1), dtype=D) - 0.5) * math.sqrt(12)
        squared = (q * k).sum(1).square()
        assert abs(squared.mean() - d) < 4.5 * squared.std() / math.sqrt(n)


@pytest.mark.parametrize("blind", [True, False])
def test_a_transformer_without_positions_does_not_know_places(blind):
    """`prp-attention-equivariance`: permuted patches give permuted patches, of the whole net."""
    torch.manual_seed(0)
    net = DiT(size=12, patch=4, dim=16, depth=2, heads=2).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=seeded(p.numel()), dtype=D))
        if blind:
            net.positions.zero_()
    x = torch.randn(2, 1, 12, 12, generator=seeded(3), dtype=D)
    order = torch.randperm(9, generator=seeded(4))

    def permuted(x):
        tokens = functional.unfold(x, 4, stride=4)
        return functional.fold(tokens[..., order], (12, 12), 4, stride=4)

    gap = (net(permuted(x), 0.3) - permuted(net(x, 0.3))).abs().max().item()
    assert (gap < 1e-12) == blind


def test_rotary_scores_are_the_same_for_all_pairs_with_one_offset():
    """`prp-rotary` on a grid: row and column differences, and nothing else."""
    angles = grid_angles(4, 8).double()
    turn = torch.cat([angles.cos(), angles.sin()], 1)
    q, k = torch.randn(2, 16, generator=seeded(5), dtype=D)
    scores = rotated(q.expand(16, 16), turn) @ rotated(k.expand(16, 16), turn).T
    places = torch.stack([torch.arange(16) // 4, torch.arange(16) % 4], 1)
    by_offset = {}
    for i in range(16):
        for j in range(16):
            offset = tuple((places[i] - places[j]).tolist())
            by_offset.setdefault(offset, []).append(scores[i, j].item())
    assert max(max(v) - min(v) for v in by_offset.values()) < 1e-5  # angles are single precision
    assert len(by_offset) == 49 and by_offset[0, 1][0] != pytest.approx(by_offset[1, 0][0])


# The start ---------------------------------------------------------------------------------------


def test_two_zeros_on_one_path_never_wake():
    """The pitfall and `exr-two-zeros`: scale -1 at the end, so that "last" sees zeros."""
    torch.manual_seed(0)
    net = DiT(size=8, patch=2, dim=16, depth=1, heads=2).double()
    with torch.no_grad():
        net.modulate.bias[:16] = -1.0
    x, y = torch.randn(2, 8, 1, 8, 8, generator=seeded(5), dtype=D)
    for _ in range(4):
        net.zero_grad()
        (net(x, 0.4) - y).square().mean().backward()
        assert {n for n, p in net.named_parameters() if p.grad.any()} == {"last.bias"}
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.1 * p.grad


def test_adam_wakes_the_network_in_the_same_three_steps():
    """`prp-adaln-zero`, its last sentence, with a label: what has gradient 0 keeps its bits."""
    torch.manual_seed(0)
    net = DiT(size=8, patch=2, dim=16, depth=2, heads=2, classes=3).double()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.0)
    x, y = torch.randn(2, 6, 1, 8, 8, generator=seeded(7), dtype=D)
    moved = set()
    for expected in (
        {"last"},
        {"last", "modulate", "first", "gates"},
        {"last", "modulate", "first", "gates", "scales", "inside", "time", "label"},
    ):
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        optimizer.zero_grad()
        (net(x, 0.4, torch.arange(6) % 3) - y).square().mean().backward()
        optimizer.step()
        for name, p in net.named_parameters():
            changed = p.detach() != before[name]
            if ".modulate." in name:
                sixths = changed.unflatten(0, (6, 16))
                moved |= {"gates"} if sixths[[2, 5]].any() else set()
                moved |= {"scales"} if sixths[[0, 1, 3, 4]].any() else set()
            elif changed.any():
                moved.add("inside" if name.startswith("blocks") else name.partition(".")[0])
        assert moved == expected


# Counting ----------------------------------------------------------------------------------------


def test_the_registered_networks_have_equal_operations():
    """57 and 56 million for an image, and twice as many parameters in one."""
    unet, dit = (checkpoints.load(n).net for n in ("digits-conditional", "digits-dit"))
    assert unet_flops(unet, 28, 28) == 57_194_752
    assert dit_flops(dit) == pytest.approx(57_194_752, rel=0.03)
    assert parameter_count(dit) / parameter_count(unet) == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize(
    ("dim", "depth", "heads", "patch", "published"),
    [(1152, 28, 16, 2, 118.64), (1152, 28, 16, 4, 29.05), (384, 12, 6, 2, 6.06)],
)
def test_published_counts_are_multiplications_with_their_additions(
    dim, depth, heads, patch, published
):
    """Peebles & Xie 2023, Table 4: "Gflops" of DiT-XL/2, XL/4 and S/2, half of ours."""
    with torch.device("meta"):
        net = DiT(4, 32, patch, dim, depth, heads, outputs=8, classes=1000)
    assert dit_flops(net) / 2e9 == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("widths", [(16,), (16, 24), (8, 16, 40)])
def test_operations_of_a_unet_in_closed_form(widths, blocks):
    """`eq-unet-flops`, written with loops, against the count layer by layer."""
    net = UNet(channels=2, widths=widths, blocks=blocks, embedding=24, heads=4, outputs=3)
    pixels = [16 * 8 // 4**level for level in range(len(widths))]
    total = sum(blocks * (94 * w * w * n + 8 * 24 * w) for w, n in zip(widths, pixels, strict=True))
    for k in range(len(widths) - 1):
        total += 22.5 * widths[k] * widths[k + 1] * pixels[k]
    w, n = widths[-1], pixels[-1]
    total += 44 * w * w * n + 4 * w * n * n + 4 * 24 * w
    total += 18 * (2 + 3) * 4 * widths[0] * pixels[0] + 2 * 64 * 24 + 2 * 24**2
    assert unet_flops(net, 32, 16) == total


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("remember", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"dim": 32, "depth": 2, "heads": 2},
        {"dim": 24, "depth": 3, "heads": 3, "ratio": 2.0, "classes": 5},
        {"dim": 16, "depth": 1, "heads": 4, "patch": 2, "channels": 3, "outputs": 6},
    ],
)
def test_bytes_of_activations_are_exact(options, remember, dtype):
    """`prp-dit-memory` with both ends, to the byte."""
    net = DiT(**{"patch": 7, **options}, remember=remember).to(dtype)
    x = torch.randn(3, options.get("channels", 1), 28, 28, dtype=dtype)
    label = torch.arange(3) if "classes" in options else None
    found = saved_bytes(net, lambda: net(x, torch.rand(3, dtype=dtype), label))
    assert found == 3 * dit_activation_bytes(net, size=x.element_size())


def test_bytes_of_activations_need_what_the_formula_is_for():
    with pytest.raises(ValueError, match="context"):
        dit_activation_bytes(DiT(context=8))
    with pytest.raises(ValueError, match="sincos"):
        dit_activation_bytes(DiT(positions="rotary"))


def test_saved_bytes_counts_each_storage_once_and_no_weights():
    layer = torch.nn.Linear(5, 5, bias=False)
    x = torch.randn(3, 5, requires_grad=True)
    assert saved_bytes(layer, lambda: layer(x)) == 4 * 15
    assert saved_bytes(layer, lambda: layer(x) + layer(x)) == 4 * 15
    assert saved_bytes(layer, lambda: layer(x).exp()) == 4 * 30


@pytest.mark.parametrize("depth", [4, 16, 36])
def test_the_best_segment_among_whole_numbers(depth):
    """`prp-checkpointing`: no divisor of the depth holds less than the real minimum."""
    for ratio in (1.0, 4.0, 20.0):
        held = {k: depth / k + k * ratio for k in range(1, depth + 1) if depth % k == 0}
        least, best = 2 * math.sqrt(depth * ratio), math.sqrt(depth / ratio)
        assert min(held.values()) >= least * (1 - 1e-12)
        if best in held:
            assert held[best] == pytest.approx(least)
        if depth <= 2 * ratio:
            assert min(held, key=held.get) == 1


def test_computing_again_takes_a_fourth_pass():
    """`prp-checkpointing`: 4 F in place of 3 F for a block, by torch's counter."""

    def counted(depth, remember):
        torch.manual_seed(0)
        net = DiT(size=8, patch=2, dim=16, depth=depth, heads=2, remember=remember)
        x = torch.randn(2, 1, 8, 8, generator=seeded(9))
        return roofline.counted_flops(lambda: net(x, 0.5).sum().backward())

    kept, again = (counted(3, remember) - counted(2, remember) for remember in (True, False))
    assert 3 * again == 4 * kept


# Training ----------------------------------------------------------------------------------------


def test_adams_first_step_does_not_know_the_size_of_the_gradient():
    """`prp-adam-first-step`, by torch's AdamW, for four sizes and two pairs of decays."""
    gradient = torch.tensor([1e-6, -1e-2, 3.0, -1e4], dtype=D)
    for betas in ((0.9, 0.999), (0.5, 0.9)):
        p = torch.zeros(4, dtype=D, requires_grad=True)
        optimizer = torch.optim.AdamW([p], lr=1e-3, betas=betas, eps=1e-8, weight_decay=0.0)
        p.grad = gradient.clone()
        optimizer.step()
        expected = -1e-3 * gradient / (gradient.abs() + 1e-8)
        assert torch.allclose(p.detach(), expected, rtol=1e-10)


def test_adams_first_gradient_in_the_third_step_moves_by_two_thirds():
    """The text after `prp-adaln-zero`: after gradients 0 and 0 the step is 0.64 of the rate."""
    p = torch.zeros(2, dtype=D, requires_grad=True)
    optimizer = torch.optim.AdamW([p], lr=1.0, betas=(0.9, 0.999), eps=1e-12, weight_decay=0.0)
    for g in (0.0, 0.0, 1.0):
        p.grad = g * torch.tensor([3e-3, -2.0], dtype=D)
        optimizer.step()
    assert p.detach().tolist() == pytest.approx([-0.6388, 0.6388], abs=1e-4)


def test_adams_second_step_knows_whether_the_sign_has_changed():
    """`exr-adam-second`: (1 - b) / (1 + b) of the first, and back."""
    p = torch.zeros(1, dtype=D, requires_grad=True)
    optimizer = torch.optim.AdamW([p], lr=1.0, betas=(0.9, 0.999), eps=0.0, weight_decay=0.0)
    places = []
    for g in (2.0, -2.0):
        p.grad = torch.tensor([g], dtype=D)
        optimizer.step()
        places.append(p.item())
    assert places[1] - places[0] == pytest.approx(0.1 / 1.9)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_small_changes_are_lost(dtype, bits):
    """`prp-low-precision` on numbers of all sizes: below the bound never, far above it always."""
    w = (torch.randn(5000, generator=seeded(6), dtype=D) * 3).to(dtype).double()
    w = w[w.abs() > 1e-3]
    lost = 2.0 ** -(bits + 1)
    for sign in (1, -1):
        assert torch.equal((w + sign * 0.999 * lost * w).to(dtype).double(), w)
        assert ((w + sign * 4.01 * lost * w).to(dtype).double() != w).all()


def test_gradients_of_parts_add_up_with_their_sizes():
    """`prp-accumulation` on a network: weights by size are right, equal weights are not."""
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)
    ).double()
    x = torch.randn(12, 3, generator=seeded(8), dtype=D)

    def gradient(rows):
        net.zero_grad()
        net(x[rows]).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    whole = gradient(slice(None))
    parts = gradient(slice(0, 9)), gradient(slice(9, 12))
    assert torch.allclose(0.75 * parts[0] + 0.25 * parts[1], whole, rtol=1e-12)
    assert not torch.allclose(0.5 * parts[0] + 0.5 * parts[1], whole, rtol=1e-2)
