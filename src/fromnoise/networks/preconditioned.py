"""EDM's preconditioning of a denoiser, for any schedule (Karras et al. 2022, Table 1)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fromnoise._shapes import expand
from fromnoise.networks.embeddings import check_conditional, time_vector
from fromnoise.schedules import Schedule


class Preconditioning(NamedTuple):
    """The four numbers of ``D(x, t) = skip x + out F(in x, noise)``, each of the shape of t.

    Attributes:
        skip: how much of the point itself is the answer, c_skip.
        out: scale of the network's output, c_out.
        into: scale of its input, c_in.
        noise: what it is told of the noise level, c_noise, in [0, 1].
    """

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor


def preconditioning(t: Tensor, schedule: Schedule, sigma_data: float) -> Preconditioning:
    """The preconditioning that its requirements determine (`thm-preconditioning`).

    With m = sqrt(alpha^2 sigma_data^2 + sigma^2), the root mean square of a coordinate of X_t,

        c_in = 1 / m,   c_skip = alpha sigma_data^2 / m^2,   c_out = sigma sigma_data / m.

    At alpha = 1 these are the formulas of Karras et al. 2022 (Table 1). c_noise is free there,
    log(sigma) / 4; here it is alpha sigma_data / (alpha sigma_data + sigma), a function of the same
    quotient, but finite at both ends and in [0, 1], which is what the time embeddings resolve. For
    sigma_data = 1 it is the time at which the straight path has the same noise level.

    Args:
        t: any shape, in [0, 1].
        schedule: the Gaussian path's schedule.
        sigma_data: root mean square of a coordinate of the data (their standard deviation, if they
            are centred), positive.

    Raises:
        ValueError: t lies outside [0, 1], or `sigma_data` is not positive and finite.
    """
    if not 0.0 < sigma_data < math.inf:
        raise ValueError(
            f"sigma_data must be positive and finite, but it is {sigma_data}: pass the root mean "
            "square of a coordinate of the data."
        )
    signal, sigma = schedule.alpha(t) * sigma_data, schedule.sigma(t)
    size = torch.hypot(signal, sigma)
    return Preconditioning(
        skip=sigma_data * (signal / size) / size,
        out=sigma_data * (sigma / size),
        into=1.0 / size,
        noise=signal / (signal + sigma),
    )


class Preconditioned(nn.Module):
    """A denoiser ``c_skip x + c_out F(c_in x, c_noise)`` around a network F.

    F sees an input of unit mean square and is asked for a quantity of unit mean square at every
    time, so that it has no scales to learn. What it is asked for is minus the v-prediction of the
    data divided by `sigma_data`, on the path scaled to unit variance (`prp-edm-is-v`). The module
    predicts the *data*: train it with ``kind="data"``, and with the weighting ``EDM(sigma_data)``,
    which is the weight 1 of F's own error.

    As a function of x it depends on the schedule through sigma / alpha and a common factor only
    (`prp-preconditioning-schedule`).

    Args:
        network: F, called as ``network(x, t)``.
        schedule: the Gaussian path's schedule.
        sigma_data: root mean square of a coordinate of the data, positive.

    Raises:
        ValueError: `sigma_data` is not positive and finite.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, sigma_data: float):
        super().__init__()
        preconditioning(torch.zeros(1), schedule, sigma_data)  # refuses an impossible scale
        self.network, self.schedule, self.sigma_data = network, schedule, sigma_data

    @property
    def classes(self) -> int | None:
        """Number of labels that the network inside can be told."""
        return getattr(self.network, "classes", None)

    def forward(self, x: Tensor, t: float | Tensor, labels: int | Tensor | None = None) -> Tensor:
        """The denoised ``x``, ``(batch, *event)``, at times ``t`` (one, or one for each item).

        Raises:
            ValueError: there are labels and the network inside has no classes.
        """
        check_conditional(None if self.classes is None else self.network, labels)
        c = preconditioning(time_vector(t, x), self.schedule, self.sigma_data)
        into = expand(c.into, x) * x
        told = () if labels is None else (labels,)
        inner = self.network(into, c.noise, *told)
        return expand(c.skip, x) * x + expand(c.out, x) * inner
