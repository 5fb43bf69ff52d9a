"""The networks and the training loops that `training.py` and `gpu.py` compare.

Networks: ours, 🤗 Diffusers' `UNet2DModel`, torchcfm's U-Net, smalldiffusion's U-Net and DiT, at
two sizes; within a size all have as many parameters as our U-Net, within 5 %. Each peer is built as
in its examples (three levels, attention where theirs has it, patches of 2 for its DiT); its widths
and blocks reach the size. At 1.6 million Diffusers' is the network of 🤗's diffusion course for
MNIST, unchanged. Ours folds 2 × 2 pixels into channels before it begins (the DiT: patches of 4),
which at equal parameters is several times fewer operations. So each peer stands here twice: as its
authors build it, and *folded*, on the same 14 × 14 pixels of four channels and with the two levels
that ours has there (its DiT: with patches of 4).

Loops: each trains its own network on the same regression (the velocity of the straight path from
normal noise, time uniform) in float32, on the same images, and otherwise does at each step what the
library's example does:

* Diffusers: `train_loop` of the tutorial "Train a diffusion model": `DataLoader` with shuffling;
  model, optimizer, loader and scheduler prepared by Accelerate; AdamW, `accelerator.accumulate`,
  the gradient clipped to norm 1, half a cosine with a warm-up, the loss as a number for the bar.
  The network gets times in the units of its embedding, 0 to 1000. On a GPU in fp16, as there.
* torchcfm: the loop of examples/images/conditional_mnist.ipynb: Adam with its defaults,
  `ConditionalFlowMatcher(sigma=0)`, the loss as a number to print. It keeps no average.
* smalldiffusion: its `training_loop`, called as in examples/fashion_mnist_unet.py and
  fashion_mnist_dit.py: AdamW through Accelerate, the bar, and after each step torch_ema's average.
  `ScheduleFlow` and `PredFlow` are its names for this regression.
* ours: `fromnoise.training.train` with its defaults, but at a constant learning rate, as the last
  two have it: in runs as short as these a falling one costs, as `training.py` measures too.

Kinder to the peers than their examples: the images are tensors in memory (theirs decode and
normalize one PIL image at a time), and the learning rate is everyone's 1e-3 (the tutorial's 1e-4
after 500 steps of warm-up has hardly begun when these runs end).
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from fromnoise.networks import DiT, UNet
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT
from fromnoise.targets import ConditionalFlowMatching
from fromnoise.training import train

LR = 1e-3
FLOW = ConditionalFlowMatching(GaussianPath(CondOT()))


def peer_module(package: str, name: str) -> types.ModuleType:
    """One file of a peer, without the package around it and what that brings along."""
    parent = f"_peer_{package}"
    if parent not in sys.modules:
        root = next((Path(p) / package for p in sys.path if (Path(p) / package).is_dir()), None)
        if root is None:
            raise ModuleNotFoundError(
                f"{package} is not installed; `make bench` installs the peers"
            )
        sys.modules[parent] = types.ModuleType(parent)
        sys.modules[parent].__path__ = [str(root)]
    return importlib.import_module(f"{parent}.{name}")


class InMemory(Dataset):
    """Images one by one, as a `DataLoader` asks for them."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def loader(images: Tensor, batch: int, steps: int) -> DataLoader:
    """`DataLoader(shuffle=True)` that ends after so many steps."""
    dataset = InMemory(images)
    sampler = RandomSampler(dataset, num_samples=batch * steps)
    return DataLoader(dataset, batch_size=batch, sampler=sampler, drop_last=True)


def accelerator(precision: str = "no"):
    """Accelerate afresh: its state is shared by everything in a process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision)


# Loops -------------------------------------------------------------------------------------------
# Each trains ``net`` and returns the weights that one would sample from, by name: the last ones, or
# a moving average.

Weights = dict[str, Tensor]


def weights_of(net: nn.Module) -> Weights:
    """A copy of the weights."""
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def with_ours(
    net: nn.Module, images: Tensor, batch: int, steps: int, decay: bool = False
) -> dict[str, Weights]:
    """Our loop; at a constant rate unless `decay`."""
    options = {"steps": steps, "batch_size": batch, "lr": LR, "decay": decay}
    return {"average": weights_of(train(net, FLOW, images, progress=False, **options).net)}


def with_ours_in_bf16(
    net: nn.Module, images: Tensor, batch: int, steps: int, compiled: bool = False
) -> dict[str, Weights]:
    """Our loop, the network's arithmetic in bf16, the images where it is; compiled or not."""
    if torch.cuda.is_available():
        images = images.cuda()
    if compiled:
        net.compile()  # in place: the names of the weights stay
    options = {"steps": steps, "batch_size": batch, "lr": LR, "precision": "bf16"}
    return {"average": weights_of(train(net, FLOW, images, progress=False, **options).net)}


