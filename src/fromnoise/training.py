"""One training loop for every target and every network of the book.

The loop runs on 🤗 Accelerate (the same code on a CPU, a GPU or Apple's MPS), keeps an exponential
moving average of the weights, and writes checkpoints from which it continues *bit for bit*: a run
that was stopped and resumed ends with the same weights as one that was not, because everything
that a step depends on is either a function of the step's number (learning rate, order of the
data, decay of the average) or in the checkpoint (weights, optimizer, random generators).

Several processes may share a run (``torchrun``, ``accelerate launch``). What a step does is fixed
by its number and by the part of the batch, never by who computes it: with ``parts=4`` a batch is
four parts, each with noise of its own, and one process, two or four take the same steps up to
rounding.

A checkpoint is one safetensors file, never a pickle: tensors, plus a JSON header that names the
configuration of the run and the SHA-256 of the tensors.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fromnoise._files import replacing
from fromnoise.distributions import Law
from fromnoise.labels import Labelled
from fromnoise.targets import Target

with warnings.catch_warnings():
    # A notebook without ipywidgets gets the bar of a terminal, which is no reason to warn.
    warnings.filterwarnings("ignore", "IProgress not found")
    from tqdm.auto import tqdm

FORMAT = "fromnoise-training-1"
CHECKPOINT = "training.safetensors"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or written, or is of another run."""


class Diverged(FloatingPointError):
    """The loss or its gradient is not finite. ``net`` has the averaged weights from before."""

    def __init__(self, message: str, net: nn.Module) -> None:
        super().__init__(message)
        self.net = net


class Stopped(KeyboardInterrupt):
    """Training was interrupted after a whole step; the message says where it was saved."""


@dataclass(frozen=True)
class Settings:
    """The numbers of a training run. Together with the network, the target and the data they
    determine it.

    Attributes:
        steps: number of optimizer steps.
        batch_size: data in each step.
        lr: the highest learning rate of AdamW.
        warmup: steps over which the learning rate rises linearly to ``lr``.
        decay: whether the learning rate then falls to 0 along a half cosine.
        ema_decay: decay of the moving average of the weights, see :func:`ema_decay_at`.
        betas: AdamW's decays of the first and second moment.
        weight_decay: AdamW's weight decay.
        clip: largest norm of the gradient (a longer one is shortened to it); None for no limit.
        seed: seed of the data order, of the times and of the noise.
        parts: equal parts that each batch is divided into. One process goes through them one after
            the other (gradient accumulation: the memory of a part, the step of a batch); several
            processes share them. With 1, times and noise come from one stream; with more, from a
            seed for each step and part.
    """

    steps: int
    batch_size: int = 256
    lr: float = 1e-3
    warmup: int = 0
    decay: bool = True
    ema_decay: float = 0.999
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = 1.0
    seed: int = 0
    parts: int = 1

    def __post_init__(self):
        for name in ("steps", "batch_size", "parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup is {self.warmup}: it must lie in [0, steps={self.steps}]")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}: it must be positive")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}: it must lie in [0, 1)")
        if self.batch_size % self.parts:
            raise ValueError(
                f"parts is {self.parts}: it must divide batch_size={self.batch_size}, so that "
                "every datum counts alike"
            )


@dataclass(frozen=True)
class Trained:
    """What training returns.

    Attributes:
        net: the network with the averaged weights, in evaluation mode.
        losses: the loss of every step.
        record: how it was made: settings, device, wall time, loss curve, versions.
    """

    net: nn.Module
    losses: list[float]
    record: dict[str, Any]


