"""The first code cell: the book's package, where it is missing, and nothing else changed."""

from __future__ import annotations

_CELL = """\
# @title Install the book's package where it is missing {{ display-mode: "form" }}
import importlib
import os
import subprocess
import sys
import tempfile
from importlib import metadata

VERSION = "{version}"  # the version that made this page
SITE = os.environ.get("FROMNOISE_SITE") or "{site}"


def installed(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if installed("fromnoise") != VERSION:
    print(f"Installing fromnoise {{VERSION}} from {{SITE}} ...")
    # What is here stays as it is: a GPU build of torch is not to be had again from PyPI.
    present = ["torch", "torchvision", "torchaudio", "numpy"]
    pinned = [f"{{name}}=={{installed(name)}}" for name in present if installed(name)]
    with tempfile.TemporaryDirectory() as folder:
        constraints = os.path.join(folder, "constraints.txt")
        with open(constraints, "w") as file:
            file.write("\\n".join(pinned) + "\\n")
        wheel = f"{{SITE.rstrip('/')}}/_static/wheels/fromnoise-{{VERSION}}-py3-none-any.whl"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "-c", constraints, wheel],
            check=True,
        )
    importlib.invalidate_caches()
    if "fromnoise" in sys.modules:
        print("Another version was already imported: restart the kernel, then go on.")
"""


def install_cell(version: str, site: str) -> str:
    """The source of the cell, for package `version` published under the address `site`.

    Run, it does nothing and prints nothing where this version is installed.  Else it installs the
    wheel from the site, with torch (and numpy, which the kernel may have loaded already) held at
    the versions that are there.  `FROMNOISE_SITE` in the environment stands in for `site`, for
    the package's own downloads too.
    """
    return _CELL.format(version=version, site=site.rstrip("/")).rstrip("\n")
