"""Check one chapter while writing it: lint, execute, build its page, look at it.

    python tools/check_chapter.py part1/flows [--look] [--no-run]

Its cells run alone (again only if they or the package changed), its page is built beside the
pages that exist, and only warnings that name the chapter are shown.  `--look` opens the page in
headless Chromium at 375 and 1280 pixels, light and dark, reports what spills, what stays
untypeset and what the console says, and leaves screenshots beside the page.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import build_book
import yaml

LABELLED = r"(?:prf:(?!proof|ref)\w+|exercise|solution|figure|math)"


def lint(path: Path) -> list[str]:
    """What can be said of the text without building it, one line each."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = []

    def say(number: int, message: str) -> None:
        found.append(f"{path.name}:{number}: {message}")

    solved = set(re.findall(r"^`{3,}\{solution\}\s+(\S+)", text, flags=re.M))
    grades = 0
    for number, line in enumerate(lines, 1):
        opened = re.match(rf"\s*(`{{3,}}|:{{3,}})\{{({LABELLED})\}}(.*)", line)
        if opened and opened[2] not in ("math", "figure"):
            head = list(itertools.takewhile(lambda h: h.startswith(":"), lines[number:]))
            label = next((h.split(":label:")[1].strip() for h in head if ":label:" in h), "")
            if not label:
                say(number, f"{opened[2]} without a :label:")
            elif not re.fullmatch(r"[a-z]{3}-[a-z0-9-]+", label):
                say(number, f"label {label!r} should be words: thm-…, exr-…")
            if opened[2] == "exercise":
                body = "\n".join(lines[number : number + 8])
                grades += "●" in body
                if "●" not in body:
                    say(number, f"exercise {label} has no grade (● ●● ●●●)")
                if label not in solved:
                    say(number, f"exercise {label} has no solution")
        if re.search(r"\\(eqref|ref)\{", line):
            say(number, "raw \\eqref or \\ref; write {eq}`…`")
        if re.match(r"\s*\\begin\{(align|equation|gather)\*?\}", line):
            say(number, "bare align; write a labelled math directive with aligned")
        if re.search(r"\b(Chapter|Section|Theorem|Equation|Figure) \d", line):
            say(number, "a number written by hand; write {ref}, {prf:ref}, {eq} or {numref}")
        if re.search(r"\b(plt\.show|pyplot|plt\.subplots)\b", line):
            say(number, "figures are made by plotting.figure and plotting.show")
    if not re.search(r"^\((ch|app|notation)[\w-]*\)=\n# ", text, flags=re.M):
        say(1, "no (ch-…)= before the title")
    if "exercise" in text and grades < 6:
        say(1, f"{grades} exercises; a chapter has at least six")
    return found


def existing_toc(out: Path) -> Path:
    """The table of contents without the pages that are not written yet."""
    content = yaml.safe_load((build_book.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    for part in content["parts"]:
        part["chapters"] = [
            page for page in part["chapters"] if (build_book.BOOK / f"{page['file']}.md").exists()
        ]
    content["parts"] = [part for part in content["parts"] if part["chapters"]]
    path = out / "_toc.yml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def sphinx(out: Path, toc: Path, docname: str) -> list[str]:
    """Build the pages; returns the warnings that name `docname`."""
    others = [f"{page}.md" for page in build_book.pages(toc) if page != docname]
    os.environ["NO_COLOR"] = "1"
    # every warning again, not only those of the text changed since the last run
    (out / ".doctrees" / "environment.pickle").unlink(missing_ok=True)
    # a draft's statements have no tags yet: they get provisional ones, in a copy of the register
    register = out / "tags.csv"
    shutil.copyfile(build_book.BOOK / "tags.csv", register)
    overrides = {
        "nb_execution_excludepatterns": others,
        "citable_registry": str(register),
        "citable_assign": True,
    }
    warnings = io.StringIO()
    with contextlib.redirect_stderr(warnings), contextlib.redirect_stdout(io.StringIO()):
        build_book.run_sphinx(out, toc, overrides, strict=False, quiet=True)
    text = build_book.ANSI.sub("", warnings.getvalue())
    entries = re.split(r"\n(?=\S*/book/|\S+: (?:WARNING|ERROR)|WARNING|ERROR|Traceback)", text)
    good = (docname, "Exception", "Traceback", "CRITICAL")
    return [entry.strip() for entry in entries if any(word in entry for word in good)]


def look(page: Path, say: Callable[[str], None]) -> None:
    """Open the page in Chromium, report what is wrong with it and leave screenshots."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"],
        )
        for width in (375, 1280):
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme
                )
                tab = context.new_page()
                if width == 375 and scheme == "light":
                    tab.on("console", lambda m: m.type == "error" and say(f"console: {m.text}"))
                tab.goto(page.as_uri())
                tab.evaluate("window.fnTypesetAll ? fnTypesetAll() : null")
                tab.wait_for_timeout(500)
                if scheme == "light":
                    report(tab, width, say)
                shot = page.parent / f"{page.stem}-{width}-{scheme}.png"
                tab.screenshot(path=shot, full_page=True)
                say(f"  {shot}")
                context.close()
        browser.close()


def report(tab: Any, width: int, say: Callable[[str], None]) -> None:
    """Say what spills over the page and what is not typeset."""
    scroll = tab.evaluate("document.documentElement.scrollWidth")
    if scroll > width:
        wide = tab.evaluate(
            """() => [...document.querySelectorAll('main *')]
              .filter(e => e.getBoundingClientRect().right > innerWidth + 1
                           && !e.closest('.fn-figure, mjx-container, pre, table, svg'))
              .slice(0, 5).map(e => e.outerHTML.slice(0, 160))"""
        )
        say(f"  at {width} px the page is {scroll} px wide: {wide}")
    errors = tab.evaluate(
        "[...document.querySelectorAll('mjx-merror')].map(e => e.title || e.dataset.mjxError)"
    )
    if errors:
        say(f"  formulas that don't parse: {errors}")


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapter", help="as in _toc.yml, for example part1/flows")
    parser.add_argument("--look", action="store_true", help="open it in headless Chromium")
    parser.add_argument("--no-run", action="store_true", help="leave the cells alone")
    options = parser.parse_args()
    docname = re.sub(r"^(book/)?(.*?)(\.md)?$", r"\2", options.chapter)
    path = build_book.BOOK / f"{docname}.md"
    if not path.exists():
        raise SystemExit(f"There is no {path}.")
    out = build_book.ROOT / "_build" / "check" / docname.replace("/", "-")
    out.mkdir(parents=True, exist_ok=True)
    bad = lint(path)
    for line in bad:
        print(line)
    toc = existing_toc(out)
    if not options.no_run:
        place = build_book.checkout()
        record = build_book.Record(out / "executed.json", place.name)
        cache = out / ".jupyter_cache"
        todo = [c for c in build_book.chapters(toc) if c.docname == docname]
        todo = [c for c in todo if not record.fresh(c, cache)]
        if todo and not build_book.execute_all(todo, cache, record, jobs=1, place=place):
            return 1
    warnings = sphinx(out, toc, docname)
    for warning in warnings:
        print(warning)
    page = out / "html" / f"{docname}.html"
    print(f"{len(bad)} remarks, {len(warnings)} warnings; {page} ({page.stat().st_size >> 10} KiB)")
    if options.look:
        look(page, print)
    return 1 if bad or warnings else 0


if __name__ == "__main__":
    sys.exit(main())
