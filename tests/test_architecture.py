"""The house: imports run upwards only, the root stays empty, every public thing is documented."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import fromnoise

PACKAGE = Path(fromnoise.__file__).parent

# From the ground up: a room may import rooms before it, and itself if it is a folder.
FLOORS = [
    "_shapes",
    "_files",
    "labels",
    "schedules",
    "discrete_schedules",
    "grids",
    "distributions",
    "paths",
    "predictions",
    "fields",
    "processes",
    "path_kl",
    "solvers",
    "samplers",
    "measurements",
    "editing",
    "likelihood",
    "guidance",
    "metrics",
    "quality",
    "assignment",
    "couplings",
    "weightings",
    "time_samplers",
    "variational",
    "targets",
    "conventions",
    "score_targets",
    "interpolants",
    "networks",
    "roofline",
    "latents",
    "manifolds",
    "manifold_laws",
    "riemannian",
    "jumps",
    "ema",
    "data",
    "training",
    "bridges",
    "checkpoints",
    "exported",
    "interchange",
    "evaluation",
    "digit_quality",
    "records",
    "recipes",
    "derivations",
    "plotting",
    "cli",
    "__main__",
]


def rooms():
    return sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem != "__init__")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full, not relative"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "fromnoise" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("path", rooms(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_upwards(path):
    room = room_of(path)
    assert room in FLOORS, f"{room} has no floor: give it one in this test and in docs/"
    for other in imported_rooms(path):
        if other == "__version__":
            continue
        assert other == room or FLOORS.index(other) < FLOORS.index(room), f"{room} imports {other}"


def test_the_root_imports_nothing_heavy():
    code = "import sys, fromnoise; print(sorted({'torch', 'matplotlib', 'ot'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_top_imports_matplotlib():
    for path in rooms():
        if room_of(path) not in ("plotting", "cli"):
            assert "matplotlib" not in path.read_text(), path


def public_things():
    for info in pkgutil.walk_packages([str(PACKAGE)], "fromnoise."):
        module = importlib.import_module(info.name)
        yield info.name, module
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != info.name:
                continue
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield f"{info.name}.{name}", thing
            if inspect.isclass(thing):
                for method, value in vars(thing).items():
                    if not method.startswith("_") and inspect.isfunction(value):
                        yield f"{info.name}.{name}.{method}", value


def test_everything_public_has_a_docstring():
    missing = [name for name, thing in public_things() if not inspect.getdoc(thing)]
    assert not missing


def test_no_function_swallows_misspelt_arguments():
    """**kwargs is allowed only where they are passed on to something that checks them."""
    allowed = {
        "fromnoise.recipes.train",
        "fromnoise.bridges.iterative_markovian_fitting",
        "fromnoise.recipes._recipe.Recipe.train",
        "fromnoise.derivations.checking.claims",  # names the parts of a claim
        "fromnoise.derivations.checking.Claims.but",
    }
    open_ended = {
        name
        for name, thing in public_things()
        if inspect.isfunction(thing)
        and any(p.kind is p.VAR_KEYWORD for p in inspect.signature(thing).parameters.values())
    }
    assert {n for n in open_ended - allowed if not n.startswith("fromnoise.plotting")} == set()
