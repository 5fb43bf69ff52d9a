"""Fields: what a sampler needs to know about a path, as velocity, score, denoiser or noise.

A field is the one thing a sampler sees. It may be exact (a law with a closed form) or learned
(a network); a sampler cannot tell, and never needs to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Literal

import torch
from torch import Tensor, nn

from fromnoise._shapes import as_time, check_same_shape, expand
from fromnoise.distributions import PathLaw
from fromnoise.grids import Grid, Point
from fromnoise.paths import GaussianPath, change_of_schedule, require_finite
from fromnoise.predictions import Kind, convert, weights_at
from fromnoise.schedules import Schedule

Predicted = Literal["data", "noise", "velocity"]


class Field(ABC):
    """Denoiser, noise prediction, score and velocity of one Gaussian path.

    All four take ``x: (batch, *event)`` and a time in [0, 1] (a number or ``(batch,)``), and return
    ``(batch, *event)``. A subclass gives `denoise` and `noise`; the affine facts give the rest
    (`prp-affine-facts`).
    """

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """alpha and sigma of the path."""

    @abstractmethod
    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """D_t(x) = E[X_1 | X_t = x] (`prp-affine-facts`)."""

    @abstractmethod
    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[eps | X_t = x]."""

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """s_t(x) = -noise / sigma (`thm-marginal-score`, `prp-affine-facts`).

        Raises:
            ValueError: sigma_t = 0 at one of the times.
        """
        return convert(
            self.noise(x, t), x, t, source="noise", target="score", schedule=self.schedule
        )

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """u_t(x) = alpha' D + sigma' noise (`thm-marginalization`, `prp-affine-facts`).

        Raises:
            ValueError: sigma' is infinite at one of the times.
        """
        time = as_time(t, x)
        d_sigma = require_finite(self.schedule.d_sigma(time), time, "sigma'", self.schedule)
        return self.schedule.d_alpha(time) * self.denoise(x, t) + d_sigma * self.noise(x, t)

    def predict(self, x: Tensor, point: Point, kind: Predicted = "data") -> Tensor:
        """D, eps or u at a point of a grid, from one evaluation if it can be: what a sampler calls.

        Args:
            x: ``(batch, *event)``, the state at the point's time.
            point: a time with its alpha and sigma, from a `fromnoise.grids.Grid`.
            kind: "data", "noise" or "velocity".

        Raises:
            ValueError: it cannot be had there from what the field knows.
        """
        ask = {"data": self.denoise, "noise": self.noise, "velocity": self.velocity}
        return ask[kind](x, point.t)


