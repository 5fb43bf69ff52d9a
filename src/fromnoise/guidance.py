"""Guidance: fields made of two others, to draw what a label asks for, or more of it than there is.

One convention throughout: with ``scale`` w, ``weak + w (strong - weak)``. For classifier-free
guidance weak is the unconditional and strong the conditional field, so that w = 0 ignores the
label, w = 1 samples the conditional law, w > 1 overshoots and w < 0 turns away. Papers that write
w + 1 for it: `rem-scale-conventions`.

Every wrapper is a `Field`, and any sampler takes it. The affine facts are linear, so it makes no
difference in which kind of prediction two fields are mixed (`prp-mixing-kinds`); rescaling and
clipping are exceptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fromnoise._shapes import as_time, expand
from fromnoise.distributions import GaussianMixture
from fromnoise.fields import Field, NetworkField, Predicted
from fromnoise.grids import Point
from fromnoise.paths import GaussianPath
from fromnoise.predictions import convert, weights_at
from fromnoise.processes import ODE
from fromnoise.schedules import Schedule
from fromnoise.solvers import ODEStep, rk4, solve_ode

Scale = float | Tensor | Callable[[Tensor, float | Tensor], Tensor]
"""A number, one for each sample ``(batch,)``, or a function of (x, t) that returns one of these."""


@dataclass(frozen=True, eq=False)
class Guided(Field):
    """The field ``weak + scale (strong - weak)`` (`def-guided-field`).

    - weak unconditional, strong conditional: classifier-free guidance (Ho & Salimans 2022), see
      `classifier_free`;
    - weak a worse model of the same law: autoguidance (Karras et al. 2024);
    - weak conditioned on what is not wanted: a negative prompt.

    At scale 0 and 1 only the one field is evaluated. Where both are the same network with different
    labels, the two evaluations are one batch of twice the size.

    Args:
        weak: what to go away from.
        strong: what to go towards.
        scale: w; any finite number, one for each sample, or a function of (x, t).
        rescale: share phi in [0, 1] of the rescaling of Lin et al. 2024: the prediction of each
            sample is brought to the standard deviation of the strong one (`prp-rescale`).
        rescale_kind: of which prediction; unlike all else here, it makes a difference.

    Raises:
        ValueError: the two fields have different schedules, or `scale` or `rescale` is out of its
            range.
    """

    weak: Field
    strong: Field
    scale: Scale = 1.0
    rescale: float = 0.0
    rescale_kind: Predicted = "data"

    def __post_init__(self) -> None:
        """Check that the two fields belong to one path, and the numbers."""
        if self.weak.schedule != self.strong.schedule:
            raise ValueError(
                f"weak has the schedule {self.weak.schedule} and strong {self.strong.schedule}: "
                "see one along the other's, TransformedField(field, schedule)."
            )
        if not callable(self.scale) and not bool(torch.as_tensor(self.scale).isfinite().all()):
            raise ValueError(f"scale must be finite, but it is {self.scale}.")
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"rescale must lie in [0, 1], but it is {self.rescale}.")

    @property
    def schedule(self) -> Schedule:
        """alpha and sigma of the path of both fields."""
        return self.strong.schedule

    # -- the two predictions ----------------------------------------------------------------------

    def _shared(self) -> bool:
        """Whether both fields are one network, told different things."""
        weak, strong = self.weak, self.strong
        return (
            type(weak) is NetworkField
            and type(strong) is NetworkField
            and weak.net is strong.net
            and weak.prediction == strong.prediction
        )

    def _double(self, n: int) -> NetworkField:
        """The network for a batch of n told the weak labels, then n told the strong ones."""

        def of(field: NetworkField) -> Tensor:
            none = torch.tensor(field.classes)
            return (none if field.labels is None else field.labels.cpu()).expand(n)

        return replace(self.strong, labels=torch.cat([of(self.weak), of(self.strong)]))

    def _both(self, name: str, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """A method of both fields at (x, t)."""
        if not self._shared() or self.strong.classes is None:
            return getattr(self.weak, name)(x, t), getattr(self.strong, name)(x, t)
        if isinstance(t, Tensor) and t.numel() > 1:
            t = torch.cat([t, t])
        out = getattr(self._double(len(x)), name)(torch.cat([x, x]), t)
        return tuple(out.chunk(2))

    def both(self, x: Tensor, point: Point, kind: Predicted = "data") -> tuple[Tensor, Tensor]:
        """The weak and the strong prediction at a point of a grid, each ``(batch, *event)``."""
        if not self._shared() or self.strong.classes is None:
            return self.weak.predict(x, point, kind), self.strong.predict(x, point, kind)
        if isinstance(point.t, Tensor):
            entries = (point.t, point.alpha, point.sigma, point.d_alpha, point.d_sigma)
            point = Point(point.index, *(torch.cat([v, v]) for v in entries))
        out = self._double(len(x)).predict(torch.cat([x, x]), point, kind)
        return tuple(out.chunk(2))

    # -- their mixture ----------------------------------------------------------------------------

    def _scale_at(self, x: Tensor, t: float | Tensor) -> float | Tensor:
        scale = self.scale(x, t) if callable(self.scale) else self.scale
        return expand(scale, x, "scale") if isinstance(scale, Tensor) else float(scale)

    def _mix(self, name: str, x: Tensor, t: float | Tensor) -> Tensor:
        scale = self._scale_at(x, t)
        if not isinstance(scale, Tensor) and scale in (0.0, 1.0):
            return getattr(self.strong if scale else self.weak, name)(x, t)
        weak, strong = self._both(name, x, t)
        return weak + scale * (strong - weak)

    def _rescaled(self, guided: Tensor, strong: Tensor) -> Tensor:
        if guided[0].numel() < 2:
            raise ValueError(
                "rescale needs events of at least two coordinates, whose standard deviation it "
                f"compares; x has events of shape {tuple(guided.shape[1:])}. Leave it 0."
            )
        axes = tuple(range(1, guided.ndim))
        ratio = strong.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
        # a constant prediction has no deviation to change
        ratio = ratio.nan_to_num(nan=1.0, posinf=1.0)
        return guided * (self.rescale * ratio + (1.0 - self.rescale))

    def _predict_rescaled(self, x: Tensor, t: float | Tensor, target: Any) -> Tensor:
        kind = self.rescale_kind
        name = "denoise" if kind == "data" else kind
        weak, strong = self._both(name, x, t)
        out = self._rescaled(weak + self._scale_at(x, t) * (strong - weak), strong)
        return convert(out, x, t, source=kind, target=target, schedule=self.schedule)

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """D_w, the guided denoiser."""
        return self._predict_rescaled(x, t, "data") if self.rescale else self._mix("denoise", x, t)

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The guided noise prediction."""
        return self._predict_rescaled(x, t, "noise") if self.rescale else self._mix("noise", x, t)

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The guided score, the gradient of (1 - w) log p_t + w log p_t(. | y).

        It is the score of the noised tilted law at w = 0 and 1, and otherwise not
        (`thm-no-tilted-path`).
        """
        return self._predict_rescaled(x, t, "score") if self.rescale else self._mix("score", x, t)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The guided velocity."""
        if self.rescale:
            return self._predict_rescaled(x, t, "velocity")
        return self._mix("velocity", x, t)

    def predict(self, x: Tensor, point: Point, kind: Predicted = "data") -> Tensor:
        """The guided prediction at a point of a grid: one batch of the network, if it is one."""
        scale = self._scale_at(x, point.t)
        number = not isinstance(scale, Tensor)
        if number and scale == 1.0:
            return self.strong.predict(x, point, kind)
        if number and scale == 0.0 and not self.rescale:
            return self.weak.predict(x, point, kind)
        mixed = self.rescale_kind if self.rescale else kind
        weak, strong = self.both(x, point, mixed)
        out = weak + scale * (strong - weak)
        if not self.rescale:
            return out
        keep, add = weights_at(point, mixed, kind)
        return keep * self._rescaled(out, strong) + add * x


