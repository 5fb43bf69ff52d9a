"""Measurements against their matrices, conditioning against exact posteriors, bad input."""

import math

import pytest
import torch

from fromnoise import grids, samplers
from fromnoise.distributions import Gaussian, GaussianMixture, laboratory
from fromnoise.editing import ConditionedField, dps, inpaint, loss_guidance, pigdm, sdedit
from fromnoise.fields import ExactField
from fromnoise.measurements import Blur, Downsample, Mask, Matrix
from fromnoise.paths import GaussianPath
from fromnoise.schedules import VP, CondOT

F64 = torch.float64
COV = torch.tensor([[1.0, 0.8], [0.8, 1.5]], dtype=F64)
MEAN = torch.tensor([0.3, -0.2], dtype=F64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=3):
    return torch.randn(n, 2, 8, 12, generator=seeded(1), dtype=F64)


TOOLS = {
    "mask": Mask((torch.rand(2, 8, 12, generator=seeded(2)) < 0.5).to(F64)),
    "blur": Blur(torch.rand(5, 5, generator=seeded(3), dtype=F64)),
    "down": Downsample(4),
}


@pytest.mark.parametrize("name", TOOLS)
def test_adjoint_and_solve(name):
    """<A x, y> = <x, A^T y>, and solve inverts a A A^T + b I on the range of A."""
    tool, x = TOOLS[name], images()
    y = tool.forward(torch.randn(x.shape, generator=seeded(4), dtype=F64))
    left = (tool.forward(x) * y).sum()
    right = (x * tool.adjoint(y)).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-12)
    again = tool.solve(0.7 * tool.forward(tool.adjoint(y)) + 0.2 * y, 0.7, 0.2)
    assert (again - y).abs().max() < 1e-11


def test_matrix_agrees_with_dense_algebra():
    a = torch.randn(2, 3, generator=seeded(5), dtype=F64)
    y = torch.randn(4, 2, generator=seeded(6), dtype=F64)
    tool = Matrix(a)
    exact = torch.linalg.solve(0.5 * a @ a.T + 0.1 * torch.eye(2, dtype=F64), y.T).T
    assert (tool.solve(y, 0.5, 0.1) - exact).abs().max() < 1e-12
    assert torch.allclose(tool.adjoint(y), y @ a)