def train(
    net: nn.Module,
    target: Target,
    data: Tensor | Labelled | Law,
    *,
    steps: int,
    batch_size: int = 256,
    lr: float = 1e-3,
    warmup: int = 0,
    decay: bool = True,
    ema_decay: float = 0.999,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
    seed: int = 0,
    parts: int = 1,
    precision: Literal["no", "bf16", "fp16"] | None = None,
    progress: bool = True,
    log_dir: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
) -> Trained:
    """Train ``net`` in place and return its moving average (`alg-cfm-training`).

    Args:
        net: the network; called by the target as ``net(x, t)``.
        target: draws times and noise and owns the loss.
        data: a tensor ``(n, *event)`` or data with labels, gone through in a new random order every
            epoch, or a law with ``sample``, drawn from anew at every step.
        steps: number of steps; this and the next ten are described in :class:`Settings`.
        batch_size: see :class:`Settings`.
        lr: see :class:`Settings`.
        warmup: see :class:`Settings`.
        decay: see :class:`Settings`.
        ema_decay: see :class:`Settings`.
        betas: see :class:`Settings`.
        weight_decay: see :class:`Settings`.
        clip: see :class:`Settings`.
        seed: see :class:`Settings`.
        parts: see :class:`Settings`.
        precision: of the network's arithmetic; the weights stay as they are. None for what
            ``accelerate launch`` says, which is "no" unless it was asked for another.
        progress: whether to show a progress bar.
        log_dir: folder for a TensorBoard log of loss, learning rate and gradient norm.
        checkpoint_dir: folder for the checkpoint; None to write none.
        checkpoint_every: steps between checkpoints; None for ten during the run.
        resume: continue from the checkpoint in ``checkpoint_dir`` if there is one.

    Raises:
        CheckpointError: if the checkpoint is unreadable, or of another configuration, or if there
            is one and ``resume`` is False; or if one cannot be written, as on a full disk: the
            one from before stays, and training can be resumed from it.
        Diverged: if the loss or the gradient is not finite; that step changes nothing, and the last
            checkpoint stays as it is.
        ImportError: if ``log_dir`` is given and TensorBoard is not installed.
        Stopped: after Ctrl-C, once the running step is complete and saved.
        ValueError: if a setting is out of its range, ``data`` is empty, or ``parts`` cannot be
            shared evenly by the processes.
    """
    # here, because importing it takes a second
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    settings = Settings(
        steps, batch_size, lr, warmup, decay, ema_decay, tuple(betas), weight_decay, clip, seed,
        parts,
    )  # fmt: skip
    if isinstance(data, Tensor | Labelled) and len(data) == 0:
        raise ValueError("data is empty: pass a tensor (n, *event) with n >= 1")
    AcceleratorState._reset_state()  # else the precision of this process's first run stays
    accelerator = Accelerator(mixed_precision=precision)
    processes, chief = accelerator.num_processes, accelerator.is_main_process
    if parts % processes:
        raise ValueError(
            f"parts is {parts} and there are {processes} processes: give each the same number, "
            f"such as parts={processes}"
        )
    device = accelerator.device
    run = {
        "settings": json.loads(json.dumps(asdict(settings))),
        "network": _describe_network(net),
        "target": describe(target),
        "data": describe(data),
        "precision": accelerator.mixed_precision,
    }
    if device.type == "cuda":
        data = held(data, device, torch.cuda.mem_get_info(device)[0])
    path = None if checkpoint_dir is None else Path(checkpoint_dir) / CHECKPOINT
    every = checkpoint_every or max(1, steps // 10)

    average = copy.deepcopy(net).to(device).eval()
    # One kernel for all parameters: with a small network the Python loop over them would cost more
    # than the arithmetic.
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(
        net.parameters(), lr, betas, weight_decay=weight_decay, fused=fused
    )
    net, scaled = accelerator.prepare(net, optimizer)
    if accelerator.scaler is not None:  # fp16; else the wrapper costs time at each step for nothing
        optimizer = scaled
    model = accelerator.unwrap_model(net)
    # Collected once: walking the modules takes as long as a small layer.
    parameters, averaged = list(model.parameters()), list(average.parameters())
    buffers = list(zip(average.buffers(), model.buffers(), strict=True))
    dtype = parameters[0].dtype
    source = torch.Generator().manual_seed(seed)  # draws the data, always on the CPU
    noise = torch.Generator(device).manual_seed(seed + 1)  # draws times and noise
    generators = {"source": source, "noise": noise}
    losses: list[float] = []
    seconds = 0.0

    with contextlib.ExitStack() as stack:
        # Dropout, if a network has it, uses the global generator: seed it, and give it back.
        cuda = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        torch.manual_seed(seed)
        if path is not None and path.exists():
            if not resume:
                raise CheckpointError(
                    f"{path} holds a checkpoint already: pass resume=True to continue from it, "
                    "or remove it to start anew"
                )
            losses, seconds = _restore(path, run, model, average, optimizer, generators)

        def save() -> str:
            if path is None:
                return "nothing was saved: pass checkpoint_dir to be able to resume"
            if chief:
                _save(path, run, model, average, optimizer, generators, losses, seconds)
            accelerator.wait_for_everyone()
            return f"saved to {path}: the same call with resume=True continues from there"

        def lost(what: str) -> Diverged:
            return Diverged(
                f"{what} at step {step}: lower lr (now {lr}) or set clip (now {clip}). The "
                "averaged weights from before that step are in the `net` of this error"
                + ("" if path is None or not path.exists() else f", those of before in {path}"),
                average,
            )

        net.train()
        bar = stack.enter_context(
            tqdm(
                total=steps,
                initial=len(losses),
                disable=not (progress and chief),
                desc="training",
            )
        )
        write = stack.enter_context(_log(log_dir if chief else None))
        interrupted = stack.enter_context(_interrupt_after_step())
        clock = time.monotonic() - seconds
        for step in range(len(losses), steps):
            batch = _batch(data, batch_size, step, seed, source)
            rate = learning_rate_at(step, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            value, mine = 0.0, range(accelerator.process_index, parts, processes)
            for part in mine:
                if parts > 1:
                    noise.manual_seed(_seed_of(seed, step, part))
                    torch.manual_seed(_seed_of(seed, step, part))  # what dropout draws from
                rows = slice(part * batch_size // parts, (part + 1) * batch_size // parts)
                # processes exchange gradients once a step, not once a part
                quiet = part != mine[-1] and processes > 1
                with accelerator.no_sync(net) if quiet else contextlib.nullcontext():
                    loss = target.loss(net, batch[rows].to(device, dtype), noise) / len(mine)
                    value += loss.item()
                    # one that is not finite has no use, but others wait for its gradient
                    if math.isfinite(value) or processes > 1:
                        accelerator.backward(loss)
            stop = interrupted()
            if processes > 1:
                told = torch.tensor([value, float(stop)], device=device, dtype=torch.float64)
                value, stop = (accelerator.reduce(told, "sum") / processes).tolist()
            if not math.isfinite(value):
                raise lost(f"the loss is {value}")
            accelerator.unscale_gradients(optimizer)
            # accelerator.clip_grad_norm_ is this too, after a look for other backends each time
            norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if clip is None else clip)
            norm = norm.item()
            # fp16 has a scaler, which leaves out such steps itself and lowers its scale
            if not math.isfinite(norm) and accelerator.scaler is None:
                raise lost(f"the norm of the gradient is {norm}")
            optimizer.step()
            update_ema(averaged, parameters, ema_decay_at(step, ema_decay))
            for kept, current in buffers:
                kept.copy_(current)
            losses.append(value)
            seconds = time.monotonic() - clock
            write(step, loss=value, learning_rate=rate, gradient_norm=norm)
            bar.update()
            bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.4f}", refresh=False)
            last = step + 1 == steps
            if stop and not last:
                raise Stopped(f"stopped after step {step + 1} of {steps}; {save()}")
            if path is not None and (last or (step + 1) % every == 0):
                save()

    record = {
        **run,
        "parameters": sum(p.numel() for p in average.parameters()),
        "steps": steps,
        "seed": seed,
        "device": _describe_device(device),
        "processes": processes,
        "wall_seconds": round(seconds, 1),
        "loss_curve": loss_curve(losses),
        "versions": _versions(),
    }
    return Trained(net=average, losses=losses, record=record)


def learning_rate_at(step: int, settings: Settings) -> float:
    """The learning rate of step 0, 1, ...: a linear rise, then half a cosine down to 0."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if not settings.decay:
        return settings.lr
    progress = (step - settings.warmup) / (settings.steps - settings.warmup)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def ema_decay_at(step: int, decay: float) -> float:
    """The decay of the moving average at step 0, 1, ...: min(decay, (1 + step) / (10 + step)).

    A short memory at first, so that the average is not held back by the untrained weights.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(average: list[Tensor], parameters: list[Tensor], decay: float) -> None:
    """average ← decay · average + (1 − decay) · parameters, in place, all tensors in one call."""
    get_ema_multi_avg_fn(decay)(average, parameters, None)


def _seed_of(seed: int, step: int, part: int) -> int:
    """A seed for a part of a step, the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {part}".encode()).digest()[:7])


@contextlib.contextmanager
def _log(folder: str | Path | None) -> Iterator[Callable[..., None]]:
    """A function that writes numbers of a step to a TensorBoard log; one that does nothing."""
    if folder is None:
        yield lambda step, **numbers: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"log_dir is {str(folder)!r}, but TensorBoard is not installed: pip install "
            "tensorboard, or leave log_dir out (the record has the loss curve anyway)"
        ) from error
    with SummaryWriter(str(folder)) as writer:

        def write(step: int, **numbers: float) -> None:
            for name, number in numbers.items():
                writer.add_scalar(name, number, step)

        yield write


def loss_curve(losses: list[float], points: int = 200) -> dict[str, list[float]]:
    """The losses as at most ``points`` means over equal stretches, with the middle step of each."""
    size = max(1, math.ceil(len(losses) / points))
    chunks = [losses[i : i + size] for i in range(0, len(losses), size)]
    starts = range(0, len(losses), size)
    return {
        "step": [start + (len(c) - 1) / 2 for start, c in zip(starts, chunks, strict=True)],
        "loss": [round(sum(c) / len(c), 5) for c in chunks],
    }


def held(data: Tensor | Labelled | Law, device: torch.device, free: int) -> Tensor | Labelled | Law:
    """Stored data on the device if they fill at most half of its ``free`` bytes, else as they are.

    Batches are then made there and nothing waits for a copy.
    """
    if not isinstance(data, Tensor | Labelled):
        return data
    x = data if isinstance(data, Tensor) else data.x
    return data.to(device, x.dtype) if 2 * x.nbytes <= free else data


def _batch(
    data: Tensor | Labelled | Law, batch_size: int, step: int, seed: int, generator: torch.Generator
) -> Tensor | Labelled:
    """The batch of a step. Of stored data, it depends on the seed and the step only."""
    if not isinstance(data, Tensor | Labelled):
        return data.sample(batch_size, generator=generator)
    rows = []
    position, end = step * batch_size, (step + 1) * batch_size
    while position < end:
        epoch, start = divmod(position, len(data))
        stop = min(len(data), start + end - position)
        rows.append(_order(len(data), seed, epoch)[start:stop])
        position += stop - start
    return data[torch.cat(rows).to(data.device)]


@functools.lru_cache(maxsize=2)  # a batch may reach over the end of an epoch
def _order(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which epoch ``epoch`` visits the ``n`` data."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


@contextlib.contextmanager
def _interrupt_after_step() -> Iterator[Any]:
    """Turn the first Ctrl-C into a flag, which the loop asks for between steps.

    The second one interrupts at once. Outside the main thread, where Python delivers no signals,
    the flag just stays down.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number, frame):
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


