"""Guided fields: their algebra, their cost, their limits, and what they refuse."""

import math

import pytest
import torch
from torch import nn

from fromnoise import checkpoints, recipes
from fromnoise.distributions import Gaussian, GaussianMixture, laboratory
from fromnoise.fields import ExactField, NetworkField
from fromnoise.grids import Grid, karras
from fromnoise.guidance import (
    ClassifierGuided,
    ExactClassifier,
    Guided,
    Limited,
    classifier_free,
    tilting_weights,
)
from fromnoise.labels import Labelled
from fromnoise.networks import MLP, Preconditioned, UNet
from fromnoise.paths import GaussianPath
from fromnoise.predictions import coefficients
from fromnoise.samplers import ddim, dpmpp, flow_euler, flow_heun
from fromnoise.schedules import VP, CondOT, Cosine
from fromnoise.targets import ConditionalFlowMatching, LabelDropout, Regression
from fromnoise.training import train

F64 = torch.float64
LAB = laboratory()
CLASS = [0, 1]
SCHEDULES = [CondOT(), Cosine(), VP()]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def exact(schedule):
    """The unconditional and the conditional field of the laboratory, and its classifier."""
    path = GaussianPath(schedule)
    law = LAB.to(dtype=F64)
    classifier = ExactClassifier(law, CLASS, path)
    return ExactField(law, path), ExactField(law.part(CLASS), path), classifier


class Counting(nn.Module):
    """A conditional network that keeps the batches it was called with."""

    def __init__(self):
        super().__init__()
        self.classes, self.calls = 3, []
        self.table = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=F64))

    def forward(self, x, t, labels=None):
        self.calls.append((len(x), None if labels is None else labels.tolist()))
        told = torch.tensor(3) if labels is None else labels
        return x * t[:, None] + self.table[told.expand(len(x))][:, None]


def counting():
    net = Counting()
    return net, NetworkField(net, GaussianPath(CondOT()), "velocity")


# -- the mixture of two fields --------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
@pytest.mark.parametrize("scale", [-1.5, 0.0, 0.5, 1.0, 3.0, 50.0])
def test_every_kind_of_prediction_is_mixed_alike(schedule, scale):
    """`prp-mixing-kinds`: all predictions of D_w, made from D_w itself by the affine facts."""
    weak, strong, _ = exact(schedule)
    guided = Guided(weak, strong, scale)
    x, t = LAB.sample(30, seeded(0)).double(), 0.3
    time = torch.tensor(t, dtype=F64)
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    denoised = (1 - scale) * weak.denoise(x, t) + scale * strong.denoise(x, t)
    noise = (x - alpha * denoised) / sigma
    point = Grid.point(schedule, t)
    for name, kind in (("denoise", "data"), ("noise", "noise"), ("velocity", "velocity")):
        a, b = coefficients(kind, time, schedule)
        expected = a * denoised + b * noise
        for found in (getattr(guided, name)(x, t), guided.predict(x, point, kind)):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * (1 + abs(scale)))
    torch.testing.assert_close(guided.score(x, t), -noise / sigma, rtol=1e-9, atol=1e-9)


def test_scales_zero_and_one_are_the_fields_themselves_and_ask_only_one():
    net, field = counting()
    x, point = torch.randn(4, 2, generator=seeded(1), dtype=F64), Grid.point(CondOT(), 0.4)
    for scale, labels in ((1.0, torch.tensor([0, 1, 2, 0])), (0.0, None)):
        guided = classifier_free(field, torch.tensor([0, 1, 2, 0]), scale)
        net.calls.clear()
        found = guided.predict(x, point, "velocity")
        assert net.calls == [(4, None if labels is None else labels.tolist())]
        assert torch.equal(found, field.given(labels).predict(x, point, "velocity"))
        assert torch.equal(guided.velocity(x, 0.4), field.given(labels).velocity(x, 0.4))
        assert len(net.calls) == 4


