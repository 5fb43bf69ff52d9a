"""The command line: ``fromnoise recipes | train | sample | info | export | publish | check``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Train and sample the models of the book From Noise, and check its results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


class Budget(StrEnum):
    """For which kind of machine to train."""

    cpu = "cpu"
    gpu = "gpu"


class Solver(StrEnum):
    """How to integrate the flow; see :mod:`fromnoise.solvers`."""

    euler = "euler"
    midpoint = "midpoint"
    heun = "heun"
    rk4 = "rk4"


def _plainly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show the errors that tell the user what to do as one line, not as a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from fromnoise.data import DataError
        from fromnoise.training import CheckpointError, Stopped

        try:
            return command(*args, **kwargs)
        except Stopped as stop:
            typer.echo(f"{stop} (here: add --resume)", err=True)
            raise typer.Exit(130) from stop
        except (CheckpointError, DataError, ValueError, OSError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error

    return run


@app.command()
@_plainly
def recipes() -> None:
    """List what can be trained."""
    from fromnoise import recipes as known

    for name in known.names():
        recipe = known.get(name)
        size = sum(p.numel() for p in recipe.build().parameters())
        typer.echo(f"{name}: {recipe.summary}")
        typer.echo(f"  network {recipe.network}, {size:,} parameters")
        for budget, settings in recipe.budgets.items():
            numbers = ", ".join(f"{k}={v}" for k, v in settings.items())
            typer.echo(f"  budget {budget}: {numbers}")


@app.command()
@_plainly
def train(
    recipe: Annotated[str, typer.Argument(help="A name that `fromnoise recipes` lists.")],
    budget: Annotated[Budget, typer.Option(help="Kind of machine.")] = Budget.cpu,
    out: Annotated[
        Path | None, typer.Option(help="Weights file to write; RECIPE.safetensors unless given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run.")] = False,
) -> None:
    """Train a recipe. Ctrl-C saves; --resume continues, bit for bit."""
    from fromnoise import recipes as known

    chosen = known.get(recipe)
    out = out or Path(f"{recipe}.safetensors")
    trained = chosen.train(budget.value, out=out, seed=seed, resume=resume)
    tail = trained.losses[-100:]
    typer.echo(
        f"wrote {out}: {trained.record['steps']} steps in {trained.record['wall_seconds']:.0f} s, "
        f"mean loss of the last {len(tail)}: {sum(tail) / len(tail):.4f}"
    )


@app.command()
@_plainly
def sample(
    recipe: Annotated[str, typer.Argument(help="A registered name, or a .safetensors file.")],
    out: Annotated[Path, typer.Option(help="Picture to write (PNG).")] = Path("grid.png"),
    steps: Annotated[int, typer.Option(min=1, help="Solver steps from t = 0 to t = 1.")] = 50,
    solver: Annotated[Solver, typer.Option(help="One-step method.")] = Solver.heun,
    n: Annotated[int, typer.Option(min=1, help="Number of samples.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    labels: Annotated[
        str | None, typer.Option(help="What to draw, such as 7 or 0,1,2 (taken in turn).")
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="Scale of classifier-free guidance; 1 is the conditional model.")
    ] = 1.0,
) -> None:
    """Draw samples: a grid of images, or a scatter of points for models of the plane."""
    import torch

    from fromnoise import checkpoints, solvers

    x = checkpoints.load(recipe).sample(
        n,
        steps=steps,
        method=getattr(solvers, solver.value),
        generator=torch.Generator().manual_seed(seed),
        labels=_labels(labels, n),
        guidance=guidance,
    )
    _picture(x, out)
    what = "" if labels is None else f", labels {labels}, guidance {guidance:g}"
    typer.echo(f"wrote {out}: {n} samples, {steps} {solver.value} steps, seed {seed}{what}")


@app.command()
@_plainly
def info(
    checkpoint: Annotated[str, typer.Argument(help="A registered name, or a .safetensors file.")],
) -> None:
    """Show how weights were made, and whether they are the registered ones."""
    from fromnoise import checkpoints
    from fromnoise._files import sha256

    named = not checkpoint.endswith(".safetensors")
    path = checkpoints.find(checkpoint) if named else Path(checkpoint)
    pretrained = checkpoints.read(path)
    record = dict(pretrained.record)
    curve = record.pop("loss_curve")["loss"]
    content = path.read_bytes()
    found = sha256(content)
    owner = [k for k, v in checkpoints.registry().items() if v["sha256"] == found]
    typer.echo(f"file: {path} ({len(content) / 1e6:.2f} MB)")
    typer.echo(f"sha256: {found}")
    typer.echo(f"registered: {f'yes, as {owner[0]}; hash ok' if owner else 'no'}")
    for key in sorted(record):
        typer.echo(f"{key}: {record[key]}")
    typer.echo(f"loss: {curve[0]:.4f} at first, {curve[-1]:.4f} at the end")


@app.command()
@_plainly
def export(
    checkpoint: Annotated[str, typer.Argument(help="A registered name, or a .safetensors file.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
) -> None:
    """Write a model as a pipeline folder of Hugging Face Diffusers."""
    from fromnoise import checkpoints, interchange

    folder = interchange.export_pipeline(checkpoints.load(checkpoint), out)
    typer.echo(
        f"wrote {folder}: load it by diffusers.DiffusionPipeline.from_pretrained"
        f'("{folder}", trust_remote_code=True)'
    )


@app.command()
@_plainly
def publish(
    weights: Annotated[Path, typer.Argument(help="A file that `fromnoise train` wrote.")],
) -> None:
    """For maintainers: land weights in the book's checkout and register their hash."""
    from fromnoise import checkpoints

    landed = checkpoints.publish(weights)
    typer.echo(f"landed {landed} and its record, and registered its hash: commit them together")