# What a run is, and what it ran on ---------------------------------------------------------------


def _describe_network(net: nn.Module) -> str:
    shapes = json.dumps([[name, list(p.shape), str(p.dtype)] for name, p in net.named_parameters()])
    return f"{type(net).__name__}, parameters {hashlib.sha256(shapes.encode()).hexdigest()[:16]}"


def describe(thing: Any) -> str:
    """A line that tells one configuration from another, and is the same in every process.

    Dataclasses are spelled out, functions named, tensors hashed.
    """
    if isinstance(thing, Tensor):
        content = thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest = hashlib.sha256(content).hexdigest()[:16]
        return f"tensor {tuple(thing.shape)} {thing.dtype}, SHA-256 {digest}"
    if is_dataclass(thing):
        parts = (f"{f.name}={describe(getattr(thing, f.name))}" for f in fields(thing))
        return f"{type(thing).__name__}({', '.join(parts)})"
    if hasattr(thing, "__qualname__"):
        return thing.__qualname__
    # The default repr of an object names its address, which differs in every process.
    return type(thing).__name__ if " at 0x" in repr(thing) else repr(thing)


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device.type} ({threads} threads)" if device.type == "cpu" else device.type


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("fromnoise", "torch", "accelerate")}


# Checkpoints -------------------------------------------------------------------------------------