def test_both_forwards_are_one_batch():
    net, field = counting()
    labels = torch.tensor([0, 1, 2, 0])
    guided = classifier_free(field, labels, 2.5)
    x, point = torch.randn(4, 2, generator=seeded(2), dtype=F64), Grid.point(CondOT(), 0.4)
    for ask in (lambda: guided.predict(x, point, "data"), lambda: guided.denoise(x, 0.4)):
        net.calls.clear()
        found = ask()
        assert net.calls == [(8, [3, 3, 3, 3, 0, 1, 2, 0])]
        weak, strong = field.denoise(x, 0.4), field.given(labels).denoise(x, 0.4)
        torch.testing.assert_close(found, weak + 2.5 * (strong - weak), rtol=1e-12, atol=1e-12)


def test_one_batch_for_times_and_scales_that_differ_between_samples():
    net, field = counting()
    labels, scale = torch.tensor([2, 1, 0]), torch.tensor([0.0, 1.0, 4.0], dtype=F64)
    guided = classifier_free(field, labels, scale)
    times = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.9, 0.6], [1.0, 1.0, 1.0]], dtype=F64)
    grid = Grid.of_samples(CondOT(), times)
    x = torch.randn(3, 2, generator=seeded(3), dtype=F64)
    net.calls.clear()
    together = flow_euler(guided, x, grid)
    assert [n for n, _ in net.calls] == [6, 6]
    for i in range(3):
        alone = classifier_free(field, labels[i], scale[i].item())
        found = flow_euler(alone, x[i : i + 1], times[:, i])
        torch.testing.assert_close(together[i : i + 1], found, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(guided.velocity(x, times[1])[2:], alone.velocity(x[2:], 0.6))


def test_a_negative_prompt_is_the_other_label():
    net, field = counting()
    guided = classifier_free(field, 0, 3.0, away=2)
    x, point = torch.randn(2, 2, generator=seeded(4), dtype=F64), Grid.point(CondOT(), 0.4)
    net.calls.clear()
    found = guided.predict(x, point, "velocity")
    assert net.calls == [(4, [2, 2, 0, 0])]
    # the network's velocity is t x + label + 1
    torch.testing.assert_close(found, 0.4 * x + 3.0 + 3.0 * (1.0 - 3.0))


def test_a_scale_may_depend_on_state_and_time():
    """`prp-negation`: with w = -odds of y the conditional field becomes that of "not y"."""
    weak, strong, classifier = exact(CondOT())
    law = LAB.to(dtype=F64)

    def scale(x, t):
        p = classifier(x, t).exp()
        return -p / (1 - p)

    guided = Guided(weak, strong, scale)
    others = [k for k in range(len(law.weights)) if k not in CLASS]
    complement = ExactField(law.part(others), weak.path)
    x = 0.5 * LAB.sample(40, seeded(5)).double()
    for t in (0.02, 0.3, 0.6):
        near = classifier(x, t) < math.log(0.999)  # else 1 - p has lost its digits
        assert near.sum() > 15
        torch.testing.assert_close(
            guided.denoise(x, t)[near], complement.denoise(x, t)[near], rtol=1e-8, atol=1e-8
        )
        point = Grid.point(CondOT(), t)
        assert torch.allclose(guided.predict(x, point), guided.denoise(x, t), rtol=1e-10)


def test_a_scale_of_fifty_stays_finite_and_follows_its_formula():
    weak, strong, _ = exact(Cosine())
    x = torch.randn(64, 2, generator=seeded(6), dtype=F64)
    grid = karras(Cosine(), 60)
    for scale in (-5.0, 50.0):
        assert ddim(Guided(weak, strong, scale), x, grid).isfinite().all()


@pytest.mark.parametrize("sampler", [ddim, dpmpp, flow_heun], ids=lambda f: f.__name__)
def test_samplers_take_guided_fields(sampler):
    """At scale 1 each gives the conditional field's own samples; at 2 something else."""
    weak, strong, classifier = exact(CondOT())
    x = torch.randn(50, 2, generator=seeded(7), dtype=F64)
    times = torch.linspace(0.001, 0.999, 20, dtype=F64)
    plain = sampler(strong, x, times)
    assert torch.equal(sampler(Guided(weak, strong, 1.0), x, times), plain)
    by_classifier = sampler(ClassifierGuided(weak, classifier, 1.0), x, times)
    torch.testing.assert_close(by_classifier, plain, rtol=1e-7, atol=1e-7)
    assert not torch.allclose(sampler(Guided(weak, strong, 2.0), x, times), plain, atol=1e-2)


# -- classifier guidance --------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_the_exact_classifier_turns_the_law_into_the_conditional_one(schedule):
    """`thm-classifier-guidance`, and for any scale that both kinds of guidance are one."""
    weak, strong, classifier = exact(schedule)
    x = LAB.sample(40, seeded(8)).double()
    for t in (0.02, 0.4, 0.9):
        for scale in (0.0, 1.0, 2.5):
            guided = ClassifierGuided(weak, classifier, scale)
            other = Guided(weak, strong, scale)
            point = Grid.point(schedule, t)
            for name in ("denoise", "noise", "score", "velocity"):
                torch.testing.assert_close(
                    getattr(guided, name)(x, t), getattr(other, name)(x, t), rtol=1e-8, atol=1e-8
                )
            for kind in ("data", "noise", "velocity"):
                torch.testing.assert_close(
                    guided.predict(x, point, kind),
                    other.predict(x, point, kind),
                    rtol=1e-8,
                    atol=1e-8,
                )


def test_the_classifier_is_a_probability():
    _, _, classifier = exact(CondOT())
    others = ExactClassifier(classifier.law, [2], classifier.path)
    rest = [k for k in range(len(classifier.law.weights)) if k not in (*CLASS, 2)]
    x = LAB.sample(40, seeded(9)).double()
    for t in (0.0, torch.full((40,), 0.5, dtype=F64), 1.0):
        total = classifier(x, t).exp() + others(x, t).exp()
        if rest:
            total = total + ExactClassifier(classifier.law, rest, classifier.path)(x, t).exp()
        torch.testing.assert_close(total, torch.ones_like(total))


def test_classifier_guidance_without_signal_is_refused():
    weak, _, classifier = exact(CondOT())
    guided = ClassifierGuided(weak, classifier, 2.0)
    x = torch.randn(3, 2, generator=seeded(10), dtype=F64)
    # no signal, no gradient but what rounding makes
    torch.testing.assert_close(guided.noise(x, 0.0), weak.noise(x, 0.0), rtol=1e-14, atol=1e-14)
    for ask in (
        lambda: guided.denoise(x, 0.0),
        lambda: guided.velocity(x, 0.0),
        lambda: guided.predict(x, Grid.point(CondOT(), 0.0), "data"),
    ):
        with pytest.raises(ValueError, match=r"alpha = 0.*begin the grid a little later"):
            ask()
    assert torch.equal(ClassifierGuided(weak, classifier, 0.0).denoise(x, 0.0), weak.denoise(x, 0))
    with pytest.raises(ValueError, match=r"log_prob returned shape \(3, 2\)"):
        ClassifierGuided(weak, lambda x, t: x, 1.0).noise(x, 0.5)


def test_classifier_guidance_works_without_gradients_around_it():
    weak, _, classifier = exact(CondOT())
    with torch.no_grad():
        out = ClassifierGuided(weak, classifier, 1.0).denoise(torch.zeros(2, 2, dtype=F64), 0.5)
    assert not out.requires_grad


# -- intervals ------------------------------------------------------------------------------------


def test_outside_the_interval_only_the_other_field_is_asked():
    net, field = counting()
    guided, plain = classifier_free(field, 1, 4.0), field.given(1)
    limited = Limited(guided, plain, low=-0.5, high=0.5)
    x = torch.randn(2, 2, generator=seeded(11), dtype=F64)
    for t, size in ((0.1, 2), (0.5, 4), (0.9, 2)):  # lambda = logit t
        net.calls.clear()
        found = limited.predict(x, Grid.point(CondOT(), t), "velocity")
        assert [n for n, _ in net.calls] == [size]
        inside = size == 4
        assert torch.equal(found, (guided if inside else plain).velocity(x, t))
        assert torch.equal(found, limited.velocity(x, t))
    everywhere = Limited(guided, plain)
    assert torch.equal(everywhere.noise(x, 0.0), guided.noise(x, 0.0))
    # lambda is infinite at t = 1, which belongs to no half-open interval
    assert torch.equal(everywhere.denoise(x, 1.0), plain.denoise(x, 1.0))


def test_the_interval_is_chosen_for_each_sample():
    weak, strong, _ = exact(CondOT())
    limited = Limited(Guided(weak, strong, 3.0), strong, low=0.0)
    x = LAB.sample(3, seeded(12)).double()
    t = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    found = limited.denoise(x, t)
    for i, field in enumerate((strong, limited.inside, limited.inside)):
        torch.testing.assert_close(found[i : i + 1], field.denoise(x[i : i + 1], t[i].item()))


# -- rescaling ------------------------------------------------------------------------------------


def images():
    """Two exact fields of images of 2 × 3 pixels: laws of 40 and of 8 pictures."""
    from fromnoise.distributions import Empirical

    data = torch.randn(40, 1, 2, 3, generator=seeded(13), dtype=F64)
    path = GaussianPath(Cosine())
    return ExactField(Empirical(data), path), ExactField(Empirical(data[:8]), path)


@pytest.mark.parametrize("kind", ["data", "noise", "velocity"])
def test_rescaling_is_the_formula_of_lin_et_al(kind):
    """`prp-rescale`, against 🤗 Diffusers' function, in the kind that is asked for."""
    diffusers = pytest.importorskip("diffusers.guiders.guider_utils")
    weak, strong = images()
    x, t = torch.randn(5, 1, 2, 3, generator=seeded(14), dtype=F64), 0.4
    name = "denoise" if kind == "data" else kind
    a, b = getattr(weak, name)(x, t), getattr(strong, name)(x, t)
    for phi in (0.3, 1.0):
        guided = Guided(weak, strong, 5.0, rescale=phi, rescale_kind=kind)
        expected = diffusers.rescale_noise_cfg(a + 5.0 * (b - a), b, phi)
        point = Grid.point(Cosine(), t)
        for found in (getattr(guided, name)(x, t), guided.predict(x, point, kind)):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        # the other predictions belong to the same denoiser
        for other in ("data", "noise", "velocity"):
            method = getattr(guided, "denoise" if other == "data" else other)
            torch.testing.assert_close(guided.predict(x, point, other), method(x, t))
        alpha, sigma = point.alpha, point.sigma
        both = alpha * guided.denoise(x, t) + sigma * guided.noise(x, t)
        torch.testing.assert_close(both, x, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(guided.score(x, t), -guided.noise(x, t) / sigma)


def test_rescaling_a_constant_changes_nothing_and_one_coordinate_is_refused():
    path = GaussianPath(CondOT())
    flat = ExactField(Gaussian(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)), path)
    x = torch.ones(1, 2, dtype=F64)
    assert torch.equal(Guided(flat, flat, 3.0, rescale=1.0).denoise(x, 0.5), flat.denoise(x, 0.5))
    line = ExactField(Gaussian(torch.zeros(1), torch.eye(1)), path)
    with pytest.raises(ValueError, match="at least two coordinates"):
        Guided(line, line, 3.0, rescale=0.5).denoise(torch.ones(2, 1), 0.5)


# -- the weights that make up for it --------------------------------------------------------------


def test_gaussians_are_mixed_geometrically():
    """`thm-gaussian-guidance`, and `thm-guided-law`: density times weight is the tilted density."""
    path = GaussianPath(CondOT())
    v0, v1, m = 1.0, 0.3, 0.8

    def gaussian(mean, var):
        return Gaussian(torch.tensor([mean], dtype=F64), torch.tensor([[var]], dtype=F64))

    weak, strong = ExactField(gaussian(0.0, v0), path), ExactField(gaussian(m, v1), path)
    x = torch.linspace(-2, 2, 5, dtype=F64)[:, None]
    times = torch.linspace(0, 1, 201, dtype=F64)
    normal = gaussian(0.0, 1.0)
    for w in (-1.0, 0.5, 1.0, 2.0, 4.0):
        end, log_weight = tilting_weights(Guided(weak, strong, w), x, times)
        slope = (end[-1] - end[0]) / 4.0
        # Runge-Kutta of order 4 with 200 steps: the errors found are below 1e-9
        assert abs(slope.item() ** 2 - v0 ** (1 - w) * v1**w) < 1e-8
        guided = normal.log_prob(x) - slope.log()
        tilted = (1 - w) * weak.law.log_prob(end) + w * strong.law.log_prob(end)
        torch.testing.assert_close(guided + log_weight, tilted, rtol=1e-7, atol=1e-7)
        sign = 0.0 if w == 1.0 else math.copysign(1.0, w * (w - 1))
        assert (log_weight.sign() == sign).all()


def test_weights_need_one_constant_scale_and_increasing_times():
    weak, strong, _ = exact(CondOT())
    x = torch.zeros(2, 2, dtype=F64)
    for guided in (
        Guided(weak, strong, torch.ones(2)),
        Guided(weak, strong, 2.0, rescale=0.5),
        Guided(weak, strong, lambda x, t: 2.0),
    ):
        with pytest.raises(ValueError, match="one constant scale without rescaling"):
            tilting_weights(guided, x, torch.linspace(0, 1, 3))
    with pytest.raises(ValueError, match="increase"):
        tilting_weights(Guided(weak, strong, 2.0), x, torch.linspace(1, 0, 3))


# -- what is refused ------------------------------------------------------------------------------


def test_an_unconditional_network_is_told_nothing():
    field = NetworkField(MLP(2, hidden=8, depth=1), GaussianPath(CondOT()))
    with pytest.raises(ValueError, match="trained without labels and has no conditional field"):
        classifier_free(field, 3, 2.0)
    with pytest.raises(ValueError, match="built without classes and cannot be told a label"):
        field.net(torch.zeros(2, 2), 0.5, 1)
    with pytest.raises(ValueError, match="digits-velocity was trained without labels"):
        checkpoints.load("digits-velocity").sample(1, steps=1, labels=3)
    schedule = CondOT()
    wrapped = Preconditioned(MLP(2, hidden=8, depth=1), schedule, 1.0)
    assert wrapped.classes is None
    with pytest.raises(ValueError, match="built without classes"):
        wrapped(torch.zeros(2, 2), 0.5, 1)


def test_labels_that_do_not_exist_are_named():
    field = NetworkField(MLP(2, hidden=8, depth=1, classes=4), GaussianPath(CondOT()))
    with pytest.raises(ValueError, match=r"labels span \[0, 5\], but the network knows 0 to 3"):
        field.given(torch.tensor([0, 5]))
    with pytest.raises(ValueError, match=r"labels span \[-1, -1\]"):
        field.given(-1)
    with pytest.raises(TypeError, match=r"torch.float32: pass whole numbers"):
        field.given(torch.tensor([1.0]))
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        field.given(torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"labels has shape \(3,\) but x has a batch of 2"):
        field.given(torch.tensor([0, 1, 2])).denoise(torch.zeros(2, 2), 0.5)
    assert field.given(4).denoise(torch.ones(2, 2), 0.5).equal(field.denoise(torch.ones(2, 2), 0.5))


def test_impossible_guidance_is_refused():
    weak, strong, classifier = exact(CondOT())
    other = exact(Cosine())[1]
    with pytest.raises(ValueError, match="TransformedField"):
        Guided(weak, other, 2.0)
    with pytest.raises(ValueError, match="TransformedField"):
        Limited(weak, other)
    for bad in (math.inf, math.nan):
        with pytest.raises(ValueError, match="scale must be finite"):
            Guided(weak, strong, bad)
        with pytest.raises(ValueError, match="scale must be finite"):
            ClassifierGuided(weak, classifier, bad)
    with pytest.raises(ValueError, match="rescale must lie in"):
        Guided(weak, strong, 2.0, rescale=1.5)
    with pytest.raises(ValueError, match="low must be below high"):
        Limited(weak, strong, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"scale has shape \(3,\)"):
        Guided(weak, strong, torch.ones(3)).denoise(torch.zeros(2, 2, dtype=F64), 0.5)


def test_a_part_of_a_mixture_is_named_by_its_components():
    law = LAB
    part = law.part([1, 0])
    x = law.sample(20, seeded(15))
    weights = law.weights[:2] / law.weights[:2].sum()
    alone = [GaussianMixture(torch.ones(1), law.means[[k]], law.covs[[k]]) for k in (0, 1)]
    expected = sum(w * a.log_prob(x).exp() for w, a in zip(weights, alone, strict=True))
    torch.testing.assert_close(part.log_prob(x).exp(), expected.to(x.dtype))
    for bad in ([], [0, 0], [99], [-1]):
        with pytest.raises(ValueError, match="components="):
            law.part(bad)


# -- training with labels -------------------------------------------------------------------------


def test_networks_tell_labels_apart():
    torch.manual_seed(0)
    for net, x in (
        (MLP(2, hidden=16, depth=1, classes=3), torch.randn(4, 2)),
        (
            UNet(widths=(8, 8), embedding=8, groups=4, heads=2, classes=3),
            torch.randn(4, 1, 8, 8),
        ),
    ):
        with torch.no_grad():
            for p in net.parameters():
                p += 0.1 * torch.randn_like(p)
        labels = torch.tensor([0, 1, 2, 3])
        told = net(x, 0.5, labels)
        for i in range(4):
            alone = net(x[i : i + 1], 0.5, labels[i].item())
            torch.testing.assert_close(told[i : i + 1], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(x, 0.5), net(x, 0.5, 3))
        assert (net(x, 0.5, 0) - net(x, 0.5, 1)).abs().max() > 1e-3
        wrapped = Preconditioned(net, CondOT(), 1.0)
        assert wrapped.classes == 3
        assert (wrapped(x, 0.5, 0) - wrapped(x, 0.5, 1)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="classes is 0"):
        MLP(2, classes=0)


def test_label_dropout_hides_the_right_share_and_keeps_the_rest():
    seen = []

    def net(x, t, labels):
        seen.append(labels)
        return torch.zeros_like(x)

    labels = torch.arange(3).repeat(4000)
    data = Labelled(torch.zeros(12_000, 2), labels)
    for drop in (0.0, 0.2, 1.0):
        seen.clear()
        target = LabelDropout(ConditionalFlowMatching(GaussianPath(CondOT())), 3, drop)
        target.loss(net, data, seeded(16))
        hidden = seen[0] == 3
        # binomial of 12,000: 4.5 standard deviations
        assert abs(hidden.float().mean().item() - drop) <= 4.5 * math.sqrt(0.16 / 12_000)
        assert torch.equal(seen[0][~hidden], labels[~hidden])


def test_label_dropout_learns_both_fields():
    """`prp-label-dropout` on two Gaussians: both denoisers of one small network are the exact ones.

    Root-mean-square errors, data of deviation 2; found 0.024, 0.027, and 0.07 without a label.
    """
    law = GaussianMixture(
        torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]]), 0.09 * torch.ones(2, 1, 1)
    )
    n = 4000
    labels = torch.arange(n) % 2
    draws = torch.randn(n, 1, generator=seeded(17))
    data = Labelled(law.means[labels] + 0.3 * draws, labels)
    torch.manual_seed(0)
    net = MLP(1, hidden=32, depth=2, classes=2)
    path = GaussianPath(CondOT())
    target = LabelDropout(Regression(path, "velocity"), 2, drop=0.3)
    trained = train(net, target, data, steps=500, batch_size=256, lr=5e-3, ema_decay=0.98,
                    progress=False)  # fmt: skip
    field = NetworkField(trained.net, path, "velocity")
    for label, exact_law in ((None, law), (0, law.part([0])), (1, law.part([1]))):
        x = path.sample(exact_law.sample(2000, seeded(18)), 0.5, generator=seeded(19)).x
        error = field.given(label).denoise(x, 0.5) - ExactField(exact_law, path).denoise(x, 0.5)
        with torch.no_grad():
            assert error.square().mean().sqrt() < (0.15 if label is None else 0.06), label


