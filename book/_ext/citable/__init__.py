"""Permanent tags, citations and machine checks for the book's statements.

An author labels a statement in words, writes its check and runs `make tags`; all else (the tag in
the margin, its page, the citations, the index, the graph, the rules) is done here. See
`docs/tags.md`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging

from . import cite, pages, registry
from .domain import CitableDomain, ProofOf, See, Withdrawn, collect, withdrawn_node
from .model import assemble, pages_in_order

logger = logging.getLogger(__name__)


def site_of(app: Sphinx) -> pages.Site:
    """The book as last read; made once a build."""
    if not hasattr(app, "_citable_site"):
        app._citable_site = pages.Site(app, assemble(app))
    return app._citable_site


def outdated(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Every page, if register, citation, checks or code are others than last time."""
    stamp = fingerprint(app)
    known = getattr(env, "citable_stamp", None)
    env.citable_stamp = stamp
    return [] if stamp == known else [name for name in env.found_docs if name in env.all_docs]


def fingerprint(app: Sphinx) -> str:
    """A hash of all that the pages show and Sphinx does not watch."""
    config, source = app.config, Path(app.srcdir)
    files = [source / config.citable_registry, source / config.citable_citation]
    if config.citable_checks:
        files.append(Path(config.citable_checks))
    if config.citable_package:
        files += sorted((source / config.citable_package).resolve().rglob("*.py"))
    files += sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(str(config.html_baseurl).encode())
    for path in files:
        digest.update(path.name.encode())
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def indexes(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """The pages that show something of all others; connected to `env-updated`."""
    return [name for name in env.found_docs if env.metadata.get(name, {}).get("citable_index")]


def renumbered(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Every page, if a number or a kind is another than last time.

    Sphinx writes anew the pages whose own numbers change, not those that refer to them.
    """
    pages_ = env.get_domain("citable").pages
    kinds = {item.label: item.kind for page in pages_.values() for item in page.items}
    now = env.toc_secnumbers, env.toc_fignumbers, kinds
    stamp = hashlib.sha256(json.dumps(now, sort_keys=True).encode()).hexdigest()
    known, env.citable_numbers = getattr(env, "citable_numbers", None), stamp
    return [] if stamp == known else sorted(env.found_docs)


def note_index(app: Sphinx, doctree: nodes.document) -> None:
    """Remember a page that holds an index."""
    if next(doctree.findall(pages.placeholder), None) is not None:
        app.env.metadata[app.env.docname]["citable_index"] = "yes"


def enforce(app: Sphinx, env: BuildEnvironment) -> None:
    """Stop the build, with every reason, if the book breaks a rule."""
    if app.config.citable_assign:
        order = [item.label for item in assemble(app, env).items.values()]
        path = Path(app.srcdir, app.config.citable_registry)
        version = cite.read(Path(app.srcdir, app.config.citable_citation), "").version
        with contextlib.suppress(ValueError):  # of an unreadable register the rules tell
            for row in registry.add(path, order, version):
                logger.info("%s %s", row.tag, row.label)
    broken = assemble(app, env).broken()
    for problem in broken:
        logger.error(problem)
    if broken:
        raise ExtensionError(f"{len(broken)} rule(s) of citation are broken; see above.")


def resolve(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Fill and mark a page of the site."""
    if app.builder.format == "html":
        site = site_of(app)
        pages.fill(site, doctree, docname)
        pages.mark(site, doctree, docname)
        return
    for node in list(doctree.findall(pages.placeholder)):
        node.parent.remove(node)
    if app.builder.name == "notebooks":
        pages.mark_plainly(site_of(app), doctree)


def collect_pages(app: Sphinx) -> Any:
    """The tags' pages, and the lists for machines."""
    site = site_of(app)
    pages.write_lists(site)
    yield from pages.tag_pages(site)


def describe(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Say in the page's head what it is and how it is cited."""
    site = site_of(app)
    book, cited, chapter, page = site.book, None, "", ""
    label = context.get("fn_label")
    if label is None:
        label = next(
            (i.label for i in book.items.values() if i.kind == "chapter" and i.docname == pagename),
            None,
        )
        if label is None and pagename != app.config.root_doc:
            return
    if label:
        cited = book.cited(label)
        if book.items[label].kind != "chapter":
            chapter = site.chapter(book.items[label].docname)
        elif "fn_label" not in context:
            page = book.citation.address + site.uri(pagename)
    head = cite.meta(book.citation, cited, chapter, page)
    context["metatags"] = context.get("metatags", "") + head


def visit_withdrawn(self: Any, node: nodes.Element) -> None:
    """Open the box of a withdrawn result."""
    self.body.append(self.starttag(node, "div", CLASS="proof"))


def depart_withdrawn(self: Any, node: nodes.Element) -> None:
    """Close it."""
    self.body.append("</div>")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx; sphinx_proof must be loaded before."""
    app.setup_extension("sphinx_proof")
    app.add_config_value("citable_registry", "tags.csv", "env")
    app.add_config_value("citable_citation", "../CITATION.cff", "env")
    app.add_config_value("citable_package", "", "env")
    app.add_config_value("citable_checks", "", "env")
    app.add_config_value("citable_assign", False, "")
    app.add_domain(CitableDomain)
    app.add_directive_to_domain("prf", "proof", ProofOf, override=True)
    app.add_directive("withdrawn", Withdrawn)
    app.add_directive("tag-index", pages.TagIndex)
    app.add_directive("check-index", pages.CheckIndex)
    app.add_directive("cite-this-book", pages.CiteThisBook)
    app.add_role("see", See())
    app.add_node(withdrawn_node, html=(visit_withdrawn, depart_withdrawn))
    app.add_node(pages.placeholder)
    app.connect("env-get-outdated", outdated)
    app.connect("env-get-updated", renumbered, priority=900)
    app.connect("doctree-read", collect)
    app.connect("doctree-read", note_index)
    app.connect("env-updated", indexes)
    app.connect("env-check-consistency", enforce)
    app.connect("doctree-resolved", resolve, priority=900)
    app.connect("html-collect-pages", collect_pages)
    app.connect("html-page-context", describe)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


__all__ = ["pages_in_order", "setup"]
