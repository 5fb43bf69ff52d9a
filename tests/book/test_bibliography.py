"""The bibliography: every entry is cited, every citation has an entry, and every entry says what
it was compared with."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from pybtex.database import Entry, parse_file

BOOK = Path(__file__).resolve().parents[2] / "book"
CITATION = re.compile(r"\{cite(?::[a-z]+)*\}`([^`]+)`")
PLACES = ("doi", "eprint", "url", "isbn", "publisher", "journal", "booktitle")
ENTRIES: dict[str, Entry] = dict(parse_file(BOOK / "references.bib").entries)


def citations() -> dict[str, set[str]]:
    """Every key that a page cites, with the pages that cite it."""
    found: dict[str, set[str]] = {}
    for page in sorted(BOOK.rglob("*.md")):
        for role in CITATION.finditer(page.read_text(encoding="utf-8")):
            for key in re.findall(r"[^,;\s{}]+", role[1]):
                found.setdefault(key, set()).add(page.relative_to(BOOK).as_posix())
    return found


def plain(text: str) -> str:
    """A title without braces, accents, case and punctuation."""
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"\\.|[{}]", "", text).lower()).strip()


def test_no_citation_dangles():
    dangling = {key: pages for key, pages in citations().items() if key not in ENTRIES}
    assert not dangling


def test_no_entry_is_an_orphan():
    assert not set(ENTRIES) - set(citations())


@pytest.mark.parametrize("key", ENTRIES)
def test_entry_is_complete(key: str):
    entry = ENTRIES[key]
    assert entry.persons.get("author")
    for field in ("title", "year", "verified"):
        assert entry.fields.get(field, "").strip(), field
    assert re.fullmatch(r"(1[89]|20)\d\d", entry.fields["year"])
    assert any(entry.fields.get(place) for place in PLACES)


@pytest.mark.parametrize("key", ENTRIES)
def test_identifiers_have_their_form(key: str):
    fields = ENTRIES[key].fields
    if "doi" in fields:
        assert re.fullmatch(r"10\.\d{4,9}/\S+", fields["doi"])
    if "eprint" in fields:
        assert fields.get("archiveprefix") == "arXiv"
        assert re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", fields["eprint"])


def test_no_work_has_two_entries():
    titles = Counter(plain(entry.fields["title"]) for entry in ENTRIES.values())
    numbers = Counter(
        entry.fields[name]
        for entry in ENTRIES.values()
        for name in ("doi", "eprint")
        if name in entry.fields
    )
    assert not [title for title, count in (titles + numbers).items() if count > 1]
