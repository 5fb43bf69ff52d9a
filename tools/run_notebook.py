"""Run a notebook's cells in a kernel of the Python that runs this file, and keep the outputs.

    python tools/run_notebook.py in.ipynb out.ipynb folder

Needs nbclient and nbformat and nothing of the checkout.  The cells see `folder` as theirs.  If one
raises, or writes to stderr, nothing is written, and the last line printed says which (JSON: `cell`
and `traceback`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError


def run_notebook(source: Path, target: Path, folder: Path) -> int:
    """Execute `source` in `folder`, write `target` or say what failed."""
    notebook = nbformat.read(source, as_version=4)
    current = {"cell": 0}
    client = NotebookClient(
        notebook,
        timeout=600,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=lambda cell, cell_index: current.update(cell=cell_index),
        allow_errors=True,
    )
    trace = ""
    try:
        client.execute()
    except (CellTimeoutError, DeadKernelError) as error:
        trace = f"{type(error).__name__}: {error}"
    if not trace:
        for index, cell in enumerate(notebook.cells):
            if "raises-exception" in cell.metadata.get("tags", []):
                continue
            for output in cell.get("outputs", []):
                if output.output_type == "error":
                    trace = "\n".join(output.traceback)
                elif output.output_type == "stream" and output.name == "stderr":
                    trace = "The cell writes to stderr, which would show on the page:\n"
                    trace += output.text
            if trace:
                current["cell"] = index
                break
    if trace:
        print(json.dumps({"cell": current["cell"], "traceback": trace}))
        return 1
    nbformat.write(notebook, target)
    return 0


if __name__ == "__main__":
    sys.exit(run_notebook(*map(Path, sys.argv[1:])))
