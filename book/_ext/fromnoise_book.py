"""What the book adds to Jupyter Book: where the repository is, offline assets, checks."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

from fromnoise_trim import trim


def derive_repository(app: Sphinx, config: Config) -> None:
    """On GitHub, take the repository's name from GITHUB_REPOSITORY."""
    name = os.environ.get("GITHUB_REPOSITORY")
    if name:
        config.html_theme_options["repository_url"] = f"https://github.com/{name}"


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
    """On a page with formulas: hide the text until its first screen is typeset, fetch early.

    If scripts are off nothing is hidden; if MathJax does not come the text appears as it is.
    """
    if doctree is None or not any(doctree.findall(is_maths)):
        return
    pathto = context["pathto"]
    fonts = "".join(
        f'<link rel="preload" as="font" type="font/woff" crossorigin href="'
        f'{pathto(f"_static/mathjax/output/chtml/fonts/woff-v2/{font}.woff", 1)}">'
        for font in EARLY_FONTS
    )
    context["metatags"] = (
        context.get("metatags", "")
        + f'<link rel="preload" as="script" href="{pathto("_static/mathjax/tex-chtml.js", 1)}">'
        + fonts
        + "<script>document.documentElement.classList.add('fn-wait');"
        "setTimeout(function(){document.documentElement.classList.remove('fn-wait')},1500)"
        "</script>"
    )


def is_maths(node: nodes.Node) -> bool:
    """Whether `node` is a formula."""
    return isinstance(node, nodes.math | nodes.math_block)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("config-inited", derive_repository)
    app.connect("env-get-outdated", executed_again)
    app.connect("html-page-context", prepare_maths)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", trim)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
