"""Sphere and torus against their defining equations, laws against quadrature, paths, bad input."""

import math

import numpy as np
import pytest
import torch

from fromnoise.manifold_laws import (
    CirclePoints,
    TorusPath,
    VonMisesFisherMixture,
    WrappedMixture,
    sphere_path_density,
    wrapped_normal_log_prob,
)
from fromnoise.manifolds import (
    FlatTorus,
    Sphere,
    TangentMLP,
    divergence,
    euler_step,
    log_likelihood,
    midpoint_step,
    solve,
)
from fromnoise.riemannian import RiemannianFlowMatching, geodesic_sample
from fromnoise.training import train

F64 = torch.float64
SPACES = [Sphere(1), Sphere(2), Sphere(5), FlatTorus(1), FlatTorus(3)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def two_points(space, n=500, dtype=F64):
    return space.uniform(n, seeded(1), dtype), space.uniform(n, seeded(2), dtype)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_exp_inverts_log(space):
    x, y = two_points(space)
    v = space.log(x, y)
    # within delta of the antipode the direction is known to eps / delta; the nearest are at 1e-3
    assert (space.exp(x, v) - y).abs().max() < 1e-12
    # tangent, and no longer than half a great circle in each factor
    assert (space.tangent(x, v) - v).abs().max() < 1e-12
    assert v.norm(dim=-1).max() <= math.pi * math.sqrt(space.dim) + 1e-12


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_geodesics_have_constant_speed_and_divide_the_distance(space):
    x, y = two_points(space)
    whole = space.distance(x, y)
    for t in (0.1, 0.5, 0.9):
        z = space.geodesic(x, y, t)
        space.check(z)
        assert (space.distance(x, z) - t * whole).abs().max() < 1e-12
        assert (space.distance(z, y) - (1 - t) * whole).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_log_keeps_its_digits_near_the_point_and_near_the_antipode(dtype):
    """arccos would lose half of them: at a distance of 1e-3 it is off by 1e-4 in float32."""
    sphere, eps = Sphere(2), torch.finfo(dtype).eps
    x = torch.tensor([[0.6, 0.0, 0.8]], dtype=dtype)
    x = sphere.project(x)
    side = sphere.project(sphere.tangent(x, torch.tensor([[0.1, 1.0, -0.3]], dtype=dtype)))
    for angle in (1e-3, 1e-2, 1.0, 3.0, math.pi - 1e-2):
        y = math.cos(angle) * x + math.sin(angle) * side
        found = sphere.log(x, y).norm()
        assert abs(found.item() - angle) < 20 * eps  # coordinates themselves are off by eps


def test_log_at_the_point_and_at_the_antipode():
    sphere = Sphere(2)
    x = sphere.uniform(100, seeded(), F64)
    assert sphere.log(x, x).abs().max() < 1e-15
    v = sphere.log(x, -x)
    assert (v.norm(dim=-1) - math.pi).abs().max() < 1e-12
    assert (v * x).sum(-1).abs().max() < 1e-14
    assert (sphere.exp(x, v) + x).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 1e-7, 1e-15])
