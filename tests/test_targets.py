"""Training targets: the loss against its formula, and what may go wrong."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from fromnoise.distributions import Gaussian, laboratory
from fromnoise.fields import ExactField
from fromnoise.networks import MLP
from fromnoise.paths import GaussianPath
from fromnoise.predictions import convert
from fromnoise.schedules import VE, VP, CondOT, Cosine, SubVP
from fromnoise.targets import ConditionalFlowMatching, Regression
from fromnoise.time_samplers import (
    LogitNormalTimes,
    LowDiscrepancyTimes,
    TabulatedTimes,
    UniformTimes,
)
from fromnoise.weightings import (
    EDM,
    SNR,
    MinSNR,
    PerHalfLogSNR,
    Sigmoid,
    TruncatedSNR,
    Uniform,
    error_ratio,
)

F64 = torch.float64
KINDS = ["data", "noise", "score", "velocity", "v"]
ALL = [CondOT(), Cosine(), VP(), SubVP(), VE()]
INSIDE = UniformTimes(0.05, 0.95)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=lambda s: s.name)
@pytest.mark.parametrize("event", [(2,), (1, 4, 4)])
def test_cfm_loss_is_its_formula(schedule, event):
    """The loss, computed from the schedule's numbers alone, by hand."""
    data = torch.randn(32, *event, generator=torch.Generator().manual_seed(0))
    target = ConditionalFlowMatching(GaussianPath(schedule))

    def net(x, t):
        return 2.0 * x + t.reshape(-1, *[1] * (x.ndim - 1))

    sample = target.draw(data, torch.Generator().manual_seed(1))
    loss = target.loss(net, data, torch.Generator().manual_seed(1))
    total = 0.0
    for i in range(len(data)):
        t = sample.t.flatten()[i]
        x = schedule.alpha(t) * data[i] + schedule.sigma(t) * sample.noise[i]
        velocity = schedule.d_alpha(t) * data[i] + schedule.d_sigma(t) * sample.noise[i]
        total += ((2.0 * x + t - velocity) ** 2).sum().item()
    assert loss.shape == ()
    assert loss.item() == pytest.approx(total / data.numel(), rel=1e-5)


def test_draws_are_uniform_in_time_and_fresh():
    target = ConditionalFlowMatching(GaussianPath(CondOT()))
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    first, second = (target.draw(torch.zeros(n, 1), generator) for _ in range(2))
    t = first.t.flatten().sort().values
    # Kolmogorov-Smirnov: exceeded with probability below 1e-5 (2 exp(-2 * 2.5^2) = 7e-6).
    assert (t - torch.arange(1, n + 1) / n).abs().max() < 2.5 / n**0.5
    assert not torch.equal(first.t, second.t)
    assert not torch.equal(first.noise, second.noise)
    again = target.draw(torch.zeros(n, 1), torch.Generator().manual_seed(0))
    assert torch.equal(first.x, again.x)


def test_the_marginal_velocity_beats_its_neighbours():
    """The exact marginal velocity minimizes the loss: on the same draws, a changed one loses."""
    law = laboratory()
    path = GaussianPath(CondOT())
    exact = ExactField(law, path)
    target = ConditionalFlowMatching(path)
    data = law.sample(20_000, torch.Generator().manual_seed(0))

    def loss(change):
        def net(x, t):
            return exact.velocity(x, t.flatten()) + change(x)

        return target.loss(net, data, torch.Generator().manual_seed(1)).item()

    best = loss(torch.zeros_like)
    # The excess of a constant shift c is c^2 up to Monte Carlo error, of std < 2 c / sqrt(20,000)
    # times the spread of the conditional velocity (< 3): 0.09 against at most 5 * 0.013.
    for change in (lambda x: 0 * x + 0.3, lambda x: 0 * x - 0.3, lambda x: 0.2 * x):
        assert loss(change) > best + 0.02