@dataclass(frozen=True, eq=False)
class ExactField(Field):
    """The exact field of a law along a path, in closed form: the laboratory's ground truth.

    Args:
        law: a mixture of Gaussians or an empirical law.
        path: the Gaussian path.
    """

    law: PathLaw
    path: GaussianPath

    @property
    def schedule(self) -> Schedule:
        """alpha and sigma of the path."""
        return self.path.schedule

    def _scales(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        # The laws take one alpha per sample, so the expanded time is flattened to () or (batch,).
        time = as_time(t, x)
        time = time if time.ndim == 0 else time.flatten()
        return self.schedule.alpha(time), self.schedule.sigma(time)

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[X_1 | X_t = x]."""
        return self.law.denoise(x, *self._scales(x, t))

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[eps | X_t = x]."""
        return self.law.predict_noise(x, *self._scales(x, t))

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """grad log p_t(x), from the law itself, so that a smooth law has one at t = 1 too."""
        return self.law.marginal_score(x, *self._scales(x, t))


@dataclass(frozen=True, eq=False)
class NetworkField(Field):
    """A network seen as a field.

    Args:
        net: maps ``x: (batch, *event)`` and ``t: (batch,)`` to ``(batch, *event)``. A conditional
            one takes labels ``(batch,)`` as a third argument, and says in its attribute `classes`
            how many there are.
        path: the Gaussian path it was trained on.
        prediction: what its output means.
        independent_noise: whether it was trained with normal noise that was drawn independently of
            the data. If not, X_t given X_1 is not normal, and the noise says nothing about the
            score (`prp-coupled-score`); denoiser, noise (E[X_0 | X_t]) and velocity hold all the
            same.
        labels: what a conditional network is told, ``(batch,)`` or one label for all; None for
            nothing, which makes it unconditional. Set them with `given`.
    """

    net: Callable[..., Tensor]
    path: GaussianPath
    prediction: Kind = "velocity"
    independent_noise: bool = True
    labels: Tensor | None = None
    _dtype: torch.dtype | None = dataclass_field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        """Note the precision of the weights, in which samplers call the network."""
        weights = self.net.parameters() if isinstance(self.net, nn.Module) else ()
        dtype = next((w.dtype for w in weights if w.is_floating_point()), None)
        object.__setattr__(self, "_dtype", dtype)

    @property
    def schedule(self) -> Schedule:
        """alpha and sigma of the path."""
        return self.path.schedule

    @property
    def classes(self) -> int | None:
        """How many labels the network can be told; None if it is unconditional."""
        return getattr(self.net, "classes", None)

    def given(self, labels: int | Tensor | None) -> NetworkField:
        """The field given labels, that of p_t(x | y): what the network says when it is told them.

        Args:
            labels: one for the whole batch, or int64 ``(batch,)``, from 0 to classes - 1; None, or
                the label `classes`, for the unconditional field.

        Raises:
            ValueError: the network is unconditional, or has no such label.
            TypeError: the labels are no whole numbers.
        """
        if labels is None:
            return replace(self, labels=None)
        if self.classes is None:
            raise ValueError(
                "labels: this network was trained without labels and has no conditional field: "
                "leave them out, or load or train a conditional one (digits-conditional)."
            )
        labels = torch.as_tensor(labels)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"labels are {labels.dtype}: pass whole numbers (int64).")
        if labels.ndim > 1:
            raise ValueError(f"labels has shape {tuple(labels.shape)}: pass one, or (batch,).")
        low, high = (int(v) for v in labels.aminmax()) if labels.numel() else (0, 0)
        if low < 0 or high > self.classes:
            raise ValueError(
                f"labels span [{low}, {high}], but the network knows 0 to {self.classes - 1} (and "
                f"{self.classes} for no label)."
            )
        return replace(self, labels=labels.long())

    def _call(self, x: Tensor, time: Tensor) -> Tensor:
        if self.labels is None:
            return self.net(x, time)
        return self.net(x, time, self.labels.to(x.device))

    def _as(self, target: Kind, x: Tensor, t: float | Tensor) -> Tensor:
        time = as_time(t, x)
        output = self._call(x, time.flatten().expand(x.shape[0]))
        check_same_shape(output, x, "the network's output", "x")
        return convert(output, x, t, source=self.prediction, target=target, schedule=self.schedule)

    def predict(self, x: Tensor, point: Point, kind: Predicted = "data") -> Tensor:
        """D, eps or u at a point of a grid, from one call of the network.

        The network is called in the precision of its weights (float16, bfloat16); the state and
        the conversion stay in that of x.
        """
        keep, add = weights_at(point, self.prediction, kind)
        dtype = self._dtype or x.dtype
        if isinstance(point.t, Tensor):
            time = point.t.to(x.device, dtype)
        else:
            time = torch.full(x.shape[:1], point.t, dtype=dtype, device=x.device)
        output = self._call(x if x.dtype == dtype else x.to(dtype), time)
        if output.shape != x.shape:
            check_same_shape(output, x, "the network's output", "x")
        output = output.to(x.dtype)
        if isinstance(keep, float) and isinstance(add, float):
            if keep != 1.0:
                output = output * keep
            return torch.add(output, x, alpha=add) if add else output
        return output * keep + add * x

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[X_1 | X_t = x], as far as the network has learned it."""
        return self._as("data", x, t)

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[eps | X_t = x], as far as the network has learned it."""
        return self._as("noise", x, t)

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The score, converted from the output in one step.

        Raises:
            ValueError: source and data were paired, or the source is not normal noise.
        """
        if not self.independent_noise:
            raise ValueError(
                "score: the network was trained on coupled pairs or with a source other than "
                "normal noise, so that -noise / sigma is not the score: sample by the velocity, "
                "or train a score (fromnoise.interpolants)."
            )
        return self._as("score", x, t)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The velocity, converted from the output in one step."""
        return self._as("velocity", x, t)