def test_log_is_tangent_and_bisects_near_the_antipode(dtype, gap):
    """The midpoint of a geodesic of length pi - gap is (pi - gap) / 2 from both ends.

    Only the direction is uncertain there (by eps / gap, for it is the data's own uncertainty): the
    length, the tangency and the end are known to a few units in the last place.
    """
    sphere, eps = Sphere(2), torch.finfo(dtype).eps
    x = sphere.uniform(2000, seeded(12), dtype)
    raw = torch.randn(x.shape, generator=seeded(13), dtype=dtype)
    y = sphere.exp(x, (math.pi - gap) * sphere.project(sphere.tangent(x, raw)))
    v, middle = sphere.log(x, y), sphere.geodesic(x, y, 0.5)
    assert ((x * v).sum(-1)).abs().max() < 8 * eps
    assert (v.norm(dim=-1) - (math.pi - gap)).abs().max() < 16 * eps
    assert ((x * middle).sum(-1) - math.sin(gap / 2)).abs().max() < 8 * eps
    assert (sphere.exp(x, v) - y).abs().max() < 16 * eps


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-3, 1.0])
def test_log_has_a_gradient_also_at_the_point(gap):
    """|log_x(y)|^2 / 2 has the gradient -log_y(x) in y: at y = x it is 0, and log the identity."""
    sphere = Sphere(2)
    x = sphere.uniform(20, seeded(14), F64)
    a = sphere.tangent(x, torch.randn(x.shape, generator=seeded(15), dtype=F64))
    y = sphere.exp(x, gap * sphere.project(a)).requires_grad_(True)
    (slope,) = torch.autograd.grad(0.5 * sphere.log(x, y).square().sum(), y)
    y = y.detach()
    assert (sphere.tangent(y, slope) + sphere.log(y, x)).abs().max() < 1e-13
    y.requires_grad_(True)
    (slope,) = torch.autograd.grad((a * sphere.log(x, y)).sum(), y)
    if gap == 0.0:
        assert (slope - a).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_angles_next_to_the_cut_stay_in_their_interval(dtype):
    """The neighbours of -pi, 0, pi and 3 pi: into [-pi, pi), no farther than rounding, accepted."""
    torus, eps = FlatTorus(1), torch.finfo(dtype).eps
    angles = []
    for centre in (-math.pi, 0.0, math.pi, 3 * math.pi):
        for direction in (-math.inf, math.inf):
            x = torch.tensor(centre, dtype=dtype)
            for _ in range(6):
                angles.append(x)
                x = torch.nextafter(x, torch.tensor(direction, dtype=dtype))
    x = torch.stack(angles)[:, None]
    y = torus.project(x)
    assert bool((y >= -math.pi - 4 * eps).all() & (y < math.pi).all())
    assert (x.cos() - y.cos()).abs().max() < 16 * eps
    assert (x.sin() - y.sin()).abs().max() < 16 * eps
    torus.check(y)
    torus.check(torch.tensor([[math.pi], [-math.pi]], dtype=dtype))


def test_torus_log_takes_the_short_way():
    torus = FlatTorus(2)
    x = torch.tensor([[3.0, -3.0]], dtype=F64)
    y = torch.tensor([[-3.0, 3.0]], dtype=F64)
    short = 2 * math.pi - 6
    assert torch.allclose(torus.log(x, y), torch.tensor([[short, -short]], dtype=F64))


def test_bad_points_are_refused():
    sphere, torus = Sphere(2), FlatTorus(2)
    with pytest.raises(ValueError, match="3 coordinates"):
        sphere.check(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="lies 1 off"):
        sphere.check(torch.tensor([[2.0, 0.0, 0.0]]), "data")
    with pytest.raises(ValueError, match="project"):
        torus.check(torch.tensor([[4.0, 0.0]]))
    with pytest.raises(ValueError, match="dim"):
        Sphere(0)
    with pytest.raises(ValueError, match="shape"):
        sphere.geodesic(torch.zeros(2, 3), torch.zeros(3, 3), 0.5)
    with pytest.raises(ValueError, match="strictly"):
        solve(torus, lambda x, t: x, torch.zeros(1, 2), torch.tensor([0.0, 0.0]))


def test_uniform_on_the_sphere():
    """Each coordinate is uniform on [-1, 1] (Archimedes): mean 0, variance 1/3."""
    x = Sphere(2).uniform(100_000, seeded(3), F64)
    # five standard errors: false alarm below 1e-5 over the six numbers
    assert x.mean(0).abs().max() < 5 * math.sqrt(1 / 3 / 1e5)
    assert (x.square().mean(0) - 1 / 3).abs().max() < 5 * math.sqrt(4 / 45 / 1e5)
    assert Sphere(2).log_volume == pytest.approx(math.log(4 * math.pi), abs=1e-14)
    assert Sphere(3).log_volume == pytest.approx(math.log(2 * math.pi**2), abs=1e-14)


@pytest.mark.parametrize("std", [0.05, 0.7, 1.99, 2.0, 2.5, 6.0])
def test_wrapped_normal_integrates_to_one_and_has_its_mean(std):
    """The trapezoidal rule on a circle is exact to rounding for smooth periodic functions."""
    grid = torch.linspace(-math.pi, math.pi, 4097, dtype=F64)[:-1]
    p = wrapped_normal_log_prob(grid, torch.tensor(std, dtype=F64)).exp()
    cell = 2 * math.pi / 4096
    assert abs(p.sum().item() * cell - 1) < 1e-12
    assert (p * grid.cos()).sum().item() * cell == pytest.approx(math.exp(-(std**2) / 2), abs=1e-12)


