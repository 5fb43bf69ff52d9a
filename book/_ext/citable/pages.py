"""What the reader sees: tags in the margin, a page for each tag, the index, the list of checks."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urldefrag, urlsplit

import networkx as nx
from docutils import nodes
from docutils.io import StringOutput
from docutils.utils import new_document
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri
from sphinx_proof.nodes import proof_node

from . import cite, drawing
from .domain import PROVED, STATEMENTS, Item, withdrawn_node
from .model import Book, Sources, number_of, title_nodes

LANGUAGES = {"BibTeX": "bibtex", "Plain text": "text", "Markdown": "markdown", "LaTeX": "latex"}


class Site:
    """The book together with the builder that writes it."""

    def __init__(self, app: Sphinx, book: Book) -> None:
        self.app, self.env, self.book = app, app.env, book
        root = Path(app.srcdir, app.config.citable_citation).resolve().parent
        options = app.config.html_theme_options or {}
        self.sources = Sources(root, options.get("repository_url", ""))

    def uri(self, docname: str) -> str:
        """The address of a page, from the top of the site."""
        return self.app.builder.get_target_uri(docname)

    def to(self, page: str, target: str) -> str:
        """From a page's address to another address, both from the top of the site."""
        return posixpath.relpath(target, posixpath.dirname(page) or ".")

    def tag_uri(self, label: str) -> str:
        """The address of a tag's page from the top of the site."""
        return f"tag/{self.book.tags[label]}.html"

    def name(self, item: Item) -> str:
        """ "Theorem 4.2", as this version counts."""
        number = number_of(self.env, item)
        if item.kind == "equation":
            return f"Equation ({number})" if number else "Equation"
        if item.kind == "withdrawn":
            return f"Withdrawn {item.was}"
        return f"{item.kind.title()} {number}".strip()

    def chapter(self, docname: str) -> str:
        """The title of a page."""
        return self.env.titles[docname].astext()

    def tag_link(self, label: str, page: str, anchor: str = "") -> nodes.reference:
        """The tag of a label, as a link to its page."""
        tag = self.book.tags[label]
        return nodes.reference(
            "",
            tag,
            refuri=self.to(page, self.tag_uri(label)) + anchor,
            internal=True,
            classes=["fn-tag"],
            reftitle=f"Tag {tag}: the permanent address",
        )

    def badge_link(self, label: str, page: str) -> nodes.reference | None:
        """How a result is checked, as a link to the check; None if nothing is to be said."""
        kind, words = self.book.badge(label)
        if not kind:
            return None
        return nodes.reference(
            "",
            words,
            refuri=self.to(page, self.tag_uri(label)) + "#check",
            internal=True,
            classes=["fn-badge", f"fn-{kind}"],
        )


# ---------------------------------------------------------------------------------------------
# On the pages of the book


def mark(site: Site, doctree: nodes.document, docname: str) -> None:
    """Put tags beside statements and equations, into summaries, and a citation under a chapter."""
    page, book = site.uri(docname), site.book
    for node in list(doctree.findall(lambda n: isinstance(n, (*STATEMENTS, withdrawn_node)))):
        label = node["label"]
        if label in book.tags:
            links = [site.tag_link(label, page), site.badge_link(label, page)]
            node[0] += nodes.inline("", "", *filter(None, links), classes=["fn-tags"])
    for node in list(doctree.findall(nodes.math_block)):
        if node.get("label") in book.tags:
            link = nodes.paragraph("", "", site.tag_link(node["label"], page))
            box = nodes.container(classes=["fn-eq"])
            node.parent.replace(node, box)
            box += [node, nodes.container("", link, classes=["fn-eqtag"])]
    for section in doctree.findall(nodes.section):
        if "summary" in section["ids"]:
            add_tags_to_references(site, section, page)
    chapter = next(
        (i for i in book.items.values() if i.kind == "chapter" and i.docname == docname), None
    )
    if chapter and chapter.label in book.tags:
        last = doctree.next_node(nodes.section)
        last += cite_section(site, chapter.label, "Cite this chapter", page)


