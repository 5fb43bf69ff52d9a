"""Trained weights: files that describe themselves, a registry of their hashes, and ``load``.

A weights file is a safetensors file, never a pickle. Its header carries the record of how it was
made (recipe, settings, seed, device, wall time, loss curve, versions) and what is needed to build
the network again, so that a file can be loaded without knowing its recipe.

The book's own weights are in ``book/_static/checkpoints/``, and their SHA-256 in the registry
``checkpoints.json`` of this package. :func:`load` finds them in a checkout of the book, else in
the cache, else on the book's site, and never uses a file whose hash is not the registered one.

To land weights, a maintainer trains with the landed code and publishes the result::

    fromnoise train digits-flow --budget cpu --out digits-flow.safetensors
    fromnoise publish digits-flow.safetensors

which copies the file to ``book/_static/checkpoints/``, writes its record beside it as readable
JSON, and enters its hash into the registry. Commit the three together.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise import discrete_schedules, networks, schedules, solvers
from fromnoise._files import cache_dir, fetch, sha256, write_bytes
from fromnoise._shapes import check_same_shape
from fromnoise.distributions import Law, eight_gaussians
from fromnoise.fields import Field, NetworkField
from fromnoise.guidance import classifier_free
from fromnoise.latents import LatentDecoder, LatentStatistics
from fromnoise.networks.vae import Autoencoder
from fromnoise.paths import GaussianPath
from fromnoise.predictions import coefficients
from fromnoise.processes import probability_flow
from fromnoise.training import CheckpointError, read_tensors, write_tensors
from fromnoise.variational import LearnedVarianceField
from fromnoise.weightings import error_ratio

FORMAT = "fromnoise-weights-1"
FOLDER = "_static/checkpoints"  # on the site; in the checkout it is under book/

# Laws other than normal noise from which a registered flow may start: name to their maker.
SOURCES = {"eight_gaussians": eight_gaussians}

# Networks without a time: they have no field.
TIMELESS = (Autoencoder, networks.DigitFeatures)


@dataclass(frozen=True)
class Pretrained:
    """A trained network, ready for sampling.

    Attributes:
        net: the network, in evaluation mode.
        field: the same as a field: velocity, score, denoiser and noise prediction. None for a
            network without a time.
        event: shape of one datum that the network takes, such as ``(1, 28, 28)``.
        record: how it was made.
        source: the law at t = 0 if it is not normal noise.
        decoder: for a model of latents, what makes data of them; None for other models.
    """

    net: nn.Module
    field: Field | None
    event: tuple[int, ...]
    record: dict[str, Any]
    source: Law | None = None
    decoder: LatentDecoder | None = None

    @property
    def classes(self) -> int | None:
        """How many labels the network can be told; None if it is unconditional."""
        return self.field.classes if isinstance(self.field, NetworkField) else None

    def guided(self, labels: int | Tensor | None, scale: float = 1.0) -> Field:
        """The field for these labels with classifier-free guidance; without labels, the field.

        Raises:
            ValueError: there are labels and the network is unconditional or has no such label, or
                there is a scale and no label.
        """
        if labels is None:
            if scale != 1.0:
                raise ValueError(
                    f"guidance={scale} without labels: say what to guide to, or leave it 1."
                )
            return self.field
        if self.classes is None:
            raise ValueError(
                f"labels: {self.record.get('recipe', 'this model')} was trained without labels; "
                "leave them out, or use a conditional model (digits-conditional)."
            )
        return classifier_free(self.field, labels, scale)

    @property
    def span(self) -> tuple[float, float]:
        """The first and the last time of sampling: 0 and 1, or 0.001 inside.

        Inside where the network's prediction does not determine the velocity up to the ends
        (`prp-conversion-ends`): data and score at t = 1, noise and score at t = 0.
        """
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        schedule = self.field.schedule
        needed = (
            error_ratio("velocity", self.record["prediction"], ends, schedule),
            *coefficients(self.record["prediction"], ends, schedule),
            schedule.d_sigma(ends),
        )
        first, last = torch.stack(needed).isfinite().all(0).tolist()
        return (0.0 if first else 1e-3), (1.0 if last else 1.0 - 1e-3)

    def draw_source(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Points ``(n, *event)`` at t = 0, as the weights were trained with: see `sample`."""
        if self.source is not None:
            return self.source.sample(n, generator)
        noise = torch.randn(
            (n, *self.event), generator=generator, dtype=next(self.net.parameters()).dtype
        )
        return float(self.field.schedule.sigma(0.0)) * noise

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        steps: int = 50,
        method: solvers.ODEStep = solvers.heun,
        generator: torch.Generator | None = None,
        batch_size: int = 256,
        span: tuple[float, float] | None = None,
        source: Tensor | None = None,
        labels: int | Tensor | None = None,
        guidance: float = 1.0,
        decode: bool = True,
    ) -> Tensor:
        """Draw ``n`` samples ``(n, *event)``: noise, carried along the flow (`alg-flow-sampling`).

        A model of latents decodes them in the end (`alg-latent-sampling`), so that the samples are
        data as those of other models are.

        It begins with a draw of the source that the weights were trained with: the law
        :attr:`source` if there is one, else N(0, sigma_0^2 I), sigma_0 that of the schedule (34 on
        a variance-exploding path, where other paths have 1). Where noise is left at the last time,
        because it is not 1 or the schedule keeps some, the result is the denoised state there.

        Args:
            n: number of samples.
            steps: equal steps from the first to the last time.
            method: a one-step method of :mod:`fromnoise.solvers`.
            generator: source of the noise, on the CPU; the global one unless given.
            batch_size: how many samples are carried at once. It bounds the memory and does not
                change the noise.
            span: first and last time; :attr:`span` unless given.
            source: the points to start from, ``(n, *event)``, in place of a draw.
            labels: what to draw, one or ``(n,)``, for a conditional network.
            guidance: scale of classifier-free guidance (`def-classifier-free`): 1 is the
                conditional model, 0 ignores the labels.
            decode: False to get the latents ``(n, *event)`` of a model of latents.

        Raises:
            ValueError: the network has no time; ``source`` does not hold n points of the model's
                shape; or there are not n labels, or the network does not know them.
        """
        if self.field is None:
            raise ValueError(
                f"{self.record.get('recipe', 'this network')} has no time and makes no samples "
                "by itself: use its net, or a model of an autoencoder's latents "
                "(digits-latent-dit)."
            )
        weight = next(self.net.parameters())
        schedule = self.field.schedule
        noise = self.draw_source(n, generator) if source is None else source
        check_same_shape(noise, torch.empty((n, *self.event)), "source", "n samples")
        noise = noise.to(weight.dtype)
        first, last = self.span if span is None else span
        times = torch.linspace(first, last, steps + 1, device=weight.device)
        if isinstance(labels, Tensor) and labels.ndim and labels.shape != (n,):
            raise ValueError(
                f"labels has shape {tuple(labels.shape)} for n={n} samples: pass one, or ({n},)."
            )
        several = isinstance(labels, Tensor) and labels.ndim == 1
        ends = []
        for i, x in enumerate(noise.to(weight.device).split(batch_size)):
            part = labels[i * batch_size : i * batch_size + len(x)] if several else labels
            field = self.guided(part, guidance)
            x = solvers.solve_ode(probability_flow(field), x, times, method=method)
            ends.append(field.denoise(x, times[-1]) if float(schedule.sigma(last)) > 0.0 else x)
        x = torch.cat(ends)
        return self.decoder(x, batch_size) if decode and self.decoder is not None else x


