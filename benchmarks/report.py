"""Write `benchmarks/RESULTS.md` from the files in `benchmarks/results/`.

python benchmarks/report.py
"""

from __future__ import annotations

import math
from pathlib import Path

import common
from precision import BUDGETS, TEXTS, best

from fromnoise import records

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


def training(result: dict) -> str:
    """Throughput and loss of small image models, ours and the peers'."""
    threads = result["machine"]["threads"]
    compared = "processor time" if threads == 1 else "time by the clock"
    options = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in result["options"].items())
    parts = [
        "## Training image models\n",
        f"`benchmarks/training.py {options}` (contenders and loops: `contenders.py`): equal "
        "parameters within 5 %, equal batch, the same regression on MNIST, float32, each network "
        "in the loop of its library's example. Ours folds 2 × 2 pixels into channels first, which "
        "at equal parameters is several times fewer operations; *folded* are the peers' networks "
        "on the same folded images. All take a step in turn; "
        f"{threads} thread{'s' if threads > 1 else ''}. Images per second of processor time, in "
        "which threads that wait for each other count too, and by the clock, which counts what "
        f"else the machine did (medians); and how many times more {compared} than ours an image "
        "takes (median of the ratios within a round; above 1: ours is faster).\n",
    ]
    for size, found in result["throughput"].items():
        rows = []
        for name, row in found["rows"].items():
            ratios = row["times_ours"]
            rows.append(
                [
                    name,
                    f"{row['parameters'] / 1e6:.2f}",
                    f"{row['images_per_processor_second']:.3g}",
                    f"{row['images_per_second']:.3g}",
                    *(f"{ratios[k]:.2f}" if ratios else "" for k in OURS),
                ]
            )
        head = [f"{size}, batch {found['batch']}, {found['rounds']} rounds", "parameters / M"]
        head += ["images / processor s", "images / s", *(f"÷ {name}" for name in OURS)]
        parts.append(table(head, rows) + "\n")
    loss = result["loss"]
    parts.append(
        f"Mean squared error of the velocity on {loss['held_out']} held-out digits, the same noise "
        f"and times for all, after {loss['steps']} steps of {loss['batch']} images: with its "
        "standard error over the images, and the difference to our U-Net's with that of the "
        "difference. One seed; learning rate 1e-3 for all; a peer's better of last and averaged "
        "weights. Ours, torchcfm's and smalldiffusion's loops have it constant; Diffusers' falls "
        "after a warm-up, as in its tutorial, and was not tried otherwise. *Falling rate* is the "
        "default of our loop; the constant one was taken after that had been seen to be worse.\n"
    )
    rows = [
        [
            name,
            f"{row['error']:.4f} ± {row['standard_error']:.4f}",
            f"{row['minus_ours']:+.4f} ± {row['minus_ours_error']:.4f}",
            row["weights"],
        ]
        for name, row in loss["rows"].items()
    ]
    parts.append(table(["1.6 M", "error", "minus our U-Net's", "weights"], rows) + "\n")
    if "theirs" not in loss["groups"]:
        parts.append(
            "The losses of the peers' networks as their authors build them are not in this record "
            "(`python benchmarks/training.py` measures them too, in hours).\n"
        )
    if loss["steps"] * loss["batch"] < 10_000:
        parts.append(
            f"{loss['steps'] * loss['batch']} images are the beginning of a training: who is "
            "ahead here need not be in the end.\n"
        )
    if found["missing"]:
        parts.append(f"Not installed, so not measured: {', '.join(found['missing'])}.\n")
    return "\n".join(parts)


OURS = ("ours, U-Net", "ours, DiT")