def test_the_coupling_is_used():
    def opposite(data, generator):
        return -data, data

    target = ConditionalFlowMatching(GaussianPath(CondOT()), coupling=opposite)
    data = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    sample = target.draw(data, torch.Generator().manual_seed(1))
    assert torch.equal(sample.noise, -data)
    assert torch.allclose(sample.velocity, 2 * data)


def test_gradient_reaches_every_weight():
    net = MLP(2, hidden=16, depth=2)
    target = ConditionalFlowMatching(GaussianPath(CondOT()))
    target.loss(net, torch.randn(64, 2), torch.Generator().manual_seed(0)).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_wrong_shape_of_the_output_is_named():
    target = ConditionalFlowMatching(GaussianPath(CondOT()))
    with pytest.raises(ValueError, match=r"net returned shape \(4, 1\).*shape of x"):
        target.loss(lambda x, t: x[:, :1], torch.zeros(4, 2), torch.Generator())


# -- regression of any kind ---------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=lambda s: s.name)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("event", [(2,), (1, 4, 4)])
@pytest.mark.parametrize("weighting", [None, Uniform("velocity")])
def test_regression_of_the_velocity_is_conditional_flow_matching(schedule, dtype, event, weighting):
    """Equal to the last bit, draw for draw, with any coupling."""

    def doubled(data, generator):
        return torch.randn(data.shape, generator=generator, dtype=data.dtype), 2 * data

    data = torch.randn(33, *event, generator=seeded(0), dtype=dtype)
    net = torch.nn.Linear(event[-1], event[-1], dtype=dtype)
    for coupling in ({}, {"coupling": doubled}):
        old = ConditionalFlowMatching(GaussianPath(schedule), **coupling)
        new = Regression(GaussianPath(schedule), weighting=weighting, **coupling)
        losses = [t.loss(lambda x, t: net(x) + t, data, seeded(1)) for t in (old, new)]
        assert torch.equal(*losses) and losses[0].dtype == dtype
        assert torch.equal(*(t.draw(data, seeded(1)).x for t in (old, new)))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("event", [(2,), (1, 4, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_regression_is_its_formula(kind, event, dtype):
    """Weights, densities and targets of CondOT typed in, one sample at a time."""
    data = torch.randn(16, *event, generator=seeded(0), dtype=dtype)
    target = Regression(
        GaussianPath(CondOT()), kind, EDM(), UniformTimes(0.1, 0.6), divide_by_density=True
    )
    sample = target.draw(data, seeded(1))
    loss = target.loss(lambda x, t: 2.0 * x + t, data, seeded(1))
    total = 0.0
    for t, x, d, e in zip(
        sample.t.flatten().tolist(), sample.x, sample.data, sample.noise, strict=True
    ):
        assert torch.allclose(x, t * d + (1 - t) * e, rtol=1e-5)
        y = {"data": d, "noise": e, "score": -e / (1 - t), "velocity": d - e}.get(
            kind, t * e - (1 - t) * d
        )
        of_data = 4 + (t / (1 - t)) ** 2
        factor = {  # |error of the data|^2 by |error of this kind|^2
            "data": 1.0,
            "noise": ((1 - t) / t) ** 2,
            "score": ((1 - t) ** 2 / t) ** 2,
            "velocity": (1 - t) ** 2,
            "v": ((1 - t) / (t**2 + (1 - t) ** 2)) ** 2,
        }[kind]
        total += 0.5 * of_data * factor * (2.0 * x + t - y).square().sum().item()
    assert loss.shape == () and loss.dtype == dtype
    # one rounding of a time enters 1 - t and 1/t, at most tenfold, and there are a dozen roundings
    assert loss.item() == pytest.approx(total / data.numel(), rel=200 * torch.finfo(dtype).eps)


def exact_net(kind, schedule):
    """E[Y_t | X_t] on the laboratory."""
    field = ExactField(laboratory(), GaussianPath(schedule))

    def net(x, t):
        time = t.flatten()
        if kind == "v":
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            return alpha * field.noise(x, time) - sigma * field.denoise(x, time)
        name = {"data": "denoise"}.get(kind, kind)
        return getattr(field, name)(x, time)

    return net


def known_loss(kind, schedule, weight, times, law=None, nodes=24):
    """The integral over p(t) dt of weight(t) E tr Cov[Y_t | X_t] / 2, by quadrature in x and t.

    Y = a X_1 + b (x - alpha X_1) / sigma at given x, so Cov Y = (a - b alpha / sigma)^2 Cov X_1.
    """
    law = law or laboratory()
    points, weights = np.polynomial.legendre.leggauss(nodes)
    half = 0.5 * (times.t_max - times.t_min)
    total = 0.0
    for t, w in zip(times.t_min + half * (1 + points), half * weights, strict=True):
        time = torch.tensor(t, dtype=F64)
        alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        # the trapezoidal rule on a grid: components have deviation at least (0.05 alpha^2 +
        # sigma^2)^(1/2), more than three spacings, and end 6 deviations inside the border
        border = 4.5 * alpha + 6.0 * sigma
        line = torch.linspace(-1.0, 1.0, 128, dtype=F64) * border
        x = torch.cartesian_prod(line, line)
        mass = torch.exp(law.marginal_log_prob(x, alpha, sigma)) * (line[1] - line[0]) ** 2
        cov = law.conditional_covariance(x, alpha, sigma)
        scatter = (mass * (cov[:, 0, 0] + cov[:, 1, 1])).sum()
        a, b = {
            "data": (1.0, 0.0),
            "noise": (0.0, 1.0),
            "score": (0.0, -1 / sigma),
            "velocity": (schedule.d_alpha(time), schedule.d_sigma(time)),
            "v": (-sigma, alpha),
        }[kind]
        total += w * times.density(time) * weight(time) * (a - b * alpha / sigma) ** 2 * scatter / 2
    return float(total)


CASES = [
    ("velocity", CondOT(), None),
    ("data", CondOT(), EDM()),
    ("noise", VP(), None),
    ("noise", CondOT(), TruncatedSNR()),
    ("score", Cosine(), Uniform("noise")),
    ("score", VP(), None),
    ("v", Cosine(), MinSNR()),
    ("velocity", SubVP(), PerHalfLogSNR(Sigmoid(-1.0))),
]


@pytest.mark.parametrize(("kind", "schedule", "weighting"), CASES)
def test_the_exact_field_has_the_conditional_variance_as_its_loss(kind, schedule, weighting):
    """At the conditional mean the loss is the weighted conditional variance; elsewhere it is more.

    All checks are at five standard errors: false alarm 6e-7.
    """
    target = Regression(GaussianPath(schedule), kind, weighting, INSIDE)
    net = exact_net(kind, schedule)
    known = known_loss(kind, schedule, target.weight, INSIDE)
    n = 20_000
    data = laboratory().sample(n, seeded(0))
    sample = target.draw(data, seeded(1))
    weight = target.weight(sample.t)
    residual = net(sample.x, sample.t) - target.target(sample)
    each = (weight * residual.square()).mean(1)
    loss = target.loss(net, data, seeded(1)).item()
    assert loss == pytest.approx(each.mean().item(), rel=1e-12)
    assert abs(loss - known) < 5 * each.std().item() / n**0.5

    size = residual.square().mean().sqrt()
    for change in (lambda x: 0 * x + 0.3 * size, lambda x: 0.2 * size * x / x.std()):
        moved = change(sample.x)
        worse = target.loss(lambda x, t, c=change: net(x, t) + c(x), data, seeded(1)).item()
        excess = (weight * moved.square()).mean().item()
        cross = (2 * weight * moved * residual).mean(1)  # mean 0, since the residual has at every x
        assert abs(worse - loss - excess) < 5 * cross.std().item() / n**0.5
        assert worse > loss


def test_the_quadrature_is_right():
    """Against a Gaussian law, where tr Cov[X_1 | X_t] is sum v sigma^2 / (alpha^2 v + sigma^2)."""
    variances = torch.tensor([0.3, 0.08], dtype=F64)
    law = Gaussian(torch.tensor([0.5, -1.0], dtype=F64), torch.diag(variances))

    def scatter(t):  # of the noise on CondOT: t^2 / (1 - t)^2 times that of the data
        v = variances.numpy()
        return float((v * t**2 / (t**2 * v + (1 - t) ** 2)).sum() / 2)

    expected = quad(scatter, 0.05, 0.95)[0] / 0.9
    known = known_loss("noise", CondOT(), torch.ones_like, INSIDE, law)
    assert known == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("kind", "schedule", "weighting"), CASES)
def test_the_quadrature_has_converged(kind, schedule, weighting):
    """Half the nodes in time move it by less than a standard error of the draws, 0.8% or more."""
    weight = Regression(GaussianPath(schedule), kind, weighting, INSIDE).weight
    coarse, fine = (known_loss(kind, schedule, weight, INSIDE, nodes=n) for n in (12, 24))
    assert coarse == pytest.approx(fine, rel=5e-3)  # 4e-3 where a weight has a kink


WEIGHTINGS = [
    Uniform("data"),
    Uniform("velocity"),
    SNR(),
    TruncatedSNR(),
    MinSNR(),
    EDM(),
    Sigmoid(1.0),
    PerHalfLogSNR(Sigmoid()),
]


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: s.name)
@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda w: type(w).__name__)
def test_a_weighted_loss_does_not_depend_on_the_kind(schedule, weighting):
    """One function seen as five kinds of network, on the same draws."""
    data = torch.randn(64, 3, generator=seeded(0), dtype=F64)

    def as_kind(kind):
        def net(x, t):
            output = torch.sin(2 * x) + t
            return convert(output, x, t.flatten(), source="v", target=kind, schedule=schedule)

        return net

    def losses(weighting):
        return [
            Regression(GaussianPath(schedule), kind, weighting, INSIDE)
            .loss(as_kind(kind), data, seeded(1))
            .item()
            for kind in KINDS
        ]

    weighted, plain = losses(weighting), losses(None)
    # The data is recovered from VE's noise with sigma up to 33 against an error of order 1, and the
    # score with 1/sigma^2 up to 4000: rounding 1e-16 is amplified by less than 1e5.
    assert weighted == pytest.approx([weighted[0]] * 5, rel=1e-9)
    assert max(plain) > 1.5 * min(plain)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_truncated_snr_is_the_larger_error(dtype):
    """Salimans and Ho compute it as max(|D_θ - X_1|^2, |eps_θ - eps|^2), sample by sample."""
    target = Regression(GaussianPath(Cosine()), "data", TruncatedSNR(), INSIDE)
    data = torch.randn(64, 3, generator=seeded(0), dtype=dtype)
    sample = target.draw(data, seeded(1))
    guess = torch.tanh(sample.x)
    noise = (sample.x - Cosine().alpha(sample.t) * guess) / Cosine().sigma(sample.t)
    errors = [(guess - data).square().mean(1), (noise - sample.noise).square().mean(1)]
    loss = target.loss(lambda x, t: torch.tanh(x), data, seeded(1))
    # the noise of the guess loses up to |x| / sigma = 40 roundings at t = 0.95
    assert loss.item() == pytest.approx(
        torch.maximum(*errors).mean().item(), rel=200 * torch.finfo(dtype).eps
    )


