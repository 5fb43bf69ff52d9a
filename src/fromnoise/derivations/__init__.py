"""Machine checks of the book's results, one module a chapter.

`fromnoise check 0A3F` runs one and shows its steps; :mod:`fromnoise.derivations.checking` says what
a check is.
"""

from __future__ import annotations

import csv
import importlib
import pkgutil
from functools import cache
from pathlib import Path

from fromnoise.derivations.checking import CHECKS, EXCEPTIONS, Check

__all__ = ["CHECKS", "EXCEPTIONS", "find", "load", "modules", "tags"]


def modules() -> list[str]:
    """The names of the modules that hold checks, one a chapter."""
    names = [info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return sorted(name for name in names if name not in ("checking", "report"))


def load() -> dict[str, Check]:
    """All checks, by the label of the statement; fills `EXCEPTIONS` as well."""
    for name in modules():
        importlib.import_module(f"{__name__}.{name}")
    return CHECKS


@cache
def tags() -> dict[str, str]:
    """Labels by tag: the package's copy of the book's register (`book/tags.csv`)."""
    path = Path(__file__).parent / "tags.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return {row["tag"]: row["label"] for row in csv.DictReader(file)}


def find(name: str) -> str:
    """The label that a tag, or a label, stands for.

    Raises:
        ValueError: the book has neither such a tag nor such a label.
    """
    known = tags()
    if name.upper() in known:
        return known[name.upper()]
    if name in known.values() or name in load() or name in EXCEPTIONS:
        return name
    raise ValueError(
        f"name = {name!r} is neither a tag nor a label of the book. "
        "A tag has four characters, as in the margin of a statement: 0001, say."
    )
