"""Write `benchmarks/RESULTS.md` from the files in `benchmarks/results/`.

python benchmarks/report.py
"""

from __future__ import annotations

from pathlib import Path

import common
from precision import BUDGETS, TEXTS, best

HERE = Path(__file__).parent


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows])


def plane(result: dict) -> str:
    """Ratios to the floor by law and number of evaluations, and who differs from our best."""
    settings = result["settings"]
    parts = [
        "## Quality in the plane\n",
        f"`benchmarks/plane.py`: {settings['network']}, {settings['steps']} steps of "
        f"{settings['batch']}, {settings['seeds']} seeds. Exact 2-Wasserstein distance of "
        f"{settings['points']} samples to as many fresh data (mean of {settings['draws']} pairs), "
        "divided by the floor, the same distance between two independent data sets; after ± half "
        "the width of the 95 % interval over the seeds. A ratio below 1 is chance, or a law that "
        "the network has smoothed. All contenders use the network, the data, the batches, the "
        "better of Euler's and the midpoint method. *Own loop*: the loop of the peer's examples "
        "(Adam, constant rate, last weights); the others are trained in our loop.\n",
    ]
    for law, found in result["laws"].items():
        contenders = found["contenders"]
        evaluations = list(next(iter(contenders.values())))
        rows = []
        for name, row in contenders.items():
            cells = []
            for nfe in evaluations:
                cell = row[nfe]
                text = f"{cell['ratio']:.2f} ± {cell['half'] / found['floor']:.2f}"
                text += mark(cell)
                cells.append(text)
            rows.append([name, *cells])
        head = [f"{law} (floor {found['floor']:.3f})", *(f"NFE {n}" for n in evaluations)]
        parts.append(table(head, rows) + "\n")
    parts.append(
        "▲ ours with minibatch OT is better, ▼ it is worse, by more than the 95 % interval of the "
        "paired differences over the seeds (without correction for their number); no mark: no "
        "difference beyond it.\n"
    )
    return "\n".join(parts)


def mark(cell: dict) -> str:
    """Whether our minibatch OT differs from this contender beyond the interval."""
    if abs(cell["minus_ours"]) <= cell["minus_ours_half"]:
        return ""
    return " ▲" if cell["minus_ours"] > 0 else " ▼"


def cost(result: dict) -> str:
    """Two tables: a training step, and a batch of minibatch transport."""
    parts = [
        "## A training step\n",
        "`benchmarks/cost.py`: processor time on one thread, in milliseconds, and its ratio to a "
        "bare loop in PyTorch (AdamW and the loss, nothing else), median over rounds.\n",
    ]
    networks = result["steps"]
    rows = []
    for loop in next(iter(networks.values())):
        cells = [networks[n][loop] for n in networks]
        rows.append([loop, *(f"{c['milliseconds']:.2f} ({c['ratio_to_bare']:.3f})" for c in cells)])
    parts.append(table(["loop", *networks], rows) + "\n")
    parts += [
        "## Minibatch transport\n",
        "Milliseconds to pair a batch of noise with a batch of data (two moons; digits), the ratio "
        "to torchcfm's time in the same round, and which part of the batch is used: torchcfm draws "
        "pairs from the plan with replacement.\n",
    ]
    rows = []
    for size, row in result["transport"].items():
        theirs, ours, scipys = row["torchcfm"], row["ours"], row.get("SciPy's assignment")
        early = " (stopped before the optimum)" if theirs["stopped_early"] else ""
        rows.append(
            [
                size,
                f"{theirs['milliseconds']:.1f}{early}",
                f"{ours['milliseconds']:.1f}",
                f"{ours['ratio_to_torchcfm']:.2f}",
                f"{scipys['milliseconds']:.1f}" if scipys else "not run",
                f"{theirs['data_used']:.0%}",
                f"{ours['data_used']:.0%}",
            ]
        )
    head = ["", "torchcfm", "ours", "ours / torchcfm", "SciPy", "used: torchcfm", "used: ours"]
    parts.append(table(head, rows) + "\n")
    return "\n".join(parts)


def precision() -> str:
    """The best of each library at each budget, and what ours is."""
    parts = [
        "## Samplers: work and precision\n",
        "Distance to a solution with 10,000 evaluations on one equation, the best of everything "
        "that a library offers (ours: 14 samplers on 6 grids; Diffusers: 104 combinations). Root "
        "mean square, and median over the starts. `python benchmarks/precision.py`\n",
    ]
    for name, text in TEXTS.items():
        result = common.load(f"precision-{name}")["errors"]
        budgets = [str(n) for n in BUDGETS]
        for of in ("rms", "median"):
            rows = []
            tops = {library: best(rows_of, of) for library, rows_of in result.items()}
            for library, top in tops.items():
                rows.append([library, *(f"{top[n][0]:.5f}" for n in budgets)])
            theirs = {n: min(t[n][0] for k, t in tops.items() if k != "ours") for n in budgets}
            rows.append(
                ["theirs / ours", *(f"{theirs[n] / tops['ours'][n][0]:.2f}" for n in budgets)]
            )
            parts.append(f"### {text}: {of}\n")
            parts.append(table(["evaluations", *budgets], rows) + "\n")
            if of == "rms":
                chosen = "; ".join(f"{n}: {tops['ours'][n][1]}" for n in budgets)
                parts.append(f"Ours is: {chosen}.\n")
    return "\n".join(parts)


def sampler_cost(result: dict) -> str:
    """Microseconds a step beyond the network."""
    parts = [
        "## Samplers: cost of a step beyond the network\n",
        "Batch 256, 50 steps, one thread, microseconds of processor time a step; ratios within a "
        "round. `python benchmarks/sampler_cost.py`\n",
    ]
    for name, rows_of in result["pairs"].items():
        rows = []
        for pair, row in rows_of.items():
            mine, hand = row["ours"], row.get("by hand")
            rows.append(
                [
                    pair,
                    f"{mine['microseconds']:.1f}",
                    f"{row['Diffusers']['microseconds']:.1f}",
                    f"{hand['microseconds']:.1f}" if hand else "",
                    f"{mine['ratio to Diffusers']:.2f}",
                    f"{mine['ratio to by hand']:.2f}" if hand else "",
                ]
            )
        head = [name, "ours", "Diffusers", "by hand", "ours / Diffusers", "ours / by hand"]
        parts.append(table(head, rows) + "\n")
    return "\n".join(parts)


def main() -> None:
    """Read, write."""
    results = {name: common.load(name) for name in ("plane", "cost", "sampler_cost")}
    machine = results["cost"]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    text = "\n".join(
        [
            "# Benchmarks\n",
            "Made by `make bench`, which runs everything again and writes this page. "
            f"Measured on {machine['cores']} {machine['processor']} cores, one thread, Python "
            f"{machine['python']}; {versions}. Compare ratios, not times.\n",
            plane(results["plane"]),
            cost(results["cost"]),
            precision(),
            sampler_cost(results["sampler_cost"]),
        ]
    )
    (HERE / "RESULTS.md").write_text(text, encoding="utf-8")
    print("wrote RESULTS.md")


if __name__ == "__main__":
    main()
