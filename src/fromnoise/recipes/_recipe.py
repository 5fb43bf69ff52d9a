"""What a recipe is: a named, frozen configuration, small enough to read at a glance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise import checkpoints, training
from fromnoise.distributions import Law
from fromnoise.labels import Labelled
from fromnoise.paths import GaussianPath
from fromnoise.predictions import Kind
from fromnoise.schedules import Schedule
from fromnoise.targets import ConditionalFlowMatching, Target


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a trained model.

    Attributes:
        name: what ``fromnoise train`` calls it.
        summary: one line on what it makes.
        data: returns the data (a tensor, data with labels, or a law), and a line on where they
            came from.
        event: shape of one sample.
        network: class of the network, in :mod:`fromnoise.networks`.
        options: its options.
        schedule: schedule of the Gaussian path; None for a network without a time.
        budgets: optimizer settings for each kind of machine, ``"cpu"`` and ``"gpu"``.
        target: makes the training target from the path (from None, if there is no schedule).
        prediction: what the network predicts under that target; None without a schedule.
        source: describes the law at t = 0 (:data:`fromnoise.checkpoints.SOURCES`); normal noise
            unless given. The target's coupling draws from it; the samples start from it.
        coupling: a line on how source and data are paired, where that is not independently.
        start: registered weights to start from; new ones unless given.
        evaluate: what the record says of the trained network, such as its accuracy on test data.
        variance: ``"learned"`` if the network has a second output for the variance of a step.
        latents: for a model of latents, describes the autoencoder that decodes its samples
            (:func:`fromnoise.checkpoints.describe_latents`).
    """

    name: str
    summary: str
    data: Callable[[], tuple[Tensor | Labelled | Law, str]]
    event: tuple[int, ...]
    network: str
    options: Mapping[str, Any]
    schedule: Schedule | None
    budgets: Mapping[str, Mapping[str, Any]]
    target: Callable[..., Target] = ConditionalFlowMatching
    prediction: Kind | None = "velocity"
    source: Mapping[str, Any] | None = None
    coupling: str | None = None
    start: str | None = None
    evaluate: Callable[[nn.Module], Mapping[str, Any]] | None = None
    variance: str | None = None
    latents: Callable[[], Mapping[str, Any]] | None = None

    def build(self, seed: int = 0) -> nn.Module:
        """The untrained network, initialized from ``seed`` (the global generator is untouched)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return checkpoints.build_network(self._network)

    def initial(self, seed: int = 0) -> nn.Module:
        """The network as training begins: with the weights of ``start``, else as `build`."""
        net = self.build(seed)
        if self.start is not None:
            net.load_state_dict(checkpoints.load(self.start).net.state_dict())
        return net

    def train(
        self,
        budget: str = "cpu",
        *,
        out: str | Path | None = None,
        seed: int = 0,
        resume: bool = False,
        progress: bool = True,
        **changes: Any,
    ) -> training.Trained:
        """Train the recipe, and write the weights to ``out`` if it is given.

        With ``out``, a checkpoint is kept in the folder ``out + ".training"`` while training runs;
        ``resume=True`` continues from it. ``changes`` replace settings of the budget, such as
        ``steps=100``; the record tells them apart.

        Raises:
            ValueError: if the budget is unknown.
            CheckpointError: see :func:`fromnoise.training.train`.
        """
        if budget not in self.budgets:
            raise ValueError(f"budget is {budget!r}: {self.name} has {', '.join(self.budgets)}")
        settings = {**self.budgets[budget], **changes, "seed": seed}
        data, source = self.data()
        folder = None if out is None else Path(f"{out}.training")
        trained = training.train(
            self.initial(seed),
            self.target(None if self.schedule is None else GaussianPath(self.schedule)),
            data,
            **settings,
            resume=resume,
            progress=progress,
            checkpoint_dir=folder,
        )
        record = {
            **trained.record,
            "recipe": self.name,
            "budget": budget,
            "data_source": source,
            "network": self._network,
            "event": list(self.event),
        }
        if self.schedule is not None:
            record["schedule"] = checkpoints.describe_schedule(self.schedule)
            record["prediction"] = self.prediction
        if self.source is not None:
            record["source"] = dict(self.source)
        if self.coupling is not None:
            record["coupling"] = self.coupling
        if self.variance is not None:
            record["variance"] = self.variance
        if self.latents is not None:
            record["latents"] = dict(self.latents())
        if self.start is not None:
            record["start"] = {
                "name": self.start,
                "sha256": checkpoints.registry()[self.start]["sha256"],
            }
        if self.evaluate is not None:
            record["evaluation"] = dict(self.evaluate(trained.net))
        if out is not None:
            checkpoints.save(out, trained.net, record)
            (folder / training.CHECKPOINT).unlink()  # the weights are written: it has served
            folder.rmdir()
        return training.Trained(trained.net, trained.losses, record)

    @property
    def _network(self) -> dict[str, Any]:
        return {"name": self.network, "options": dict(self.options)}