def mark_plainly(site: Site, doctree: nodes.document) -> None:
    """Put tags behind the titles of statements, with their address in full."""
    for node in list(doctree.findall(lambda n: isinstance(n, (*STATEMENTS, withdrawn_node)))):
        label = node["label"]
        if label in site.book.tags:
            link = nodes.reference("", site.book.tags[label], refuri=site.book.address(label))
            node[0] += [nodes.Text(" "), link]


def add_tags_to_references(site: Site, section: nodes.section, page: str) -> None:
    """Behind each reference to a statement, its tag."""
    for reference in list(section.findall(nodes.reference)):
        label = reference.get("refid") or urldefrag(reference.get("refuri", "")).fragment
        item = site.book.items.get(label)
        if item and label in site.book.tags and item.kind != "chapter":
            at = reference.parent.index(reference)
            reference.parent[at + 1 : at + 1] = [
                nodes.Text("\N{NO-BREAK SPACE}"),
                site.tag_link(label, page),
            ]


def cite_section(site: Site, label: str, heading: str, page: str) -> nodes.section:
    """A section with the ways to cite, each to be copied."""
    book = site.book
    section = nodes.section(ids=["cite"], classes=["fn-cite"])
    # a title would take the chapter's number
    section += raw(f"<h2>{heading}</h2>")
    if site.book.items[label].kind == "chapter":
        section += nodes.paragraph(
            "",
            "",
            nodes.Text("This chapter has the tag "),
            site.tag_link(label, page),
            nodes.Text(
                ": its address stays the same whatever becomes of its number, title or place."
            ),
        )
    for name, text in cite.formats(book.citation, book.cited(label)).items():
        block = nodes.literal_block(
            text, text, language=LANGUAGES[name], classes=["copyable", "fn-citation"]
        )
        section += nodes.container("", nodes.paragraph("", name, classes=["fn-format"]), block)
    return section


# ---------------------------------------------------------------------------------------------
# The page of a tag


def tag_pages(site: Site) -> Iterator[tuple[str, dict[str, Any], str]]:
    """`(page name, context, template)` of every tag; for `html-collect-pages`."""
    builder, env = site.app.builder, site.env
    maths = env.get_domain("math").data["has_equations"]
    resolved: dict[str, nodes.document] = {}

    def tree(docname: str) -> nodes.document:
        if docname not in resolved:
            resolved[docname] = env.get_and_resolve_doctree(docname, builder)
            builder.post_process_images(resolved[docname])
        return resolved[docname]

    for row in site.book.rows:
        item = site.book.items[row.label]
        name = f"tag/{row.tag}"
        builder.current_docname = name
        builder.fignumbers = env.toc_fignumbers.get(item.docname, {})
        builder.secnumbers = {}
        builder.imgpath = relative_uri(f"{name}.html", builder.imagedir)
        body = tag_page(site, item, tree)
        maths[name] = True
        context = {
            # as HTML, since templates strip elements from a title
            "title": escape(f"Tag {row.tag}: {cite.plain(item.title or site.name(item))}"),
            "body": html(builder, body),
            "fn_label": row.label,
            "fn_maths": True,
        }
        yield name, context, "page.html"


def html(builder: Any, node: nodes.Element) -> str:
    """A node as the builder writes it on a page.

    Not by `render_partial`, whose transforms do not know sphinx-proof's nodes.
    """
    document = new_document("<tag>", builder.docsettings)
    document.append(node)
    builder.docwriter.write(document, StringOutput(encoding="utf-8"))
    builder.docwriter.assemble_parts()
    return builder.docwriter.parts["fragment"]


