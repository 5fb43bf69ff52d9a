"""The register of tags: `book/tags.csv`, to which lines are added and from which none is taken.

A tag is four characters, 0-9 and A-Z, given in order: 0001 to 0009, 000A to 000Z, 0010 and so on.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HEADER = ("tag", "label", "since")
TAG = re.compile(r"[0-9A-Z]{4}")


@dataclass(frozen=True)
class Row:
    """One line: the tag, the label that it belongs to for good, the first version with it."""

    tag: str
    label: str
    since: str


def parse(text: str) -> list[Row]:
    """The rows of a register.

    Raises:
        ValueError: the first line is not the header, or a line has not three fields.
    """
    lines = list(csv.reader(io.StringIO(text)))
    if not lines or tuple(lines[0]) != HEADER:
        raise ValueError(f"The first line must be {','.join(HEADER)}.")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(HEADER) or not all(line):
            raise ValueError(f"Line {number} is {','.join(line)!r}, not {','.join(HEADER)}.")
    return [Row(*line) for line in lines[1:]]


def read(path: Path) -> list[Row]:
    """The rows of the register at `path`; none if there is no such file."""
    return parse(path.read_text(encoding="utf-8")) if path.exists() else []


def problems(rows: Iterable[Row]) -> list[str]:
    """What is wrong with a register in itself."""
    found: list[str] = []
    tags: dict[str, str] = {}
    labels: dict[str, str] = {}
    last = "0000"
    for row in rows:
        if not TAG.fullmatch(row.tag):
            found.append(f"tag {row.tag!r} of {row.label} is not four characters 0-9, A-Z")
        elif row.tag in tags:
            found.append(f"tag {row.tag} is given twice: to {tags[row.tag]} and to {row.label}")
        elif row.tag <= last:
            found.append(f"tag {row.tag} of {row.label} comes after {last}: lines are only added")
        if row.label in labels:
            found.append(f"{row.label} has two tags: {labels[row.label]} and {row.tag}")
        tags[row.tag], labels[row.label] = row.label, row.tag
        last = max(last, row.tag)
    return found


def changed(before: Iterable[Row], after: Iterable[Row]) -> list[str]:
    """What was taken from a register or altered in it, which must never happen."""
    found = []
    now = {row.tag: row for row in after}
    for row in before:
        if row.tag not in now:
            found.append(f"tag {row.tag} ({row.label}) was removed")
        elif now[row.tag].label != row.label:
            found.append(f"tag {row.tag} was given from {row.label} to {now[row.tag].label}")
        elif now[row.tag] != row:
            found.append(f"tag {row.tag}: its version changed from {row.since}")
    return found


def following(tag: str) -> str:
    """The next tag.

    Raises:
        ValueError: all 1,679,615 are given.
    """
    number = int(tag, 36) + 1
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = DIGITS[digit] + digits
    if len(digits) > 4:
        raise ValueError("All tags of four characters are given.")
    return digits.rjust(4, "0")


def add(path: Path, labels: Iterable[str], since: str) -> list[Row]:
    """Give each label that has none a tag; returns the new rows."""
    rows = read(path)
    known, last = {row.label for row in rows}, max((row.tag for row in rows), default="0000")
    new: list[Row] = []
    for label in labels:
        if label in known:
            continue
        last = following(last)
        new.append(Row(last, label, since))
        known.add(label)
    if new or not path.exists():
        output = io.StringIO()
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows((row.tag, row.label, row.since) for row in [*rows, *new])
        path.write_text(output.getvalue(), encoding="utf-8")
    return new
