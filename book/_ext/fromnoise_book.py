"""What the book adds to Jupyter Book: where the repository is, offline assets, checks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment


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


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("config-inited", derive_repository)
    app.connect("env-get-outdated", executed_again)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