def tag_page(site: Site, item: Item, tree: Any) -> nodes.section:
    """What a tag's page says, as nodes."""
    book, page = site.book, site.tag_uri(item.label)
    tag = book.tags[item.label]
    section = nodes.section(ids=[f"tag-{tag}"], classes=["fn-tag-page"])
    section += nodes.title("", "", nodes.Text(f"Tag {tag}"))
    section += standing(site, item, page)
    section += content(site, item, tree, page)
    if item.kind == "chapter":
        section += contents_of_chapter(site, item, page)
    section += dependencies(site, item, page)
    section += check_section(site, item, page)
    section += code_section(site, item)
    section += cite_section(site, item.label, "Cite", page)
    return section


def standing(site: Site, item: Item, page: str) -> nodes.paragraph:
    """Where it stands, under which number today, since when."""
    book = site.book
    place = f"{site.to(page, site.uri(item.docname))}#{item.anchor}"
    text = nodes.paragraph(classes=["fn-standing"])
    text += nodes.reference("", site.name(item), refuri=place, internal=True)
    if item.kind == "chapter":
        text += [nodes.Text(", “"), *title_nodes(item.title), nodes.Text("”")]
    else:
        text += nodes.Text(" in ")
        if item.section[0] and item.section[0] != site.chapter(item.docname):
            to = f"{site.to(page, site.uri(item.docname))}#{item.section[1]}"
            text += nodes.reference("", "", *title_nodes(item.section[0]), refuri=to, internal=True)
            text += nodes.Text(", ")
        text += nodes.reference(
            "",
            site.chapter(item.docname),
            refuri=site.to(page, site.uri(item.docname)),
            internal=True,
        )
    part = book.parts.get(item.docname)
    text += nodes.Text(f" ({part})." if part else ".")
    text += nodes.Text(
        f" In the book since version {book.since[item.label]}; this is version "
        f"{book.citation.version}. The number may change, the tag does not."
    )
    return text


def content(site: Site, item: Item, tree: Any, page: str) -> list[nodes.Node]:
    """The statement with its proofs, or the equation, copied from the page that holds them."""
    made: list[nodes.Node] = []
    found = [find(tree(item.docname), item)]
    for proof in site.book.proofs.get(item.label, []):
        nodes_ = tree(proof.docname).findall(proof_node)
        found.append(next(n for n in nodes_ if n[0]["ids"] == [proof.anchor]))
    docnames = [item.docname, *(p.docname for p in site.book.proofs.get(item.label, []))]
    for node, docname in zip(found, docnames, strict=True):
        if node is not None:
            own = node.deepcopy()
            for box in [n for n in own.findall(nodes.container) if "fn-eqtag" in n["classes"]]:
                box.parent.remove(box)
            for extra in [n for n in own.findall(nodes.inline) if "fn-tags" in n["classes"]]:
                extra.parent.remove(extra)
            if isinstance(own, proof_node):
                own[0]["ids"] = [f"proof-{len(made)}"]  # two pages may number them alike
            relink(site, own, docname, page)
            made.append(own)
    if item.replaced:
        line = nodes.paragraph("", "Its place was taken by ")
        for i, label in enumerate(item.replaced):
            line += nodes.Text(", " if i else "")
            line += entry(site, label, page)
        line += nodes.Text(".")
        made.append(line)
    return made


def find(doctree: nodes.document, item: Item) -> nodes.Element | None:
    """The node of an item in the resolved page."""
    if item.kind == "chapter":
        return None
    if item.kind == "equation":
        return next(n for n in doctree.findall(nodes.math_block) if n.get("label") == item.label)
    kinds = (*STATEMENTS, withdrawn_node)
    return next(n for n in doctree.findall() if isinstance(n, kinds) and n["label"] == item.label)


def relink(site: Site, node: nodes.Element, docname: str, page: str) -> None:
    """Make links that lead from one page lead to the same places from another."""
    own = {name for part in node.findall(nodes.Element) for name in part["ids"]}
    home = site.uri(docname)
    for reference in node.findall(nodes.reference):
        if reference.get("refid"):
            target = reference.attributes.pop("refid")
            if target in own:
                reference["refid"] = target
            else:
                reference["refuri"] = f"{site.to(page, home)}#{target}"
        elif reference.get("refuri") and not urlsplit(reference["refuri"]).scheme:
            path, fragment = urldefrag(reference["refuri"])
            there = (
                posixpath.normpath(posixpath.join(posixpath.dirname(home), path)) if path else home
            )
            reference["refuri"] = site.to(page, there) + (f"#{fragment}" if fragment else "")
    for note in list(node.findall(nodes.footnote_reference)):
        place = f"{site.to(page, home)}#{note['refid']}"  # the note itself stays there
        link = nodes.reference("", note.astext(), refuri=place, internal=True)
        note.replace_self(nodes.superscript("", "", link))