def test_wrapped_normal_is_continuous_where_the_series_change():
    grid = torch.linspace(-math.pi, math.pi, 101, dtype=F64)
    low = wrapped_normal_log_prob(grid, torch.tensor(2.0 - 1e-12, dtype=F64))
    high = wrapped_normal_log_prob(grid, torch.tensor(2.0, dtype=F64))
    assert (low - high).abs().max() < 1e-11


def vmf():
    means = Sphere(2).project(torch.tensor([[1.0, 0.0, 0.3], [-0.5, 1.0, 0.0]], dtype=F64))
    return VonMisesFisherMixture(
        torch.tensor([1.0, 2.0], dtype=F64), means, torch.tensor([20.0, 3.0], dtype=F64)
    )


def test_von_mises_fisher_integrates_to_one_and_samples_have_its_mean():
    law = vmf()
    # product rule: Gauss-Legendre in the height, trapezoid in the longitude, exact to rounding
    height, weight = np.polynomial.legendre.leggauss(200)
    height, weight = torch.tensor(height, dtype=F64), torch.tensor(weight, dtype=F64)
    angle = torch.arange(400, dtype=F64) * 2 * math.pi / 400
    ring = torch.sqrt(1 - height**2)[:, None]
    x = torch.stack(
        [ring * angle.cos(), ring * angle.sin(), height[:, None].expand(-1, 400)], -1
    ).reshape(-1, 3)
    p = law.log_prob(x).exp().reshape(200, 400)
    assert abs((weight @ p).sum().item() * 2 * math.pi / 400 - 1) < 1e-12
    exact = (weight @ (p[..., None] * x.reshape(200, 400, 3)).sum(1)) * 2 * math.pi / 400
    found = law.sample(100_000, seeded(4)).mean(0)
    assert (found - exact).abs().max() < 5 / math.sqrt(1e5)  # coordinates have a spread below 1


def test_laws_refuse_what_they_cannot_be():
    with pytest.raises(ValueError, match="k, d"):
        WrappedMixture(torch.ones(2), torch.zeros(2, 3), torch.ones(2, 2))
    with pytest.raises(ValueError, match="weights"):
        WrappedMixture(torch.tensor([1.0, -1.0]), torch.zeros(2, 1), torch.ones(2, 1))
    with pytest.raises(ValueError, match="means lies"):
        VonMisesFisherMixture(torch.ones(1), torch.tensor([[2.0, 0.0, 0.0]]), torch.ones(1))
    with pytest.raises(ValueError, match="std"):
        wrapped_normal_log_prob(torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match="t = 1"):
        sphere_path_density(torch.zeros(1), 1.0)


def torus_law():
    return WrappedMixture(
        torch.tensor([1.0, 2.0], dtype=F64),
        torch.tensor([[3.0, -3.0], [-1.0, 1.0]], dtype=F64),
        torch.tensor([[0.4, 0.5], [0.8, 0.3]], dtype=F64),
    )


def square(n=256):
    line = torch.linspace(-math.pi, math.pi, n + 1, dtype=F64)[:-1]
    return torch.cartesian_prod(line, line), (2 * math.pi / n) ** 2


@pytest.mark.parametrize("t", [0.0, 0.3, 0.7])
def test_torus_path_is_a_density_that_the_velocity_transports(t):
    """dp/dt by differences against the divergence of p u by Fourier differentiation.

    At t = 0 the law is uniform. The central difference in t is off by its step squared, 1e-8.
    """
    path, (grid, cell) = TorusPath(torus_law()), square()
    p = path.log_prob(grid, t).exp()
    assert abs(p.sum().item() * cell - 1) < 1e-10
    if t == 0.0:
        assert (p - 1 / (4 * math.pi**2)).abs().max() < 1e-14
        return
    step = 1e-4
    change = (path.log_prob(grid, t + step).exp() - path.log_prob(grid, t - step).exp()) / 2 / step
    flux = (p[:, None] * path.velocity(grid, t)).reshape(256, 256, 2)
    k = torch.fft.fftfreq(256, 1 / 256).to(F64)
    spectrum = torch.fft.fft2(flux, dim=(0, 1))
    spread = spectrum[..., 0] * 1j * k[:, None] + spectrum[..., 1] * 1j * k
    residual = change.reshape(256, 256) + torch.fft.ifft2(spread).real
    assert residual.abs().max() < 1e-6


