"""A network of the package `fromnoise` as a model of 🤗 Diffusers (`pip install fromnoise`)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput

from fromnoise.checkpoints import build_network
from fromnoise.predictions import convert
from fromnoise.schedules import CondOT


class FromNoiseOutput(BaseOutput):
    """What the model returns.

    Attributes:
        sample: ``(batch, *event)``.
    """

    sample: torch.Tensor


class FromNoiseModel(ModelMixin, ConfigMixin):
    """The network, with the clock and the sign that the scheduler beside it expects.

    Diffusers counts time from the data to the noise, `fromnoise` from the noise (t = 0) to the data
    (t = 1). With T = ``num_train_timesteps``:

    - clock "flow": a timestep is T (1 - t), and the output is minus the velocity, as
      `FlowMatchEulerDiscreteScheduler` has it, whatever the network predicts;
    - clock "steps": timestep k is the state after k + 1 noising steps, t = 1 - (k + 1) / T, and the
      output is what the network predicts, as `DDIMScheduler` and its kin have it.

    Args:
        network: name and options of the network, as `fromnoise.checkpoints.build_network` takes it.
        prediction: what the network predicts: "data", "noise", "velocity" or "v".
        clock: "flow" or "steps".
        num_train_timesteps: T.
        event: shape of one sample.
        learned_variance: whether the network returns a second half, of its variance, which is left
            out.
    """

    @register_to_config
    def __init__(
        self,
        network: dict[str, Any],
        prediction: str = "velocity",
        clock: str = "flow",
        num_train_timesteps: int = 1000,
        event: tuple[int, ...] = (1, 28, 28),
        learned_variance: bool = False,
    ):
        super().__init__()
        if clock not in ("flow", "steps"):
            raise ValueError(f"clock must be 'flow' or 'steps', not {clock!r}")
        self.net = build_network(network)

    @property
    def classes(self) -> int | None:
        """Number of labels that the network can be told; the label after them is "no label"."""
        return getattr(self.net, "classes", None)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> FromNoiseOutput | tuple[torch.Tensor]:
        """Evaluate at states ``(batch, *event)``, timesteps and labels (one, or one for each)."""
        steps = self.config.num_train_timesteps
        k = torch.as_tensor(timestep, device=sample.device).to(torch.float32)
        t = 1.0 - k / steps if self.config.clock == "flow" else (steps - (k + 1.0)) / steps
        t = t.clamp(0.0, 1.0).reshape(-1).expand(len(sample)).to(sample.dtype)
        told = () if class_labels is None else (class_labels,)
        output = self.net(sample, t, *told)
        if self.config.learned_variance:
            output = output.chunk(2, dim=1)[0]
        if self.config.clock == "flow":
            kind = self.config.prediction
            output = -convert(output, sample, t, source=kind, target="velocity", schedule=CondOT())
        return FromNoiseOutput(sample=output) if return_dict else (output,)