@dataclass(frozen=True, eq=False)
class ClippedField(Field):
    """A field whose denoised data are clipped to a range that the data never leave.

    "Static thresholding", or ``clip_denoised``: for images in [-1, 1] it removes what a noise
    prediction does to the denoiser at little signal (`prp-error-multiples`). Noise, score and
    velocity are those that belong to the clipped denoiser.

    Args:
        field: the field to clip.
        low: the smallest value of a coordinate of the data.
        high: the largest.

    Raises:
        ValueError: low is not below high.
    """

    field: Field
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        if not self.low < self.high:
            raise ValueError(f"low must be below high, but low={self.low} and high={self.high}.")

    @property
    def schedule(self) -> Schedule:
        """alpha and sigma of the path."""
        return self.field.schedule

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """D_t(x), clipped."""
        return self.field.denoise(x, t).clamp(self.low, self.high)

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """(x - alpha D) / sigma with the clipped D.

        Raises:
            ValueError: sigma_t = 0 at one of the times.
        """
        denoised = self.denoise(x, t)
        return convert(denoised, x, t, source="data", target="noise", schedule=self.schedule)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The velocity of the clipped D, from one evaluation.

        Raises:
            ValueError: sigma_t = 0 at one of the times.
        """
        denoised = self.denoise(x, t)
        return convert(denoised, x, t, source="data", target="velocity", schedule=self.schedule)

    def predict(self, x: Tensor, point: Point, kind: Predicted = "data") -> Tensor:
        """The clipped D, or the noise or velocity that belongs to it."""
        denoised = self.field.predict(x, point, "data").clamp(self.low, self.high)
        if kind == "data":
            return denoised
        keep, add = weights_at(point, "data", kind)
        return keep * denoised + add * x


@dataclass(frozen=True, eq=False)
class TransformedField(Field):
    """One field seen along another schedule (`thm-reparameterization`).

    If the target's X_t is c times the source's X_r in law, then D'_t(x) = D_r(x / c) and
    eps'_t(x) = eps_r(x / c): a network trained on one Gaussian path serves them all.

    Args:
        field: the field that is known.
        target: the schedule to see it along.
    """

    field: Field
    target: Schedule

    @property
    def schedule(self) -> Schedule:
        """The target schedule."""
        return self.target

    def _in_source(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        time = as_time(t, x)
        r, scale = change_of_schedule(time, self.field.schedule, self.target)
        return x / scale, (r if r.ndim == 0 else r.flatten()), scale

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """D_r(x / c)."""
        y, r, _ = self._in_source(x, t)
        return self.field.denoise(y, r)

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """eps_r(x / c)."""
        y, r, _ = self._in_source(x, t)
        return self.field.noise(y, r)

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """s_r(x / c) / c, since the density of c X_r at x is p_r(x / c) / c^d."""
        y, r, scale = self._in_source(x, t)
        return self.field.score(y, r) / expand(scale.flatten() if scale.ndim else scale, x, "c")

    def predict(self, x: Tensor, point: Point, kind: Predicted = "data") -> Tensor:
        """D_r(x / c) or eps_r(x / c), from one evaluation of the field; u from both."""
        if kind == "velocity":
            return self.velocity(x, point.t)
        t = torch.as_tensor(point.t, dtype=torch.float64)
        r, scale = change_of_schedule(t, self.field.schedule, self.target)
        if t.ndim == 0:
            inner = Grid.point(self.field.schedule, r.item(), point.index)
            return self.field.predict(x / scale.item(), inner, kind)
        y, r, _ = self._in_source(x, point.t)
        return self.field.denoise(y, r) if kind == "data" else self.field.noise(y, r)
