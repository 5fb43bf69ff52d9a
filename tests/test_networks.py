"""Networks: shapes, dtypes, times, gradients and the errors that name what is wrong."""

import pytest
import torch

from fromnoise.networks import MLP, UNet
from fromnoise.networks.cost import saved_bytes
from fromnoise.networks.embeddings import sinusoids, time_vector
from fromnoise.networks.unet import Attention


def small_unet(**options):
    return UNet(**{"widths": (8, 16), "embedding": 16, "groups": 4, "heads": 2, **options})


def shaken(net):
    """The network with noise on every weight, so that zero-initialized layers say something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return net.eval()


NETS = {
    "mlp": (lambda: MLP(3, hidden=16, depth=2), (5, 3)),
    "unet": (small_unet, (5, 1, 28, 28)),
    "unet without patches": (lambda: small_unet(patch=1, channels=3), (5, 3, 8, 12)),
    "unet of three levels": (
        lambda: small_unet(widths=(8, 8, 16), patch=1, blocks=2),
        (5, 1, 8, 8),
    ),
}


@pytest.fixture(params=NETS.values(), ids=NETS.keys())
def case(request):
    build, shape = request.param
    torch.manual_seed(0)
    net = shaken(build())
    return net, torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_follow_x(case, dtype):
    net, x = case
    y = net.to(dtype)(x.to(dtype), 0.3)
    assert y.shape == x.shape and y.dtype == dtype and y.isfinite().all()


def test_every_form_of_time_means_the_same(case):
    net, x = case
    expected = net(x, 0.25)
    batch = torch.full((5,), 0.25)
    for t in (torch.tensor(0.25), batch, batch.reshape(5, *[1] * (x.ndim - 1)), torch.ones(1) / 4):
        assert torch.equal(net(x, t), expected)


def test_the_time_matters_and_items_do_not_mix(case):
    net, x = case
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    together = net(x, t)
    alone = torch.cat([net(x[i : i + 1], t[i]) for i in range(5)])
    # One item and five may go through different kernels: equal up to float32 rounding.
    assert torch.allclose(together, alone, atol=1e-4, rtol=1e-4)
    assert (net(x, 0.1) - net(x, 0.9)).abs().max() > 1e-3


def test_gradient_reaches_every_weight_and_x(case):
    net, x = case
    x.requires_grad_()
    net(x, torch.linspace(0, 1, 5)).square().sum().backward()
    assert x.grad.abs().sum() > 0
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_wrong_dtype_says_how_to_cast(case):
    net, x = case
    with pytest.raises(TypeError, match=r"x is torch.float64 but the weights are torch.float32"):
        net(x.double(), 0.5)


def test_wrong_number_of_times(case):
    net, x = case
    with pytest.raises(ValueError, match=r"t has shape \(3,\) but x has a batch of 5"):
        net(x, torch.zeros(3))


def test_an_untrained_unet_returns_zero():
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(small_unet()(x, 0.5), torch.zeros_like(x))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(2, 2\): this MLP takes \(batch, 3\)"):
        MLP(3)(torch.zeros(2, 2), 0.5)
    with pytest.raises(ValueError, match="multiples of 4"):
        small_unet()(torch.zeros(2, 1, 28, 30), 0.5)
    with pytest.raises(ValueError, match="this U-Net takes"):
        small_unet()(torch.zeros(2, 28, 28), 0.5)
    with pytest.raises(ValueError, match="this U-Net takes"):
        small_unet()(torch.zeros(2, 3, 28, 28), 0.5)


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="depth is 0"):
        MLP(2, depth=0)
    with pytest.raises(ValueError, match=r"multiple of groups=4"):
        small_unet(widths=(6, 16))
    with pytest.raises(ValueError, match=r"heads=3"):
        small_unet(heads=3)
    with pytest.raises(ValueError, match="dim is 5: it must be even"):
        sinusoids(torch.zeros(1), 5)


def test_sinusoids_tell_times_apart():
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    features = sinusoids(t, 16)
    assert features.shape == (1001, 16)
    assert torch.allclose(features.square().sum(1), torch.full((1001,), 8.0, dtype=t.dtype))
    assert torch.allclose(features[:, 0], t.cos()) and torch.allclose(features[:, 8], t.sin())
    distances = torch.cdist(features, features) + 10 * torch.eye(1001)
    assert distances.min() > 0.1  # neighbours a thousandth apart are far from equal


def test_time_vector_takes_the_dtype_of_x():
    t = time_vector(1, torch.zeros(3, 2, dtype=torch.float64))
    assert t.shape == (3,) and t.dtype == torch.float64


def test_attention_does_not_care_about_the_order_of_pixels():
    attention = shaken(Attention(8, groups=2, heads=2))
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    mixed = x.flatten(2)[:, :, order].reshape(2, 8, 4, 4)
    expected = attention(x).flatten(2)[:, :, order].reshape(2, 8, 4, 4)
    assert torch.allclose(attention(mixed), expected, atol=1e-5)


def test_unet_recomputes_to_the_same_gradients_with_less_kept():
    x, grads, kept = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(2)), [], []
    for remember in (True, False):
        torch.manual_seed(0)
        net = shaken(small_unet(remember=remember))
        kept.append(saved_bytes(net, lambda net=net: net(x, 0.3)))
        net(x, 0.3).square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
    assert kept[1] < kept[0] / 2
    for a, b in zip(*grads, strict=True):  # computed twice in one order: rounding at most
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_unet_in_half_precision_is_near_the_whole_one(dtype):
    torch.manual_seed(0)
    net = shaken(small_unet())
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(3))
    whole = net(x, 0.3)
    y = net.to(dtype)(x.to(dtype), 0.3)
    assert y.dtype == dtype
    # some thirty roundings one after the other, each of half a unit in the last place
    assert (y - whole).abs().max() < 30 * torch.finfo(dtype).eps * whole.abs().max()


def test_unet_takes_channels_last():
    torch.manual_seed(0)
    net = shaken(small_unet())
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(4))
    expected = net(x, 0.3)
    net = net.to(memory_format=torch.channels_last)
    seen = []
    for block in net.down:
        block[0].register_forward_hook(lambda _m, _i, h: seen.append(h))
    assert torch.allclose(net(x, 0.3), expected, atol=1e-5)
    # the features stay in that order between layers: nothing copies them back
    assert seen and all(h.is_contiguous(memory_format=torch.channels_last) for h in seen)


def test_unet_compiles_without_graph_breaks():
    torch.manual_seed(0)
    net = shaken(small_unet(classes=10))
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(5))
    t, labels = torch.tensor([0.1, 0.9]), torch.tensor([3, 7])
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch.compile(net, fullgraph=True, backend="eager")(x, t, labels)
        assert (found - net(x, t, labels)).abs().max() < 1e-5