def with_diffusers(net: nn.Module, images: Tensor, batch: int, steps: int) -> dict[str, Weights]:
    """The loop of Diffusers' tutorial."""
    from diffusers.optimization import get_cosine_schedule_with_warmup

    accelerate = accelerator("fp16" if torch.cuda.is_available() else "no")
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR)
    schedule = get_cosine_schedule_with_warmup(
        optimizer=optimizer, num_warmup_steps=steps // 10, num_training_steps=steps
    )
    model, optimizer, batches, schedule = accelerate.prepare(
        net, optimizer, loader(images, batch, steps), schedule
    )
    model.train()
    for x1 in batches:
        x0 = torch.randn(x1.shape).to(x1.device)
        t = torch.rand(len(x1), device=x1.device)
        s = t[:, None, None, None]
        with accelerate.accumulate(model):
            predicted = model(s * x1 + (1 - s) * x0, 1000 * t, return_dict=False)[0]
            loss = functional.mse_loss(predicted, x1 - x0)
            accelerate.backward(loss)
            accelerate.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        loss.detach().item()
    return {"last": weights_of(accelerate.unwrap_model(model))}


def with_torchcfm(net: nn.Module, images: Tensor, batch: int, steps: int) -> dict[str, Weights]:
    """The loop of torchcfm's example for MNIST."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = net.to(device)
    optimizer = torch.optim.Adam(model.parameters())
    matcher = ConditionalFlowMatcher(sigma=0.0)
    for data in loader(images, batch, steps):
        optimizer.zero_grad()
        x1 = data.to(device)
        x0 = torch.randn_like(x1)
        t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
        vt = model(t, xt)
        loss = torch.mean((vt - ut) ** 2)
        loss.backward()
        optimizer.step()
        loss.item()
    return {"last": weights_of(model)}


def with_smalldiffusion(
    net: nn.Module, images: Tensor, batch: int, steps: int
) -> dict[str, Weights]:
    """smalldiffusion's loop as its examples call it."""
    from torch_ema import ExponentialMovingAverage

    library = peer_module("smalldiffusion", "diffusion")
    accelerate = accelerator()
    net.to(accelerate.device)
    average = ExponentialMovingAverage(net.parameters(), decay=0.999)
    for state in library.training_loop(
        loader(images, batch, steps), net, library.ScheduleFlow(), accelerate, epochs=1, lr=LR
    ):
        state.loss.item()
        average.update()
    with average.average_parameters():
        kept = weights_of(net)
    return {"last": weights_of(net), "average": kept}


# Networks ----------------------------------------------------------------------------------------


class Folded(nn.Module):
    """A network of 14 × 14 pixels of four channels, for images of 28 × 28 pixels of one."""

    def __init__(self, net: nn.Module, image: int = 0):
        super().__init__()
        self.net, self.image = net, image

    def forward(self, *arguments, **options):
        """Fold the image, which is the argument of that number; unfold what comes back."""
        arguments = list(arguments)
        arguments[self.image] = functional.pixel_unshuffle(arguments[self.image], 2)
        out = self.net(*arguments, **options)
        if isinstance(out, tuple):
            return (functional.pixel_shuffle(out[0], 2),)
        return functional.pixel_shuffle(out, 2)


def diffusers_unet(widths: tuple[int, ...], layers: int, folded: bool = False) -> nn.Module:
    """`UNet2DModel` with attention at all levels but the first, as in the course's network."""
    from diffusers import UNet2DModel

    channels, deeper = (4 if folded else 1), len(widths) - 1
    net = UNet2DModel(
        sample_size=14 if folded else 28,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=layers,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) + ("AttnDownBlock2D",) * deeper,
        up_block_types=("AttnUpBlock2D",) * deeper + ("UpBlock2D",),
    )
    return Folded(net) if folded else net


