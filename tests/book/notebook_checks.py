"""What must hold for the text of every notebook, whatever chapter it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import nbformat
from bs4 import BeautifulSoup

_FENCE = re.compile(r"^(?P<lead>[> ]*)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")
_SPAN = re.compile(r"(?<![`\\])(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_INLINE = re.compile(r"(?<!\\)\$(.+?)(?<!\\)\$", re.DOTALL)
_LINK = re.compile(r"!?\[[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*\]\(([^()\s]*)\)")
_ATTRIBUTE = re.compile(r'<[a-z]+ [^>]*?\b(?:href|src)="([^"]*)"')
_ANCHOR = re.compile(r'<a id="([^"]+)"')
_RAW = {
    "directive": re.compile(r"^[> ]*(`{3,}|:{3,})\s*\{", re.MULTILINE),
    "role": re.compile(r"\{[a-z]+(?::[a-z]+)*\}\\?`"),
    "option": re.compile(r"^[> ]*:[a-z-]+:( |$)", re.MULTILINE),
    "target": re.compile(r"^\([a-z][\w-]*\)=\s*$", re.MULTILINE),
    "label": re.compile(r"(?<![\w/#\"-])(?:def|thm|lem|prp|cor|alg|exa|rem|eq|exr|sol|fig)-[a-z]"),
    "unresolved": re.compile(r"\?\?\?|\\(?:eq)?ref\{|\\label\{|<pending|<problematic"),
    "footnote": re.compile(r"\[\^"),
    "fence": re.compile(r"^\s*:::", re.MULTILINE),
}


@dataclass(frozen=True)
class Text:
    """A Markdown cell, taken apart: its formulas, and its prose without code and formulas."""

    displays: list[str]
    inlines: list[str]
    prose: str


def take_apart(source: str) -> Text:
    """Split a cell as every reader does: code first, then displays, then formulas in a line."""
    prose = _SPAN.sub("CODE", _without_fences(source))
    displays = _DISPLAY.findall(prose)
    prose = _DISPLAY.sub("DISPLAY", prose)
    inlines = _INLINE.findall(prose)
    return Text(displays, inlines, _INLINE.sub("MATH", prose))


def _without_fences(source: str) -> str:
    kept, fence = [], ""
    for line in source.split("\n"):
        match = _FENCE.match(line)
        if fence:
            if match and match["fence"].startswith(fence) and not match["info"].strip():
                fence = ""
            continue
        if match and "`" not in match["info"]:
            fence = match["fence"]
            kept.append(f"{match['lead']}FENCE {match['info'].strip()}")
            continue
        kept.append(line)
    assert not fence, f"a code fence is never closed: {source[-300:]}"
    return "\n".join(kept)


def formulas(notebook: nbformat.NotebookNode) -> list[tuple[str, bool]]:
    """All formulas with whether they are displays."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = take_apart(cell.source)
            found += [(tex, True) for tex in text.displays]
            found += [(unescape(tex), False) for tex in text.inlines]
    return found


def check_text(notebook: nbformat.NotebookNode) -> None:
    """Nothing of MyST is left, and every formula is one that Markdown readers can find."""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        text = take_apart(cell.source)
        for name, pattern in _RAW.items():
            found = pattern.search(_outside_links(text.prose))
            assert not found, f"a raw {name}, {found[0]!r}, in:\n{cell.source}"
        rest = text.prose.replace("\\$", "")
        assert "$" not in rest, f"a dollar sign without its partner in:\n{cell.source}"
        assert "\\$DISPLAY" not in text.prose and "\\$MATH" not in text.prose, cell.source
        for tex in [*text.displays, *text.inlines]:
            check_formula(tex)
        check_details(cell.source)


def check_formula(tex: str) -> None:
    """A formula is on one line, its groups close, and it holds neither dollar nor HTML tag."""
    assert tex.strip(), "an empty formula"
    assert "\n" not in tex and "$" not in tex, tex
    assert not re.search(r"<[A-Za-z/!]", tex), tex
    bare = re.sub(r"\\[\\{}]", "", tex)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0, tex
    assert depth == 0, tex
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{([^}]*)\}", tex):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened and opened.pop() == name, tex
    assert not opened, tex
    assert not re.search(r"\\begin\{(?:align|gather|equation|eqnarray|multline)\*?\}", tex), tex