def _save(path, run, net, average, optimizer, generators, losses, seconds) -> None:
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors |= {f"random.{name}": g.get_state() for name, g in generators.items()}
    tensors["random.global"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = {
        "format": FORMAT,
        "run": json.dumps(run),
        "seconds": repr(seconds),
        "sha256": _digest(tensors),
    }
    before = "the checkpoint from before is whole" if path.exists() else "there is none from before"
    write_tensors(path, tensors, header, f"; {before}. Then the same call with resume=True goes on")


def _restore(path, run, net, average, optimizer, generators) -> tuple[list[float], float]:
    """Put the checkpoint into the arguments; return the losses so far and the seconds taken."""
    tensors, header = read_tensors(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no training checkpoint of this package: remove it")
    if _digest(tensors) != header["sha256"]:
        raise CheckpointError(
            f"{path} is damaged: SHA-256 of its tensors is {_digest(tensors)}, "
            f"expected {header['sha256']}; remove it and train anew"
        )
    if differences := _differences(_completed(json.loads(header["run"])), run):
        raise CheckpointError(
            f"{path} is of another run: {'; '.join(differences)}. "
            "Train with the settings of the checkpoint, or use another folder"
        )

    def under(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    net.load_state_dict(under("net."))
    average.load_state_dict(under("average."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in under("optimizer.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    for name, generator in generators.items():
        generator.set_state(tensors[f"random.{name}"])
    torch.set_rng_state(tensors["random.global"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return tensors["losses"].tolist(), float(header["seconds"])


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str], then: str = ""
) -> None:
    """Write a safetensors file, whole or not at all: if it fails, what was at ``path`` stays.

    Args:
        path: where to.
        tensors: on the CPU, contiguous.
        header: strings by name.
        then: what the error's message says after its remedy.

    Raises:
        CheckpointError: the folder or the disk does not take the file.
    """
    try:
        with replacing(path) as part:
            save_file(dict(tensors), part, metadata=dict(header))
    except (SafetensorError, OSError) as error:  # safetensors wraps the system's errors
        size = sum(value.numel() * value.element_size() for value in tensors.values())
        raise CheckpointError(
            f"{path} could not be written ({error}): free {size / 1e6:.3g} MB on its disk, or name "
            f"a folder where there is room{then}"
        ) from error


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a safetensors file.

    Raises:
        CheckpointError: if the file is missing, cut short or no safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: give the path of a checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}): it is damaged or of another kind; "
            "remove it and make or fetch it anew"
        ) from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def _completed(run: Mapping[str, Any]) -> dict[str, Any]:
    """The run of a checkpoint that is older than some setting: it had what is the default now."""
    defaults = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}
    settings = json.loads(json.dumps(defaults)) | run["settings"]
    return {"precision": "no", **run, "settings": settings}


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix="") -> list[str]:
    """The entries in which two nested configurations differ, each as one short sentence."""
    out = []
    for key in sorted(stored.keys() | wanted.keys()):
        a, b = stored.get(key), wanted.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            out.append(f"{prefix}{key} is {a!r} in the checkpoint and {b!r} here")
    return out
