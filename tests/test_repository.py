"""What is tracked: nothing large, and nothing at the top that was left behind."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = {
    ".ci",
    ".github",
    ".gitignore",
    "CITATION.cff",
    "LICENSE",
    "LICENSE-TEXT",
    "Makefile",
    "README.md",
    "_config.yml",
    "_toc.yml",
    "benchmarks",
    "book",
    "docs",
    "pyproject.toml",
    "requirements.txt",
    "src",
    "tests",
    "tools",
}
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def tracked():
    """The tracked files that are there, and their sizes in bytes."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or no repository")
    paths = (ROOT / name for name in listed.split("\0") if name)
    return {p.relative_to(ROOT): p.stat().st_size for p in paths if p.is_file()}


def test_the_top_level_is_what_it_is_meant_to_be(tracked):
    assert {path.parts[0] for path in tracked} <= TOP


def test_no_file_is_over_five_megabytes(tracked):
    assert not {path: size for path, size in tracked.items() if size > 5 * MEGABYTE}


def test_weights_and_figures_together_are_under_sixty(tracked):
    kinds = {".safetensors", ".png", ".svg", ".webp", ".mp4", ".gif", ".jpg", ".woff2"}
    assert 0 < sum(s for p, s in tracked.items() if p.suffix in kinds) < 60 * MEGABYTE
