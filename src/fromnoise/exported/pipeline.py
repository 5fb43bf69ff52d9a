"""Sampling from a model of the package `fromnoise` with a scheduler of 🤗 Diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    ImagePipelineOutput,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor


class FromNoisePipeline(DiffusionPipeline):
    """Noise to samples; with labels and classifier-free guidance if the network knows labels.

    Args:
        scheduler: of Diffusers, such as `FlowMatchEulerDiscreteScheduler` or `DDIMScheduler`.
        unet: a `FromNoiseModel` around a U-Net, or None.
        transformer: one around a diffusion transformer, or None.
        network: one around another network, or None.
    """

    _optional_components = ["unet", "transformer", "network"]  # noqa: RUF012 - Diffusers' name

    def __init__(self, scheduler, unet=None, transformer=None, network=None):
        super().__init__()
        self.register_modules(
            scheduler=scheduler, unet=unet, transformer=transformer, network=network
        )

    @property
    def model(self):
        """The one model of the three that is there."""
        return next(m for m in (self.unet, self.transformer, self.network) if m is not None)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        class_labels: int | Sequence[int] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Draw samples.

        Args:
            batch_size: how many; as many as there are latents or labels unless given, else 1.
            class_labels: what to draw, one for all or one for each.
            guidance_scale: 1 is the conditional model, 0 ignores the labels.
            num_inference_steps: steps of the scheduler. With the flow's scheduler they are of equal
                length from noise to data.
            eta: share of fresh noise in each step, with `DDIMScheduler`.
            generator: source of the noise.
            latents: the states to start from, ``(batch, *event)``, instead of a draw of noise.
            output_type: "pil", "np" or "pt" for images in [0, 1]; "latent" for the samples as the
                network sees them (images in [-1, 1], unclipped).
            return_dict: return an `ImagePipelineOutput`, not a tuple.

        Raises:
            ValueError: sizes do not agree, there are labels or a guidance that the network cannot
                be told, or the scheduler cannot take that number of steps.
        """
        model, scheduler = self.model, self.scheduler
        event = tuple(model.config.event)
        if output_type != "latent" and len(event) != 3:
            raise ValueError(f"output_type={output_type!r}: samples of shape {event} are no images")
        if batch_size is None and latents is not None:
            batch_size = len(latents)
        elif batch_size is None:
            batch_size = 1 if class_labels is None else torch.as_tensor(class_labels).numel()
        labels = self._labels(class_labels, batch_size, guidance_scale)
        self._set_timesteps(num_inference_steps)

        shape = (batch_size, *event)
        if latents is None:
            scale = getattr(scheduler, "init_noise_sigma", 1.0)
            x = scale * randn_tensor(shape, generator, self._execution_device, model.dtype)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents has shape {tuple(latents.shape)}, but {shape} is needed")
        else:
            x = latents.to(self._execution_device, model.dtype)

        known = inspect.signature(scheduler.step).parameters
        scales = hasattr(scheduler, "scale_model_input")
        extra = {"eta": eta, "generator": generator}
        extra = {name: value for name, value in extra.items() if name in known}
        for k in self.progress_bar(scheduler.timesteps):
            into = scheduler.scale_model_input(x, k) if scales else x
            output = self._output(into, k, labels, guidance_scale)
            x = scheduler.step(output, k, x, **extra).prev_sample

        images = x
        if output_type != "latent":
            images = VaeImageProcessor().postprocess(x, output_type=output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels(self, class_labels, batch_size: int, scale: float) -> torch.Tensor | None:
        classes = self.model.classes
        if class_labels is None:
            if scale != 1.0:
                raise ValueError(f"guidance_scale={scale} without class_labels: say what to draw")
            return None
        if classes is None:
            raise ValueError("class_labels: this network was trained without labels; leave it out")
        labels = torch.as_tensor(class_labels, device=self._execution_device).long().reshape(-1)
        if len(labels) not in (1, batch_size):
            raise ValueError(f"class_labels has {len(labels)} entries, but batch_size={batch_size}")
        if bool(((labels < 0) | (labels > classes)).any()):
            raise ValueError(
                f"class_labels must lie in [0, {classes - 1}] ({classes} for no label), but they "
                f"span [{int(labels.min())}, {int(labels.max())}]"
            )
        return labels.expand(batch_size)

    def _set_timesteps(self, steps: int) -> None:
        scheduler, device = self.scheduler, self._execution_device
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            # Its own default ends at 1 / num_train_timesteps, with a last step of just that length.
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps), device=device)
            return
        total = scheduler.config.num_train_timesteps
        if isinstance(scheduler, DDIMScheduler) and total % steps:
            raise ValueError(
                f"num_inference_steps={steps} must divide {total}: DDIMScheduler steps by whole "
                f"multiples of {total} // {steps}, and would not end at the data"
            )
        scheduler.set_timesteps(steps, device=device)

    def _output(self, x, k, labels, scale: float) -> torch.Tensor:
        if labels is None or scale == 1.0:
            return self.model(x, k, labels).sample
        if scale == 0.0:
            return self.model(x, k).sample
        hidden = torch.full_like(labels, self.model.classes)
        both = self.model(torch.cat([x, x]), k, torch.cat([hidden, labels])).sample
        without, given = both.chunk(2)
        return without + scale * (given - without)