def test_denoising_score_matching_with_the_weight_sigma_squared():
    target = Regression(GaussianPath(VP()), "score", Uniform("noise"), UniformTimes(t_max=1 - 1e-5))
    data = torch.randn(64, 3, generator=seeded(0), dtype=F64)
    sample = target.draw(data, seeded(1))
    by_hand = (VP().sigma(sample.t) * torch.cos(sample.x) + sample.noise).square().mean()
    loss = target.loss(lambda x, t: torch.cos(x), data, seeded(1))
    assert torch.allclose(loss, by_hand, rtol=1e-12)


TIMES = {
    "uniform": INSIDE,
    "logit-normal": LogitNormalTimes(0.5, 1.0, 0.05, 0.95),
    "tabulated": TabulatedTimes(
        torch.tensor([0.05, 0.3, 0.6, 0.95]), torch.tensor([1.0, 2.0, 4.0])
    ),
    "low discrepancy": LowDiscrepancyTimes(LogitNormalTimes(-0.5, 1.0, 0.05, 0.95)),
}


@pytest.mark.parametrize("name", TIMES)
def test_divided_by_its_density_the_sampler_leaves_the_expected_loss_alone(name):
    """All estimate the same integral; undivided, they have their own loss."""
    n, schedule = 20_000, CondOT()
    net = exact_net("data", schedule)
    data = laboratory().sample(n, seeded(2))

    def per_sample(divide):
        target = Regression(
            GaussianPath(schedule), "data", None, TIMES[name], divide_by_density=divide
        )
        sample = target.draw(data, seeded(3))
        residual = net(sample.x, sample.t) - target.target(sample)
        each = (target.weight(sample.t) * residual.square()).mean(1)
        assert target.loss(net, data, seeded(3)).item() == pytest.approx(each.mean().item())
        return each.mean().item(), each.std().item() / n**0.5

    known = 0.9 * known_loss("data", schedule, torch.ones_like, INSIDE)
    mean, error = per_sample(True)
    # five standard errors, false alarm 6e-7; low-discrepancy draws spread less than independent
    assert abs(mean - known) < 5 * error
    mean, error = per_sample(False)
    assert abs(mean - known) > 5 * error


