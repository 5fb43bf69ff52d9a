"""Samplers over one grid: orders, identities, exact cases, and what happens at the margins."""

import math

import pytest
import torch

from fromnoise import grids, samplers
from fromnoise.discrete_schedules import DiscreteVP, linear_betas
from fromnoise.distributions import Gaussian, laboratory
from fromnoise.fields import ClippedField, ExactField, NetworkField, TransformedField
from fromnoise.grids import Grid
from fromnoise.paths import GaussianPath
from fromnoise.processes import probability_flow
from fromnoise.samplers.exponential import lagrange_weights, moments
from fromnoise.schedules import VP, CondOT, Cosine
from fromnoise.solvers import rk4, solve_ode

F64 = torch.float64
ODE_SAMPLERS = {
    "ddim": (samplers.ddim, {}, 1),
    "flow_euler": (samplers.flow_euler, {}, 1),
    "flow_heun": (samplers.flow_heun, {}, 2),
    "edm_heun": (samplers.edm_heun, {}, 2),
    "deis-2": (samplers.deis, {"order": 2}, 2),
    "deis-3": (samplers.deis, {"order": 3}, 3),
    "dpmpp-2 paper": (samplers.dpmpp, {"order": 2, "form": "paper"}, 2),
    "dpmpp-2": (samplers.dpmpp, {"order": 2}, 2),
    "dpmpp-3": (samplers.dpmpp, {"order": 3}, 3),
    "dpmpp-3 taylor": (samplers.dpmpp, {"order": 3, "form": "taylor"}, 2),
    "multistep-2": (samplers.dpm_solver_multistep, {"order": 2}, 2),
    "multistep-3": (samplers.dpm_solver_multistep, {"order": 3}, 3),
    "multistep-3 paper": (samplers.dpm_solver_multistep, {"order": 3, "form": "paper"}, 2),
    "dpm-1": (samplers.dpm_solver, {"order": 1}, 1),
    "dpm-2": (samplers.dpm_solver, {"order": 2}, 2),
    "dpm-3": (samplers.dpm_solver, {"order": 3}, 3),
    "unipc-1": (samplers.unipc, {"order": 1, "lower_final": False}, 2),
    "unipc-2": (samplers.unipc, {"order": 2, "lower_final": False}, 3),
    "unipc-2 noise": (samplers.unipc, {"order": 2, "lower_final": False, "kind": "noise"}, 3),
    "ipndm": (samplers.ipndm, {}, 2),
    "pndm": (samplers.pndm, {}, 2),
    "adams-1": (samplers.adams, {"order": 1}, 2),
    "adams-2": (samplers.adams, {"order": 2}, 3),
    "adams-2 predictor": (samplers.adams, {"order": 2, "corrected": False}, 2),
}
NEED_SIGNAL = {"edm_heun", "deis-2", "deis-3", "multistep-2", "multistep-3", "multistep-3 paper"}
NEED_SIGNAL |= {"dpm-1", "dpm-2", "dpm-3", "unipc-2 noise", "ipndm", "pndm"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def problem():
    """The laboratory along VP between t = 0.1 and 0.9, and its solution to 1e-12."""
    field = ExactField(laboratory(), GaussianPath(VP()))
    x = torch.randn(48, 2, generator=seeded(), dtype=F64)
    exact = solve_ode(probability_flow(field), x, torch.linspace(0.1, 0.9, 1501, dtype=F64), rk4)
    return field, x, exact


@pytest.mark.parametrize("name", ODE_SAMPLERS)
def test_empirical_order(problem, name):
    """Within 0.15 of the proved order, end points excluded, in the plane's exact mixture."""
    sampler, options, order = ODE_SAMPLERS[name]
    field, x, exact = problem
    errors = []
    for n in (200, 400):
        grid = Grid.of(VP(), torch.linspace(0.1, 0.9, n + 1, dtype=F64))
        errors.append((sampler(field, x, grid, **options) - exact).square().mean().sqrt().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", ODE_SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_few_steps_from_pure_noise_to_clean_data(name, steps):
    """t = 0 and t = 1 exactly, odd batch; the samplers that divide by alpha say so."""
    sampler, options, _ = ODE_SAMPLERS[name]
    field = ExactField(laboratory(), GaussianPath(CondOT()))
    x = torch.randn(7, 2, generator=seeded(1), dtype=F64)
    grid = grids.uniform(CondOT(), steps)
    if name in NEED_SIGNAL:
        with pytest.raises(ValueError, match="no signal"):
            sampler(field, x, grid, **options)
        return
    y = sampler(field, x, grid, **options)
    assert y.shape == x.shape and torch.isfinite(y).all()
    path = sampler(field, x, grid, trajectory=True, **options)
    assert path.shape == (steps + 1, 7, 2)
    assert torch.equal(path[0], x) and torch.equal(path[-1], y)


@pytest.mark.parametrize("schedule", [VP(), CondOT(), Cosine()], ids=lambda s: s.name)
def test_first_order_methods_are_one(schedule):
    """DPM-Solver-1, DPM-Solver++ of order 1, DEIS of order 1, Euler in sigma / alpha: all DDIM."""
    field = ExactField(laboratory(), GaussianPath(schedule))
    x = torch.randn(5, 2, generator=seeded(2), dtype=F64)
    grid = Grid.of(schedule, [0.05, 0.3, 0.6, 0.85, 1.0])
    ddim = samplers.ddim(field, x, grid)
    for other in (
        samplers.dpm_solver(field, x, grid, order=1),
        samplers.dpmpp(field, x, grid, order=1),
        samplers.deis(field, x, grid, order=1),
        samplers.ipndm(field, x, grid, order=1),
    ):
        assert (other - ddim).abs().max() < 1e-12
    if schedule == CondOT():
        assert (samplers.flow_euler(field, x, grid) - ddim).abs().max() < 1e-12
    else:
        other = samplers.flow_euler(field, x, grid.times[:-1])
        assert (other - samplers.ddim(field, x, grid.times[:-1])).abs().max() > 1e-3


def test_a_datum_is_found_in_one_step():
    """D is constant where the data are one point: every method in lambda is exact."""
    law = Gaussian(torch.tensor([1.0, -2.0], dtype=F64), 1e-20 * torch.eye(2, dtype=F64))
    field = ExactField(law, GaussianPath(VP()))
    x = torch.randn(5, 2, generator=seeded(3), dtype=F64)
    for name in ("ddim", "dpmpp-2", "dpmpp-3", "unipc-2"):
        sampler, options, _ = ODE_SAMPLERS[name]
        y = sampler(field, x, Grid.of(VP(), [0.0, 0.4, 1.0]), **options)
        assert (y - law.mean).abs().max() < 1e-9, name


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("h", [1e-6, 0.3, 0.999, 1.0, 4.0])
def test_moments_against_quadrature(h, sign):
    from scipy.integrate import quad

    for k, found in enumerate(moments(h, 3, sign)):
        exact = quad(lambda v, k=k: h * math.exp(sign * h * (1 - v)) * v**k, 0, 1, epsabs=1e-15)[0]
        assert found == pytest.approx(exact, rel=1e-11)
    assert torch.allclose(
        moments(torch.tensor([[h]], dtype=F64), 2, sign)[2],
        torch.tensor([[moments(h, 2, sign)[2]]], dtype=F64),
    )


def test_lagrange_weights_integrate_polynomials_exactly():
    nodes = [0.0, -0.7, -1.9]
    weights = lagrange_weights(nodes, moments(0.8, 2))
    for k in range(3):
        found = sum(w * node**k for w, node in zip(weights, nodes, strict=True))
        assert found == pytest.approx(moments(0.8, 2)[k], abs=1e-14)


@pytest.mark.parametrize("name", ["ddim", "deis-3", "dpmpp-3", "unipc-2", "adams-2", "flow_heun"])
def test_own_times_for_every_sample_are_the_samples_one_by_one(name):
    sampler, options, _ = ODE_SAMPLERS[name]
    field = ExactField(laboratory(), GaussianPath(VP()))
    x = torch.randn(3, 2, generator=seeded(4), dtype=F64)
    base = torch.linspace(0.1, 0.9, 6, dtype=F64)
    times = torch.stack([base, base**1.3, base * 0.9 + 0.03], 1)
    together = sampler(field, x, Grid.of_samples(VP(), times), **options)
    for k in range(3):
        alone = sampler(field, x[k : k + 1], Grid.of(VP(), times[:, k]), **options)
        assert (together[k : k + 1] - alone).abs().max() < 1e-10


PREDICTIONS = ["data", "noise", "score", "velocity", "v"]


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", ["ddim", "deis-3", "dpmpp-2", "edm_heun", "unipc-2", "adams-2"])
def test_every_prediction_gives_the_same_samples(kind, name):
    sampler, options, _ = ODE_SAMPLERS[name]
    exact = ExactField(laboratory(), GaussianPath(VP()))

    def net(x, t):
        from fromnoise.predictions import convert

        return convert(exact.denoise(x, t), x, t, source="data", target=kind, schedule=VP())

    x = torch.randn(4, 2, generator=seeded(5), dtype=F64)
    grid = Grid.of(VP(), [0.05, 0.4, 0.7, 0.95])
    found = sampler(NetworkField(net, GaussianPath(VP()), kind), x, grid, **options)
    assert (found - sampler(exact, x, grid, **options)).abs().max() < 1e-10


def test_wrapped_fields_predict_with_one_evaluation():
    calls = 0
    exact = ExactField(laboratory(), GaussianPath(CondOT()))

    def net(x, t):
        nonlocal calls
        calls += 1
        return exact.velocity(x, t)

    field = NetworkField(net, GaussianPath(CondOT()), "velocity")
    moved = TransformedField(field, VP())
    x = torch.randn(4, 2, generator=seeded(6), dtype=F64)
    grid = Grid.of(VP(), [0.1, 0.5, 0.9])
    found = samplers.ddim(ClippedField(moved, -50.0, 50.0), x, grid)
    assert calls == 2
    again = samplers.ddim(ExactField(laboratory(), GaussianPath(VP())), x, grid)
    assert (found - again).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks(dtype):
    """The state stays in float32: the error is the network's rounding, not that of 50 sums."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(2, 2)

    class Net(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x, t):
            return torch.tanh(self.layer(x)) * (1 - 0.3 * t[:, None])

    full = NetworkField(Net(layer), GaussianPath(VP()), "noise")
    x = torch.randn(16, 2, generator=seeded(7))
    grid = grids.uniform(VP(), 50, end=0.98)
    exact = samplers.dpmpp(full, x, grid)
    import copy

    half = NetworkField(Net(copy.deepcopy(layer)).to(dtype), GaussianPath(VP()), "noise")
    found = samplers.dpmpp(half, x, grid)
    assert found.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    assert (found - exact).abs().max() < 100 * eps
    # a state handed over in half precision comes back in it
    assert samplers.dpmpp(half, x.to(dtype), grid).dtype == dtype


@pytest.mark.parametrize("name", ["ddim", "dpmpp-3", "unipc-2", "edm_heun", "adams-2"])
@pytest.mark.parametrize("at", [0, 2])
def test_a_nan_is_found_where_it_began(name, at):
    sampler, options, _ = ODE_SAMPLERS[name]
    times = [0.1, 0.3, 0.5, 0.7, 0.9]

    def net(x, t):
        out = 0.1 * x
        if abs(float(t[0]) - times[at]) < 1e-6:
            out = out.clone()
            out[1] = math.nan
        return out

    field = NetworkField(net, GaussianPath(VP()), "noise")
    with pytest.raises(samplers.NotFiniteError, match=rf"point {at} \(t = {times[at]}.* 1 of 3"):
        sampler(field, torch.ones(3, 2), torch.tensor(times, dtype=F64), **options)


def test_noise_is_drawn_from_the_generator_and_a_retry_draws_the_same():
    field = ExactField(laboratory(), GaussianPath(VP()))
    x = torch.randn(6, 2, generator=seeded(8), dtype=F64)
    grid = grids.uniform(VP(), 6, start=0.05)
    for sampler, options in (
        (samplers.ddim, {"eta": 1.0}),
        (samplers.ancestral, {}),
        (samplers.dpmpp, {"stochastic": True}),
        (samplers.euler_ancestral, {}),
        (samplers.edm_heun, {"churn": 2.0, "churn_to": 2.0}),
        (samplers.reverse_sde, {}),
        (samplers.predictor_corrector, {}),
    ):
        a = sampler(field, x, grid, generator=seeded(9), **options)
        b = sampler(field, x, grid, generator=seeded(9), **options)
        c = sampler(field, x, grid, generator=seeded(10), **options)
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_progress_bar_changes_nothing(capsys):
    field = ExactField(laboratory(), GaussianPath(VP()))
    x = torch.randn(3, 2, generator=seeded(11), dtype=F64)
    grid = grids.uniform(VP(), 4)
    shown = samplers.ddim(field, x, grid, progress=True)
    assert torch.equal(shown, samplers.ddim(field, x, grid))
    assert "sampling" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x: samplers.ddim(f, x, [0.1, 0.5], eta=1.5), "eta"),
        (lambda f, x: samplers.deis(f, x, [0.1, 0.5], order=5), "order"),
        (lambda f, x: samplers.deis(f, x, [0.1, 0.5], start="high"), "start"),
        (lambda f, x: samplers.dpmpp(f, x, [0.1, 0.5], order=4), "order"),
        (lambda f, x: samplers.dpmpp(f, x, [0.1, 0.5], form="other"), "form"),
        (lambda f, x: samplers.dpm_solver(f, x, [0.1, 0.5], order=4), "order"),
        (lambda f, x: samplers.unipc(f, x, [0.1, 0.5], variant="bh3"), "variant"),
        (lambda f, x: samplers.unipc(f, x, [0.1, 0.5], order=0), "order"),
        (lambda f, x: samplers.adams(f, x, [0.1, 0.5], order=0), "order"),
        (lambda f, x: samplers.ipndm(f, x, [0.1, 0.5], order=9), "order"),
        (lambda f, x: samplers.edm_heun(f, x, [0.1, 0.5], churn=-1.0), "churn"),
        (lambda f, x: samplers.euler_ancestral(f, x, [0.1, 0.5], eta=-1.0), "eta"),
        (lambda f, x: samplers.ancestral(f, x, [0.1, 0.5], variance="none"), "variance"),
        (lambda f, x: samplers.ancestral(f, x, [0.1, 0.5], variance="learned"), "predicts no"),
        (lambda f, x: samplers.restart(f, x, [0.1, 0.5], low=2.0, high=1.0), "low"),
        (lambda f, x: samplers.restart(f, x, [0.1, 0.5], low=1e-6, high=1.0, inner=0), "inner"),
        (lambda f, x: samplers.predictor_corrector(f, x, [0.1, 0.5], snr=0.0), "snr"),
        (lambda f, x: samplers.ddim(f, x, [0.5, 0.1]), "increase"),
        (lambda f, x: samplers.ddim(f, x, [0.1, 1.5]), "lie in"),
    ],
)
def test_bad_input(call, message):
    field = ExactField(laboratory(), GaussianPath(VP()))
    with pytest.raises(ValueError, match=message):
        call(field, torch.zeros(2, 2, dtype=F64))


def test_a_network_of_another_shape_is_refused():
    field = NetworkField(lambda x, t: x[:, :1], GaussianPath(VP()), "noise")
    with pytest.raises(ValueError, match="network's output"):
        samplers.ddim(field, torch.zeros(2, 2), torch.tensor([0.1, 0.5]))


def test_no_signal_at_the_first_point_is_explained():
    """A zero-terminal-SNR schedule, as CondOT, with a noise prediction: no D at t = 0."""
    field = NetworkField(lambda x, t: x, GaussianPath(CondOT()), "noise")
    with pytest.raises(ValueError, match="begin the grid a little later"):
        samplers.ddim(field, torch.zeros(2, 2), torch.tensor([0.0, 0.5, 1.0]))
    # v-prediction, which such schedules are trained with, is fine
    field = NetworkField(lambda x, t: 0.1 * x, GaussianPath(CondOT()), "v")
    assert torch.isfinite(samplers.ddim(field, torch.ones(2, 2), [0.0, 0.5, 1.0])).all()


def test_the_whole_loop_compiles_without_graph_breaks():
    """torch.compile with fullgraph raises at the first break; eager as backend, so no compiler."""
    net = torch.nn.Linear(2, 2)

    def model(x, t):
        return net(x) * t[:, None]

    field = NetworkField(model, GaussianPath(VP()), "noise")
    grid = grids.uniform(VP(), 6, start=0.05, end=0.95)
    x = torch.randn(4, 2, generator=seeded(12))
    for name, (sampler, options, _) in ODE_SAMPLERS.items():
        torch._dynamo.reset()

        def run(x, sampler=sampler, options=options):
            return sampler(field, x, grid, **options)

        with torch.no_grad():
            compiled = torch.compile(run, fullgraph=True, backend="eager")(x)
            assert (compiled - run(x)).abs().max() < 1e-5, name


def test_extrapolated_last_step_is_of_higher_order():
    """Error of the last step alone: (sigma / alpha)^2 for D, ^4 for the extrapolation."""
    field = ExactField(laboratory(), GaussianPath(VP()))
    schedule = VP()
    x0 = laboratory().sample(40, seeded(13))
    errors = {False: [], True: []}
    for r in (0.08, 0.04):
        a = schedule.inverse_half_log_snr(torch.tensor(-math.log(2 * r), dtype=F64)).item()
        b = schedule.inverse_half_log_snr(torch.tensor(-math.log(r), dtype=F64)).item()
        start = Grid.point(schedule, a)
        x = start.alpha * x0 + start.sigma * torch.randn(40, 2, generator=seeded(14), dtype=F64)
        tail = 1 - (1 - b) * torch.linspace(1, 1e-4, 800, dtype=F64)[1:] ** 2
        fine = Grid.of(schedule, torch.cat([torch.linspace(a, b, 400, dtype=F64), tail]))
        exact = samplers.dpmpp(field, x, fine, order=3)
        near = Grid.of(schedule, [*torch.linspace(a, b, 400, dtype=F64).tolist()])
        y = samplers.dpmpp(field, x, near, order=3)
        before, last = field.denoise(x, a), field.denoise(y, b)
        jump = last
        more = last + (last - before) * r**2 / ((2 * r) ** 2 - r**2)
        errors[False].append((jump - exact).square().mean().sqrt().item())
        errors[True].append((more - exact).square().mean().sqrt().item())
    assert math.log2(errors[False][0] / errors[False][1]) == pytest.approx(2, abs=0.2)
    assert math.log2(errors[True][0] / errors[True][1]) > 3.3


def test_discrete_steps_run_as_they_are():
    schedule = DiscreteVP(linear_betas())
    field = ExactField(laboratory(), GaussianPath(schedule))
    x = torch.randn(5, 2, generator=seeded(15), dtype=F64)
    y = samplers.ancestral(field, x, grids.of_steps(schedule, 1000), generator=seeded(16))
    assert torch.isfinite(y).all()
