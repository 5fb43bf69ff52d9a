"""Averages of weights with the power function's profile, and their reconstruction."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fromnoise.ema import (
    PowerAverage,
    Snapshot,
    combination,
    decay,
    gamma_of,
    misfit,
    overlap,
    reconstruct,
    relative_width,
)


def profile(gamma: float, step: int, total: int) -> torch.Tensor:
    """The weights of theta_1, ..., theta_total, from the closed form."""
    edges = torch.arange(total + 1, dtype=torch.float64).clamp(max=step) / step
    return (edges ** (gamma + 1.0)).diff()


class Walk(nn.Module):
    """A parameter that is a random walk, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(5, dtype=torch.float64))


def walk(steps: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(steps, 5, dtype=torch.float64, generator=generator).cumsum(0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 6.94, 16.97, 200.0])
def test_the_running_average_has_the_closed_profile(gamma):
    """Round-off: 300 convex combinations of numbers of size 20."""
    net, steps = Walk(), 300
    average, thetas = PowerAverage(net, gamma), walk(steps)
    for theta in thetas:
        net.theta.data = theta
        average.update(net)
    exact = profile(gamma, steps, steps) @ thetas
    torch.testing.assert_close(average.weights["theta"], exact, rtol=0, atol=1e-11)
    assert average.snapshot().step == steps


def test_gamma_zero_is_the_plain_mean_and_the_first_step_is_copied():
    assert decay(1, 5.0) == 0.0
    net = Walk()
    average = PowerAverage(net, 0.0)
    for theta in walk(10):
        net.theta.data = theta
        average.update(net)
    torch.testing.assert_close(average.weights["theta"], walk(10).mean(0), rtol=0, atol=1e-14)


def test_the_width_is_the_standard_deviation_of_the_profile():
    for gamma in (-0.5, 0.0, 1.0, 6.94, 40.0):
        moments = [
            mpmath.quad(lambda s, k=k, g=gamma: (g + 1) * s ** (g + k), [0, 1]) for k in (1, 2)
        ]
        exact = mpmath.sqrt(moments[1] - moments[0] ** 2)
        assert relative_width(gamma) == pytest.approx(float(exact), abs=1e-9)  # singular at -0.5


def test_known_widths():
    """EDM2 names 0.05 and 0.10 as widths to store; their exponents round to 16.97 and 6.94."""
    assert round(gamma_of(0.05), 2) == 16.97 and round(gamma_of(0.10), 2) == 6.94


