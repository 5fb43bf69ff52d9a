"""Reconstruction and generation by the latents' factor: ``book/_static/records/latents.json``.

    python benchmarks/latents.py

Autoencoders with the factors 2, 4 and 8, and a flow on the latents of each: a transformer of the
same width and depth, with the same steps, batches and seed. Beside them the same transformer on
pixels; on latents of factor 4 that are too large by Stable Diffusion's factor; and on those of an
autoencoder of factor 4 whose KL term has a small weight. Each is measured on test digits. About
ten minutes on one free core; trained weights are kept in ``_build/latents`` and used again, so that
a run that was stopped goes on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fromnoise import data, records, training
from fromnoise.evaluation import confidence, ink_classifier, mean_and_error
from fromnoise.fields import NetworkField
from fromnoise.latents import (
    LatentDecoder,
    LatentStatistics,
    LatentTarget,
    Posteriors,
    encode_dataset,
    flow_bound,
    two_stage_terms,
)
from fromnoise.networks import DiT, ImageVAE
from fromnoise.networks.cost import dit_flops
from fromnoise.paths import GaussianPath
from fromnoise.processes import probability_flow
from fromnoise.quality import frechet, kernel_distance, precision_recall
from fromnoise.schedules import CondOT
from fromnoise.solvers import heun, solve_ode
from fromnoise.targets import Regression, VariationalAutoencoder

KEPT = Path(__file__).parent.parent / "_build" / "latents"
TRAINING, SAMPLES, STEPS = 20_000, 1000, 8  # digits for training; samples; steps of Heun's method
BOUNDED, DRAWS, ROUNDS = 250, 2, 8  # digits whose bound is estimated; draws a round; rounds
FIRST = {"steps": 500, "batch_size": 64, "lr": 3e-3, "warmup": 50, "ema_decay": 0.99,
         "betas": (0.9, 0.99), "seed": 0, "progress": False}  # fmt: skip
SECOND = {**FIRST, "steps": 600, "lr": 2e-3}
DIT = {"dim": 64, "depth": 2, "heads": 4}
TOO_LARGE = 1 / 0.18215  # the std of Stable Diffusion's latents before its factor
PATH = GaussianPath(CondOT())


@dataclass(frozen=True)
class First:
    """An autoencoder to train: its options beyond the usual ones, and the weight of its KL term."""

    options: dict[str, Any] = field(default_factory=dict)
    beta: float = 1.0


@dataclass(frozen=True)
class Second:
    """A flow to train: on whose latents (None: pixels), in patches of what side, of what std."""

    first: str | None
    patch: int = 1
    std: float = 1.0


FIRSTS = {
    "2": First({"factor": 2, "widths": (16,), "blocks": 2}),
    "4": First({"factor": 4, "widths": (16, 32)}),
    "8": First({"factor": 8, "widths": (16, 32, 32), "pad": 2}),
    "4, small KL": First({"factor": 4, "widths": (16, 32)}, beta=1e-3),
}
SECONDS = {
    "4": Second("4"),
    "8": Second("8"),
    "2": Second("2", patch=2),
    "4, too large": Second("4", std=TOO_LARGE),
    "pixels": Second(None, patch=4),
    "4, small KL": Second("4, small KL"),
}


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for every draw."""
    return torch.Generator().manual_seed(seed)


def trained(name: str, net: nn.Module, *args: Any, **settings: Any) -> nn.Module:
    """The network's average after training, or the one that was kept under this name."""
    path = KEPT / (name.replace(", ", "-").replace(" ", "-") + ".safetensors")
    if path.is_file():
        net.load_state_dict(load_file(path))
        return net.eval()
    began = time.process_time()
    net = training.train(net, *args, **settings).net.eval()
    print(f"{name}: {time.process_time() - began:.0f} s of processor time", flush=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    return net


def built(make: type[nn.Module], **options: Any) -> nn.Module:
    """A network with the initial weights of seed 0."""
    torch.manual_seed(0)
    return make(**options)


class Measure:
    """Test digits, and the distance of images from as many of them, in features of a reader."""

    def __init__(self) -> None:
        train, test = data.digits("train"), data.digits("test")
        self.source = (train.source, test.source)
        everything, labels = data.to_unit(train.images), train.labels
        self.train = everything[:TRAINING]
        images = data.to_unit(test.images)
        self.encoded, self.others = images[:SAMPLES], images[SAMPLES : 2 * SAMPLES]
        with torch.enable_grad():
            self.reader = ink_classifier(self.train, labels[:TRAINING], epochs=8)
        hidden = self.reader[:3](self.train).double()
        self.centre = hidden.mean(0)
        self.axes = torch.linalg.svd(hidden - self.centre, full_matrices=False).Vh[:32].T
        self.real = self.features(self.others)

    def features(self, x: Tensor) -> Tensor:
        """The first 32 principal components of the reader's hidden layer, ``(n, 32)``."""
        return (self.reader[:3](x.clamp(-1.0, 1.0)).double() - self.centre) @ self.axes

    def __call__(self, x: Tensor) -> dict[str, Any]:
        """Distances of SAMPLES images from other real digits, and how sure the reader is."""
        y = self.features(x)
        kernel, distance = kernel_distance(self.real, y), frechet(self.real, y)
        precision, recall = precision_recall(self.real, y)
        sure, error = mean_and_error(confidence(self.reader, x.clamp(-1.0, 1.0))[0])
        return {
            "kernel": [kernel.value, kernel.error],
            "frechet": [distance.value, distance.error],
            "precision": [precision.value, precision.error],
            "recall": [recall.value, recall.error],
            "confidence": [sure, error],
        }


def refit(net: ImageVAE, latents: Posteriors, x: Tensor, n: int = 2000) -> None:
    """Give the decoder the best variance for its errors (`prp-kl-against-reconstruction`).

    The optimizer moves its logarithm by a learning rate a step, too slowly for such short runs.
    """
    some = Posteriors(latents.mean[:n], latents.log_variance[:n])
    square = (net.decode(some.sample(seeded(0))) - x[:n]).square().mean()
    net.log_noise.copy_(square.log())


def nats(values: Tensor) -> list[float]:
    """Mean over digits, and its standard error."""
    return list(mean_and_error(values))


def standard(z: Tensor) -> Tensor:
    """log N(z; 0, I), ``(n,)``."""
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)


