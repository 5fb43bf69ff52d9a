"""Ceilings of a machine, and what pieces of work do to them."""

import math

import pytest
import torch
from torch.nn import functional

from fromnoise import roofline
from fromnoise.networks import DiT, UNet
from fromnoise.networks.cost import dit_flops, unet_flops
from fromnoise.roofline import KINDS, Ceiling


def test_least_time_is_that_of_the_slower_part():
    machine = Ceiling(peak=100.0, bandwidth=10.0)
    assert machine.ridge == 10.0
    assert machine.seconds(1000.0, 10.0) == 10.0  # arithmetic
    assert machine.seconds(10.0, 1000.0) == 100.0  # memory
    assert machine.seconds(100.0, 10.0) == 1.0  # both, at the ridge


@pytest.mark.parametrize("name", ["peak", "bandwidth"])
def test_a_ceiling_is_positive(name):
    with pytest.raises(ValueError, match=name):
        Ceiling(**{"peak": 1.0, "bandwidth": 1.0, name: 0.0})


def test_the_t4_of_the_data_sheet():
    """65 TFLOP/s in half precision with tensor cores over 320 GB/s."""
    assert roofline.T4.ridge == pytest.approx(203.125)


def test_intensity_of_products():
    """`prp-intensity`: its formula for square weights, and its limits."""
    n, d = 7, 5
    assert roofline.matmul_intensity(n, d, d) == pytest.approx(
        2 * n * d**2 / (4 * (2 * n * d + d**2))
    )
    assert roofline.matmul_intensity(10**9, 64, 64, size=2) == pytest.approx(64 / 2, rel=1e-5)
    assert roofline.matmul_intensity(1, 10**6, 10**6) == pytest.approx(2 / 4, rel=1e-5)
    assert roofline.matmul_intensity(96, 96, 96) == pytest.approx(2 * 96 / 12)


def test_tally_counts_products_and_what_they_move():
    a, b = torch.ones(8, 16), torch.ones(16, 4)
    found = roofline.tally(lambda: (a @ b).relu())
    product, rest = found["products"], found["the rest"]
    assert (product.calls, product.flops) == (1, 2 * 8 * 16 * 4)
    assert product.moved == 4 * (8 * 16 + 16 * 4 + 8 * 4)
    assert product.flops / product.moved == pytest.approx(roofline.matmul_intensity(8, 16, 4))
    assert (rest.calls, rest.flops, rest.moved) == (1, 0, 2 * 4 * 8 * 4)


def test_views_move_nothing_and_expanded_tensors_what_they_show():
    a = torch.ones(6, 4)
    assert sum(w.calls for w in roofline.tally(lambda: a.T.reshape(4, 6)[1:]).values()) == 0
    moved = roofline.tally(lambda: a + torch.ones(1, 1).expand(6, 4))["the rest"].moved
    assert moved == 4 * (24 + 24 + 1) + 4  # read, written and shown; and the one that is made
    inplace = roofline.tally(lambda: a.add_(1.0))["the rest"].moved
    assert inplace == 4 * 24  # operand and result are one tensor


def test_least_times_add_up_operation_by_operation():
    """`prp-roofline`: at least the bound of the sums."""
    machine = Ceiling(peak=1e9, bandwidth=1e9)
    a = torch.ones(64, 64)
    found = roofline.tally(lambda: (a @ a).exp(), machine)
    work = list(found.values())
    assert found["products"].least == pytest.approx(2 * 64**3 / 1e9)
    assert found["the rest"].least == pytest.approx(2 * 4 * 64**2 / 1e9)
    flops, moved = sum(w.flops for w in work), sum(w.moved for w in work)
    assert sum(w.least for w in work) >= machine.seconds(flops, moved)


def test_tally_of_attention_forward_and_backward():
    """Two products forward; the fused kernel computes the scores again: five backward."""
    q, k, v = (torch.randn(1, 2, 9, 4, requires_grad=True) for _ in range(3))
    forward = 2 * 2 * 2 * 9 * 9 * 4

    def run():
        functional.scaled_dot_product_attention(q, k, v).sum().backward()

    found = roofline.tally(run)
    total = found["attention"].flops + found["products"].flops
    assert total in (forward * 7 // 2, 3 * forward)  # fused, or written out


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_a_step_is_three_forward_passes(name):
    """`prp-backward-flops`: but for the gradient in the images, and attention computed again."""
    net = UNet(widths=(16, 32)) if name == "unet" else DiT(dim=64, depth=2, heads=2)
    forward = unet_flops(net, 28, 28) if name == "unet" else dit_flops(net)
    x, t = torch.randn(4, 1, 28, 28), torch.rand(4)
    found = roofline.tally(lambda: net(x, t).square().mean().backward())
    assert sum(w.flops for w in found.values()) == pytest.approx(3 * 4 * forward, rel=0.05)
    assert roofline.counted_flops(lambda: net(x[:1], t[:1])) == pytest.approx(forward, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "products"),
        ("aten::mm.out", "products"),
        ("aten::mkldnn_convolution", "products"),
        ("aten::convolution_backward", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::native_layer_norm_backward", "norms"),
        ("NativeGroupNormBackward0", "norms"),
        ("aten::linalg_vector_norm", "the rest"),
        ("aten::silu", "the rest"),
    ],
)
def test_kinds(name, kind):
    assert roofline.kind_of(name) == kind


def test_profile_puts_time_where_work_is_done(capfd):
    a = torch.randn(96, 96)
    found = roofline.profile(lambda: (a @ a)[0].sum())
    assert tuple(found) == KINDS
    assert found["products"] > 0 and found["the rest"] > 0
    assert found["norms"] == found["attention"] == 0
    found = roofline.profile(lambda: functional.layer_norm(a, (96,)))
    assert found["norms"] > 0 and found["products"] == 0
    assert capfd.readouterr() == ("", "")


def test_ceilings_are_measured(monkeypatch):
    found = roofline.measure(side=64, length=2**12)
    assert math.isfinite(found.peak) and math.isfinite(found.bandwidth)
    ran = []
    monkeypatch.setattr(roofline, "seconds", lambda run, device: ran.append(run()) or 0.5)
    found = roofline.measure(side=64, length=2**12, dtype=torch.float64)
    product, copy = ran
    assert product.shape == (64, 64) and found.peak == 2 * 64**3 / 0.5
    # a copy reads and writes every byte
    assert copy.shape == (2**12,) and found.bandwidth == 2 * 8 * 2**12 / 0.5


def test_seconds_is_the_median_without_the_first_call(monkeypatch):
    durations, clock = iter([100.0, 3.0, 1.0, 2.0]), [0.0]

    def run():
        clock[0] += next(durations)

    monkeypatch.setattr(roofline.time, "perf_counter", lambda: clock[0])
    assert roofline.seconds(run, repeat=3) == 2.0
    with pytest.raises(ValueError, match="repeat"):
        roofline.seconds(run, repeat=0)
