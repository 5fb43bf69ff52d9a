"""Give every new label of the book its tag: adds lines to `book/tags.csv`, changes none.

    python tools/make_tags.py

The pages are read, not executed and not written. The package's copy of the register, by which
`fromnoise check` knows tags, is renewed as well.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys

import build_book


def main() -> int:
    """Read the book, assign, copy; returns 0 if the book obeys its rules afterwards."""
    register = build_book.BOOK / "tags.csv"
    before = register.read_text(encoding="utf-8").count("\n") if register.exists() else 1
    out = build_book.ROOT / "_build" / "tags"
    shutil.rmtree(out, ignore_errors=True)
    overrides = {"nb_execution_mode": "off", "citable_assign": True}
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        # not strict: what only an executed page has (figures) is missing here
        code = build_book.run_sphinx(
            out, build_book.ROOT / "_toc.yml", overrides, strict=False, builder="dummy", quiet=True
        )
    if code:
        build_book.say(build_book.ANSI.sub("", said.getvalue()))
    if register.exists():
        shutil.copyfile(register, build_book.PACKAGE / "derivations" / "tags.csv")
        new = register.read_text(encoding="utf-8").count("\n") - before
        build_book.say(f"{new} new tag(s) in {register.relative_to(build_book.ROOT)}.")
    return code


if __name__ == "__main__":
    sys.exit(main())