@pytest.mark.parametrize("std", [0.05, 0.5, 2.5, 4.0, 10.0])
def test_torus_path_is_normalized_for_narrow_and_wide_laws(std):
    """The law of width std blurred by a window: the trapezoidal rule, exact where it is smooth."""
    law = WrappedMixture(torch.ones(1), torch.tensor([[0.4]]), torch.tensor([[std]]))
    grid = torch.linspace(-math.pi, math.pi, 4097, dtype=F64)[:-1, None]
    cell = 2 * math.pi / 4096
    for t in (0.0, 0.3, 0.8, 0.99):
        p = TorusPath(law).log_prob(grid, t).exp()
        assert p.sum().item() * cell == pytest.approx(1.0, abs=1e-12)


def test_torus_path_ends_in_the_law():
    """At t = 1 - 1e-4 the window has the variance (1e-4 pi)^2 / 3: a second-order change."""
    law, grid = torus_law(), square(64)[0]
    exact = law.log_prob(grid)
    typical = exact > -20
    assert (TorusPath(law).log_prob(grid, 1 - 1e-4) - exact)[typical].abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_torus_path_in_the_far_tail(dtype):
    """47 standard deviations out: N > z has mean z + 1/z - ..., so U is near the window's end."""
    law = WrappedMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([[0.05]], dtype=F64))
    t, x = 0.8, torch.tensor([[3.0], [-3.0]], dtype=dtype)
    near = (3.0 - 0.2 * math.pi) / 0.05
    # Mills: the next term is 74 z^-7, 1e-10; the other end of the window is nothing
    excess = 0.05 * (1 / near - 2 / near**3 + 10 / near**5)
    exact = (math.pi * 0.2 - excess) / 0.2
    found = TorusPath(law).velocity(x, t)[:, 0]
    # place / std = 60 is known to 60 eps; 1e-10 for the term left out
    tolerance = 60 * torch.finfo(dtype).eps + 1e-10
    assert (found - torch.tensor([-exact, exact], dtype=dtype)).abs().max() < tolerance
    log_tail = -0.5 * near**2 - math.log(near * math.sqrt(2 * math.pi)) - 1 / near**2
    log_exact = log_tail - math.log(2 * math.pi * 0.2)
    assert TorusPath(law).log_prob(x, t)[0].item() == pytest.approx(log_exact, rel=1e-5)


def test_samples_of_the_geodesic_path_have_the_density_of_the_torus_path():
    """Fourier coefficients of 200,000 points against those of the density, 5 standard errors."""
    torus, law, n = FlatTorus(2), torus_law(), 200_000
    x = geodesic_sample(torus, torus.uniform(n, seeded(16), F64), law.sample(n, seeded(17)), 0.4).x
    grid, cell = square()
    p = TorusPath(law).log_prob(grid, 0.4).exp() * cell
    for wave in ((1, 0), (0, 1), (1, 1), (2, -1), (-1, 3), (4, 2)):
        k = torch.tensor(wave, dtype=F64)
        for part in (torch.cos, torch.sin):
            exact = (p * part(grid @ k)).sum()
            assert abs(part(x @ k).mean() - exact) < 5 * math.sqrt(0.5 / n) * 1.5