def gpu() -> str:
    """What a GPU reached, if there is a record of one."""
    parts = ["## On a GPU\n"]
    if not (common.RESULTS / "gpu.json").exists():
        parts.append(
            "No GPU record yet; on a machine with one, `python benchmarks/gpu.py` makes it "
            "(ceilings, the part of them that a step of the DiT reaches, the loops above, and the "
            "time to a digit-FID). Nothing on this page was measured on a GPU.\n"
        )
        return "\n".join(parts)
    result = common.load("gpu")
    ceilings = ", ".join(
        f"{name} {row['peak'] / 1e12:.3g} Tflop/s" for name, row in result["ceilings"].items()
    )
    bandwidth = result["ceilings"]["fp32"]["bandwidth"] / 1e9
    parts.append(
        f"`benchmarks/gpu.py` on {result['gpu']}. Measured ceilings: {ceilings}, copies "
        f"{bandwidth:.3g} GB/s. One training step of the DiT in bf16; the part of the peak is "
        "operations over time over the bf16 ceiling. What bounds a step from below stands beside: "
        "its operations at the peak, the optimizer's traffic at the bandwidth, and the kernels "
        "launched, each of which costs microseconds however small it is.\n"
    )
    rows = [
        [
            name,
            f"{row['parameters'] / 1e6:.3g}",
            str(row["batch"]),
            f"{1e3 * row['seconds']:.3g}",
            f"{row['fraction_of_peak']:.1%}",
            f"{1e3 * row['seconds_at_peak']:.3g}",
            f"{1e3 * row['seconds_of_optimizer_traffic']:.3g}",
            str(row["kernels"]),
        ]
        for name, row in result["dit"].items()
    ]
    head = ["DiT", "parameters / M", "batch", "ms", "part of peak", "ms at peak", "ms of traffic"]
    parts.append(table([*head, "kernels"], rows) + "\n")
    for size, found in result["throughput"].items():
        rows = [
            [
                name,
                f"{row['images_per_second']:.0f}",
                f"{row['ratio_to_best_of_theirs']:.2f}" if row["ratio_to_best_of_theirs"] else "",
            ]
            for name, row in found["rows"].items()
        ]
        head = [f"{size}, batch {found['batch']}", "images / s", "÷ the best peer as built"]
        parts.append(table(head, rows) + "\n")
    if "time_to_fid" in result:
        found = result["time_to_fid"]
        rows = [
            [name, *(("not reached", "") if row["seconds"] is None else
                     (f"{row['seconds']:.1f}", str(row["steps"])))]
            for name, row in found["rows"].items()
        ]  # fmt: skip
        head = [f"1.6 M, to a digit-FID of {found['threshold']:g}", "seconds", "steps"]
        parts.append(table(head, rows) + "\n")
    return "\n".join(parts)


QUALITIES = {
    "digit_frechet": "digit-Fréchet",
    "digit_kid": "digit-KID",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "read as asked",
    "c2st": "two-sample accuracy",
    "memorization": "memorization",
}


def with_error(cell: dict | None) -> str:
    """A value and its standard error, to two digits of the latter."""
    if not cell:
        return ""
    value, error = cell["value"], cell["standard_error"]
    digits = 1 - math.floor(math.log10(error)) if error > 0.0 else 3
    return f"{value:.{max(digits, 0)}f} ± {error:.{max(digits, 0)}f}"


def bound(cell: dict | None) -> str:
    """Bits per dimension, and how far twice the steps move them."""
    if not cell:
        return ""
    return f"{with_error(cell)} ({cell['change_with_twice_the_steps']['value']:+.3f})"


def sample_quality() -> str:
    """Class-conditional models against test images, and the records that are missing."""
    parts = ["## Quality of class-conditional samples\n"]
    found: dict = {}
    for name in ("quality", "quality-fashion"):
        if name not in records.registry():
            continue
        record = records.load(name)
        found |= record["models"]
        settings, reader = record["samples"], record["reader"]
        parts.append(
            f"`{record['command']}`: {settings['per_class']} samples of each class "
            f"({settings['sampler']}) against as many random images of the test split, in the "
            "features of "
            f"`{reader['name']}`, which reads {100 * reader['accuracy']:.2f} ± "
            f"{100 * reader['standard_error']:.2f} % of the test split. This is not Inception-FID: "
            "the numbers are comparable within this project only. After ± the standard error. "
            "*Training split* is the floor: as many random training images in place of samples. "
            "Two-sample accuracy is ½ if samples cannot be told from data; memorization is the "
            "share of pairs in which the sample is nearer to the training split than a test image "
            "is, ½ if nothing is copied. Bits per dimension: a bound, of 100 test images given "
            "their labels; in brackets what twice the steps of the solver change.\n"
        )
        rows = [["training split", "", *(with_error(record["floor"][q]) for q in QUALITIES), ""]]
        for model, entry in record["models"].items():
            for scale, row in entry["guidance"].items():
                bits = bound(entry["bits_per_dim"]) if scale == "1" else ""
                cells = (with_error(row.get(q)) for q in QUALITIES)
                rows.append([model, scale, *cells, bits])
        parts.append(table(["", "guidance", *QUALITIES.values(), "bits/dim"], rows) + "\n")
        for model, entry in record["models"].items():
            picture = entry["picture"]
            parts.append(
                f"![{model}: the first samples of each class in a row, guidance "
                f"{picture['guidance']:g}](../book/_static/records/{picture['file']})\n"
            )
    missing = [line for name, line in AWAITED.items() if name not in found]
    if missing:
        parts += [
            "### Records that are missing\n",
            "The recipes are there and tested up to their data. What is missing was not at hand: a "
            "GPU for the larger budgets, the files of Fashion-MNIST, or the model. The commands:\n",
            "```",
            *missing,
            "```\n",
        ]
    return "\n".join(parts)


def _awaited() -> dict[str, str]:
    """Model to the commands that make its record."""
    lines = {
        "digits-latent-dit": "python benchmarks/quality.py digits-latent-dit",
    }
    readers = {}
    for of in ("digits", "fashion"):
        for kind in ("conditional", "dit"):
            for budget in ("cpu", "gpu") if of == "fashion" else ("gpu",):
                recipe = f"{of}-{kind}"
                name = recipe if budget == "cpu" else f"{recipe}-gpu"
                file = f"{name}.safetensors"
                more = " --data fashion --weights fashion-features=fashion-features.safetensors"
                lines[name] = (
                    f"fromnoise train {recipe} --budget {budget} --out {file}\n"
                    "python benchmarks/quality.py"
                    f"{more if of == 'fashion' else ''} --weights {name}={file}"
                )
                if of == "fashion" and not readers:
                    readers["fashion-features"] = "fromnoise train fashion-features"
                    lines[name] = f"{readers['fashion-features']}\n{lines[name]}"
    return lines


