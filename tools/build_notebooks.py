"""Write every chapter as a notebook to `_build/notebooks/`.

    python tools/build_notebooks.py [--out _build] [--jobs 2]

Executes what is stale, as `tools/build_book.py` does, and reads what the book has read: after
`make book` this takes seconds.  The wheel that the notebooks install goes into the site.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from build_book import arguments, refresh, run_checks, say, wheels, write_pages
from build_wheel import build_wheel


def build(out: Path, toc: Path, jobs: int) -> int:
    """Write the notebooks, say what they weigh; returns 0 if all went well."""
    start = time.perf_counter()
    _, problem = refresh(out, toc, jobs)
    if problem:
        say(f"The notebooks were not written: {problem}")
        return 1
    if not run_checks(out, jobs):
        say("The notebooks were not written: a machine check failed (see above).")
        return 1
    say("Writing the notebooks …")
    if code := write_pages(out, toc, "notebooks", quiet=True):
        say("The notebooks were not written: Sphinx warned (see above).")
        return code
    wheel = build_wheel(wheels(out))
    for path in sorted((out / "notebooks").rglob("*.ipynb")):
        say(f"  {path.relative_to(out)}: {path.stat().st_size / 1e6:.2f} MB")
    say(
        f"The notebooks are in {out / 'notebooks'}; they install {wheel.name} from the site.\n"
        f"Time: {time.perf_counter() - start:.0f} s."
    )
    return 0


def main() -> int:
    """Read the command line."""
    options = arguments(__doc__).parse_args()
    return build(options.out.resolve(), options.toc.resolve(), options.jobs)


if __name__ == "__main__":
    sys.exit(main())
