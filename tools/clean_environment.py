"""A virtual environment with what the package declares in it, and nothing of the checkout.

To install PyTorch anew takes minutes and a network.  So the environment is put together from what
is installed already, at the pinned versions: every file of every distribution that the wheel
declares (and of those that these declare, and of what runs a notebook) is linked into it.  What
the wheel does not declare is not there; neither is an editable install, nor a path to the sources.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

RUNNERS = ["ipykernel", "nbclient", "nbformat", "pip"]


def declared(wheel: Path) -> list[Requirement]:
    """What the wheel says it needs."""
    with ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        text = archive.read(name).decode()
    return [
        Requirement(line[15:]) for line in text.splitlines() if line.startswith("Requires-Dist:")
    ]


def closure(requirements: list[Requirement]) -> dict[str, metadata.Distribution]:
    """The installed distributions that `requirements` ask for, directly or through others.

    Raises `PackageNotFoundError` if one is missing, `ValueError` if its version is not allowed.
    """
    found: dict[str, metadata.Distribution] = {}
    seen: set[str] = set()
    todo = list(requirements)
    while todo:
        wanted = todo.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        distribution = metadata.distribution(wanted.name)
        if not wanted.specifier.contains(distribution.version, prereleases=True):
            raise ValueError(f"{wanted} is asked for, {distribution.version} is installed.")
        found[re.sub(r"[-_.]+", "-", wanted.name).lower()] = distribution
        for line in distribution.requires or []:
            needed = Requirement(line)
            extras = [{"extra": extra} for extra in wanted.extras] or [{"extra": ""}]
            if needed.marker is None or any(needed.marker.evaluate(extra) for extra in extras):
                todo.append(needed)
    return found


def make(folder: Path, wheel: Path) -> Path:
    """Make the environment in `folder`, or use the one there if it is of the same versions.

    Returns its Python.  The package is not in it.
    """
    python = folder / "bin" / "python"
    parts = closure([*declared(wheel), *map(Requirement, RUNNERS)])
    content = {name: part.version for name, part in sorted(parts.items())}
    content["python"] = f"{sys.version} at {sys.executable}"
    content["this file"] = Path(__file__).read_text(encoding="utf-8")
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    marker = folder / "key"
    if marker.exists() and marker.read_text() == key:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False, symlinks=True)
    (target,) = (folder / "lib").glob("python3.*/site-packages")
    for distribution in parts.values():
        for file in distribution.files or []:
            where = Path(os.path.normpath(target / file))
            if where.parent == folder / "bin" or not where.is_relative_to(folder):
                continue  # scripts name the Python they belong to
            where.parent.mkdir(parents=True, exist_ok=True)
            _link(Path(os.path.normpath(distribution.locate_file(file))), where)
    marker.write_text(key)
    return python


def _link(source: Path, target: Path) -> None:
    if target.exists() or not source.exists():  # a RECORD may name a cache that was never written
        return
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def without_package(python: Path) -> None:
    """Take the package out of the environment, if an earlier run has put it there."""
    (packages,) = (python.parent.parent / "lib").glob("python3.*/site-packages")
    for path in packages.glob("fromnoise*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def variables(folder: Path, address: str) -> dict[str, str]:
    """An environment of variables that shows nothing of the checkout, with `folder` as home."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "NO_PROXY": "127.0.0.1",
        "FROMNOISE_SITE": address,
        "FROMNOISE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "PIP_NO_INDEX": "1",  # whatever pip has to fetch but the wheel is an error
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def run(python: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the environment's Python, deaf to PYTHONPATH and the user's own packages."""
    return subprocess.run(
        [python, "-I", *arguments],
        capture_output=True,
        text=True,
        **options,  # type: ignore
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time: the tests run in several."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