def contents_of_chapter(site: Site, chapter: Item, page: str) -> list[nodes.Node]:
    """What a chapter states, tag by tag."""
    within = [
        i.label
        for i in site.book.items.values()
        if i.docname == chapter.docname and i.kind not in ("chapter", "equation")
    ]
    return listed(site, "What it states", "states", within, page)


def dependencies(site: Site, item: Item, page: str) -> list[nodes.Node]:
    """What its proof uses, and what uses it."""
    book = site.book
    if item.kind in ("chapter", "withdrawn"):
        return []
    if item.kind == "equation":
        made = []
        if item.inside in book.items:
            made = listed(site, "Stands in", "stands-in", [item.inside], page)
        return [*made, *listed(site, "Used by", "used-by", book.used_by[item.label], page)]
    heading = "What its proof uses" if item.kind in PROVED else "What it uses"
    return [
        *listed(site, heading, "uses", book.uses[item.label], page),
        *listed(site, "What uses it", "used-by", book.used_by[item.label], page),
    ]


def listed(site: Site, heading: str, name: str, labels: list[str], page: str) -> list[nodes.Node]:
    """A section with a list of tags; nothing if there are none."""
    if not labels:
        return []
    section = nodes.section(ids=[name])
    section += nodes.title("", heading)
    section += nodes.bullet_list(
        "",
        *(
            nodes.list_item("", nodes.paragraph("", "", *entry(site, label, page)))
            for label in labels
        ),
        classes=["fn-entries"],
    )
    return [section]


def entry(site: Site, label: str, page: str) -> list[nodes.Node]:
    """Tag, name and title of a label."""
    item = site.book.items[label]
    words = [nodes.Text(" ("), *title_nodes(item.title), nodes.Text(")")] if item.title else []
    if item.kind == "equation":
        words = [nodes.Text(f" {item.title.removeprefix('Equation ')}")]
    return [site.tag_link(label, page), nodes.Text(f" {site.name(item)}"), *words]


def check_section(site: Site, item: Item, page: str) -> list[nodes.Node]:
    """How a machine checks it: what is covered, each step, each mutant, the source."""
    book, label = site.book, item.label
    if not book.badge(label)[0]:
        return []
    section = nodes.section(ids=["check"])
    section += nodes.title("", "Machine check")
    kind, words = book.badge(label)
    section += nodes.paragraph(
        "", "", nodes.inline("", words[:1].upper() + words[1:], classes=["fn-badge", f"fn-{kind}"])
    )
    if label not in book.checks:
        section += nodes.paragraph("", book.exceptions.get(label, ""))
        return [section]
    check = book.checks[label]
    for head, text in (("Covers", check["covers"]), ("Does not cover", check["omits"])):
        section += nodes.paragraph(
            "", "", nodes.strong("", f"{head}. "), nodes.Text(sentence(text))
        )
    section += nodes.paragraph(
        "",
        "",
        nodes.strong("", "Steps"),
        nodes.Text(f", as they ran ({check['with']}, {check['seconds']:.1f} s):"),
    )
    steps = nodes.enumerated_list(enumtype="arabic", prefix="", suffix=".", classes=["fn-steps"])
    for step in check["steps"]:
        line = nodes.paragraph("", step["text"])
        if step["result"]:
            line += nodes.inline("", f" — {step['result']}", classes=["fn-result"])
        steps += nodes.list_item("", line)
    section += steps
    section += nodes.paragraph(
        "",
        "",
        nodes.strong("", "Mutants"),
        nodes.Text(", wrong claims that the same steps refute:"),
    )
    section += nodes.bullet_list(
        "",
        *(
            nodes.list_item(
                "",
                nodes.paragraph(
                    "", "", nodes.Text(name), nodes.inline("", f" — {why}", classes=["fn-result"])
                ),
            )
            for name, why in check["mutants"].items()
        ),
        classes=["fn-steps"],
    )
    section += nodes.paragraph(
        "",
        "",
        nodes.strong("", "Run it yourself: "),
        nodes.literal("", f"fromnoise check {book.tags[label]}"),
    )
    section += source(site, check)
    return [section]


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def source(site: Site, check: dict[str, Any]) -> list[nodes.Node]:
    """The check's source as it ran, and where it stands in the repository."""
    where = f"{check['path']}, lines {check['first']} to {check['last']}"
    address = site.sources.address(check["path"], check["first"], check["last"])
    line = nodes.paragraph("", "", nodes.strong("", "Source: "))
    line += nodes.reference("", where, refuri=address) if address else nodes.Text(where)
    block = nodes.literal_block(
        check["source"], check["source"], language="python", classes=["fn-source"]
    )
    return [line, block]