@app.command()
@_plainly
def check(
    result: Annotated[str | None, typer.Argument(help="A tag (0A3F) or label (thm-ito).")] = None,
    every: Annotated[bool, typer.Option("--all", help="Check all results of the book.")] = False,
    chapter: Annotated[str | None, typer.Option(help="Only those of one chapter.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write what came out to this file.")] = None,
) -> None:
    """Check a result of the book by machine, step by step, and refute its mutants."""
    from fromnoise import derivations
    from fromnoise.derivations import report

    if (result is None) == (not every and chapter is None):
        raise ValueError("result: name one tag or label, or say --all, or --chapter.")
    if result is not None:
        good = report.one(derivations.find(result), typer.echo)
    else:
        good = report.many(chapter, typer.echo, json)
    if not good:
        raise typer.Exit(1)


def _labels(text: str | None, n: int):
    """The labels of n samples from "0,1,2", taken in turn."""
    import torch

    if text is None:
        return None
    try:
        few = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"labels={text!r}: write whole numbers, such as 7 or 0,1,2.") from error
    return torch.tensor([few[i % len(few)] for i in range(n)])


def _picture(x, out: Path) -> None:
    """Write samples as a grid of images, or points of the plane as a scatter."""
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed
    from matplotlib import pyplot as plt

    from fromnoise._files import replacing

    if x.ndim == 2 and x.shape[1] == 2:
        figure, axes = plt.subplots(figsize=(6, 6))
        axes.scatter(*x.T, s=2, linewidths=0)
        axes.set_aspect("equal")
        with replacing(out) as part:
            figure.savefig(part, format="png", dpi=150)
        plt.close(figure)
        return
    with replacing(out) as part:
        matplotlib.image.imsave(part, _grid(x), format="png", cmap="gray", vmin=0, vmax=255)


def _grid(x):
    """Images ``(n, 1, h, w)`` as one uint8 array, in about as many rows as columns."""
    import math

    import torch

    from fromnoise.data import to_pixels

    columns = math.ceil(math.sqrt(len(x)))
    rows = math.ceil(len(x) / columns)
    tiles = torch.zeros(rows * columns, *x.shape[2:], dtype=torch.uint8)
    tiles[: len(x)] = to_pixels(x)
    tiles = torch.nn.functional.pad(tiles, (1, 1, 1, 1)).unflatten(0, (rows, columns))
    return tiles.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1).numpy()  # (rows (h+2), cols (w+2))