def test_sphere_path_density_is_that_of_the_geodesics():
    """Shares of rings around the datum: a multinomial, 5 standard errors."""
    sphere, n = Sphere(2), 100_000
    pole = torch.tensor([[0.0, 0.0, 1.0]], dtype=F64).expand(n, 3)
    for t in (0.2, 0.6):
        x = geodesic_sample(sphere, sphere.uniform(n, seeded(5), F64), pole, t).x
        angle = sphere.distance(x, pole)
        for far in (0.3, 0.9):
            # the share within an angle: that of the source within the stretched angle
            exact = (1 - math.cos(min(far / (1 - t), math.pi))) / 2
            fine = torch.linspace(0, far, 20001, dtype=F64)
            ring = 2 * math.pi * fine.sin() * sphere_path_density(fine, t)
            assert torch.trapezoid(ring, fine).item() == pytest.approx(exact, abs=1e-7)
            found = (angle < far).double().mean().item()
            assert abs(found - exact) < 5 * math.sqrt(0.25 / n)


@pytest.mark.parametrize("space", [Sphere(2), FlatTorus(2)], ids=str)
def test_velocity_is_the_derivative_of_the_path(space):
    source, data = two_points(space)
    for t in (0.0, 0.2, 0.5, 0.8, 1.0):
        sample = geodesic_sample(space, source, data, t)
        step = 1e-6
        ahead = space.log(sample.x, space.geodesic(source, data, min(1.0, t + step)))
        behind = space.log(sample.x, space.geodesic(source, data, max(0.0, t - step)))
        slope = (ahead - behind) / (min(1.0, t + step) - max(0.0, t - step))
        assert (slope - sample.velocity).abs().max() < 1e-8


def smooth_sphere_field(x, t):
    sphere = Sphere(2)
    wanted = torch.stack([torch.cos(3 * t) + x[:, 1], x[:, 2] * x[:, 0], x[:, 0] - x[:, 2]], 1)
    return sphere.tangent(x, wanted)


@pytest.mark.parametrize(("step", "order"), [(euler_step, 1), (midpoint_step, 2)])
def test_orders_on_the_sphere(step, order):
    sphere = Sphere(2)
    x = sphere.uniform(50, seeded(6), F64)

    def run(n, method):
        return solve(sphere, smooth_sphere_field, x, torch.linspace(0, 1, n + 1, dtype=F64), method)

    exact = run(4096, midpoint_step)
    errors = [(run(n, step) - exact).norm(dim=-1).mean().item() for n in (32, 64)]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.1
    assert (run(16, step).norm(dim=-1) - 1).abs().max() < 1e-14


def test_divergence_on_the_sphere_against_a_gradient():
    """div grad of a linear function <a, x> on S^2 is -2 <a, x> (an eigenfunction)."""
    sphere = Sphere(2)
    a = torch.tensor([0.3, -1.0, 0.7], dtype=F64)
    x = sphere.uniform(40, seeded(7), F64)
    found = divergence(sphere, lambda y, t: sphere.tangent(y, a.expand_as(y)), x, torch.tensor(0.0))
    assert (found + 2 * x @ a).abs().max() < 1e-13


def test_likelihood_of_an_exact_flow_on_the_torus():
    """Second order in the step, towards the exact density of the path."""
    path, torus = TorusPath(torus_law()), FlatTorus(2)
    x = torus_law().sample(200, seeded(8))
    exact = path.log_prob(x, 0.9)
    errors = []
    for n in (20, 40):
        grid = torch.linspace(0.9, 0.0, n + 1, dtype=F64)
        errors.append((log_likelihood(torus, path.velocity, x, grid) - exact).abs().mean().item())
    assert errors[1] < 5e-3
    assert 1.7 < math.log2(errors[0] / errors[1]) < 2.4


def test_training_on_the_circle_recovers_the_velocity():
    law = WrappedMixture(torch.ones(1), torch.tensor([[2.8]]), torch.tensor([[0.6]]))
    circle = FlatTorus(1)
    torch.manual_seed(0)
    net = train(
        TangentMLP(circle, hidden=48, depth=1), RiemannianFlowMatching(circle), law,
        steps=500, batch_size=256, lr=4e-3, seed=0, progress=False, ema_decay=0.98,
    ).net  # fmt: skip
    path = TorusPath(law)
    with torch.no_grad():
        for t in (0.3, 0.7):
            x = geodesic_sample(
                circle, circle.uniform(2000, seeded(9)), law.sample(2000, seeded(10)), t
            ).x
            exact = path.velocity(x, t)
            error = (net(x, torch.tensor(t)) - exact).square().mean()
            # a fit, not a theorem: a tenth of the velocity's own size is far from chance
            assert error < 0.1 * exact.square().mean()


