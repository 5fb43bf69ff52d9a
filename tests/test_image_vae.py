"""The autoencoder with an image for a latent: shapes, ranges, gradients, errors."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from fromnoise.networks import VAE, ImageVAE
from fromnoise.networks.vae import kl_from_standard
from fromnoise.targets import VariationalAutoencoder
from fromnoise.training import train

F64 = torch.float64
SMALL = {"event": (1, 8, 8), "channels": 2, "widths": (8, 16, 16)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(net):
    """Seeded weights away from their start at zero, so that every part matters."""
    with torch.no_grad():
        for k, p in enumerate(p for p in net.parameters() if p.ndim):
            scale = 1.0 if p.ndim == 1 else p[0].numel() ** -0.5
            p.copy_(0.7 * scale * torch.randn(p.shape, generator=seeded(k)))
    return net


@pytest.mark.parametrize(
    ("factor", "pad", "latent"), [(2, 0, (3, 14, 14)), (4, 0, (3, 7, 7)), (8, 2, (3, 4, 4))]
)
def test_latents_are_smaller_images(factor, pad, latent):
    net = ImageVAE(factor=factor, pad=pad, channels=3, widths=(8, 16))
    x = torch.rand(5, 1, 28, 28, generator=seeded()) * 2 - 1
    mean, log_variance = net.encode(x)
    assert net.latent_shape == mean.shape[1:] == log_variance.shape[1:] == latent
    assert net.decode(mean).shape == net(x).shape == x.shape
    assert torch.equal(net(x), net.decode(mean))
    assert net.sample(2, seeded(1)).shape == (2, 1, 28, 28)
    assert net.elbo(x, seeded(2)).shape == (5,)


def test_padding_is_background_and_is_cut_off():
    """What the padded network sees is the padded image, and it returns the middle."""
    narrow = awake(ImageVAE(event=(1, 4, 4), pad=2, channels=2, widths=(8,)))
    wide = ImageVAE(event=(1, 8, 8), channels=2, widths=(8,))
    wide.load_state_dict(narrow.state_dict())
    x = torch.rand(3, 1, 4, 4, generator=seeded()) * 2 - 1
    padded = -torch.ones(3, 1, 8, 8)
    padded[..., 2:6, 2:6] = x
    assert all(
        torch.equal(a, b) for a, b in zip(narrow.encode(x), wide.encode(padded), strict=True)
    )
    assert torch.equal(narrow(x), wide(padded)[..., 2:6, 2:6])


def test_the_log_variance_stays_in_its_range_and_keeps_a_gradient():
    net = awake(ImageVAE(**SMALL, log_variance_range=3.0)).double()
    x = torch.randn(4, 1, 8, 8, generator=seeded(), dtype=F64)
    last = net.encoder[-1]
    with torch.no_grad():
        last.bias[2:] = torch.tensor([12.0, -12.0])  # raw outputs well outside the range
    log_variance = net.encode(x)[1]
    assert bool((log_variance.abs() < 3.0).all() and log_variance.abs().max() > 2.9)
    log_variance.sum().backward()
    assert bool((last.bias.grad[2:] > 0).all())  # a clamp would give 0
    with torch.no_grad():
        last.weight.mul_(0.01), last.bias.zero_()
    # r tanh(raw / r) = raw - raw^3 / 3 r^2 + ...
    raw = net.encoder(x).chunk(2, dim=1)[1]
    assert bool(((net.encode(x)[1] - raw).abs() <= raw.abs() ** 3 / 27 + 1e-15).all())


def test_kl_agrees_with_torch():
    mean, log_variance = torch.randn(2, 6, 3, 2, 2, generator=seeded(3), dtype=F64)
    q = Normal(mean, (0.5 * log_variance).exp())
    p = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = kl_divergence(q, p).sum((1, 2, 3))
    assert torch.allclose(kl_from_standard(mean, log_variance), expected, rtol=1e-13)
    assert torch.equal(kl_from_standard(0 * mean, 0 * mean), torch.zeros(6, dtype=F64))


def test_the_likelihood_agrees_with_torch():
    net = awake(ImageVAE(**SMALL, noise=0.3)).double()
    x = torch.randn(4, 1, 8, 8, generator=seeded(), dtype=F64)
    z = torch.randn(4, *net.latent_shape, generator=seeded(1), dtype=F64)
    expected = Normal(net.decode(z), net.noise.sqrt()).log_prob(x).sum((1, 2, 3))
    assert torch.allclose(net.log_likelihood(x, z), expected, rtol=1e-13)


def test_the_gradient_of_the_bound_agrees_with_differences():
    """Central differences of step h in float64: error of order h^2, and round-off / h."""
    net = awake(ImageVAE(**SMALL, factor=4)).double()
    x = torch.rand(3, 1, 8, 8, generator=seeded(), dtype=F64) * 2 - 1

    def loss():
        return VariationalAutoencoder().loss(net, x, seeded(5))

    loss().backward()
    h = 1e-6
    for k, p in enumerate(net.parameters()):
        direction = torch.randn(p.shape, generator=seeded(100 + k), dtype=F64)
        with torch.no_grad():
            p += h * direction
            up = loss().item()
            p -= 2 * h * direction
            down = loss().item()
            p += h * direction
        found = (p.grad * direction).sum().item()
        assert (up - down) / (2 * h) == pytest.approx(found, rel=1e-5, abs=1e-7)


def test_the_scale_of_the_noise_may_be_fixed():
    fixed, learned = (ImageVAE(**SMALL, learn_noise=flag, noise=0.2) for flag in (False, True))
    x = torch.rand(4, 1, 8, 8, generator=seeded()) * 2 - 1
    settings = {"steps": 3, "batch_size": 4, "lr": 0.1, "progress": False}
    after = [train(n, VariationalAutoencoder(), x, **settings).net for n in (fixed, learned)]
    assert after[0].noise.item() == pytest.approx(0.2)
    assert abs(after[1].noise.item() - 0.2) > 0.01


def test_the_layout_of_the_image_is_kept():
    """A change in one corner moves the latent there, and not at the far end (receptive field)."""
    net = awake(ImageVAE(event=(1, 64, 64), factor=2, channels=1, widths=(8,)))
    for layer in net.modules():  # group norms mix all places through their two moments
        if isinstance(layer, torch.nn.GroupNorm):
            layer.forward = lambda h: h
    x = torch.zeros(1, 1, 64, 64)
    changed = x.clone()
    changed[..., :2, :2] = 1.0
    moved = (net.encode(changed)[0] - net.encode(x)[0])[0, 0].abs()
    assert moved[0, 0] > 0 and moved[8:].max() == 0 and moved[:, 8:].max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 3}, "factor is 3: choose 2, 4 or 8"),
        ({"factor": 8}, r"sides that are multiples of factor=8 .* \(2 takes 28 to 32\)"),
        ({"event": (28, 28)}, r"event is \(28, 28\)"),
        ({"channels": 0}, "channels=0"),
        ({"blocks": 0}, "blocks=0"),
        ({"pad": -1}, "pad=-1"),
        ({"log_variance_range": 0.0}, "log_variance_range=0.0"),
        ({"widths": (12,)}, r"widths is \(12,\)"),
        ({"widths": ()}, r"widths is \(\)"),
        ({"noise": 0.0}, "noise is 0.0"),
    ],
)
def test_bad_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        ImageVAE(**options)


def test_bad_inputs():
    net = ImageVAE(**SMALL)
    with pytest.raises(ValueError, match=r"x has shape \(2, 1, 28, 28\): .*event=\(1, 28, 28\)"):
        net.encode(torch.zeros(2, 1, 28, 28))
    with pytest.raises(ValueError, match=r"z has shape \(2, 8\): this autoencoder decodes"):
        net.decode(torch.zeros(2, 8))
    with pytest.raises(TypeError):
        net.encode(torch.zeros(2, 1, 8, 8, dtype=F64))
    with pytest.raises(TypeError):
        net.decode(torch.zeros(2, *net.latent_shape, dtype=F64))


def test_flat_latents_have_a_shape_too():
    net = VAE((3,), latent=2, hidden=8)
    assert net.latent_shape == (2,) and net.latent == 2
