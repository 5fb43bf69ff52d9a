"""What the book adds to Jupyter Book: where the repository is, offline assets, checks."""

from __future__ import annotations

import json
import os
import shutil
import string
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import site_address
from docutils import nodes
from fromnoise_trim import trim
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment


def derive_repository(app: Sphinx, config: Config) -> None:
    """On GitHub, take the repository's name from GITHUB_REPOSITORY; derive the site's address."""
    options = config.html_theme_options
    name = os.environ.get("GITHUB_REPOSITORY")
    if name:
        options["repository_url"] = f"https://github.com/{name}"
    if not config.html_baseurl:
        config.html_baseurl = site_address.site(options["repository_url"])


def executed_again(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Pages whose outputs are newer than the page as Sphinx last read it.

    Sphinx looks at the text only; a chapter is executed again when the package changes, too.
    """
    record = Path(app.outdir).parent / "executed.json"
    if not record.exists():
        return []
    executed = json.loads(record.read_text(encoding="utf-8"))
    # all_docs holds the time of reading in microseconds
    return [
        docname
        for docname, entry in executed.items()
        if docname in env.all_docs and entry["executed"] > env.all_docs[docname] / 1e6
    ]


MATHJAX = (
    "tex-chtml.js",
    "input/tex/extensions",
    "output/chtml/fonts/woff-v2",
)
EARLY_FONTS = ("MathJax_Main-Regular", "MathJax_Math-Italic")


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Put the parts of MathJax that the site uses beside it."""
    if error or app.builder.format != "html":
        return
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    for part in MATHJAX:
        if (target / part).exists():
            continue
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part)
        else:
            shutil.copy2(source / part, target / part)


def prepare_maths(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Fetch fonts early; on a page with formulas hide the text until its first screen is typeset.

    If scripts are off nothing is hidden; if MathJax does not come the text appears as it is.
    """
    pathto = context["pathto"]
    early = [("woff2", "_static/fonts/source-serif-4-latin-wght-normal.woff2")]
    maths = context.get("fn_maths") or (doctree is not None and any(doctree.findall(is_maths)))
    if maths:
        folder = "_static/mathjax/output/chtml/fonts/woff-v2"
        early += [("woff", f"{folder}/{font}.woff") for font in EARLY_FONTS]
    head = "".join(
        f'<link rel="preload" as="font" type="font/{kind}" crossorigin href="{pathto(path, 1)}">'
        for kind, path in early
    )
    if maths:
        head += (
            "<script>document.documentElement.classList.add('fn-wait');"
            "setTimeout(function(){document.documentElement.classList.remove('fn-wait')},1500)"
            "</script>"
        )
    context["metatags"] = context.get("metatags", "") + head


def letter_appendices(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Number appendices by letters: "Appendix" A has Theorem A.1 and equation (A.1).

    Sphinx numbers only chapters; statements outside of them would all be counted in one row, and
    "Theorem 1" would say nothing of its place.
    """
    pages = env.toctree_includes.get(app.config.root_doc, [])
    found = [name for name in pages if name.startswith("appendices/")]
    for letter, docname in zip(string.ascii_uppercase, found, strict=False):
        for numbers in env.toc_fignumbers.get(docname, {}).values():
            for n, key in enumerate(sorted(numbers, key=lambda key: numbers[key][-1]), 1):
                numbers[key] = (letter, n)
        sections: dict[str, tuple[Any, ...]] = {}
        counts = [0] * 8
        for entry in env.tocs[docname].findall(addnodes.compact_paragraph):
            reference = entry.next_node(nodes.reference)
            depth = len(list(parents(entry, nodes.list_item))) - 1
            counts[depth] += 1
            counts[depth + 1 :] = [0] * (7 - depth)
            number = (letter, *counts[1 : depth + 1])
            sections[reference["anchorname"]] = reference["secnumber"] = number
        env.toc_secnumbers[docname] = sections
        env.titles[docname]["secnumber"] = (letter,)
    return found


def unletter_appendices(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Before a rebuild, take the letters of the last one away, which the table of contents would
    take for numbers to renew.
    """
    for docname, title in env.titles.items():
        if docname.startswith("appendices/") and "secnumber" in title:
            del title["secnumber"]
            env.toc_secnumbers.pop(docname, None)
            for reference in env.tocs[docname].findall(nodes.reference):
                del reference["secnumber"]


def parents(node: nodes.Node, kind: type[nodes.Node]) -> Iterator[nodes.Node]:
    """Those of the nodes around `node` that are of a `kind`."""
    while node := node.parent:
        if isinstance(node, kind):
            yield node


def lead_buttons(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Let the buttons of a chapter lead to its notebook, which Colab can open.

    The theme would send Colab to the chapter's Markdown, and offer that Markdown for download as
    a notebook.
    """
    repository = app.config.html_theme_options["repository_url"]
    for group in context.get("header_buttons", []):
        buttons = group.get("buttons", [])
        if group.get("label") == "launch-buttons":
            for button in buttons:
                button["url"] = site_address.colab(repository, pagename)
                button["text"] = "Open in Colab"
        if group.get("label") == "download-buttons":
            group["buttons"] = [b for b in buttons if b.get("label") == "download-pdf-button"]
            if app.env.metadata.get(pagename, {}).get("kernelspec"):
                url = f"{repository}/raw/notebooks/{pagename}.ipynb"
                group["buttons"].insert(
                    0,
                    {
                        "type": "link",
                        "url": url,
                        "text": ".ipynb",
                        "tooltip": "Download the notebook",
                        "icon": "fas fa-code",
                        "label": "download-notebook-button",
                    },
                )


def is_maths(node: nodes.Node) -> bool:
    """Whether `node` is a formula."""
    return isinstance(node, nodes.math | nodes.math_block)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("config-inited", derive_repository)
    app.connect("env-get-outdated", executed_again)
    app.connect("env-before-read-docs", unletter_appendices)
    app.connect("env-get-updated", letter_appendices, priority=900)
    app.connect("html-page-context", prepare_maths)
    app.connect("html-page-context", lead_buttons, priority=900)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", trim)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