def code_section(site: Site, item: Item) -> list[nodes.Node]:
    """The package's functions that name it."""
    found = site.book.code.get(item.label, [])
    if not found:
        return []
    section = nodes.section(ids=["code"])
    section += nodes.title("", "Code")
    entries = []
    for function in found:
        name = nodes.literal("", function.name)
        address = site.sources.address(function.path, function.first, function.last)
        link = nodes.reference("", "", name, refuri=address) if address else name
        line = nodes.paragraph("", "", link, nodes.Text(": "))
        for i, part in enumerate(re.split(r"`+([^`]*)`+", function.summary)):
            line += nodes.literal("", part) if i % 2 else nodes.Text(part)
        entries.append(nodes.list_item("", line))
    section += nodes.bullet_list("", *entries)
    return [section]


# ---------------------------------------------------------------------------------------------
# The index and the list of checks


class placeholder(nodes.General, nodes.Element):
    """To be replaced when all pages are known."""


class TagIndex(SphinxDirective):
    """`tag-index`: every tag in a table that can be filtered, and the graph of each chapter."""

    what = "index"

    def run(self) -> list[nodes.Node]:
        """Leave a place."""
        return [placeholder(what=self.what)]


class CheckIndex(TagIndex):
    """`check-index`: every result with what its check covers."""

    what = "checks"


class CiteThisBook(SphinxDirective):
    """`cite-this-book`: a BibTeX entry from `CITATION.cff`, with the site's address."""

    def run(self) -> list[nodes.Node]:
        """Make a block of code that can be copied."""
        path = Path(self.env.srcdir, self.config.citable_citation)
        self.env.note_dependency(str(path))
        address = (self.config.html_baseurl or "").rstrip("/") + "/"
        text = cite.whole_book(cite.read(path, address))
        return [nodes.literal_block(text, text, language="bibtex", classes=["copyable"])]


def fill(site: Site, doctree: nodes.document, docname: str) -> None:
    """Replace the places that directives have left."""
    for node in list(doctree.findall(placeholder)):
        # titles have formulas, though the page's own text has none
        site.env.get_domain("math").data["has_equations"][docname] = True
        make = index if node["what"] == "index" else checks
        node.replace_self(make(site, site.uri(docname)))