@given(st.floats(0.0, 1e4))
def test_width_and_exponent_are_inverse(gamma):
    """The width of a large exponent is about 1 / gamma: its rounding is relative."""
    assert gamma_of(relative_width(gamma)) == pytest.approx(gamma, rel=1e-9, abs=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relative_width(-1.0), "gamma = -1.0"),
        (lambda: gamma_of(0.3), "width = 0.3"),
        (lambda: gamma_of(0.0), "width = 0.0"),
        (lambda: decay(0, 1.0), "step = 0"),
        (lambda: reconstruct([], 1.0, 1), "at least one"),
        (lambda: reconstruct([Snapshot(1.0, 5, {})], 1.0, 6), "step = 6"),
        (
            lambda: reconstruct(
                [Snapshot(1.0, 5, {"a": torch.ones(1)}), Snapshot(2.0, 5, {"a": torch.ones(2)})],
                1.0,
                5,
            ),
            "different names or shapes",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_overlap_is_the_integral_of_the_product():
    for a, n, b, m in ((6.94, 100, 16.97, 60), (0.0, 10, 3.0, 10), (2.5, 7, 0.5, 31)):

        def density(s, gamma, step):
            return (gamma + 1) * (s / step) ** gamma / step

        exact = mpmath.quad(
            lambda s, a=a, n=n, b=b, m=m: density(s, a, n) * density(s, b, m), [0, min(n, m)]
        )
        assert overlap(a, n, b, m) == pytest.approx(float(exact), rel=1e-12)
    assert math.isfinite(overlap(300.0, 10**7, 300.0, 10**3)), "no overflow on long trainings"


def stored(thetas: torch.Tensor, every: int, gammas=(6.94, 16.97)) -> list[Snapshot]:
    total = len(thetas)
    return [
        Snapshot(gamma, step, {"theta": profile(gamma, step, total) @ thetas})
        for step in range(every, total + 1, every)
        for gamma in gammas
    ]


def test_a_stored_average_is_reconstructed_exactly():
    """The least-squares solution is one of the snapshots; rcond 1e-12 leaves about 1e-6."""
    thetas = walk(400)
    snapshots = stored(thetas, 50)
    made = reconstruct(snapshots, 6.94, 400)["theta"]
    exact = profile(6.94, 400, 400) @ thetas
    torch.testing.assert_close(made, exact, rtol=0, atol=1e-5 * thetas.abs().max().item())


@pytest.mark.parametrize("width", [0.03, 0.07, 0.12, 0.2])
def test_any_length_is_reconstructed_from_two(width):
    """Weights that settle, as in training: the error is below 1 % of how far they still move.

    A profile is approximated in L2, so on a smooth trajectory the error is far below its variation;
    more snapshots make it smaller.
    """
    steps = torch.arange(1, 4001, dtype=torch.float64)
    thetas = torch.stack([torch.exp(-steps / 700), (steps / 4000) ** 0.5], dim=1)
    exact = profile(gamma_of(width), 4000, 4000) @ thetas
    errors = []
    for every in (1000, 250):
        made = reconstruct(stored(thetas, every), gamma_of(width), 4000)["theta"]
        errors.append((made - exact).abs().max().item())
    assert errors[1] < 0.01
    assert errors[1] <= errors[0]
    assert errors[0] > 1e-12, "four snapshots of each do not determine it"


def test_precision_follows_the_network():
    net = nn.Linear(2, 2).to(torch.bfloat16)
    average = PowerAverage(net, 1.0)
    average.update(net)
    assert all(value.dtype == torch.float32 for value in average.weights.values())
    made = reconstruct([average.snapshot()], 1.0, 1)
    assert made["weight"].dtype == torch.float32
    torch.testing.assert_close(made["weight"], net.weight.float())


def test_constant_weights_are_reconstructed_exactly_from_any_profiles():
    """The coefficients sum to 1, however few profiles there are: nothing is shrunk."""
    for stored_profiles in (
        [(0.0, 10)],
        [(6.94, 50), (16.97, 100)],
        [(1.0, 3), (1.0, 9), (5.0, 9)],
    ):
        latest = stored_profiles[-1][1]
        for gamma in (0.0, 2.0, 40.0):
            total = combination(stored_profiles, gamma, latest).sum()
            assert total.item() == pytest.approx(1.0, abs=1e-9)


def test_the_combination_is_the_closest_average():
    """Against a fine grid and least squares with a heavily weighted constraint, by numpy."""
    profiles, gamma, step = [(6.94, 60), (16.97, 60), (6.94, 100), (16.97, 100)], 3.0, 100
    s = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 200

    def density(g, n):
        return torch.where(s < n, (g + 1) * (s / n) ** g / n, 0.0)

    columns = torch.stack([density(*p) for p in profiles], dim=1)
    heavy = 1e4 * torch.ones(1, len(profiles), dtype=torch.float64)
    target = torch.cat([density(gamma, step), heavy[0, :1]])
    expected = torch.linalg.lstsq(torch.cat([columns, heavy]), target[:, None]).solution[:, 0]
    found = combination(profiles, gamma, step)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    residual = columns @ found - density(gamma, step)
    relative = residual.norm() / density(gamma, step).norm()
    assert misfit(profiles, gamma, step) == pytest.approx(relative.item(), rel=1e-3)


def test_a_stored_profile_fits_itself():
    """The square of the misfit cancels to a rounding of 1, whose root is 1e-8."""
    profiles = [(g, n) for n in (50, 100) for g in (6.94, 16.97)]
    assert misfit(profiles, 6.94, 50) < 1e-6
    assert misfit(profiles, 1.0, 100) > 0.01


def test_bad_profiles_are_named():
    with pytest.raises(ValueError, match="profiles: at least one"):
        combination([], 1.0, 1)
    with pytest.raises(ValueError, match=r"gamma = -2\.0"):
        combination([(1.0, 5)], -2.0, 5)
    with pytest.raises(ValueError, match=r"gamma = -1\.0"):
        combination([(-1.0, 5)], 2.0, 5)