def test_low_discrepancy_lowers_the_variance_of_the_loss():
    """Where the loss varies much between times, one draw a stratum takes most of its variance.

    The zero network's loss on the score is |eps|^2 / (d sigma^2), d = 64. Over the times the
    variance of f = 1 / sigma^2 is 2500; |eps|^2 / d adds 2 / d times the mean of f^2, 90. The
    strata leave the 90 and what the common offset does in 64 of them, about
    (f(0.95) - f(0.05))^2 / (12 * 64) = 210.
    """
    net, data = torch.zeros_like, torch.zeros(64, 64)

    def losses(times):
        target = Regression(GaussianPath(CondOT()), "score", None, times)
        generator = seeded(5)
        return np.array(
            [target.loss(lambda x, t: net(x), data, generator).item() for _ in range(400)]
        )

    free, stratified = losses(INSIDE), losses(LowDiscrepancyTimes(INSIDE))
    ratio = free.var(ddof=1) / stratified.var(ddof=1)
    # Equal variances would give such a ratio with probability below 1e-9.
    assert ratio > 4 > stats.f.isf(1e-9, 399, 399)
    # Both are means of the same integral of 1 / sigma^2 over [0.05, 0.95], divided by 0.9.
    known = (1 / 0.05 - 1 / 0.95) / 0.9
    for values in (free, stratified):
        assert abs(values.mean() - known) < 5 * values.std(ddof=1) / 400**0.5