def load(name: str | Path, device: str | torch.device = "cpu") -> Pretrained:
    """Load trained weights by registered name (``"digits-flow"``) or from a file.

    What ends in ``.safetensors`` is taken for a path; that file need not be registered.

    Raises:
        CheckpointError: if the name is unknown, the file missing, damaged or of another format, or
            the network needed to fetch it unreachable.
    """
    path = Path(name) if str(name).endswith(".safetensors") else find(str(name))
    return read(path, device)


def registry() -> dict[str, dict[str, Any]]:
    """The registered weights: name to ``{"file", "sha256", "bytes"}``."""
    return json.loads(resources.files("fromnoise").joinpath("checkpoints.json").read_text("utf-8"))


def find(name: str) -> Path:
    """The path of registered weights, verified: in the checkout, in the cache, or downloaded.

    Raises:
        CheckpointError: if the name is unknown, the checkout's file is not the registered one, or
            it can be found nowhere.
    """
    known = registry()
    if name not in known:
        raise CheckpointError(f"no checkpoint is called {name!r}: there are {', '.join(known)}")
    entry = known[name]
    if (folder := checkout_folder()) is not None and (folder / entry["file"]).is_file():
        path = folder / entry["file"]
        verify(path, entry["sha256"], "restore it from version control, or publish it anew")
        return path
    return _download(name, entry)


