"""Work and precision: every sampler here beside those of four libraries, on one ODE.

    python benchmarks/precision.py [plane|space|digits]

All follow the probability-flow ODE of one field along the scaled-linear betas of Stable Diffusion,
from the same states at the noisiest step to clean data, in their own coordinates and on the grids
that they offer. The field answers, as a network does, for the time it is asked at. The error is the
distance to a solution with 10,000 evaluations (root mean square over the batch, and median); the
budget is the number of evaluations. Writes ``results/precision-NAME.json``, and the best of each
library as the book's record ``precision``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common
import torch

from fromnoise import checkpoints, grids, records, samplers
from fromnoise.discrete_schedules import DiscreteVP, scaled_linear_betas
from fromnoise.distributions import GaussianMixture, laboratory
from fromnoise.fields import ExactField, Field, TransformedField
from fromnoise.grids import Grid
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT

BUDGETS = (5, 8, 10, 15, 20, 50)
REFERENCE = 10_000
SCHEDULE = DiscreteVP(scaled_linear_betas())
T = SCHEDULE.steps


class Spent(RuntimeError):
    """A sampler asked for more evaluations than it was given."""


@dataclass
class Problem:
    """A field, starting states, and the solution.

    Attributes:
        name: for the results.
        field: along `SCHEDULE`.
        start: ``(batch, *event)``, states at t = 0.
        end: ``(batch, *event)``, where the solution leads.
        calls: evaluations so far.
        budget: how many are allowed.
    """

    name: str
    field: Field
    start: torch.Tensor
    end: torch.Tensor
    calls: int = 0
    budget: int = 0

    def ask(self, x: torch.Tensor, t: float, kind: str = "noise") -> torch.Tensor:
        """One evaluation at time t, counted."""
        self.calls += 1
        if self.calls > self.budget:
            raise Spent
        t = min(max(float(t), 0.0), 1.0 - 1e-9)
        return self.field.predict(x, Grid.point(SCHEDULE, t), kind)

    def ask_at_ratio(self, x: torch.Tensor, r: float, kind: str = "noise") -> torch.Tensor:
        """One evaluation at the noise level sigma / alpha = r, x in the path's scale."""
        return self.ask(x, time_of_ratio(r), kind)

    def error(self, x: torch.Tensor) -> dict[str, float]:
        """Distance to the solution for each coordinate: root mean square, and median over samples.

        A few starts lie next to the border between two modes, where every error decides for the
        whole distance between them: they rule the mean square and not the median.
        """
        each = (x.double() - self.end).flatten(1).square().mean(1)
        return {"rms": each.mean().sqrt().item(), "median": each.median().sqrt().item()}


def time_of_ratio(r: float) -> float:
    """The time at which sigma / alpha = r; 1 for r = 0."""
    if r <= 0.0:
        return 1.0
    value = torch.tensor(-math.log(r), dtype=torch.float64)
    low = SCHEDULE.half_log_snr(torch.zeros((), dtype=torch.float64))
    return SCHEDULE.inverse_half_log_snr(torch.maximum(value, low)).item()


class _Counted(Field):
    """The problem's field for our own samplers, counting."""

    def __init__(self, problem: Problem):
        self.problem = problem

    @property
    def schedule(self):
        return SCHEDULE

    def denoise(self, x, t):
        return self.problem.ask(x, float(t), "data")

    def noise(self, x, t):
        return self.problem.ask(x, float(t), "noise")

    def predict(self, x, point, kind="data"):
        return self.problem.ask(x, point.t, kind)


def reference(field: Field, start: torch.Tensor, evaluations: int = REFERENCE) -> torch.Tensor:
    """Our third-order method on a grid of that many points (of which tests show the order)."""
    grid = grids.karras(SCHEDULE, evaluations, start=0.0, end=1.0 - 1e-6)
    return samplers.dpmpp(field, start, grid, order=3).double()


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for every draw."""
    return torch.Generator().manual_seed(seed)


def plane() -> Problem:
    """The book's laboratory in the plane, exact."""
    law = laboratory()
    field = ExactField(law, GaussianPath(SCHEDULE))
    start = torch.randn(512, 2, generator=seeded(1), dtype=torch.float64)
    return Problem("plane", field, start, reference(field, start))