def test_tabulated_times_lower_the_variance_of_the_loss():
    """Heights in proportion to the loss, divided out again: the same mean, less scatter."""
    data = torch.zeros(20_000, 8, dtype=F64)
    edges = torch.linspace(0.05, 0.95, 31, dtype=F64)
    heights = 1 / (1 - edges[:-1]) / (1 - edges[1:])  # the mean of 1 / sigma^2 in each bin
    scatter = {}
    for name, times in {"uniform": INSIDE, "table": TabulatedTimes(edges, heights)}.items():
        target = Regression(GaussianPath(CondOT()), "score", None, times, divide_by_density=True)
        sample = target.draw(data, seeded(6))
        each = (target.weight(sample.t) * target.target(sample).square()).mean(1)
        scatter[name] = each.std().item()
        assert abs(each.mean().item() - (20 - 1 / 0.95)) < 5 * scatter[name] / 20_000**0.5
    # With bins of no width the table leaves only |eps|^2: 19 / sqrt(4) = 9.5, against 51.
    assert scatter["table"] < 0.25 * scatter["uniform"]


# -- end points -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class AtOneTime(UniformTimes):
    """Every draw is `at`."""

    at: float = 0.5

    def quantile(self, u):
        return torch.full_like(u, self.at)


@pytest.mark.parametrize(
    ("kind", "schedule", "inside"),
    [
        ("score", CondOT(), UniformTimes(t_max=1 - 1e-3)),
        ("score", VP(), LogitNormalTimes(t_max=1 - 1e-3)),
        ("score", SubVP(), UniformTimes(t_max=1 - 1e-3)),
        ("velocity", VP(), UniformTimes(t_max=1 - 1e-3)),
    ],
)
def test_infinite_targets_are_refused_when_the_target_is_made(kind, schedule, inside):
    path = GaussianPath(schedule)
    for times in (UniformTimes(), LogitNormalTimes(), LowDiscrepancyTimes()):
        with pytest.raises(ValueError, match=f"times: the {kind} is not finite at t = 1 .*t_max"):
            Regression(path, kind, None, times)
    loss = Regression(path, kind, None, inside).loss(
        lambda x, t: x, torch.zeros(1000, 2), seeded(0)
    )
    assert loss.isfinite()


