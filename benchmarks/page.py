"""When a reader sees a page: seconds to the finished first screen of each chapter.

    python benchmarks/page.py [--loads 5]    after `make book`; writes results/page.json

Each chapter of the built book is opened in headless Chromium, 1280 x 900 pixels, from a local
server, with nothing kept from before; pages take turns.  Two times, the median of the loads: on the
clock until the first screen is typeset and shown, and the processor time that the page's own thread
has used by then, which other work on the machine lengthens less.  Beside them, in the same browser
and from the same server, an empty page with one formula and the whole of MathJax, typeset as its
documentation says: what nobody can undercut who sends MathJax.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import common
from playwright.sync_api import Browser, Route, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import build_book  # noqa: E402

SITE = ROOT / "_build" / "html"
BARE = "MathJax and one formula"
BARE_PAGE = """<!doctype html><html><body><p>\\(x_t = \\alpha_t x_1 + \\sigma_t \\varepsilon\\)</p>
<script>MathJax = { startup: { ready() { MathJax.startup.defaultReady();
  MathJax.startup.promise.then(() => performance.mark("fn-first-screen")); } } };</script>
<script src="_static/mathjax/tex-chtml.js"></script></body></html>"""
MARK = "performance.getEntriesByName('fn-first-screen')"


def chapters() -> list[str]:
    """The chapters of the built book."""
    found = [c.docname for c in build_book.chapters(ROOT / "_toc.yml")]
    missing = [name for name in found if not (SITE / f"{name}.html").exists()]
    if missing:
        raise SystemExit(f"{missing[0]}.html is not in {SITE}: run `make book` first.")
    return found


def load(browser: Browser, address: str) -> tuple[float, float]:
    """Open a page with an empty cache: seconds to its first screen, on the clock and computed."""

    def bare(route: Route) -> None:
        route.fulfill(body=BARE_PAGE, content_type="text/html")

    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.route("**/bare.html", bare)
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(address, wait_until="commit")
    page.wait_for_function(f"{MARK}.length > 0")
    metrics = session.send("Performance.getMetrics")["metrics"]
    computed = next(m["value"] for m in metrics if m["name"] == "TaskDuration")
    clock = page.evaluate(f"{MARK}[0].startTime / 1000")
    context.close()
    return clock, computed


def measure(loads: int) -> dict[str, Any]:
    """The medians over the loads, page by page; in each round every page is opened once."""
    files = {BARE: "bare.html", **{name: f"{name}.html" for name in chapters()}}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in files}
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with build_book.served(SITE) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        version = browser.version
        load(browser, f"{address}bare.html")  # the browser's own first time
        for _ in range(loads):
            for name, file in files.items():
                times[name].append(load(browser, f"{address}{file}"))
        browser.close()
    pages = {
        name: {
            "clock": round(statistics.median(clock for clock, _ in found), 3),
            "computed": round(statistics.median(computed for _, computed in found), 3),
        }
        for name, found in times.items()
    }
    return {"settings": {"loads": loads, "chromium": version}, "pages": pages}


def main() -> None:
    """Read the command line, measure, write and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", type=int, default=5)
    result = measure(parser.parse_args().loads)
    for name, found in result["pages"].items():
        print(f"{name:28s} {found['clock']:.2f} s, {found['computed']:.2f} s computed")
    common.save("page", result)


if __name__ == "__main__":
    main()
