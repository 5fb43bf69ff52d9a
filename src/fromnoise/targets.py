"""What a network is trained to predict: a target draws (x, t, prediction) and owns the loss.

The training loop knows one method, ``target.loss(net, data, generator)``. Conditional flow
matching is the first target; later ones (denoising score matching, consistency, ...) are further
classes with that method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fromnoise.couplings import independent
from fromnoise.paths import GaussianPath, PathSample

Net = Callable[[Tensor, Tensor], Tensor]
Coupling = Callable[[Tensor, torch.Generator | None], tuple[Tensor, Tensor]]


class Target(Protocol):
    """What the training loop needs of a target."""

    def loss(self, net: Net, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss of ``net`` on a batch of data, a scalar to differentiate."""
        ...


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