def test_targets_infinite_after_rounding_are_refused_when_drawn():
    """1 - 1e-9 is below 1, but not in float32."""
    target = Regression(GaussianPath(CondOT()), "score", None, AtOneTime(0.0, 1 - 1e-9, 1 - 1e-9))
    assert target.loss(lambda x, t: x, torch.zeros(3, 2, dtype=F64), seeded(0)).isfinite()
    with pytest.raises(ValueError, match=r"times: the score is not finite at t = 1 under CondOT"):
        target.loss(lambda x, t: x, torch.zeros(3, 2), seeded(0))


@pytest.mark.parametrize(
    ("kind", "weighting", "divide", "at"),
    [
        ("noise", TruncatedSNR(), False, 0.0),
        ("noise", EDM(), False, 0.0),
        ("data", SNR(), False, 1.0),
        ("noise", PerHalfLogSNR(SNR()), False, 0.0),
        ("v", PerHalfLogSNR(SNR()), False, 0.0),
    ],
)
def test_infinite_weights_are_refused_when_drawn(kind, weighting, divide, at):
    target = Regression(GaussianPath(CondOT()), kind, weighting, AtOneTime(at=at))
    with pytest.raises(
        ValueError, match=f"times: the weight of the error of the {kind} .*t = {at:g}"
    ):
        target.loss(lambda x, t: x, torch.zeros(3, 2), seeded(0))


@pytest.mark.parametrize("kind", ["data", "noise", "velocity", "v"])
@pytest.mark.parametrize("at", [0.0, 1.0])
def test_the_end_points_themselves_are_fine_where_all_is_finite(kind, at):
    """torch.rand returns 0 every 2^24th time: a long training must survive it."""
    weightings = [None, MinSNR(), Uniform(kind)] + ([SNR()] if (kind, at) != ("data", 1.0) else [])
    for weighting in weightings:
        target = Regression(GaussianPath(CondOT()), kind, weighting, AtOneTime(at=at))
        assert target.loss(lambda x, t: 2 * x, torch.ones(3, 2), seeded(0)).isfinite()


def test_unknown_kinds_and_wrong_shapes_are_named():
    path = GaussianPath(CondOT())
    with pytest.raises(ValueError, match=r"kind must be one of.*'epsilon'"):
        Regression(path, "epsilon")
    with pytest.raises(ValueError, match=r"net returned shape \(4, 1\).*shape of x"):
        Regression(path, "noise").loss(lambda x, t: x[:, :1], torch.zeros(4, 2), seeded(0))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight_for_each_kind(kind):
    net = MLP(2, hidden=16, depth=2)
    target = Regression(GaussianPath(VP()), kind, MinSNR(), LogitNormalTimes(t_max=0.99))
    target.loss(net, torch.randn(64, 2, generator=seeded(0)), seeded(0)).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


