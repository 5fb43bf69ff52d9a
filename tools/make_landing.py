"""Make the landing page's moving picture, and the README's still one, from the landed model.

    python tools/make_landing.py

Forty samples of `digits-flow`, the first of the seed and not chosen, are carried from noise to
data along the probability-flow ODE.  Thirteen states of each are stored in one WebP; between two of
them the page's script moves every pixel in a straight line, which is close to what the flow does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fromnoise import checkpoints
from fromnoise.processes import probability_flow
from fromnoise.solvers import heun, solve_ode

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "book" / "_static" / "landing"
COLUMNS, ROWS, GAP, SEED = 10, 4, 4, 0
STATES, STEPS = 13, 96
SPAN = 2.5  # pixel values in [-SPAN, SPAN] become 0 … 255; the script knows it, too
LIMIT = 300_000  # bytes


def trajectories() -> torch.Tensor:
    """States `(STATES, COLUMNS * ROWS, 28, 28)` at equal steps of time, from noise to digits."""
    field = checkpoints.load("digits-flow").field
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(COLUMNS * ROWS, 1, 28, 28, generator=generator)
    times = torch.linspace(0.0, 1.0, STEPS + 1)
    with torch.no_grad():
        states = solve_ode(probability_flow(field), noise, times, method=heun, trajectory=True)
    return states[:: STEPS // (STATES - 1), :, 0]


def grid(pictures: np.ndarray, rows: int, background: int) -> np.ndarray:
    """Pictures `(n, 28, 28)` in `rows` rows, uint8."""
    columns = len(pictures) // rows
    cell = 28 + GAP
    sheet = np.full((rows * cell, columns * cell), background, dtype=np.uint8)
    for k, picture in enumerate(pictures):
        top, left = k // columns * cell + GAP // 2, k % columns * cell + GAP // 2
        sheet[top : top + 28, left : left + 28] = picture
    return sheet


def main() -> int:
    """Write the files and say what they weigh."""
    states = trajectories().numpy()
    FOLDER.mkdir(parents=True, exist_ok=True)
    coded = np.round(255 * (np.clip(states, -SPAN, SPAN) + SPAN) / (2 * SPAN)).astype(np.uint8)
    empty = round(255 * (SPAN - 1) / (2 * SPAN))  # the value -1: no ink
    sheet = np.concatenate([grid(state, ROWS, empty) for state in coded])
    moving = FOLDER / "flow.webp"
    Image.fromarray(sheet).save(moving, quality=72, method=6)
    ink = np.round(255 * (1 - (np.clip(states, -1, 1) + 1) / 2)).astype(np.uint8)
    rows = [grid(ink[k, :COLUMNS], 1, 255) for k in (0, 3, 6, 8, 10, 12)]
    still = Image.fromarray(np.concatenate(rows))
    still = still.resize((2 * still.width, 2 * still.height), Image.NEAREST)
    still.save(FOLDER / "strip.png", optimize=True)
    last = Image.fromarray(grid(ink[-1], ROWS, 255))
    last.save(FOLDER / "digits.png", optimize=True)
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
    if moving.stat().st_size > LIMIT:
        print(f"{moving.name} is larger than {LIMIT // 1000} kB; lower its quality.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