def first_stage(net: ImageVAE, latents: Posteriors, measure: Measure) -> dict[str, Any]:
    """Reconstruction, the bound with its prior N(0, I), and samples from that prior."""
    x = measure.encoded
    q = encode_dataset(net, x)
    statistics = latents.statistics()
    decoder = LatentDecoder(net, statistics)
    rebuilt = decoder(decoder.encode(x, seeded(1)))
    terms = two_stage_terms(net, x, standard, seeded(1), draws=4)
    each = 0.5 * (q.mean.square() + q.log_variance.exp() - 1 - q.log_variance)
    return {
        "latent": list(net.latent_shape),
        "numbers": net.latent,
        "parameters": sum(p.numel() for p in net.parameters()),
        "noise": net.noise.item(),
        "mean": statistics.mean[0],
        "std": statistics.std[0],
        "active": int((each.mean(0) > 0.1).sum()),
        "squared_error": nats((rebuilt - x).square().flatten(1).mean(1)),
        "reconstruction": nats(terms.reconstruction),
        "kl": nats(q.kl()),
        "bound": nats(terms.reconstruction - q.kl()),
        "rebuilt": measure(rebuilt),
        "from_standard_normal": measure(
            decoder(statistics.standardize(torch.randn(q.mean.shape, generator=seeded(2))))
        ),
    }


def second_stage(
    flow: DiT, net: ImageVAE | None, statistics: LatentStatistics | None, measure: Measure
) -> dict[str, Any]:
    """Samples of the flow, decoded, and the bound of both stages."""
    model = NetworkField(flow, PATH, "velocity")
    shape = (flow.channels, flow.size, flow.size)
    noise, times = (
        torch.randn(SAMPLES, *shape, generator=seeded(3)),
        torch.linspace(0, 1, STEPS + 1),
    )
    z = torch.cat(
        [solve_ode(probability_flow(model), part, times, method=heun) for part in noise.split(250)]
    )
    found: dict[str, Any] = {
        "tokens": flow.side**2,
        "parameters": sum(p.numel() for p in flow.parameters()),
        "operations": dit_flops(flow),
    }
    if net is None or statistics is None:
        return {**found, "samples": measure(z)}
    found["samples"] = measure(LatentDecoder(net, statistics)(z))

    rounds = []
    for k in range(ROUNDS):
        below = flow_bound(model, seeded(40 + k), draws=DRAWS)
        rounds.append(
            two_stage_terms(
                net, measure.encoded[:BOUNDED], below, seeded(50 + k), statistics=statistics
            )
        )
    # one offset of the times is shared by a batch: its digits are not independent, rounds are
    return {
        **found,
        "bound": nats(torch.stack([terms.total.mean() for terms in rounds])),
        "kl": nats(torch.stack([terms.kl.mean() for terms in rounds])),
    }


@torch.no_grad()
def main() -> None:
    """Train, measure, and write the record."""
    torch.set_num_threads(1)
    measure = Measure()
    record: dict[str, Any] = {
        "command": "python benchmarks/latents.py",
        "data_source": list(measure.source),
        "training": {"digits": TRAINING, "first": FIRST, "second": SECOND, "transformer": DIT},
        "too_large": TOO_LARGE,
        "samples": {"number": SAMPLES, "method": f"heun, {STEPS} steps", "bounded": BOUNDED},
        "real": measure(measure.encoded),
        "first": {},
        "second": {},
    }
    firsts = {}
    for name, spec in FIRSTS.items():
        net = built(ImageVAE, noise=0.012, channels=4, **spec.options)
        with torch.enable_grad():
            target = VariationalAutoencoder(spec.beta)
            net = trained(f"first {name}", net, target, measure.train, **FIRST)
        latents = encode_dataset(net, measure.train)
        refit(net, latents, measure.train)
        firsts[name] = net, latents
        record["first"][name] = {"beta": spec.beta, **first_stage(net, latents, measure)}
        print(name, record["first"][name], flush=True)
    for name, spec in SECONDS.items():
        regression = Regression(PATH, "velocity")
        if spec.first is None:
            net, statistics, digits, target = None, None, measure.train, regression
            shape = tuple(digits.shape[1:])
        else:
            net, latents = firsts[spec.first]
            statistics = latents.statistics()
            scaled = tuple(v / spec.std for v in statistics.std)
            statistics = LatentStatistics(statistics.mean, scaled)
            digits, target = latents.stacked(), LatentTarget(regression, statistics)
            shape = net.latent_shape
        flow = built(DiT, channels=shape[0], size=shape[1], patch=spec.patch, **DIT)
        with torch.enable_grad():
            flow = trained(f"second {name}", flow, target, digits, **SECOND)
        record["second"][name] = second_stage(flow, net, statistics, measure)
        print(name, record["second"][name], flush=True)
    record["versions"] = {"torch": torch.__version__}
    print(records.write("latents", records.rounded(record)))


if __name__ == "__main__":
    main()