def test_blur_is_a_convolution():
    kernel = torch.zeros(3, 3, dtype=F64)
    kernel[1, 2] = 1.0  # looks one pixel to the left: shifts the image right
    x = images()
    assert (Blur(kernel).forward(x) - x.roll(1, -1)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mask(torch.tensor([0.5])), "zeros and ones"),
        (lambda: Mask(torch.ones(2)).forward(torch.zeros(1, 3)), "shape"),
        (lambda: Blur(torch.ones(2, 2)), "odd"),
        (lambda: Downsample(5).forward(images()), "divide"),
        (lambda: Mask(torch.ones(2)).solve(torch.ones(1, 2), 0.0, 0.0), "not both"),
        (lambda: dps(lab(), Mask(torch.ones(2)), torch.ones(2), 0.0), "noise_std"),
        (lambda: pigdm(lab(), Mask(torch.ones(2)), torch.ones(2), -1.0), "noise_std"),
        (lambda: pigdm(lab(), Mask(torch.ones(2)), torch.ones(2), 0.1, 0.0), "data_std"),
        (lambda: inpaint(lab(), z(), [0.1, 0.9], z(), Mask(torch.ones(3))), "shape"),
        (lambda: inpaint(lab(), z(), [0.1, 0.9], z(), Mask(torch.ones(2)), rounds=0), "rounds"),
        (
            lambda: samplers.ddim(
                dps(lab(), Mask(torch.ones(2)), torch.ones(2), 1.0), z(), [0.0, 0.5]
            ),
            "no signal",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def lab():
    return ExactField(laboratory(), GaussianPath(CondOT()))


def z(n=5):
    return torch.randn(n, 2, generator=seeded(7), dtype=F64)


def normal_field(schedule):
    return ExactField(Gaussian(MEAN, COV), GaussianPath(schedule))


def posterior(y, std):
    gain = COV[:, 0] / (COV[0, 0] + std**2)
    return MEAN + gain * (y - MEAN[0]), COV - gain[:, None] * COV[:1]


def exact_conditioned(field, y, std):
    """`thm-linear-gaussian` with its own Sigma_t: the posterior's field, built by guidance."""

    def pull(denoised, point):
        v = point.alpha**2 * COV + point.sigma**2 * torch.eye(2, dtype=F64)
        spread = (point.sigma**2 * torch.linalg.solve(v, COV))[0, 0]
        residual = (y - denoised[:, :1]) / (spread + std**2)
        return torch.cat([residual, torch.zeros_like(residual)], 1)

    return ConditionedField(field, pull)


@pytest.mark.parametrize("schedule", [VP(), CondOT()], ids=lambda s: s.name)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_guided_field_is_the_field_of_the_posterior(schedule, t):
    """Denoiser, noise and velocity of N(mu, Sigma), at any place, to rounding."""
    y, std, x = 1.4, 0.2, z()
    guided = exact_conditioned(normal_field(schedule), y, std)
    exact = ExactField(Gaussian(*posterior(y, std)), GaussianPath(schedule))
    assert (guided.denoise(x, t) - exact.denoise(x, t)).abs().max() < 1e-10
    assert (guided.noise(x, t) - exact.noise(x, t)).abs().max() < 1e-10
    point = grids.Grid.point(schedule, t)
    found, wanted = guided.predict(x, point, "velocity"), exact.velocity(x, t)
    assert (found - wanted).abs().max() < 1e-8


def test_pigdm_is_exact_for_isotropic_data_and_dps_is_not():
    b, std, y = 1.7, 0.3, 1.2
    law = Gaussian(torch.zeros(2, dtype=F64), b * torch.eye(2, dtype=F64))
    field = ExactField(law, GaussianPath(CondOT()))
    tool, value = Matrix(torch.tensor([[0.6, 0.8]], dtype=F64)), torch.tensor([y], dtype=F64)
    gain = b * tool.matrix.T / (b + std**2)
    cov = b * torch.eye(2, dtype=F64) - gain @ tool.matrix * b
    exact = ExactField(Gaussian(gain[:, 0] * y, cov), GaussianPath(CondOT()))
    x = z()
    for t in (0.05, 0.4, 0.9):
        wanted = exact.denoise(x, t)
        good = pigdm(field, tool, value, std, math.sqrt(b)).denoise(x, t)
        assert (good - wanted).abs().max() < 1e-10
        # the factor 1 + r^2 / std^2 of `prp-dps-bias`
        r2 = b * (1 - t) ** 2 / (t**2 * b + (1 - t) ** 2)
        plain = field.denoise(x, t)
        bad = dps(field, tool, value, std).denoise(x, t) - plain
        assert (bad - (1 + r2 / std**2) * (wanted - plain)).abs().max() < 1e-8


def test_pigdm_takes_an_exact_measurement():
    field = normal_field(CondOT())
    tool = Mask(torch.tensor([1.0, 0.0], dtype=F64))
    y = torch.tensor([1.1, 0.0], dtype=F64)
    x = samplers.ddim(pigdm(field, tool, y), z(50), grids.uniform(CondOT(), 400, start=0.01))
    assert (x[:, 0] - 1.1).abs().max() < 1e-6


def test_loss_guidance_with_a_linear_loss_samples_the_tilted_law():
    """`prp-loss-guidance`: N(m + C w, C), by its own field."""
    w = torch.tensor([0.5, -0.8], dtype=F64)
    field = normal_field(CondOT())
    tilted = ExactField(Gaussian(MEAN + COV @ w, COV), GaussianPath(CondOT()))
    guided = loss_guidance(field, lambda x: -(x @ w))
    for t in (0.1, 0.6):
        assert (guided.denoise(z(), t) - tilted.denoise(z(), t)).abs().max() < 1e-10


def test_inpaint_keeps_what_is_seen():
    field, n = normal_field(CondOT()), 40
    mask = Mask(torch.tensor([1.0, 0.0], dtype=F64))
    known = torch.tensor([1.5, 9.9], dtype=F64)
    grid = grids.uniform(CondOT(), 20, start=0.05)
    for rounds in (1, 3):
        x = inpaint(field, z(n), grid, known, mask, rounds=rounds, generator=seeded(8))
        assert torch.equal(x[:, 0], known[0].expand(n)) and (x[:, 1] - 9.9).abs().min() > 1
    path = inpaint(field, z(n), grid, known, mask, generator=seeded(8), trajectory=True)
    assert path.shape == (21, n, 2)
    same = inpaint(field, z(n), grid, known, mask, generator=seeded(8))
    assert torch.equal(path[-1], same)


def test_sdedit_with_any_sampler():
    field, data = lab(), z(30)
    grid = grids.uniform(CondOT(), 10, start=0.6)
    late = sdedit(field, data, grid, generator=seeded(9))
    early = sdedit(field, data, grids.uniform(CondOT(), 10, start=0.05), generator=seeded(9))
    assert (late - data).norm() < (early - data).norm()
    noisy = sdedit(
        field, data, grid, generator=seeded(9),
        sampler=lambda f, x, g: samplers.ancestral(f, x, g, generator=seeded(10)),
    )  # fmt: skip
    assert torch.isfinite(noisy).all()


def test_gradients_reach_networks_and_leave_no_graph():
    net = torch.nn.Linear(2, 2).double()
    from fromnoise.fields import NetworkField

    field = NetworkField(lambda x, t: net(x), GaussianPath(VP()), "noise")
    guided = dps(field, Mask(torch.ones(2, dtype=F64)), torch.ones(2, dtype=F64), 0.5)
    out = guided.predict(z(), grids.Grid.point(VP(), 0.5))
    assert not out.requires_grad and net.weight.grad is None


def test_mixture_posterior_by_exact_conditioning():
    """The posterior of a mixture is a mixture: its denoiser, guided by the exact p_t(y | x)."""
    law, std, y, t = laboratory(), 0.3, 0.5, 0.4
    spread = law.covs[:, 0, 0] + std**2
    gain = law.covs[:, :, 0] / spread[:, None]
    weights = law.weights * torch.exp(-0.5 * (y - law.means[:, 0]) ** 2 / spread) / spread.sqrt()
    exact = GaussianMixture(
        weights / weights.sum(),
        law.means + gain * (y - law.means[:, :1]),
        law.covs - gain[:, :, None] * law.covs[:, :1, :],
    )
    x = z().requires_grad_()
    # log E[p(y | X_1) | X_t = x] from the joint: log p_t(x | y) - log p_t(x) + const
    evidence = exact.marginal_log_prob(x, t, 1 - t) - law.marginal_log_prob(x, t, 1 - t)
    (gradient,) = torch.autograd.grad(evidence.sum(), x)
    guided = law.denoise(x.detach(), t, 1 - t) + (1 - t) ** 2 / t * gradient
    assert (guided - exact.denoise(x.detach(), t, 1 - t)).abs().max() < 1e-10
