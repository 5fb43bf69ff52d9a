"""Records of runs that are too long for a page: numbers in JSON that a command regenerates.

The book's records are in ``book/_static/records/``, one file a run, and their SHA-256 in the
registry ``records.json`` of this package. :func:`load` finds them in a checkout of the book, else
in the cache, else on the book's site, as weights are (:mod:`fromnoise.checkpoints`). Each record
says in its entry ``command`` what makes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fromnoise import checkpoints
from fromnoise._files import cache_dir, fetch, sha256, write_bytes

FOLDER = "_static/records"  # on the site; in the checkout it is under book/


class RecordError(RuntimeError):
    """A record cannot be had, or is not the registered one; the message says what to do."""


def registry() -> dict[str, dict[str, Any]]:
    """The registered records: name to ``{"file", "sha256", "bytes"}``."""
    return json.loads(_registry_path().read_text("utf-8"))


def _registry_path() -> Path:
    return Path(str(resources.files("fromnoise").joinpath("records.json")))


def checkout_folder() -> Path | None:
    """``book/_static/records`` if the package runs from a checkout of the book, else None."""
    weights = checkpoints.checkout_folder()
    return None if weights is None else weights.parent / "records"


def load(name: str) -> dict[str, Any]:
    """The record called ``name``, verified: from the checkout, the cache, or the book's site.

    Raises:
        RecordError: the name is unknown, the file is not the registered one, or it can be found
            nowhere.
    """
    known = registry()
    if name not in known:
        raise RecordError(f"no record is called {name!r}: there are {', '.join(known) or 'none'}")
    entry, folder = known[name], checkout_folder()
    if folder is not None and (folder / entry["file"]).is_file():
        path = folder / entry["file"]
        if (found := sha256(path.read_bytes())) != entry["sha256"]:
            raise RecordError(
                f"{path} is not the registered file: SHA-256 {found}, expected {entry['sha256']}; "
                "restore it from version control, or run its command anew"
            )
    else:
        path = _download(entry)
    return json.loads(path.read_text("utf-8"))


def _download(entry: Mapping[str, Any]) -> Path:
    address = f"{checkpoints.site()}{FOLDER}/{entry['file']}"
    try:
        return fetch(address, f"sha256:{entry['sha256']}", cache_dir() / "records", entry["file"])
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{entry['file']} is not on this machine and {address} does not give it "
            f"({type(error).__name__}): connect to the network, or set FROMNOISE_SITE to a copy of "
            "the book"
        ) from error


def rounded(value: Any, digits: int = 6) -> Any:
    """The same record with its numbers rounded to so many significant digits."""
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def write(name: str, record: Mapping[str, Any]) -> Path:
    """Write a record into the checkout as readable JSON, and register its hash.

    Raises:
        ValueError: the record does not say what makes it anew.
        RecordError: the package does not run from a checkout.
    """
    if not record.get("command"):
        raise ValueError(f"record {name!r} has no entry 'command': say what makes it anew.")
    folder = checkout_folder()
    if folder is None:
        raise RecordError("the package runs from no checkout of the book: nowhere to write records")
    content = checkpoints.record_text(record).encode()
    path = folder / f"{name}.json"
    write_bytes(path, content)
    known = registry()
    known[name] = {"file": path.name, "sha256": sha256(content), "bytes": len(content)}
    text = json.dumps(dict(sorted(known.items())), indent=2) + "\n"
    write_bytes(_registry_path(), text.encode())
    return path