def classifier_free(
    field: NetworkField,
    labels: int | Tensor,
    scale: Scale,
    *,
    away: int | Tensor | None = None,
    rescale: float = 0.0,
) -> Guided:
    """Classifier-free guidance with a conditional network (`def-classifier-free`).

    Args:
        field: of a network that knows labels, trained with some of them hidden.
        labels: what to draw, one or ``(batch,)``.
        scale: w; 1 is the conditional model, and costs one evaluation, not two.
        away: labels to go away from instead of from the unconditional field ("negative prompt").
        rescale: see `Guided`.

    Raises:
        ValueError: the network is unconditional or has no such label, or `scale` is not finite.
    """
    return Guided(field.given(away), field.given(labels), scale, rescale=rescale)


LogProb = Callable[[Tensor, float | Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ClassifierGuided(Field):
    """The field whose score is ``s_t(x) + scale grad log p_t(y | x)`` (`def-classifier-guidance`).

    Dhariwal & Nichol 2021. At scale 1, with the classifier of *noisy* points, it is the field of
    the conditional law (`thm-classifier-guidance`).

    Args:
        field: unconditional.
        log_prob: (x, t) to log p_t(y | x), ``(batch,)``, differentiable in x; t is a number or
            ``(batch,)``.
        scale: w, a finite number.

    Raises:
        ValueError: `scale` is not finite.
    """

    field: Field
    log_prob: LogProb
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the scale."""
        if not math.isfinite(self.scale):
            raise ValueError(f"scale must be finite, but it is {self.scale}.")

    @property
    def schedule(self) -> Schedule:
        """alpha and sigma of the path."""
        return self.field.schedule

    def gradient(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The gradient of log p_t(y | x) in x, ``(batch, *event)``."""
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            value = self.log_prob(inner, t)
            if value.shape != x.shape[:1]:
                raise ValueError(
                    f"log_prob returned shape {tuple(value.shape)} for a batch of {len(x)}: it "
                    "must return one number for each sample."
                )
            return torch.autograd.grad(value.sum(), inner)[0]

    def _noise_shift(self, x: Tensor, t: float | Tensor) -> Tensor:
        """What guidance adds to the noise prediction: -scale sigma times the gradient."""
        return -self.scale * self.schedule.sigma(as_time(t, x)) * self.gradient(x, t)

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """eps - w sigma grad log p_t(y | x)."""
        out = self.field.noise(x, t)
        return out if self.scale == 0.0 else out + self._noise_shift(x, t)

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """D + w (sigma^2 / alpha) grad log p_t(y | x).

        Raises:
            ValueError: alpha = 0 at one of the times: the shift has a limit there, which the
                gradient, 0 there, does not tell.
        """
        out = self.field.denoise(x, t)
        if self.scale == 0.0:
            return out
        time = as_time(t, x)
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        self._require_signal(alpha)
        return out - sigma / alpha * self._noise_shift(x, t)

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """s + w grad log p_t(y | x)."""
        out = self.field.score(x, t)
        return out if self.scale == 0.0 else out + self.scale * self.gradient(x, t)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """u + w kappa grad log p_t(y | x), with kappa = sigma^2 lambda'.

        Raises:
            ValueError: alpha = 0 at one of the times.
        """
        out = self.field.velocity(x, t)
        if self.scale == 0.0:
            return out
        time = as_time(t, x)
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        self._require_signal(alpha)
        weight = self.schedule.d_sigma(time) - self.schedule.d_alpha(time) * sigma / alpha
        return out + weight * self._noise_shift(x, t)

    def predict(self, x: Tensor, point: Point, kind: Predicted = "data") -> Tensor:
        """The prediction of the guided field at a point of a grid: one evaluation, one gradient."""
        out = self.field.predict(x, point, kind)
        if self.scale == 0.0:
            return out
        shift = -self.scale * point.sigma * self.gradient(x, point.t)
        if kind == "noise":
            return out + shift
        self._require_signal(torch.as_tensor(point.alpha))
        weight = -point.sigma / point.alpha
        if kind == "velocity":
            weight = point.d_sigma + point.d_alpha * weight
        return out + weight * shift

    @staticmethod
    def _require_signal(alpha: Tensor) -> None:
        if not bool((alpha > 0).all()):
            raise ValueError(
                "t: alpha = 0, where a classifier's gradient is 0 and its effect on data and "
                "velocity a quotient 0/0: begin the grid a little later, such as at t = 1e-3."
            )


@dataclass(frozen=True, eq=False)
class ExactClassifier:
    """log p_t(y | x) of a mixture of Gaussians, y being a set of its components.

    Args:
        law: the mixture.
        components: those that make up the class.
        path: the Gaussian path.
    """

    law: GaussianMixture
    components: Sequence[int]
    path: GaussianPath

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        """log p_t(y | x), ``(batch,)``: Bayes' rule for the noised densities."""
        time = as_time(t, x)
        time = time if time.ndim == 0 else time.flatten()
        alpha, sigma = self.path.schedule.alpha(time), self.path.schedule.sigma(time)
        inside = self.law.part(self.components).marginal_log_prob(x, alpha, sigma)
        prior = self.law.weights[list(self.components)].sum().log().to(x)
        return prior + inside - self.law.marginal_log_prob(x, alpha, sigma)


@dataclass(frozen=True, eq=False)
class Limited(Field):
    """One field at the noise levels of an interval, another one at all others.

    With a guided field inside and the conditional one outside: guidance in a limited interval
    (Kynkäänniemi et al. 2024; `prp-interval`). Outside, only the other field is evaluated.

    The interval is ``low <= lambda < high`` of lambda = log(alpha / sigma). In EDM's noise level
    sigma / alpha = e^-lambda that is (e^-high, e^-low], as in the paper.

    Args:
        inside: the field in the interval.
        outside: the field outside it.
        low: lambda at which guidance begins, -inf for the beginning.
        high: lambda at which it ends, inf for the end.

    Raises:
        ValueError: low is not below high, or the two fields have different schedules.
    """

    inside: Field
    outside: Field
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        """Check the interval and the schedules."""
        if not self.low < self.high:
            raise ValueError(f"low must be below high, but low={self.low} and high={self.high}.")
        if self.inside.schedule != self.outside.schedule:
            raise ValueError(
                f"inside has the schedule {self.inside.schedule} and outside "
                f"{self.outside.schedule}: see one along the other's (TransformedField)."
            )

    @property
    def schedule(self) -> Schedule:
        """alpha and sigma of the path of both fields."""
        return self.outside.schedule

    def _choose(self, half_log_snr: Tensor, x: Tensor, ask: Callable[[Field], Tensor]) -> Tensor:
        chosen = (half_log_snr >= self.low) & (half_log_snr < self.high)
        if bool(chosen.all()):
            return ask(self.inside)
        if not bool(chosen.any()):
            return ask(self.outside)
        return torch.where(
            chosen.reshape(-1, *([1] * (x.ndim - 1))), ask(self.inside), ask(self.outside)
        )

    def _at(self, name: str, x: Tensor, t: float | Tensor) -> Tensor:
        level = self.schedule.half_log_snr(as_time(t, x))
        return self._choose(level, x, lambda field: getattr(field, name)(x, t))

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The denoiser of the field that is in charge at t."""
        return self._at("denoise", x, t)

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The noise prediction of the field that is in charge at t."""
        return self._at("noise", x, t)

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The score of the field that is in charge at t."""
        return self._at("score", x, t)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The velocity of the field that is in charge at t."""
        return self._at("velocity", x, t)

    def predict(self, x: Tensor, point: Point, kind: Predicted = "data") -> Tensor:
        """The prediction of the field that is in charge at the point."""
        level = torch.as_tensor(point.half_log_snr)
        return self._choose(level, x, lambda field: field.predict(x, point, kind))


def tilting_weights(
    guided: Guided, x: Tensor, times: Tensor, method: ODEStep = rk4
) -> tuple[Tensor, Tensor]:
    """Follow the guided flow, and keep account of what it does to the tilted law.

    Along dX = u_w dt the weight omega with d log(omega) = w (w - 1) <u_c - u, s_c - s> dt turns the
    law of X into the law proportional to p_t^(1 - w) p_t(. | y)^w, at every time
    (`thm-guided-law`): averages with the weights are averages under the tilted law.

    Args:
        guided: two fields and a constant scale, without rescaling.
        x: ``(batch, *event)``, at ``times[0]``.
        times: ``(n + 1,)``, increasing; from 0, where all the laws agree, for the tilted law.
        method: a one-step method for the state with its weight.

    Returns:
        The states at ``times[-1]``, ``(batch, *event)``, and log(omega), ``(batch,)``.

    Raises:
        ValueError: the scale is not one number, the field is rescaled, or the times do not
            increase.
    """
    if not isinstance(guided.scale, int | float) or guided.rescale:
        raise ValueError(
            f"guided has scale={guided.scale} and rescale={guided.rescale}: the weights are those "
            "of one constant scale without rescaling."
        )
    if not bool((torch.as_tensor(times).diff() > 0).all()):
        raise ValueError("times must increase, from noise to data.")
    w, shape = float(guided.scale), x.shape

    def drift(state: Tensor, t: Tensor) -> Tensor:
        y = state[:, :-1].reshape(shape)
        weak, strong = guided._both("velocity", y, t)
        weak_score, strong_score = guided._both("score", y, t)
        rate = ((strong - weak) * (strong_score - weak_score)).flatten(1).sum(1, keepdim=True)
        return torch.cat([(weak + w * (strong - weak)).flatten(1), w * (w - 1.0) * rate], dim=1)

    state = torch.cat([x.flatten(1), torch.zeros_like(x.flatten(1)[:, :1])], dim=1)
    end = solve_ode(ODE(drift), state, times, method)
    return end[:, :-1].reshape(shape), end[:, -1]
