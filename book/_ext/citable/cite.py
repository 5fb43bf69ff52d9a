"""How to cite a statement, a chapter or the book, and the same for machines.

Author, title, year and version come from `CITATION.cff`; the address is the site's.
"""

from __future__ import annotations

import codecs
import json
import re
import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import latexcodec  # noqa: F401  registers the codec "ulatex"
import yaml

TEXT_LICENSE = "https://creativecommons.org/licenses/by/4.0/"


@dataclass(frozen=True)
class Citation:
    """The book, as `CITATION.cff` and the site's address have it."""

    title: str
    authors: tuple[str, ...]
    date: str
    version: str
    address: str

    @property
    def year(self) -> str:
        """Of this version."""
        return self.date[:4]

    @property
    def short(self) -> str:
        """The title before its colon."""
        return self.title.split(":")[0]


def read(path: Path, address: str) -> Citation:
    """Read `CITATION.cff`.

    Raises:
        ValueError: a field that a citation needs is missing.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    missing = {"title", "authors", "date-released", "version"} - content.keys()
    if missing:
        raise ValueError(f"{path.name} lacks {sorted(missing)}, which every citation needs.")
    authors = tuple(
        person.get("name") or f"{person['family-names']}, {person['given-names']}"
        for person in content["authors"]
    )
    return Citation(
        content["title"], authors, str(content["date-released"]), str(content["version"]), address
    )


@dataclass(frozen=True)
class Cited:
    """What is cited: its tag, kind ("theorem", "chapter", ...), title in plain TeX, and address."""

    tag: str
    kind: str
    title: str
    address: str


def formats(book: Citation, cited: Cited) -> dict[str, str]:
    """The ways to cite, by name: BibTeX, plain text, Markdown, LaTeX."""
    tagged = f"{book.short}, Tag {cited.tag}"
    title = plain(cited.title)
    return {
        "BibTeX": bibtex(book, cited),
        "Plain text": f"{'; '.join(book.authors)} ({book.year}). {title}. {cited.kind.title()}, "
        f"Tag {cited.tag} in {book.title}, version {book.version}. {cited.address}",
        "Markdown": f"[{tagged}]({cited.address})",
        "LaTeX": rf"\href{{{cited.address}}}{{{book.short}, Tag~\texttt{{{cited.tag}}}}}",
    }


def bibtex(book: Citation, cited: Cited) -> str:
    """A BibTeX entry that any style can set: a part of the book, with its address."""
    fields = {
        "author": bibtex_authors(book),
        "title": f"{{{latex(cited.title)}}}",
        "howpublished": f"{cited.kind.title()}, Tag {cited.tag} in {latex(book.title)}, "
        f"version {book.version}",
        "year": book.year,
        "url": cited.address,
    }
    return entry("misc", f"fromnoise-{cited.tag}", fields)


def whole_book(book: Citation) -> str:
    """A BibTeX entry for the book."""
    fields = {
        "author": bibtex_authors(book),
        "title": f"{{{latex(book.title)}}}",
        "howpublished": f"Online book, version {book.version}",
        "year": book.year,
        "url": book.address,
    }
    # as "book" it would need a publisher
    return entry("misc", "fromnoise", fields)


def bibtex_authors(book: Citation) -> str:
    """Names joined by "and"; one without a comma is a body, and kept whole by braces."""
    names = (name if "," in name else f"{{{name}}}" for name in map(latex, book.authors))
    return " and ".join(names)


def entry(kind: str, key: str, fields: dict[str, str]) -> str:
    """Lay out a BibTeX entry."""
    width = max(map(len, fields))
    lines = [f"  {name.ljust(width)} = {{{value}}}" for name, value in fields.items()]
    return f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}"


def latex(text: str) -> str:
    """Text with formulas between dollars as LaTeX that needs no Unicode."""
    parts = re.split(r"(\$[^$]*\$)", text)
    return "".join(
        part if part.startswith("$") else codecs.encode(part, "ulatex") for part in parts
    )


def beginning(text: str) -> str:
    """The first words of a text, none of its formulas cut in two."""
    cut = textwrap.shorten(text, 60, placeholder=" …")
    return cut[: cut.rindex("$")] + "…" if cut.count("$") % 2 else cut


def plain(text: str) -> str:
    """Text without the dollars of its formulas."""
    return text.replace("$", "")


def meta(book: Citation, cited: Cited | None, chapter: str = "", page: str = "") -> str:
    """Elements of a page's head for Zotero, Google Scholar and search engines.

    `citation_book_title` is what makes Zotero file the page as a part of a book.

    Args:
        book: the book.
        cited: what the page is about; None for the book itself.
        chapter: title of the chapter that holds it, if it is a statement.
        page: where the text stands, if that is not the permanent address.
    """
    title = plain(cited.title) if cited else book.title
    pairs = [("citation_title", title)]
    pairs += [("citation_author", author) for author in book.authors]
    pairs += [
        ("citation_publication_date", book.date.replace("-", "/")),
        ("citation_language", "en"),
        ("citation_public_url", cited.address if cited else book.address),
        ("citation_fulltext_html_url", page or (cited.address if cited else book.address)),
    ]
    if cited:
        pairs += [("citation_book_title", book.title), ("citation_inbook_title", book.title)]
    tags = "".join(f'<meta name="{name}" content="{escape(value)}">' for name, value in pairs)
    data = json.dumps(linked_data(book, cited, chapter), ensure_ascii=False)
    data = data.replace("<", "\\u003c")  # no end of the element inside
    return f'{tags}<script type="application/ld+json">{data}</script>'


def linked_data(book: Citation, cited: Cited | None, chapter: str = "") -> dict[str, Any]:
    """The same in schema.org's words."""
    whole = {
        "@type": "Book",
        "name": book.title,
        "url": book.address,
        "author": [
            {"@type": "Person" if "," in name else "Organization", "name": name}
            for name in book.authors
        ],
        "datePublished": book.date,
        "version": book.version,
        "inLanguage": "en",
        "license": TEXT_LICENSE,
    }
    if cited is None:
        return {"@context": "https://schema.org", **whole}
    part = {
        "@context": "https://schema.org",
        "@type": "Chapter" if cited.kind == "chapter" else "CreativeWork",
        "name": plain(cited.title),
        "identifier": cited.tag,
        "url": cited.address,
        **{
            key: whole[key]
            for key in ("author", "datePublished", "version", "inLanguage", "license")
        },
        "isPartOf": whole,
    }
    if chapter and cited.kind != "chapter":
        part["isPartOf"] = {"@type": "Chapter", "name": chapter, "isPartOf": whole}
    return part