def torchcfm_unet(
    width: int, factors: tuple[int, ...], blocks: int, folded: bool = False, attention: str = "16"
) -> nn.Module:
    """torchcfm's U-Net (OpenAI's guided diffusion), with its defaults.

    Its default attention "16" means 28 // 16 = 1, the first level, so at 28 × 28 in the example for
    MNIST; folded it means the middle only, and "7" the second level, at 7 × 7, as well.
    """
    from torchcfm.models.unet import UNetModel

    net = UNetModel(
        dim=(4, 14, 14) if folded else (1, 28, 28),
        num_channels=width,
        num_res_blocks=blocks,
        channel_mult=factors,
        attention_resolutions=attention,
    )
    return Folded(net, image=1) if folded else net


def smalldiffusion_unet(width: int, factors, blocks: int, folded: bool = False) -> nn.Module:
    """smalldiffusion's U-Net as in its Fashion-MNIST example: attention at 14 × 14, dropout 0.1.

    Folded, its attention is at 7 × 7, the second level here too.
    """
    kind = peer_module("smalldiffusion", "model_unet").Unet
    flow = peer_module("smalldiffusion", "model").PredFlow
    options = {"ch": width, "ch_mult": factors, "num_res_blocks": blocks}
    options["attn_resolutions"] = (7,) if folded else (14,)
    if not folded:
        return flow(kind)(28, 1, 1, **options)

    class FoldedUnet(kind):
        def forward(self, x, sigma, cond=None):
            inner = functional.pixel_unshuffle(x, 2)
            return functional.pixel_shuffle(super().forward(inner, sigma, cond=cond), 2)

    return flow(FoldedUnet)(14, 4, 4, **options)


def smalldiffusion_dit(heads: int, depth: int, patch: int) -> nn.Module:
    """smalldiffusion's DiT with heads of 32, as in its Fashion-MNIST example."""
    kind = peer_module("smalldiffusion", "model_dit").DiT
    flow = peer_module("smalldiffusion", "model").PredFlow
    return flow(kind)(28, 1, patch, depth, 32, heads)