# -- one unit for all losses -----------------------------------------------------------------------


def normal(value, mean, std):
    z = (value - mean) / std
    return torch.exp(-0.5 * z.square()) / (std * (2 * torch.pi) ** 0.5)


IN_ONE_UNIT = {  # W(lambda) in closed form
    "flow matching": (
        Regression(GaussianPath(CondOT())),
        lambda lam: torch.exp(-lam),
    ),
    "noise, cosine": (
        Regression(GaussianPath(Cosine()), "noise"),
        lambda lam: 1 / (torch.pi * torch.cosh(lam)),
    ),
    "v, cosine": (
        Regression(GaussianPath(Cosine()), "v"),
        lambda lam: 2 / torch.pi * torch.exp(-lam),
    ),
    "EDM": (
        Regression(GaussianPath(CondOT()), "data", EDM(0.5), LogitNormalTimes(1.2, 1.2)),
        lambda lam: normal(lam, 1.2, 1.2) * (1 + 4 * torch.exp(-2 * lam)),
    ),
    "Stable Diffusion 3": (
        Regression(GaussianPath(CondOT()), "velocity", times=LogitNormalTimes(0.0, 1.0)),
        lambda lam: normal(lam, 0.0, 1.0) * (1 + torch.exp(-lam)).square(),
    ),
    "bound on the likelihood": (
        Regression(
            GaussianPath(VP()),
            "noise",
            PerHalfLogSNR(SNR()),
            UniformTimes(1e-3, 1 - 1e-3),
            divide_by_density=True,
        ),
        torch.ones_like,
    ),
    "sigmoid": (
        Regression(
            GaussianPath(Cosine()),
            "v",
            PerHalfLogSNR(Sigmoid(-1.0)),
            UniformTimes(0.1, 0.9),
            divide_by_density=True,
        ),
        lambda lam: torch.sigmoid(-1.0 - 2 * lam),
    ),
}


@pytest.mark.parametrize("name", IN_ONE_UNIT)
def test_losses_of_papers_in_one_unit(name):
    target, closed = IN_ONE_UNIT[name]
    t = torch.linspace(0.12, 0.88, 17, dtype=F64)
    lam = target.path.schedule.half_log_snr(t)
    torch.testing.assert_close(target.common_weight(t), closed(lam), rtol=1e-11, atol=0)


def test_common_weight_is_refused_where_it_is_infinite():
    with pytest.raises(ValueError, match="the common weight is not finite at t = 0"):
        Regression(GaussianPath(CondOT())).common_weight(torch.tensor([0.0, 0.5]))


def test_equal_weights_are_equal_losses_whatever_path_kind_and_times():
    """Three losses with the same W by quadrature over t, for an error that lambda determines."""
    w = Sigmoid(0.5)
    low, high = -1.5, 2.0
    nodes, weights = np.polynomial.legendre.leggauss(40)
    totals = []
    for schedule, kind in ((CondOT(), "velocity"), (VP(), "noise"), (Cosine(), "data")):
        ends = schedule.inverse_half_log_snr(torch.tensor([low, high], dtype=F64)).tolist()
        target = Regression(
            GaussianPath(schedule), kind, PerHalfLogSNR(w), UniformTimes(*ends), True
        )
        t = torch.from_numpy((nodes + 1) / 2 * (ends[1] - ends[0]) + ends[0])
        lam = schedule.half_log_snr(t)
        error = torch.cos(lam) + 2  # E|eps_θ - eps|^2 as a function of lambda
        ratio = error_ratio(kind, "noise", t, schedule).square()
        density = target.times.density(t)
        integrand = target.weight(t) * ratio * error * density  # the loss, as it is drawn
        totals.append(
            (integrand * torch.from_numpy(weights)).sum().item() * (ends[1] - ends[0]) / 2
        )
    exact = quad(lambda v: (np.cos(v) + 2) / (1 + np.exp(2 * v - 0.5)), low, high)[0]
    assert totals == pytest.approx([exact] * 3, rel=1e-9)
