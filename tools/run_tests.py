"""Run the tests on all cores, after making sure that the book they look at is built.

    python tools/run_tests.py [arguments of pytest]

Says what it leaves out, and how long building and testing took.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import build_book
import build_notebooks


def main() -> int:
    """Build what is stale, then test; says what is left out and how long it took."""
    build_book.say("The tests look at the built book; bringing it up to date first.")
    start = time.perf_counter()
    for tool in (build_book, build_notebooks):
        if code := tool.build(build_book.ROOT / "_build", build_book.ROOT / "_toc.yml", jobs()):
            return code
    built = time.perf_counter()
    build_book.say(f"\nRunning the tests on {jobs()} cores …")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FROMNOISE_BOOK_IS_BUILT": "1"}
    command = [sys.executable, "-m", "pytest", "-n", str(jobs()), "--dist", "worksteal", "-rs"]
    command += ["--durations", "8", *sys.argv[1:]]
    code = subprocess.run(command, cwd=build_book.ROOT, env=environment).returncode
    tested = time.perf_counter()
    build_book.say(
        f"Time: {built - start:.0f} s bringing book and notebooks up to date, "
        f"{tested - built:.0f} s testing, {tested - start:.0f} s in all."
    )
    return code


def jobs() -> int:
    """As many processes as there are cores."""
    return max(1, os.cpu_count() or 1)


if __name__ == "__main__":
    sys.exit(main())