def test_tangent_network_and_refusal_of_data_off_the_sphere():
    sphere = Sphere(2)
    net = TangentMLP(sphere, hidden=16, depth=1)
    x = sphere.uniform(10, seeded(11))
    assert (net(x, torch.tensor(0.3)) * x).sum(-1).abs().max() < 1e-6
    with pytest.raises(ValueError, match="data lies"):
        RiemannianFlowMatching(sphere).loss(net, 3 * x, seeded())
    far = RiemannianFlowMatching(sphere, lambda data, generator: (3 * data, data))
    with pytest.raises(ValueError, match="source lies"):
        far.loss(net, x, seeded())


def circle_points():
    return CirclePoints(
        torch.tensor([-2.4, -0.4, 1.5, 2.9], dtype=F64),
        torch.tensor([2.0, 5.0, 3.0, 1.0], dtype=F64),
    )


def test_broken_lines_reach_each_datum_with_its_weight():
    """The set of starts that reach a datum is an interval: its share to one cell of the grid."""
    path, n = circle_points(), 20_000
    start = (torch.arange(n, dtype=F64) + 0.5) / n * 2 * math.pi - math.pi
    times, places, index = path.trajectory(start)
    shares = torch.bincount(index, minlength=4) / n
    assert (shares - path.weights / path.weights.sum()).abs().max() < 2 / n
    assert bool((times.diff(dim=0) >= 0).all()) and bool((times[-1] == 1).all())
    assert FlatTorus(1).log(places[-1], path.data[index]).abs().max() < 1e-14


def test_broken_lines_are_the_flow_of_the_velocity():
    """Euler's steps of 1/4000: off by one step at each of three corners, at a speed below pi."""
    path, n = circle_points(), 4000
    start = torch.linspace(-3.1, 3.1, 200, dtype=F64)
    _, places, _ = path.trajectory(start)
    x = start[:, None]
    for k in range(n - 1):
        t = torch.tensor(k / n, dtype=F64)
        x = FlatTorus(1).exp(x, path.velocity(x, t) / n)
    gap = FlatTorus(1).log(x[:, 0], places[-1]).abs()
    # a start whose corners nearly coincide may drop the other datum first
    assert (gap > 3 * 2 * math.pi / n + math.pi / n).sum() <= 2


def test_circle_points_velocity_is_the_posterior_mean():
    """The mean of the conditional velocities of 400,000 geodesics, in cells away from the edges."""
    path, circle, n, t = circle_points(), FlatTorus(1), 400_000, 0.45
    row = torch.multinomial(path.weights, n, replacement=True, generator=seeded(18))
    sample = geodesic_sample(circle, circle.uniform(n, seeded(19), F64), path.data[row][:, None], t)
    width = 2 * math.pi / 100
    cell = ((sample.x[:, 0] + math.pi) / width).long()
    centre = (torch.arange(100, dtype=F64) + 0.5)[:, None] * width - math.pi
    edges = (circle.log(centre, path.data).abs() - (1 - t) * math.pi).abs()
    inner = edges.min(-1).values > width
    count = torch.bincount(cell, minlength=100)
    mean = torch.zeros(100, dtype=F64).index_add_(0, cell, sample.velocity[:, 0]) / count
    exact = path.velocity(centre, t)[:, 0]
    # 5 standard errors of a velocity in [-pi, pi]
    assert ((mean - exact).abs() < 5 * math.pi / count.sqrt())[inner].all()


def test_bad_circle_points():
    with pytest.raises(ValueError, match="both must be"):
        CirclePoints(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match="data lies"):
        CirclePoints(torch.tensor([0.0, 4.0]), torch.ones(2))
    with pytest.raises(ValueError, match="different"):
        CirclePoints(torch.tensor([0.5, 0.5]), torch.ones(2))
    with pytest.raises(ValueError, match="positive"):
        CirclePoints(torch.tensor([0.5, 1.5]), torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="t = 1 use"):
        TorusPath(torus_law()).log_prob(torch.zeros(1, 2, dtype=F64), 1.0)