def space() -> Problem:
    """A mixture of ten Gaussians in 64 dimensions with spectra that fall like 1/k, exact."""
    g = seeded(2)
    means = torch.randn(10, 64, generator=g, dtype=torch.float64) * 0.7
    covs = []
    for _ in range(10):
        basis, _ = torch.linalg.qr(torch.randn(64, 64, generator=g, dtype=torch.float64))
        spectrum = 1.0 / torch.arange(1, 65, dtype=torch.float64)
        covs.append(basis * spectrum @ basis.T)
    law = GaussianMixture(torch.full((10,), 0.1, dtype=torch.float64), means, torch.stack(covs))
    field = ExactField(law, GaussianPath(SCHEDULE))
    start = torch.randn(128, 64, generator=g, dtype=torch.float64)
    return Problem("space", field, start, reference(field, start))


def digits() -> Problem:
    """The landed digit model `digits-velocity`, seen along the same betas."""
    field = TransformedField(checkpoints.load("digits-velocity").field, SCHEDULE)
    start = torch.randn(16, 1, 28, 28, generator=seeded(3))
    with torch.no_grad():
        end = reference(field, start)
        half = reference(field, start, REFERENCE // 2)
    print("reference: 10,000 and 5,000 evaluations differ by", (end - half).square().mean().sqrt())
    return Problem("digits", field, start, end)


PROBLEMS = {"plane": plane, "space": space, "digits": digits}

# -- ours ----------------------------------------------------------------------------------------


def our_grids(n: int) -> dict[str, Grid]:
    """The grids of n steps that we compare."""
    end = 1.0 - 0.5 / T  # half a step of DDPM before the data
    return {
        "log-SNR": grids.exponential(SCHEDULE, n, start=0.0, end=end),
        "karras 7": grids.karras(SCHEDULE, n, rho=7.0, start=0.0, end=end),
        "karras 3": grids.karras(SCHEDULE, n, rho=3.0, start=0.0, end=end),
        "uniform": grids.uniform(SCHEDULE, n, start=0.0),
        "trailing": grids.of_steps(SCHEDULE, n, "trailing"),
        "straight": grids.uniform_straight(SCHEDULE, n),
    }


def ours(problem: Problem) -> dict[str, Callable[[int], torch.Tensor]]:
    """Name to function of the budget."""
    field, x = _Counted(problem), problem.start
    one = {
        "ddim": (samplers.ddim, {}),
        "dpmpp-2": (samplers.dpmpp, {"order": 2}),
        "dpmpp-2, extrapolated": (samplers.dpmpp, {"order": 2, "extrapolate": True}),
        "dpmpp-3": (samplers.dpmpp, {"order": 3}),
        "dpmpp-3, extrapolated": (samplers.dpmpp, {"order": 3, "extrapolate": True}),
        "deis-3": (samplers.deis, {"order": 3}),
        "unipc-2": (samplers.unipc, {"order": 2, "variant": "exact", "lower_final": False}),
        "unipc-3": (samplers.unipc, {"order": 3, "variant": "exact", "lower_final": False}),
        "unipc-3, noise": (
            samplers.unipc,
            {"order": 3, "variant": "exact", "lower_final": False, "kind": "noise"},
        ),
        "ipndm": (samplers.ipndm, {}),
        **{f"adams-{k}": (samplers.adams, {"order": k}) for k in (2, 3, 4)},
    }
    found = {}
    for grid in our_grids(5):
        for name, (sampler, options) in one.items():
            found[f"{name}, {grid}"] = lambda n, s=sampler, o=options, g=grid: s(
                field, x, our_grids(n)[g], **o
            )
        found[f"heun, {grid}"] = lambda n, g=grid: samplers.edm_heun(
            field, x, our_grids((n + 1) // 2)[g]
        )
        for k in (2, 3):  # k evaluations a step, one in the last
            found[f"dpm-{k} single step, {grid}"] = lambda n, k=k, g=grid: samplers.dpm_solver(
                field, x, our_grids((n - 1) // k + 1)[g], order=k
            )
    return found


# -- 🤗 Diffusers ---------------------------------------------------------------------------------


def diffusers(problem: Problem) -> dict[str, Callable[[int], torch.Tensor]]:
    """Every scheduler that solves the ODE, with the grids that it offers."""
    import diffusers as library

    library.utils.logging.set_verbosity_error()

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    rows: list[tuple[str, str, dict, int]] = []
    for spacing in ("leading", "linspace", "trailing"):
        grid = {"timestep_spacing": spacing}
        rows.append(("DDIM", "DDIMScheduler", grid | {"clip_sample": False}, 1))
        rows.append(("PNDM", "PNDMScheduler", grid | {"skip_prk_steps": True}, 1))
        for karras in (False, True):
            more = grid | {"use_karras_sigmas": karras}
            rows.append(("Euler", "EulerDiscreteScheduler", more, 1))
            rows.append(("Heun", "HeunDiscreteScheduler", more, 2))
            rows.append(("LMS", "LMSDiscreteScheduler", more, 1))
            rows.append(("KDPM2", "KDPM2DiscreteScheduler", more, 2))
            for order in (2, 3):
                for algorithm in ("dpmsolver++", "dpmsolver"):
                    final = {"final_sigmas_type": "sigma_min"} if algorithm == "dpmsolver" else {}
                    options = more | {"solver_order": order, "algorithm_type": algorithm} | final
                    rows.append((f"{algorithm}-{order}", "DPMSolverMultistepScheduler", options, 1))
                    rows.append(
                        (f"{algorithm}-{order} single", "DPMSolverSinglestepScheduler", options, 1)
                    )
                rows.append(
                    (f"DEIS-{order}", "DEISMultistepScheduler", more | {"solver_order": order}, 1)
                )
                for variant in ("bh1", "bh2"):
                    options = more | {"solver_order": order, "solver_type": variant}
                    rows.append((f"UniPC-{order} {variant}", "UniPCMultistepScheduler", options, 1))
        for lu in ({"use_lu_lambdas": True}, {"use_exponential_sigmas": True}):
            options = grid | {"solver_order": 2} | lu
            rows.append(("dpmsolver++-2", "DPMSolverMultistepScheduler", options, 1))
    found = {}
    for name, cls, options, evaluations in rows:
        make = getattr(library, cls)
        known = (
            set(make.__init__.__wrapped__.__code__.co_varnames)
            if hasattr(make.__init__, "__wrapped__")
            else None
        )
        kept = {k: v for k, v in options.items() if known is None or k in known}
        label = ", ".join(
            [name]
            + [
                str(v) if k == "timestep_spacing" else k.removeprefix("use_").replace("_", " ")
                for k, v in kept.items()
                if k == "timestep_spacing" or (k.startswith("use_") and v)
            ]
        )

        def run(n, make=make, kept=kept, evaluations=evaluations, cls=cls):
            s = make(**betas, **kept)
            steps = n if evaluations == 1 else (n + 1) // 2
            if cls == "PNDMScheduler":
                steps = n - 1
            s.set_timesteps(steps)
            scaled = not torch.equal(
                torch.as_tensor(s.scale_model_input(torch.ones(1), s.timesteps[0])), torch.ones(1)
            )
            x = problem.start
            alpha = SCHEDULE.alpha(torch.zeros((), dtype=torch.float64)).item()
            if scaled:  # state x / alpha; at the same noise level as ours begins with
                x = problem.start / alpha
            for t in s.timesteps:
                inner = s.scale_model_input(x, t) if scaled else x
                noise = problem.ask(inner, 1.0 - (float(t) + 1.0) / T)
                x = s.step(noise, t, x).prev_sample
            return x

        found[label] = run
    return found


# -- k-diffusion, smalldiffusion, flow_matching ----------------------------------------------------


def _module(package: str, name: str, **stand_ins: types.ModuleType):
    """One file of a peer, without the package around it and what that brings along."""
    root = next(Path(p) / package for p in sys.path if (Path(p) / package).is_dir())
    parent = types.ModuleType(f"_peer_{package}")
    parent.__path__ = [str(root)]
    sys.modules[parent.__name__] = parent
    for key, value in stand_ins.items():
        sys.modules[f"{parent.__name__}.{key}"] = value
        setattr(parent, key, value)
    spec = importlib.util.spec_from_file_location(f"{parent.__name__}.{name}", root / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _ends() -> tuple[float, float]:
    """The largest and the smallest noise level sigma / alpha of the betas."""
    return Grid.point(SCHEDULE, 0.0).ratio, Grid.point(SCHEDULE, 1.0 - 1.0 / T).ratio


def k_diffusion(problem: Problem) -> dict[str, Callable[[int], torch.Tensor]]:
    """Its deterministic samplers on its three grids."""
    utils = types.ModuleType("utils")
    utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    library = _module("k_diffusion", "sampling", utils=utils)
    high, low = _ends()
    alpha_0 = Grid.point(SCHEDULE, 0.0).alpha

    def denoiser(y, level):
        r = float(level.flatten()[0])
        p = Grid.point(SCHEDULE, time_of_ratio(r))
        return problem.ask(y * p.alpha, p.t, "data")

    def levels(name, n):
        if name == "karras":
            return library.get_sigmas_karras(n, low, high)
        if name == "exponential":
            return library.get_sigmas_exponential(n, low, high)
        t = torch.linspace(0.0, 1.0 - 1.0 / T, n, dtype=torch.float64)
        r = [Grid.point(SCHEDULE, float(v)).ratio for v in t]
        return torch.tensor([*r, 0.0], dtype=torch.float64)

    found = {}
    for grid in ("karras", "exponential", "uniform"):
        for name, evaluations in (
            ("sample_euler", 1), ("sample_heun", 2), ("sample_dpm_2", 2), ("sample_lms", 1),
            ("sample_dpmpp_2m", 1),
        ):  # fmt: skip

            def run(n, name=name, grid=grid, evaluations=evaluations):
                steps = n if evaluations == 1 else (n + 1) // 2
                r = levels(grid, steps).to(problem.start)
                y = problem.start / alpha_0
                return getattr(library, name)(denoiser, y, r, disable=True)

            found[f"{name.removeprefix('sample_')}, {grid}"] = run
    return found


def smalldiffusion(problem: Problem) -> dict[str, Callable[[int], torch.Tensor]]:
    """Its sampler with and without acceleration, on its own choice of levels."""
    library = _module("smalldiffusion", "diffusion")
    sigmas = torch.tensor([Grid.point(SCHEDULE, 1.0 - n / T).ratio for n in range(1, T + 1)])
    schedule = library.Schedule(sigmas)
    alpha_0 = Grid.point(SCHEDULE, 0.0).alpha

    class Model(torch.nn.Module):
        def predict_eps_cfg(self, y, r, cond, scale):
            p = Grid.point(SCHEDULE, time_of_ratio(float(r)))
            return problem.ask((y * p.alpha).to(problem.start), p.t)

        def rand_input(self, n):
            return torch.zeros(n, *problem.start.shape[1:])

    found = {}
    accelerator = types.SimpleNamespace(device="cpu")
    for gamma in (1.0, 1.6, 2.0):

        def run(n, gamma=gamma):
            levels = schedule.sample_sigmas(n)
            y = problem.start / alpha_0
            *_, last = library.samples(
                Model(), levels, gam=gamma, xt=y, batchsize=len(y), accelerator=accelerator
            )
            p = Grid.point(SCHEDULE, time_of_ratio(float(levels[-1])))
            return last * (p.alpha if float(levels[-1]) > 0 else 1.0)

        found[f"gamma = {gamma}"] = run
    return found


def flow_matching(problem: Problem) -> dict[str, Callable[[int], torch.Tensor]]:
    """Its ODE solver (torchdiffeq's midpoint and RK4, and Euler) on the straight path."""
    from flow_matching.solver import ODESolver

    straight = CondOT()
    begin = 1.0 / (1.0 + _ends()[0])  # (1 - t) / t = sigma / alpha at the noisiest step
    alpha_0 = Grid.point(SCHEDULE, 0.0).alpha

    class Velocity(torch.nn.Module):
        def forward(self, x, t):
            s = float(t)
            r = (1.0 - s) / s
            p = Grid.point(SCHEDULE, time_of_ratio(max(r, 1e-7)))
            noise = problem.ask((x * (p.alpha / s)).to(problem.start), p.t)
            return (x - noise) / s  # D - eps on the straight path, without dividing by 1 - t

    solver = ODESolver(velocity_model=Velocity())
    assert straight.name == "CondOT"
    found = {}
    for method, evaluations in (("euler", 1), ("midpoint", 2), ("rk4", 4)):

        def run(n, method=method, evaluations=evaluations):
            steps = n // evaluations
            x = problem.start * (begin / alpha_0)
            grid = torch.linspace(begin, 1.0, steps + 1, dtype=torch.float64)
            # it counts evaluations at the end of a step too; its time is a float32 there
            return solver.sample(
                time_grid=grid, x_init=x, method=method, step_size=None, return_intermediates=False
            )

        found[method] = run
    return found


LIBRARIES = {
    "ours": ours,
    "Diffusers": diffusers,
    "k-diffusion": k_diffusion,
    "smalldiffusion": smalldiffusion,
    "flow_matching": flow_matching,
}


def measure(problem: Problem, budgets=BUDGETS) -> dict:
    """Errors of all samplers at all budgets: {library: {sampler: {budget: error or None}}}."""
    found: dict = {}
    for library, make in LIBRARIES.items():
        rows = found[library] = {}
        for name, run in make(problem).items():
            row = rows[name] = {}
            for n in budgets:
                problem.calls, problem.budget = 0, n
                with (
                    warnings.catch_warnings(),
                    contextlib.suppress(
                        Spent, ValueError, IndexError, FloatingPointError, AssertionError
                    ),
                ):
                    warnings.simplefilter("ignore")
                    row[str(n)] = None
                    with torch.no_grad():
                        error = problem.error(run(n))
                    row[str(n)] = error if math.isfinite(error["rms"]) else None
        print(problem.name, library, len(rows), flush=True)
    return found


def best(rows: dict, measure_of: str) -> dict[str, list]:
    """At each budget the smallest error and who has it."""
    return {
        n: list(min((r[n][measure_of], name) for name, r in rows.items() if r[n] is not None))
        for n in map(str, BUDGETS)
    }


TEXTS = {
    "plane": "the laboratory in the plane, exact field, 512 starts",
    "space": "ten Gaussians in 64 dimensions, exact field, 128 starts",
    "digits": "the digit model digits-velocity, 16 starts",
}


def summarize() -> None:
    """Write the record from all results that there are."""
    record: dict = {
        "command": "python benchmarks/precision.py",
        "budgets": list(BUDGETS),
        "libraries": list(LIBRARIES),
        "reference_evaluations": REFERENCE,
        "problems": {},
        "best": {},
    }
    for name, text in TEXTS.items():
        if not (common.RESULTS / f"precision-{name}.json").is_file():
            continue
        result = common.load(f"precision-{name}")
        record["problems"][name] = text
        record["versions"] = result["machine"]["versions"]
        record["best"][name] = {
            measure_of: {
                library: best(rows, measure_of) for library, rows in result["errors"].items()
            }
            for measure_of in ("rms", "median")
        }
    print(records.write("precision", records.rounded(record)))


def main() -> None:
    """Run the problems named on the command line, or all."""
    common.one_thread()
    for name in sys.argv[1:] or PROBLEMS:
        began = time.monotonic()
        problem = PROBLEMS[name]()
        found = measure(problem)
        for measure_of in ("rms", "median"):
            for library, rows in found.items():
                print(measure_of, library, best(rows, measure_of))
        content = {"errors": found, "seconds": round(time.monotonic() - began)}
        common.save(f"precision-{name}", content)
    summarize()


if __name__ == "__main__":
    main()