def test_labelled_data_are_checked_and_move_together():
    data = Labelled(torch.arange(6.0).reshape(3, 2), torch.tensor([2, 0, 1]))
    part = data[torch.tensor([2, 0])].to(torch.device("cpu"), F64)
    assert len(part) == 2 and part.x.dtype == F64 and part.labels.tolist() == [1, 2]
    assert part.x.tolist() == [[4.0, 5.0], [0.0, 1.0]] and part.device.type == "cpu"
    with pytest.raises(ValueError, match="one label for each datum"):
        Labelled(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(TypeError, match="int64"):
        Labelled(torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="negative"):
        Labelled(torch.zeros(1, 2), torch.tensor([-1]))


def test_label_dropout_refuses_what_does_not_fit():
    from fromnoise.couplings import MinibatchOT

    path = GaussianPath(CondOT())
    plain = ConditionalFlowMatching(path)
    with pytest.raises(ValueError, match="would give data the labels of others"):
        LabelDropout(ConditionalFlowMatching(path, MinibatchOT()), 3)
    with pytest.raises(ValueError, match="drop must lie in"):
        LabelDropout(plain, 3, drop=1.1)
    with pytest.raises(ValueError, match="classes must be at least 1"):
        LabelDropout(plain, 0)
    target = LabelDropout(plain, 3)
    with pytest.raises(TypeError, match="trains on Labelled"):
        target.loss(None, torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"labels go up to 3, but classes=3"):
        target.loss(None, Labelled(torch.zeros(1, 2), torch.tensor([3])))


def test_a_conditional_recipe_trains_resumes_and_samples(tmp_path):
    tiny = {"steps": 4, "batch_size": 8, "warmup": 1, "progress": False}
    out = tmp_path / "weights.safetensors"
    recipes.train("digits-conditional-weak", out=out, **tiny)
    found = checkpoints.load(out)
    assert found.classes == 10
    labels = torch.arange(5)
    kept = {"steps": 2, "generator": None, "source": torch.randn(5, 1, 28, 28)}
    whole = found.sample(5, labels=labels, guidance=3.0, **kept)
    parts = found.sample(5, labels=labels, guidance=3.0, batch_size=2, **kept)
    assert torch.allclose(whole, parts, atol=1e-5)
    alone = found.sample(5, labels=2, guidance=3.0, **kept)
    assert torch.allclose(whole[2], alone[2], atol=1e-5)
    assert torch.equal(found.sample(5, **kept), found.sample(5, labels=1, guidance=0.0, **kept))
    with pytest.raises(ValueError, match=r"labels has shape \(4,\) for n=5"):
        found.sample(5, labels=labels[:4], **kept)
    with pytest.raises(ValueError, match=r"guidance=2\.0 without labels"):
        found.sample(5, guidance=2.0, **kept)
