"""The book as notebooks: a Sphinx builder, one `.ipynb` a chapter.

See `docs/notebooks.md` for why it is our own.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from .builder import KeepCellsOnly, NotebookBuilder

__all__ = ["NotebookBuilder", "setup"]


def drop_assets(app: Sphinx, failure: Exception | None) -> None:
    """Take away style sheets that other extensions copy whatever the builder is."""
    if app.builder.name == NotebookBuilder.name:
        shutil.rmtree(Path(app.outdir, "_static"), ignore_errors=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the builder."""
    app.add_builder(NotebookBuilder)
    app.add_post_transform(KeepCellsOnly)
    app.connect("build-finished", drop_assets, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