def verify(path: Path, expected: str, remedy: str) -> None:
    """Raise a ``CheckpointError`` unless the file has the SHA-256 ``expected``."""
    found = sha256(path.read_bytes())
    if found != expected:
        raise CheckpointError(
            f"{path} is not the registered file: SHA-256 {found}, expected {expected}; {remedy}"
        )


def checkout_folder() -> Path | None:
    """``book/_static/checkpoints`` if the package runs from a checkout of the book, else None."""
    root = Path(__file__).resolve().parents[2]
    is_checkout = (root / "_config.yml").is_file() and (root / "src" / "fromnoise").is_dir()
    return root / "book" / FOLDER if is_checkout else None


def site() -> str:
    """The address of the book: ``FROMNOISE_SITE``, else the one shipped with the package."""
    text = resources.files("fromnoise").joinpath("_site.json").read_text("utf-8")
    return (os.environ.get("FROMNOISE_SITE") or json.loads(text)["site"]).rstrip("/") + "/"


def _download(name: str, entry: Mapping[str, Any]) -> Path:
    address = f"{site()}{FOLDER}/{entry['file']}"
    remedy = "connect to the network, set FROMNOISE_SITE to a copy of the book, or train it: "
    remedy += f"fromnoise train {name}"
    try:
        return fetch(
            address, f"sha256:{entry['sha256']}", cache_dir() / "checkpoints", entry["file"]
        )
    except OSError as error:
        raise CheckpointError(
            f"{name} is not on this machine and {address} could not be fetched "
            f"({type(error).__name__}): {remedy}"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{address} is not the registered file ({error}): {remedy}"
        ) from error


# Files -------------------------------------------------------------------------------------------


def save(path: str | Path, net: nn.Module, record: Mapping[str, Any]) -> None:
    """Write the weights of ``net`` and the record into one file, atomically.

    The record must say how to build the network again: entries ``network`` (name and options),
    ``event`` and, for a network with a time, ``schedule`` and ``prediction``, as the recipes write
    them.

    Raises:
        CheckpointError: if it cannot be written, as on a full disk; a file from before stays.
    """
    record = json.loads(json.dumps(record))
    build_network(record["network"]).load_state_dict(net.state_dict())  # raises if it does not fit
    tensors = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    header = {"format": FORMAT, "record": json.dumps(record, sort_keys=True)}
    write_tensors(Path(path), tensors, header)


def read(path: str | Path, device: str | torch.device = "cpu") -> Pretrained:
    """Read a file written by :func:`save`.

    Raises:
        CheckpointError: if it is missing, cut short, of another format, or does not fit the
            network that its record describes.
    """
    tensors, record = _contents(path)
    return assemble(tensors, record, path, device)


def assemble(
    tensors: Mapping[str, Tensor],
    record: dict[str, Any],
    origin: str | Path,
    device: str | torch.device = "cpu",
) -> Pretrained:
    """The model of the weights ``tensors`` and the record, both read from ``origin``.

    Raises:
        CheckpointError: if the weights do not fit the network that the record describes, or the
            record is incomplete.
    """
    try:
        net = build_network(record["network"])
        net.load_state_dict(tensors)
        event = tuple(record["event"])
        timeless = isinstance(net, TIMELESS)
        path_of = None if timeless else GaussianPath(build_schedule(record["schedule"]))
        prediction = None if timeless else record["prediction"]
        source = build_source(record["source"]) if "source" in record else None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{origin} does not fit the network that its record describes ({error}): it was "
            "written by another version of the package; fetch or train it anew"
        ) from error
    net = net.to(device).eval()
    if timeless:
        return Pretrained(net, None, event, record)
    decoder = build_decoder(record["latents"], device) if "latents" in record else None
    normal = source is None and "coupling" not in record
    if record.get("variance") == "learned":
        field: Field = LearnedVarianceField(net, path_of.schedule)
    else:
        field = NetworkField(net, path_of, prediction, independent_noise=normal)
    return Pretrained(net, field, event, record, source, decoder)


