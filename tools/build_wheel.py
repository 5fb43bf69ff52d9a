"""Build the package's wheel into the site, whence the notebooks' first cell installs it.

    python tools/build_wheel.py [--out _build/html/_static/wheels]

The wheel is built from a copy of the sources, so that nothing left over in the checkout gets into
it, and it is the same file for the same sources.  It is told the site it is published on (derived
from `_config.yml`, or from GITHUB_REPOSITORY on GitHub), so that the package of a fork fetches the
fork's weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import site_address  # noqa: E402

FILES = ("pyproject.toml", "README.md", "LICENSE")


def site() -> str:
    """The address of the published site."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return site_address.site(f"https://github.com/{name}")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return site_address.site(config["repository"]["url"])


def build_wheel(out: Path) -> Path:
    """Build the wheel into `out`, alone there, unless it is there already; returns its path.

    Raises `RuntimeError` with the build's own words if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "fromnoise")
        _copy(copy)
        stamp = _hash(copy)
        marker = out / "sources.sha256"
        built = sorted(out.glob("*.whl"))
        if len(built) == 1 and marker.exists() and marker.read_text().strip() == stamp:
            return built[0]
        fresh = Path(folder, "dist")
        done = subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", fresh, copy],
            # the time in the archive: zip knows none before 1980
            env={**os.environ, "SOURCE_DATE_EPOCH": "315532800"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"The wheel could not be built:\n{done.stdout}\n{done.stderr}")
        (wheel,) = fresh.glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        for old in built:
            old.unlink()
        target = out / wheel.name
        shutil.move(wheel, target)
        marker.write_text(stamp + "\n", encoding="utf-8")
        return target


def _copy(folder: Path) -> None:
    """What the wheel is made of, with the site's address in its place."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    (folder / "src" / "fromnoise" / "_site.json").write_text(
        json.dumps({"site": site()}, indent=2) + "\n", encoding="utf-8"
    )


def digest(wheel: Path) -> str:
    """The SHA-256 of a wheel."""
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def _hash(folder: Path) -> str:
    content = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content.update(path.relative_to(folder).as_posix().encode())
        content.update(path.read_bytes())
    return content.hexdigest()


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "html" / "_static" / "wheels")
    wheel = build_wheel(parser.parse_args().out.resolve())
    print(f"{wheel} ({wheel.stat().st_size / 1024:.0f} KB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
