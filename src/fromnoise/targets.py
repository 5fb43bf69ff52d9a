"""What a network is trained to predict: a target draws (x, t, prediction) and owns the loss.

The training loop knows one method, ``target.loss(net, data, generator)``. `ConditionalFlowMatching`
is the loss of the flow-matching chapter. `Regression` has it as a special case: any of the kinds of
prediction, any weight per noise level, any sampler of the times. Later targets (consistency, ...)
are further classes with that method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromnoise._shapes import check_same_shape
from fromnoise.couplings import Coupling, independent
from fromnoise.labels import Labelled
from fromnoise.paths import GaussianPath, PathSample
from fromnoise.predictions import Kind, coefficients
from fromnoise.time_samplers import TimeSampler, UniformTimes
from fromnoise.weightings import Weighting, error_ratio

Net = Callable[[Tensor, Tensor], Tensor]


class Target(Protocol):
    """What the training loop needs of a target."""

    def loss(self, net: Net, data: Any, generator: torch.Generator | None = None) -> Tensor:
        """The loss of ``net`` on a batch of data, a scalar to differentiate."""
        ...


def squared_error(net: Net, x: Tensor, t: Tensor, wanted: Tensor) -> Tensor:
    """(net(x, t) - wanted)^2, averaged over the batch and the coordinates.

    Raises:
        ValueError: ``net`` returns another shape than it was given.
    """
    predicted = net(x, t)
    check_same_shape(predicted, x, "the network's output", "x")
    return (predicted - wanted).square().mean()


@dataclass(frozen=True)
class ConditionalFlowMatching:
    """Regress the conditional velocity: E ‖f_θ(X_t, t) − u_t(X_t | X_1)‖² with t uniform.

    By `thm-cfm-equals-fm` this has the gradient of the intractable flow-matching loss, so its
    minimizer is the marginal velocity field. Algorithm `alg-cfm-training`, loss `eq-cfm-loss`.

    Attributes:
        path: the Gaussian path from noise to data.
        coupling: draws the pairs ``(noise, data)`` from a batch of data; independent unless said.
    """

    path: GaussianPath
    coupling: Coupling = independent

    def draw(self, data: Tensor, generator: torch.Generator | None = None) -> PathSample:
        """Times, noise and points on the path for a batch ``data`` of shape ``(batch, *event)``."""
        noise, data = self.coupling(data, generator)
        t = torch.rand(len(data), generator=generator, dtype=data.dtype, device=data.device)
        return self.path.sample(data, t, noise=noise)

    def loss(self, net: Net, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss on one batch: the squared error averaged over the batch *and* the coordinates.

        Dividing ‖·‖² by the number of coordinates moves no minimizer and makes the size of the
        loss, hence the learning rate, comparable between points of the plane and images.

        Raises:
            ValueError: if ``net`` returns another shape than it was given.
        """
        sample = self.draw(data, generator)
        predicted = net(sample.x, sample.t)
        if predicted.shape != sample.velocity.shape:
            raise ValueError(
                f"net returned shape {tuple(predicted.shape)} for x of shape "
                f"{tuple(sample.x.shape)}: a velocity has the shape of x"
            )
        return (predicted - sample.velocity).square().mean()