def _contents(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, header = read_tensors(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} holds no weights of this package (format {header.get('format')!r}, expected "
            f"{FORMAT!r}): give a file that `fromnoise train` wrote"
        )
    return tensors, json.loads(header["record"])


def build_network(spec: Mapping[str, Any]) -> nn.Module:
    """The network of a description ``{"name": "UNet", "options": {...}}``, with new weights.

    An option ``network`` or ``schedule`` is itself a description: of the network inside
    (`Preconditioned`), or of a schedule as :func:`describe_schedule` writes it.
    """
    if spec["name"] not in networks.__all__:
        raise ValueError(f"no network is called {spec['name']!r}: there are {networks.__all__}")
    options = dict(spec["options"])
    for name, build in (("network", build_network), ("schedule", build_schedule)):
        if name in options:
            options[name] = build(options[name])
    return getattr(networks, spec["name"])(**options)


def describe_schedule(schedule: schedules.Schedule) -> dict[str, Any]:
    """A schedule as JSON: its class and its numbers."""
    return {"name": type(schedule).__name__, "options": asdict(schedule)}


def build_schedule(spec: Mapping[str, Any]) -> schedules.Schedule:
    """The schedule of a description written by :func:`describe_schedule`."""
    rooms = (schedules, discrete_schedules)
    found = next((vars(room)[spec["name"]] for room in rooms if spec["name"] in vars(room)), None)
    if not (isinstance(found, type) and issubclass(found, schedules.Schedule)):
        raise ValueError(f"no schedule is called {spec['name']!r}")
    return found(**spec["options"])


def build_source(spec: Mapping[str, Any]) -> Law:
    """The law of a description ``{"name": "eight_gaussians", "options": {...}}``."""
    if spec["name"] not in SOURCES:
        raise ValueError(f"no source is called {spec['name']!r}: there are {', '.join(SOURCES)}")
    return SOURCES[spec["name"]](**spec["options"])


def describe_latents(name: str, statistics: LatentStatistics) -> dict[str, Any]:
    """What the record of a model of latents says of them: whose they are, and their statistics.

    Args:
        name: registered name of the autoencoder.
        statistics: with which its latents were standardized.
    """
    numbers = {"mean": list(statistics.mean), "std": list(statistics.std)}
    return {"autoencoder": name, "sha256": registry()[name]["sha256"], **numbers}


def build_decoder(spec: Mapping[str, Any], device: str | torch.device = "cpu") -> LatentDecoder:
    """The decoder of a description written by :func:`describe_latents`.

    Raises:
        CheckpointError: the registered autoencoder is not the one that the latents came from, or
            cannot be had.
    """
    name = spec["autoencoder"]
    found = registry().get(name, {}).get("sha256")
    if found != spec["sha256"]:
        raise CheckpointError(
            f"the latents are those of {name} with SHA-256 {spec['sha256']}, but the registered "
            f"one has {found}: its decoder would not fit; train the model of latents anew"
        )
    statistics = LatentStatistics(tuple(spec["mean"]), tuple(spec["std"]))
    return LatentDecoder(load(name, device).net, statistics)


def publish(path: str | Path, folder: str | Path | None = None) -> Path:
    """Land a weights file in the book: copy it, write its record, register its hash.

    The name is the recipe's, from the record. ``folder`` is the checkout's unless given.

    Raises:
        CheckpointError: if the file is no weights file, was made by no recipe, or the package does
            not run from a checkout.
    """
    record = read(path).record
    name = str(record.get("recipe"))
    if not re.fullmatch(r"[a-z0-9-]+", name) or name == "None":
        raise CheckpointError(f"{path} was made by no recipe: train it with `fromnoise train`")
    target = checkout_folder() if folder is None else Path(folder)
    if target is None:
        raise CheckpointError("the package runs from no checkout of the book: nowhere to publish")
    content = Path(path).read_bytes()
    landed = target / f"{name}.safetensors"
    write_bytes(landed, content)
    write_bytes(landed.with_suffix(".json"), record_text(record).encode())
    known = registry()
    known[name] = {"file": landed.name, "sha256": sha256(content), "bytes": len(content)}
    text = json.dumps(dict(sorted(known.items())), indent=2) + "\n"
    write_bytes(Path(str(resources.files("fromnoise").joinpath("checkpoints.json"))), text.encode())
    return landed


def record_text(record: Mapping[str, Any]) -> str:
    """A record as readable JSON: one entry a line, lists of numbers on one line."""
    text = json.dumps(record, indent=2, sort_keys=True)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda m: re.sub(r"\s+", " ", m.group()), text) + "\n"