AWAITED = _awaited()


def sampling_quality(result: dict) -> str:
    """Distance by evaluations, where each sampler gets to the threshold, and images a second."""
    floor, best_possible = result["floor"], result["reference"]
    parts = [
        "## Samplers: images per second at a fixed quality\n",
        f"`python benchmarks/sampling_quality.py`: digit-Fréchet distance (not Inception-FID) of "
        f"{result['samples']} samples of `{result['model']}` to as many test digits, by the number "
        "of evaluations of the network, from the same noise for all; no guidance. Training digits "
        f"in place of samples have {with_error(floor)}, {best_possible['evaluations']:.0f} "
        f"evaluations of our DPM-Solver++ 2M {with_error(best_possible)}. **Bold**: the first "
        f"within a tenth of that, at most {result['threshold']:.3f}; more evaluations were not "
        "tried. The standard errors are of the distances themselves; since noise and data are the "
        "same, differences between samplers have smaller ones. A distance below that of many "
        "evaluations is no better solution: errors of a coarse solution can make up for those of "
        "the network. *From 0.001*, where Diffusers' grids begin too, was added after those from 0 "
        "had been seen to need one evaluation more than Diffusers' UniPC. "
        "Images per second on one thread, "
        f"batch {result['batch']}, all in turn, median of {result['rounds']} rounds of processor "
        "time.\n",
    ]
    counts = sorted(
        {row["evaluations"] for runs in result["distances"].values() for rows in runs.values()
         for row in rows}
    )  # fmt: skip
    lines = []
    for library, runs in result["distances"].items():
        for name, rows in runs.items():
            key = f"{library}: {name}"
            at = {row["evaluations"]: row for row in rows}
            cells = []
            for n in counts:
                text = f"{at[n]['value']:.3f}" if n in at else ""
                cells.append(f"**{text}**" if result["reached"].get(key) == n else text)
            speed = result["images_per_second"].get(key)
            lines.append([key, *cells, f"{speed['median']:.1f}" if speed else "not reached"])
    head = ["evaluations", *(f"{n:g}" for n in counts), "images/s"]
    parts.append(table(head, lines) + "\n")
    speeds = result["images_per_second"]
    top = {}
    for library in result["distances"]:
        mine = {k: v["median"] for k, v in speeds.items() if k.startswith(f"{library}: ")}
        if mine:
            top[library] = max(mine, key=mine.get)
    if len(top) == 2:
        best = {k: speeds[top[k]] for k in top}
        texts = [
            f"{top[k]} with {result['reached'][top[k]]:g} evaluations, {best[k]['median']:.0f} "
            f"images a second (rounds: {best[k]['least']:.0f} to {best[k]['most']:.0f})"
            for k in ("ours", "Diffusers")
        ]
        ratio = best["ours"]["median"] / best["Diffusers"]["median"]
        parts.append(
            f"The fastest of each: {'; '.join(texts)}. Ours / theirs: {ratio:.2f}. Nearly all of "
            "the time is the network's, so that at equal numbers of evaluations a difference "
            "within the range of the rounds is the machine's.\n"
        )
    return "\n".join(parts)


def page(result: dict) -> str:
    """The time to the first screen of every chapter, beside that of MathJax alone."""
    settings, found = result["settings"], dict(result["pages"])
    name, bare = next(iter(found.items()))
    rows = [
        [
            title,
            *(f"{cell[key]:.2f} ({cell[key] / bare[key]:.2f})" for key in ("clock", "computed")),
        ]
        for title, cell in found.items()
    ]
    text = (
        "## The first screen of a page\n\n"
        "`benchmarks/page.py`: seconds until what is on the screen is typeset and shown, 1280 x "
        f"900 pixels, from a local server, nothing cached; median of {settings['loads']} loads in "
        f"Chromium {settings['chromium']}. On the clock, and processor time of the page's own "
        f"thread; in brackets the ratio to {name}, a page with nothing else on it.\n\n"
    )
    return text + table(["page", "on the clock", "computed"], rows) + "\n"


def main() -> None:
    """Read, write."""
    names = ("plane", "cost", "sampler_cost", "training", "sampling_quality", "page")
    results = {name: common.load(name) for name in names}
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
            training(results["training"]),
            gpu(),
            sampling_quality(results["sampling_quality"]),
            sample_quality(),
            page(results["page"]),
        ]
    )
    (HERE / "RESULTS.md").write_text(text, encoding="utf-8")
    print("wrote RESULTS.md")


if __name__ == "__main__":
    main()