def check_details(source: str) -> None:
    """`<details>` stand alone with blank lines around what they hide, and close."""
    lines = source.split("\n")
    depth = 0
    for i, line in enumerate(lines):
        if line.lstrip("> ").startswith("<details"):
            depth += 1
            assert lines[i + 1].lstrip("> ").startswith("<summary>"), source
            assert lines[i + 1].rstrip().endswith("</summary>"), source
            assert not lines[i + 2].lstrip("> "), source
        if line.lstrip("> ").rstrip() == "</details>":
            depth -= 1
            assert not lines[i - 1].lstrip("> "), source
    assert depth == 0, source


def _outside_links(prose: str) -> str:
    """Prose without the addresses of links and without the attributes of HTML."""
    prose = re.sub(r"\]\([^()\s]*\)", "]()", prose)
    return re.sub(r'="[^"]*"', '=""', prose)


def links(notebook: nbformat.NotebookNode) -> list[str]:
    """Where links and pictures lead, code left out."""
    found: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = _SPAN.sub("CODE", _without_fences(cell.source))
            found += _LINK.findall(text) + _ATTRIBUTE.findall(text)
    return found


def check_links(notebook: nbformat.NotebookNode, site: str, html: Path) -> int:
    """Links are absolute or to an anchor in the notebook, and what they lead to in `html` exists.

    Returns how many lead to the site.
    """
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    anchors = _ANCHOR.findall(text)
    assert len(anchors) == len(set(anchors)), sorted(a for a in anchors if anchors.count(a) > 1)
    to_site = 0
    for link in links(notebook):
        if link.startswith("#"):
            assert unquote(link[1:]) in anchors, f"{link} leads nowhere"
            continue
        assert re.match(r"(https?://|mailto:)", link), f"{link!r} is not absolute"
        if not link.startswith(site):
            continue
        to_site += 1
        page, _, name = unquote(link[len(site) :]).partition("#")
        path = html / (page or "index.html")
        assert path.is_file(), f"{link}: the site has no {page}"
        if name:
            assert name in ids(path), f"{link}: {page} has no anchor {name}"
    unused = set(anchors) - {unquote(link[1:]) for link in links(notebook)}
    assert not {name for name in unused if not name.startswith("ref-")}, unused
    return to_site


@cache
def soup(path: Path) -> BeautifulSoup:
    """A page of the site."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def ids(path: Path) -> set[str]:
    """The anchors of a page."""
    return {tag["id"] for tag in soup(path).find_all(id=True)}


def numbers_on_page(path: Path) -> dict[str, list[str]]:
    """Names of statements ("Theorem 2.1"), exercises and equations as the page shows them."""
    main = soup(path).find("main") or soup(path)
    names = [
        " ".join(tag.get_text().split())
        for tag in main.select(".caption-number")
        if not tag.find_parent("figcaption") and not tag.find_parent("caption")
    ]
    titles = [" ".join(tag.get_text().split()) for tag in main.select("p.admonition-title")]
    equations = [tag.get_text().strip("()¶# \n") for tag in main.select(".eqno")]
    return {
        "statements": sorted(n for n in names if re.search(r"\d$", n)),
        "solutions": sorted(
            re.match(r"Solution to Exercise [\d.]+\d", title)[0]
            for title in titles
            if title.startswith("Solution to")
        ),
        "equations": sorted(equations),
    }


def numbers_in_notebook(notebook: nbformat.NotebookNode) -> dict[str, list[str]]:
    """The same, as the notebook shows them."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    names = re.findall(r"^> (?:<a [^>]*></a>)*\*\*([A-Z][a-z]+ [\d.]+\d)\*\*", text, re.MULTILINE)
    solutions = re.findall(r"<summary><b>(Solution to Exercise [\d.]+\d)(?!.*, continued)", text)
    return {
        "statements": sorted(names),
        "solutions": sorted(solutions),
        "equations": sorted(re.findall(r"\\tag\{([^}]*)\}", text)),
    }


def check_code(notebook: nbformat.NotebookNode, chapter: nbformat.NotebookNode) -> None:
    """After the cell that installs come the chapter's code cells, all, in order, untouched."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "install" in code[0].metadata.tags and '"pip", "install"' in code[0].source
    own = [cell for cell in chapter.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.source for cell in code[1:]] == [cell.source for cell in own]
    for cell, original in zip(code[1:], own, strict=True):
        assert _plain(cell.metadata).items() >= _plain(original.metadata).items()


def _plain(metadata: Mapping[str, object]) -> dict[str, str]:
    return {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}


def soup_of(text: str) -> BeautifulSoup:
    """The root element of an SVG."""
    return BeautifulSoup(text, "html.parser").find("svg")
