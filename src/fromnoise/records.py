"""Records of runs that are too long for a page: numbers in JSON that a command regenerates.

The book's records are in ``book/_static/records/``, one file a run. Each says in its entry
``command`` what makes it anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fromnoise import checkpoints
from fromnoise._files import write_bytes

FOLDER = "records"  # beside the checkpoints


def folder() -> Path:
    """The folder of the records in the checkout of the book.

    Raises:
        FileNotFoundError: the package does not run from a checkout.
    """
    found = checkpoints.checkout_folder()
    if found is None:
        raise FileNotFoundError(
            "the package runs from no checkout of the book: clone it to read or write its records"
        )
    return found.parent / FOLDER


def load(name: str) -> dict[str, Any]:
    """The record called ``name``.

    Raises:
        FileNotFoundError: there is none, or the package does not run from a checkout.
    """
    path = folder() / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder().glob("*.json"))) or "none"
        raise FileNotFoundError(f"no record is called {name!r}: there are {known}")
    return json.loads(path.read_text("utf-8"))


def write(name: str, record: dict[str, Any]) -> Path:
    """Write a record into the checkout, as readable JSON; it must have an entry ``command``.

    Raises:
        ValueError: the record does not say what makes it anew.
    """
    if not record.get("command"):
        raise ValueError(f"record {name!r} has no entry 'command': say what makes it anew.")
    path = folder() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, checkpoints.record_text(record).encode())
    return path