def index(site: Site, page: str) -> list[nodes.Node]:
    """The graphs, the filter and the table."""
    book = site.book
    kinds = list(dict.fromkeys(item.kind for item in book.items.values()))
    parts = list(
        dict.fromkeys(filter(None, (book.parts.get(i.docname, "") for i in book.items.values())))
    )
    rows = []
    for row in book.rows:
        item = book.items[row.label]
        part = book.parts.get(item.docname, "")
        classes = [f"kind-{item.kind}", f"part-{parts.index(part) if part else 'none'}"]
        place = f"{site.to(page, site.uri(item.docname))}#{item.anchor}"
        name = nodes.reference("", site.name(item), refuri=place, internal=True)
        title = title_nodes(item.title) or [nodes.Text(item.label)]
        badge = site.badge_link(row.label, page)
        rows.append(
            (
                classes,
                [site.tag_link(row.label, page)],
                [name],
                title,
                [nodes.Text(site.chapter(item.docname))],
                [badge] if badge else [],
            )
        )
    head = ["Tag", "What", "Title", "Chapter", "Machine check"]
    section = nodes.section(ids=["all"])
    section += nodes.title("", "All of them")
    section += raw(controls(kinds, parts))
    section += table(head, rows, "fn-tag-table", [1, 3, 7, 4, 4])
    return [*graphs(site, page), section]


def controls(kinds: list[str], parts: list[str]) -> str:
    """The filter; without scripts it stays hidden and the table whole."""

    def choice(name: str, words: str, options: list[tuple[str, str]]) -> str:
        inside = "".join(
            f'<option value="{value}">{escape(text)}</option>' for value, text in options
        )
        return f'<label>{words} <select name="{name}">{inside}</select></label>'

    kind = choice("kind", "Kind", [("", "all"), *((f"kind-{k}", k) for k in kinds)])
    part = choice("part", "Part", [("", "all"), *((f"part-{i}", p) for i, p in enumerate(parts))])
    return (
        f'<form class="fn-filter" hidden>{kind}{part}<label>Text <input type="search" name="text">'
        '</label><output aria-live="polite"></output></form>'
    )


def graphs(site: Site, page: str) -> list[nodes.Node]:
    """A graph for each chapter that states something: its results, and what they use."""
    book = site.book
    section = nodes.section(ids=["graph"], classes=["fn-graphs"])
    section += nodes.title("", "What rests on what")
    section += nodes.paragraph(
        "",
        "A line leads from a result, rightwards, to each result whose statement or proof uses it. "
        "Results of other chapters are drawn with dashes. Point at a result, or move to it with "
        "the keyboard, to see all that it rests on and all that rests on it.",
    )
    docnames = list(dict.fromkeys(i.docname for i in book.items.values() if i.label in book.graph))
    section += raw(
        '<form class="fn-choose" hidden><label>Chapter <select>'
        + "".join(
            f'<option value="{i}">{escape(site.chapter(d))}</option>'
            for i, d in enumerate(docnames)
        )
        + "</select></label></form>"
    )
    for docname in docnames:
        own = [n for n in book.graph if book.items[n].docname == docname]
        keep = set(own).union(*(book.graph.successors(n) for n in own))
        graph = nx.DiGraph()
        graph.add_nodes_from(n for n in book.items if n in keep)
        graph.add_edges_from((a, b) for a, b in book.graph.edges if a in own and b in keep)
        graph.remove_nodes_from([n for n in own if graph.degree(n) == 0])
        if not graph:
            continue

        def names(label: str) -> tuple[str, str, str]:
            item = book.items[label]
            name = site.name(item)
            return book.tags[label], shorten(name), f"{name}: {cite.plain(item.title)}"

        svg = drawing.draw(
            graph,
            names,
            lambda label: site.to(page, site.tag_uri(label)),
            lambda label: f"kind-{book.items[label].kind}",
            outside=keep - set(own),
        )
        box = nodes.container(classes=["fn-graph-box"])
        box += nodes.paragraph("", site.chapter(docname), classes=["fn-graph-title"])
        box += raw(f'<div class="fn-figure">{svg}</div>')
        section += box
    return [section]


SHORT = {
    "Theorem": "Thm",
    "Lemma": "Lem",
    "Proposition": "Prp",
    "Corollary": "Cor",
    "Definition": "Def",
    "Algorithm": "Alg",
    "Example": "Exa",
    "Remark": "Rem",
    "Equation": "Eq",
}