@dataclass(frozen=True)
class Regression:
    """Regress any prediction: E[w_t ‖f_θ(X_t, t) − Y_t‖²] with Y_t = a_t X_1 + b_t ε, t from p(t).

    (a, b) are the coefficients of the kind (`prp-affine-facts`): data (1, 0), noise (0, 1), score
    (0, −1/σ), velocity (α', σ'), v (−σ, α). The minimizer is E[Y_t | X_t] whatever the weights and
    times; they decide where a network with limits is good, and how noisy its gradients are. The
    default is `ConditionalFlowMatching`, to the last bit.

    Named losses: ``kind="noise"`` is DDPM's simplified loss (Ho et al. 2020); ``kind="score"`` is
    denoising score matching (Vincent 2011), with ``Uniform("noise")`` that with the weight σ² (Song
    & Ermon 2019); ``kind="data"`` with ``EDM()`` and ``LogitNormalTimes(1.2, 1.2)`` on `CondOT` has
    the weights and noise levels of EDM (Karras et al. 2022); the velocity on `CondOT` with
    ``LogitNormalTimes()`` is Stable Diffusion 3's choice (Esser et al. 2024). The weight of one
    error is a weight of every other (:mod:`fromnoise.weightings`), so that a weighted loss does not
    change with ``kind`` if the network's output is converted.

    Attributes:
        path: the Gaussian path from noise to data.
        kind: what the network predicts.
        weighting: the weight of each noise level; None for weight 1 on the network's own error.
        times: draws the times and knows their density; uniform on [0, 1] unless said. Its range
            must not end where the target is infinite.
        divide_by_density: divide the weight by p(t), so that the expected loss is the integral of
            w_t E‖·‖² over the sampler's range and the sampler affects its variance only. The papers
            named above do not divide: there, the density is part of the weighting.
        coupling: draws the pairs ``(noise, data)`` from a batch of data; independent unless said.

    Raises:
        ValueError: the kind is unknown, or its target is infinite at the sampler's t_min or t_max
            (the score where σ = 0, the velocity of VP at t = 1).
    """

    path: GaussianPath
    kind: Kind = "velocity"
    weighting: Weighting | None = None
    times: TimeSampler = field(default_factory=UniformTimes)
    divide_by_density: bool = False
    coupling: Coupling = independent

    def __post_init__(self) -> None:
        """Check that the target is finite on the closed range of the times."""
        ends = torch.tensor([self.times.t_min, self.times.t_max], dtype=torch.float64)
        for coefficient in coefficients(self.kind, ends, self.path.schedule):
            self._require_finite(coefficient, ends, f"the {self.kind}")

    def _require_finite(self, value: Tensor, t: Tensor, what: str) -> None:
        bad = ~torch.isfinite(value)
        if bool(bad.any()):
            raise ValueError(
                f"times: {what} is not finite at t = {t[bad].flatten()[0].item():.9g} under "
                f"{self.path.schedule.name}: choose a sampler with t_min or t_max inside, such as "
                "UniformTimes(t_min=1e-3, t_max=1 - 1e-3)."
            )

    def draw(self, data: Tensor, generator: torch.Generator | None = None) -> PathSample:
        """Times, noise and points on the path for a batch ``data`` of shape ``(batch, *event)``."""
        noise, data = self.coupling(data, generator)
        t = self.times.sample(len(data), generator, dtype=data.dtype, device=data.device)
        return self.path.sample(data, t, noise=noise)

    def target(self, sample: PathSample) -> Tensor:
        """What the network shall predict at ``sample.x``: a X_1 + b ε, ``(batch, *event)``.

        Raises:
            ValueError: it is infinite at one of the times, rounded to the precision of the data.
        """
        a, b = coefficients(self.kind, sample.t, sample.schedule)
        for coefficient in (a, b):
            self._require_finite(coefficient, sample.t, f"the {self.kind}")
        return a * sample.data + b * sample.noise

    def weight(self, t: Tensor) -> Tensor:
        """The factor of the squared error at the times ``t``, of their shape.

        Raises:
            ValueError: it is infinite or undefined at one of the times.
        """
        weight = torch.ones_like(t)
        if self.weighting is not None:
            weight = self.weighting.weight(self.kind, t, self.path.schedule)
        if self.divide_by_density:
            weight = weight / self.times.density(t)
        what = f"the weight of the error of the {self.kind} (weighting={self.weighting}, "
        self._require_finite(weight, t, f"{what}divide_by_density={self.divide_by_density})")
        return weight

    def common_weight(self, t: Tensor) -> Tensor:
        """W(lambda): this loss is the integral of W(lambda) E|eps_θ - eps|^2 over the half log-SNR.

        `thm-common-loss`: the weight of the error of the noise, times the density of the times, per
        unit of lambda. Two losses with the same W are one loss, whatever they predict, weight and
        draw.

        Args:
            t: any shape, inside (0, 1): at the ends lambda is infinite.

        Returns:
            The shape of `t`: W at lambda_t.

        Raises:
            ValueError: the weight, or W itself, is not finite at one of the times.
        """
        schedule = self.path.schedule
        rate = schedule.d_alpha(t) / schedule.alpha(t) - schedule.d_sigma(t) / schedule.sigma(t)
        ratio = error_ratio(self.kind, "noise", t, schedule).square()
        common = self.weight(t) * ratio * self.times.density(t) / rate
        self._require_finite(common, t, "the common weight")
        return common

    def loss(self, net: Net, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss on one batch: the weighted squared error, averaged over batch *and* coordinates.

        Raises:
            ValueError: ``net`` returns another shape than it was given, or the target or its weight
                is infinite at one of the times.
        """
        sample = self.draw(data, generator)
        target, weight = self.target(sample), self.weight(sample.t)
        predicted = net(sample.x, sample.t)
        if predicted.shape != target.shape:
            raise ValueError(
                f"net returned shape {tuple(predicted.shape)} for x of shape "
                f"{tuple(sample.x.shape)}: a prediction has the shape of x"
            )
        return (weight * (predicted - target).square()).mean()


@dataclass(frozen=True)
class VariationalAutoencoder:
    """Minus the evidence lower bound of an autoencoder, for each coordinate (`thm-elbo`).

    The network is one of :mod:`fromnoise.networks.vae`: it has a method ``elbo(data, generator,
    beta)``. It has no time, and the loop needs none.

    Attributes:
        beta: weight of the KL term; 1 for the bound itself.
    """

    beta: float = 1.0

    def loss(
        self, net: nn.Module, data: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The mean over the batch of -ELBO / d, with one draw of the latent for each datum."""
        bound = net.elbo(data, generator, self.beta)
        return -bound.mean() / data[0].numel()


@dataclass(frozen=True)
class Classification:
    """Read the label off an image: the cross-entropy, on images that are moved a little.

    The network is one that gives logits, ``net(x)``, such as
    :class:`fromnoise.networks.DigitFeatures`. It has no time, and the loop needs none.

    Attributes:
        shift: each image is moved by up to so many pixels along both sides; what comes in at the
            border has the value `background`.
        background: value of an empty pixel.

    Raises:
        ValueError: the shift is negative.
    """

    shift: int = 0
    background: float = -1.0

    def __post_init__(self) -> None:
        """Check the shift."""
        if self.shift < 0:
            raise ValueError(f"shift is {self.shift}: it must be at least 0.")

    def moved(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Each image of ``(batch, channels, h, w)`` moved by its own random whole pixels."""
        if self.shift == 0:
            return x
        n, _, height, width = x.shape
        k = self.shift
        padded = functional.pad(x, (k, k, k, k), value=self.background)
        where = {"generator": generator, "device": x.device}
        down, right = torch.randint(0, 2 * k + 1, (2, n), **where)
        rows = down[:, None] + torch.arange(height, device=x.device)  # (n, height)
        columns = right[:, None] + torch.arange(width, device=x.device)  # (n, width)
        image = torch.arange(n, device=x.device)[:, None, None]
        # a slice between advanced indices puts the channels last
        moved = padded[image, :, rows[:, :, None], columns[:, None, :]]
        return moved.movedim(-1, 1).contiguous()

    def loss(
        self, net: nn.Module, data: Labelled, generator: torch.Generator | None = None
    ) -> Tensor:
        """The mean cross-entropy over the batch, in nats.

        Raises:
            TypeError: the data have no labels.
        """
        if not isinstance(data, Labelled):
            raise TypeError(
                f"data is {type(data).__name__}: Classification trains on Labelled(x, labels)."
            )
        return functional.cross_entropy(net(self.moved(data.x, generator)), data.labels)


@dataclass(frozen=True)
class LabelDropout:
    """Another target for a network that is told the label, and every so often is not.

    With probability `drop`, independently of everything else, a label is replaced by "no label",
    which is the label `classes`. The minimizer is then the conditional prediction for the labels
    and the unconditional one for "no label", whatever `drop` in (0, 1) (`prp-label-dropout`, Ho &
    Salimans 2022); `drop` says how much of the training each of the two gets.

    Attributes:
        target: of the prediction; its noise must be independent of the data.
        classes: how many labels there are: they are 0, ..., classes - 1.
        drop: probability of hiding a label, in [0, 1].

    Raises:
        ValueError: `drop` or `classes` is out of its range, or the target couples noise and data
            (which would move the data away from their labels).
    """

    target: Target
    classes: int
    drop: float = 0.1

    def __post_init__(self) -> None:
        """Check the numbers and the coupling."""
        if self.classes < 1:
            raise ValueError(f"classes must be at least 1, but it is {self.classes}.")
        if not 0.0 <= self.drop <= 1.0:
            raise ValueError(f"drop must lie in [0, 1], but it is {self.drop}.")
        if getattr(self.target, "coupling", independent) is not independent:
            raise ValueError(
                "target: its coupling reorders a batch and would give data the labels of others; "
                "leave the coupling out (independent noise)."
            )

    def loss(
        self, net: Callable, data: Labelled, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss of ``net(x, t, labels)`` on one batch of data with labels.

        Raises:
            ValueError: a label is not below `classes`, or the target's own errors.
            TypeError: the data have no labels.
        """
        if not isinstance(data, Labelled):
            raise TypeError(
                f"data is {type(data).__name__}: LabelDropout trains on Labelled(x, labels)."
            )
        labels = data.labels
        if int(labels.max()) >= self.classes:
            raise ValueError(
                f"labels go up to {int(labels.max())}, but classes={self.classes}: labels count "
                "from 0 and must lie below it."
            )
        hidden = torch.rand(len(labels), generator=generator, device=labels.device) < self.drop
        told = labels.masked_fill(hidden, self.classes)
        return self.target.loss(lambda x, t: net(x, t, told), data.x, generator)