def our_velocity(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """What our networks say."""
    return net(x, t)


def diffusers_velocity(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """What a network of `with_diffusers` says."""
    return net(x, 1000 * t, return_dict=False)[0]


def torchcfm_velocity(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """What a network of `with_torchcfm` says."""
    return net(t, x)


def smalldiffusion_velocity(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """What a network of `with_smalldiffusion` says: its clock is 1 - t, its sign the other."""
    return -net(x, (1 - t).clamp_min(1e-3)[:, None, None, None])


@dataclass(frozen=True)
class Contender:
    """A network with the loop that trains it.

    Attributes:
        name: what the table calls it.
        build: makes the untrained network.
        loop: one of those above.
        velocity: the velocity by a trained network, at images and times.
        group: "ours", "theirs" (as their authors build it) or "folded".
    """

    name: str
    build: Callable[[], nn.Module]
    loop: Callable[[nn.Module, Tensor, int, int], dict[str, Weights]]
    velocity: Callable[[nn.Module, Tensor, Tensor], Tensor]
    group: str


def contenders(ours: dict[str, dict], theirs: dict[str, tuple], folded: dict[str, tuple]) -> list:
    """The ten of a size, from the options of their networks."""
    found = [
        Contender("ours, U-Net", lambda: UNet(**ours["unet"]), with_ours, our_velocity, "ours"),
        Contender("ours, DiT", lambda: DiT(**ours["dit"]), with_ours, our_velocity, "ours"),
    ]
    small = with_smalldiffusion, smalldiffusion_velocity
    peers = {
        "Diffusers, UNet2DModel": (diffusers_unet, with_diffusers, diffusers_velocity),
        "torchcfm, U-Net": (torchcfm_unet, with_torchcfm, torchcfm_velocity),
        "smalldiffusion, U-Net": (
            smalldiffusion_unet,
            with_smalldiffusion,
            smalldiffusion_velocity,
        ),
        "smalldiffusion, DiT": (smalldiffusion_dit, *small),
    }
    for group, options in (("theirs", theirs), ("folded", folded)):
        for name, (build, loop, velocity) in peers.items():
            label = name if group == "theirs" else f"{name}, folded"
            found.append(Contender(label, partial(build, *options[name]), loop, velocity, group))
    return found


SIZES = {
    "1.6 M": contenders(
        {"unet": {"widths": (64, 128)}, "dit": {"dim": 144, "depth": 4}},
        {
            "Diffusers, UNet2DModel": ((32, 64, 64), 2),
            "torchcfm, U-Net": (32, (1, 2, 2), 2),
            "smalldiffusion, U-Net": (32, (1, 2, 2), 2),
            "smalldiffusion, DiT": (3, 10, 2),
        },
        {
            "Diffusers, UNet2DModel": ((64, 64), 2, True),
            "torchcfm, U-Net": (64, (1, 1), 2, True, "7"),
            "smalldiffusion, U-Net": (64, (1, 1), 2, True),
            "smalldiffusion, DiT": (3, 10, 4),
        },
    ),
    "10 M": contenders(
        {
            "unet": {"widths": (128, 256), "blocks": 2},
            "dit": {"dim": 224, "depth": 11, "heads": 7},
        },
        {
            "Diffusers, UNet2DModel": ((64, 160, 160), 2),
            "torchcfm, U-Net": (64, (1, 2, 3), 2),
            "smalldiffusion, U-Net": (64, (1, 2, 3), 2),
            "smalldiffusion, DiT": (7, 11, 2),
        },
        {
            "Diffusers, UNet2DModel": ((128, 192), 2, True),
            "torchcfm, U-Net": (128, (1, 2), 1, True),
            "smalldiffusion, U-Net": (64, (1, 3), 3, True),
            "smalldiffusion, DiT": (7, 11, 4),
        },
    ),
    # for the test of these scripts: nothing is equal here
    "smoke": contenders(
        {"unet": {"widths": (8, 16), "embedding": 8}, "dit": {"dim": 8, "depth": 1, "heads": 2}},
        {
            "Diffusers, UNet2DModel": ((32, 32), 1),
            "torchcfm, U-Net": (32, (1, 1), 1),
            "smalldiffusion, U-Net": (32, (1, 1), 1),
            "smalldiffusion, DiT": (1, 1, 4),
        },
        {
            "Diffusers, UNet2DModel": ((32, 32), 1, True),
            "torchcfm, U-Net": (32, (1, 1), 1, True),
            "smalldiffusion, U-Net": (32, (1, 1), 1, True),
            "smalldiffusion, DiT": (1, 1, 7),
        },
    ),
}


def available(size: str) -> tuple[list[Contender], list[str]]:
    """The contenders of a size whose library is here, and the names of the others."""
    found, missing = [], []
    for contender in SIZES[size]:
        try:
            contender.build()
        except ModuleNotFoundError:
            missing.append(contender.name)
        else:
            found.append(contender)
    return found, missing


def parameters(contender: Contender) -> int:
    """How many numbers it trains."""
    return sum(p.numel() for p in contender.build().parameters() if p.requires_grad)


# Taking turns ------------------------------------------------------------------------------------


class Enough(BaseException):
    """Ends a loop from within; nobody but the runner catches it."""


class Runner:
    """A training loop in a thread of its own that runs only when it is told to.

    The loops stay as they are: what stops them is a hook at the beginning of the network's forward
    pass. From one beginning to the next is a whole step, with everything that a loop does in it.
    """

    def __init__(self, contender: Contender, images: Tensor, batch: int, steps: int, seed: int = 0):
        self.begin, self.ended = threading.Event(), threading.Event()
        self.left, self.error, self.over = 0, None, False
        torch.manual_seed(seed)
        net = contender.build()
        # a plain function: our loop copies the network, and a lock cannot be copied
        net.register_forward_pre_hook(lambda *_: self._at_a_step())

        def run():
            try:
                contender.loop(net, images, batch, steps)
            except Enough:
                pass
            except Exception as error:  # told to the one who waits
                self.error = error
            finally:
                self.ended.set()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        self._wait()  # until it is about to begin its first step

    def _at_a_step(self) -> None:
        if threading.current_thread() is not self.thread:
            return
        if self.left > 0:
            self.left -= 1
            if self.left > 0:
                return
        self.ended.set()
        self.begin.wait()
        self.begin.clear()
        if self.over:
            raise Enough

    def _wait(self) -> None:
        self.ended.wait()
        self.ended.clear()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self.error is not None:
            raise self.error

    def turn(self, steps: int = 1) -> tuple[float, float]:
        """Let it take so many steps: seconds by the clock and of the processor, a step."""
        wall, processor = time.perf_counter(), time.process_time()
        self.left = steps
        self.begin.set()
        self._wait()
        return (time.perf_counter() - wall) / steps, (time.process_time() - processor) / steps

    def stop(self) -> None:
        """End the loop where it stands."""
        self.over = True
        self.begin.set()
        self.thread.join()