def shorten(name: str) -> str:
    """ "Thm 4.2"."""
    kind, _, number = name.partition(" ")
    return f"{SHORT.get(kind, kind)} {number}".strip()


def checks(site: Site, page: str) -> list[nodes.Node]:
    """A sentence that counts, and a table for each chapter."""
    book = site.book
    results = list(book.results())
    symbolic = [i for i in results if book.badge(i.label)[0] == "symbolic"]
    numeric = [i for i in results if book.badge(i.label)[0] == "numeric"]
    mutants = sum(len(check["mutants"]) for check in book.checks.values())
    made: list[nodes.Node] = [
        nodes.paragraph(
            "",
            f"Of the {len(results)} theorems, lemmas, propositions and corollaries, "
            f"{len(symbolic)} are checked symbolically, {len(numeric)} numerically, and "
            f"{len(results) - len(symbolic) - len(numeric)} rest on their proof only. "
            f"The checks refuted all of {mutants} mutants.",
            classes=["fn-count"],
        )
    ]
    for docname in dict.fromkeys(i.docname for i in results):
        section = nodes.section(ids=[nodes.make_id(f"checks-{docname}")])
        section += nodes.title("", site.chapter(docname))
        rows = []
        for item in (i for i in results if i.docname == docname):
            check = book.checks.get(item.label)
            covers = (
                sentence(check["covers"])
                if check
                else sentence(book.exceptions.get(item.label, "no check"))
            )
            omits = sentence(check["omits"]) if check else ""
            badge = site.badge_link(item.label, page)
            rows.append(
                (
                    [],
                    [site.tag_link(item.label, page)],
                    [*title_nodes(item.title), nodes.Text(" ")] + ([badge] if badge else []),
                    [nodes.Text(covers)],
                    [nodes.Text(omits)],
                    [nodes.Text(str(len(check["mutants"])) if check else "")],
                )
            )
        head = ["Tag", "Result", "Covers", "Does not cover", "Mutants"]
        section += table(head, rows, "fn-check-table", [1, 4, 6, 6, 1])
        made.append(section)
    return made


def raw(html: str) -> nodes.raw:
    return nodes.raw("", html, format="html")


def table(head: list[str], rows: list[Any], name: str, widths: list[int]) -> nodes.table:
    """A table; each row is its classes and then its cells, each a list of inline nodes."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=width) for width in widths]
    group += nodes.thead("", nodes.row("", *(cell([nodes.Text(text)]) for text in head)))
    body = nodes.tbody()
    for classes, *cells in rows:
        body += nodes.row("", *map(cell, cells), classes=classes)
    group += body
    return nodes.table("", group, classes=[name])


def cell(inside: list[nodes.Node]) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", "", *inside))


# ---------------------------------------------------------------------------------------------
# For machines


def write_lists(site: Site) -> None:
    """`tags.json` and `tags.bib`, beside the pages."""
    book, out = site.book, Path(site.app.outdir)
    listed_ = []
    for row in book.rows:
        item = book.items[row.label]
        words = book.badge(row.label)[1]
        listed_.append(
            {
                "tag": row.tag,
                "label": row.label,
                "kind": item.kind,
                "title": item.title,
                "number": number_of(site.env, item),
                "chapter": site.chapter(item.docname),
                "part": book.parts.get(item.docname, ""),
                "address": book.address(row.label),
                "stands_at": book.citation.address
                + f"{quote(site.uri(item.docname))}#{item.anchor}",
                "since": row.since,
                "uses": [book.tags[label] for label in book.uses[row.label]],
                "used_by": [book.tags[label] for label in book.used_by[row.label]],
                "check": words,
                "code": [function.name for function in book.code.get(row.label, [])],
            }
        )
    content = {"book": book.citation.title, "version": book.citation.version, "tags": listed_}
    (out / "tags.json").write_text(
        json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    entries = [cite.whole_book(book.citation)]
    entries += [cite.bibtex(book.citation, book.cited(row.label)) for row in book.rows]
    (out / "tags.bib").write_text("\n\n".join(entries) + "\n", encoding="utf-8")
