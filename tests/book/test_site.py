"""Every page of the built site in headless Chromium, with the network cut.

The site is served under a base path, as GitHub serves it.  Nothing may come from outside, spill
over the page, stay untypeset or lead nowhere; formulas are timed on a page of their own.
"""

import csv
import functools
import gzip
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pybtex.database
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
BASE = "/some/base/"
LIMIT = 1_500_000  # bytes of a page with all it loads, compressed
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]

# In CI a missing browser is a failure (of the fixture below), elsewhere it is said and left out.
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"),
    reason="no Chromium: the pages are not opened in a browser (install chromium to check them)",
)


def pages() -> list[str]:
    """Every page in the table of contents, and those that Sphinx adds."""

    def walk(node):
        if isinstance(node, dict):
            yield from (str(node[key]) for key in ("root", "file") if key in node)
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    content = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [*walk(content), *tagged().values(), "search", "genindex"]


def tagged() -> dict[str, str]:
    """The tag's page of one item of each kind, the first of its kind in the register."""
    with (ROOT / "book" / "tags.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = dict.fromkeys(row["label"].partition("-")[0] for row in rows)
    first = {kind: next(r for r in rows if r["label"].startswith(f"{kind}-")) for kind in kinds}
    return {kind: f"tag/{row['tag']}" for kind, row in first.items()}


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The built book; `make test` has just built it, otherwise it is brought up to date here."""
    if os.environ.get("FROMNOISE_BOOK_IS_BUILT") != "1":
        from filelock import FileLock

        with FileLock(tmp_path_factory.getbasetemp().parent / "book.lock"):
            command = [sys.executable, str(ROOT / "tools" / "build_book.py")]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return SITE


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder under BASE, compressing nothing, and says nothing."""

    protocol_version = "HTTP/1.1"

    def translate_path(self, path):
        if not path.startswith(BASE):
            return str(Path(self.directory) / "outside-the-base-path")
        return super().translate_path("/" + path[len(BASE) :])

    def log_message(self, *arguments):
        """Stay quiet."""


def serve(folder: Path):
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}{BASE}"


@pytest.fixture(scope="session")
def address(site):
    server, url = serve(site)
    yield url
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    assert CHROMIUM, "no Chromium found: install it, or name it in CHROMIUM"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


# ---------------------------------------------------------------------------------------------
# Every page, opened

OVERFLOW = """() => {
  const wide = document.documentElement.scrollWidth;
  if (wide <= innerWidth) return null;
  const inside = "mjx-container, pre, svg, .fn-figure, .pst-scrollable-table-container";
  return [wide, ...[...document.querySelectorAll("main *")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(inside))
    .slice(0, 3).map(e => e.outerHTML.slice(0, 200))];
}"""

# Text that spills out of the article though the page does not scroll, because a box hides it.
CLIPPED = """() => {
  const article = document.querySelector("article.bd-article");
  if (!article) return [];
  const edge = article.getBoundingClientRect().right + 1;
  const inside = ".fn-display, pre, svg, .fn-figure, .pst-scrollable-table-container, " +
    ".output, [hidden], mjx-assistive-mml, .headerlink, .visually-hidden";
  return [...article.querySelectorAll("p, li, h1, h2, h3, mjx-container, code, img, table")]
    .filter(e => !e.closest(inside) && e.getClientRects().length)
    .filter(e => [...e.getClientRects()].some(box => box.right > edge))
    .slice(0, 3).map(e => e.outerHTML.slice(0, 300));
}"""

RAW = r"""() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  for (let n = walker.nextNode(); n; n = walker.nextNode()) {
    const at = n.parentElement.closest("pre, code, script, style, mjx-assistive-mml");
    if (!at && /\\\(|\\\[|\$\$|\\begin\{|\(\?\?\?\)|\{(?:prf:)?(?:ref|eq|numref|cite)/.test(n.data))
      found.push(n.data.trim().slice(0, 120));
  }
  return found;
}"""

CONTRAST = """(theme) => {
  const root = document.documentElement;
  root.dataset.theme = theme; root.dataset.mode = theme;
  const probe = document.createElement("span");
  document.querySelector("article.bd-article").append(probe);
  const rgb = (css) => { probe.style.color = css; return getComputedStyle(probe).color
    .match(/[\\d.]+/g).slice(0, 3).map(Number); };
  const light = (c) => { const l = c.map(v => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2]; };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05); };
  const grounds = [rgb("var(--pst-color-background)"), rgb("var(--fn-panel)")];
  const body = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number);
  const least = (css) => Math.min(...grounds.map(g => ratio(rgb(css), g)));
  const result = { ground: ratio(body.slice(0, 3), grounds[0]) };
  for (const name of ["--pst-color-text-base", "--pst-color-link", "--fn-quiet", "--fn-muted",
      "--fn-convention", "--fn-pitfall", "--fn-c0", "--fn-c1", "--fn-c2", "--fn-c3", "--fn-c4",
      "--fn-c5"]) result[name] = least(`var(${name})`);
  const inks = [...document.querySelectorAll("article .fn-figure")]
    .map(e => ratio(rgb(getComputedStyle(e).color), grounds[0]));
  result.ink = inks.length ? Math.min(...inks) : 21;
  result.formula = Math.min(21, ...[...document.querySelectorAll("mjx-container")].slice(0, 5)
    .map(e => ratio(rgb(getComputedStyle(e).color), grounds[0])));
  probe.remove();
  return result;
}"""


# A box that scrolls cannot scroll to what sticks out on its left.
FIGURES_CUT = """() => [...document.querySelectorAll(".fn-figure")].filter(figure => {
  const box = figure.closest(".text_html");
  return box && figure.getBoundingClientRect().left < box.getBoundingClientRect().left - 0.5;
}).map(figure => figure.dataset.name || figure.textContent.slice(0, 40))"""


@needs_browser
@pytest.mark.parametrize("name", pages())
def test_page(name, site, address, browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    said, outside, loaded = [], [], set()
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))

    def request(event):
        if event.url.startswith(address):
            loaded.add(urlparse(event.url).path[len(BASE) :])
        elif not event.url.startswith(("data:", "blob:")):
            outside.append(event.url)

    page.on("request", request)
    response = page.goto(f"{address}{name}.html")
    assert response.status == 200
    page.evaluate("() => window.fnTypesetAll ? window.fnTypesetAll() : null")
    page.evaluate("() => document.fonts.ready.then(() => null)")
    assert outside == []
    # hidden solutions are part of the page
    page.evaluate(
        "() => document.querySelectorAll('.toggle-hidden .toggle-button').forEach(b => b.click())"
    )
    assert page.locator(".toggle-hidden").count() == 0
    assert (
        page.evaluate(
            "() => [...document.querySelectorAll('mjx-merror')].map(e => "
            "[e.getAttribute('data-mjx-error'), e.textContent])"
        )
        == []
    )
    assert page.evaluate(RAW) == []
    if page.locator("article.bd-article").count():
        for theme in ("light", "dark"):
            contrast = page.evaluate(CONTRAST, theme)
            assert contrast.pop("ground") == pytest.approx(1.0, abs=0.02)
            graphics = {f"--fn-c{i}" for i in range(4)} | {"--fn-muted"}
            for key, value in contrast.items():
                least = 2.3 if key in ("--fn-c4", "--fn-c5") else 3 if key in graphics else 4.5
                assert value >= least, (theme, key, value)
    for width in (1280, 375):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(OVERFLOW) is None, width
        assert page.evaluate(CLIPPED) == [], width
        assert page.evaluate(FIGURES_CUT) == [], width
    for box in page.locator(".fn-frames").all():
        slide = box.locator("[data-frame]:not([hidden])")
        bar = box.locator("input[type=range]")
        bar.evaluate("e => { e.value = 0; e.dispatchEvent(new Event('input')); }")
        assert slide.count() == 1
        assert slide.get_attribute("data-label") == box.locator("output").inner_text()
    assert said == []
    missing = [path for path in loaded if not (site / unquote(path)).is_file()]
    assert missing == []
    weight = sum(packed(site / unquote(path)) for path in loaded)
    assert weight <= LIMIT, f"{weight / 1e6:.2f} MB"
    context.close()


@functools.cache  # most pages load the same
def packed(path: Path) -> int:
    data = path.read_bytes()
    return min(len(data), len(gzip.compress(data, 6)))


@needs_browser
def test_search_finds_a_theorem(address, browser):
    page = browser.new_page()
    page.goto(f"{address}search.html?q=marginalization")
    page.wait_for_selector("#search-results li")
    found = page.locator("#search-results li a").all_inner_texts()
    assert any("robability paths" in text for text in found), found
    page.close()


@needs_browser
def test_buttons_of_the_page_work(address, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}part1/flows.html")
    page.wait_for_selector("script[type='text/later']", state="detached")
    page.wait_for_load_state("networkidle")
    before = page.evaluate("document.documentElement.dataset.theme")
    seen = {before}
    for _ in range(3):  # automatic, light, dark
        page.locator("button.theme-switch-button:visible").first.click()
        seen.add(page.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}
    page.locator("button.search-button__button:visible").first.click()
    assert page.locator("#pst-search-dialog").evaluate("e => e.open")
    page.keyboard.press("Escape")
    # a link to what lies in a hidden solution opens it
    solution = page.locator(".solution.toggle-hidden").first.get_attribute("id")
    inner = "e => { e.querySelector('section').id = 'inside'; location.hash = 'inside'; }"
    page.locator(f"#{solution}").evaluate(inner)
    page.wait_for_selector(f"#{solution}:not(.toggle-hidden)")
    page.close()


@needs_browser
def test_a_citation_is_copied_and_read_by_a_library(address, browser, site):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    outside = []
    page.on("request", lambda r: None if r.url.startswith(address) else outside.append(r.url))
    name = tagged()["thm"]
    page.goto(f"{address}{name}.html")
    page.wait_for_selector(".fn-citation button.copybtn", state="attached")
    tag = name.removeprefix("tag/")
    texts = {}
    for box in page.locator("#cite > div").all():
        box.hover()
        box.locator("button.copybtn").click()
        kind = box.locator(".fn-format").inner_text()
        texts[kind] = page.evaluate("navigator.clipboard.readText()")
    assert list(texts) == ["BibTeX", "Plain text", "Markdown", "LaTeX"]
    (key,) = entries = pybtex.database.parse_string(texts["BibTeX"], "bibtex").entries
    assert key == f"fromnoise-{tag}"
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    fields = entries[key].fields
    assert [str(author).strip("{}") for author in entries[key].persons["author"]] == [
        author["name"] for author in cff["authors"]
    ]
    assert fields["year"] == str(cff["date-released"])[:4]
    assert f"Tag {tag}" in fields["howpublished"]
    assert f"version {cff['version']}" in fields["howpublished"]
    link = page.locator("link[rel=canonical]").get_attribute("href")
    assert fields["url"] == link, "the address that is cited is the page's own"
    assert all(fields["url"] in text for text in texts.values())
    assert outside == []
    context.close()


@needs_browser
def test_tags_can_be_filtered_and_their_graph_followed(address, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}tags.html")
    form, rows = page.locator("form.fn-filter"), page.locator(".fn-tag-table tbody tr")
    form.wait_for(state="visible")
    total = rows.count()

    def shown() -> int:
        return page.locator(".fn-tag-table tbody tr:not([hidden])").count()

    assert shown() == total > 100
    form.locator("select[name=kind]").select_option("kind-theorem")
    theorems = shown()
    assert 0 < theorems < total
    form.locator("select[name=part]").select_option(index=1)
    assert 0 < shown() < theorems
    form.locator("select[name=part]").select_option("")
    form.locator("input[name=text]").fill("marginalization velocities")
    assert shown() == 1
    assert form.locator("output").inner_text() == f"1 of {total}"
    boxes = page.locator(".fn-graph-box")
    choice = page.locator("form.fn-choose select")
    for i in range(boxes.count()):
        choice.select_option(str(i))
        visible = [k for k in range(boxes.count()) if boxes.nth(k).is_visible()]
        assert visible == [i]
    graph = page.locator(".fn-graph-box:not([hidden]) svg.fn-graph")
    node = graph.locator(".fn-node").last
    node.focus()
    assert graph.locator(".fn-node.below, .fn-node.above").count() > 0
    node.evaluate("e => e.blur()")
    assert graph.locator(".fn-node.below, .fn-node.above").count() == 0
    page.close()


# Of every theorem: the text of its tag and whether it shows; where the tag begins, from the box's
# upper edge and from its right one.
TAGS = """() => [...document.querySelectorAll(".proof.theorem")].map(box => {
  const tag = box.querySelector(".fn-tag");
  const [outer, inner] = [box.getBoundingClientRect(), tag.getBoundingClientRect()];
  const shown = tag.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  return [tag.innerText, shown && inner.width > 0, inner.y - outer.y, inner.x - outer.right];
})"""


@needs_browser
def test_the_tag_stands_beside_its_statement(address, browser):
    page = browser.new_page()
    page.goto(f"{address}part2/probability-paths.html")
    page.evaluate("fnTypesetAll()")
    for width in (1280, 1000, 375):
        page.set_viewport_size({"width": width, "height": 900})
        for media in ("screen", "print"):
            page.emulate_media(media=media)
            found = page.evaluate(TAGS)
            assert len(found) >= 3
            for text, shown, down, right in found:
                assert re.fullmatch("[0-9A-Z]{4}", text) and shown, (width, media, text)
                assert -2 <= down <= 120, "beside the title"
                if width == 1280 and media == "screen":
                    assert right > 0, "in the margin"
    page.emulate_media(media="screen")
    page.locator(".proof.theorem .fn-tag").first.click()
    page.wait_for_url("**/tag/*.html")
    page.close()


@needs_browser
def test_landing_moves_unless_asked_not_to(address, browser):
    for motion, moves in (("no-preference", True), ("reduce", False)):
        context = browser.new_context(reduced_motion=motion)
        page = context.new_page()
        page.goto(f"{address}index.html")
        page.wait_for_selector(".fn-landing.ready")
        before = page.locator(".fn-landing output").inner_text()
        page.wait_for_timeout(600)
        after = page.locator(".fn-landing output").inner_text()
        assert (before != after) is moves, motion
        if not moves:
            assert after == "t = 1.00"
        context.close()
    assert (SITE / "_static" / "landing" / "flow.webp").stat().st_size <= 300_000


# ---------------------------------------------------------------------------------------------
# Every page, read


class Reader(HTMLParser):
    """Collects ids, links and pictures of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.silent: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "img" and "alt" not in values:
            self.silent.append(values.get("src", "")[:80])
        if tag == "svg" and not ({"aria-label", "aria-hidden"} & values.keys()):
            self.silent.append(str(values)[:120])


@pytest.fixture(scope="session")
def read(site) -> dict[str, Reader]:
    found = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    return {
        path.relative_to(site).as_posix(): Reader(path.read_text(encoding="utf-8"))
        for path in found
    }


def test_links_and_anchors_lead_somewhere(site, read):
    broken = []
    for name, page in read.items():
        for link in page.links:
            if urlparse(link).scheme or link.startswith("//"):
                continue
            target, anchor = urldefrag(urljoin(name, link))
            target = unquote(target) or name
            if target not in read:
                if not (site / target).is_file():
                    broken.append((name, link))
            elif anchor and unquote(anchor) not in read[target].ids:
                broken.append((name, link))
    assert broken == []


def test_ids_are_unique_and_pictures_say_what_they_show(read):
    for name, page in read.items():
        twice = [key for key, count in Counter(page.ids).items() if count > 1]
        assert twice == [], name
        # frames lie in a box that carries the text for all of them
        silent = [svg for svg in page.silent if "min-width:min(100%" not in svg]
        assert silent == [], name


def test_figures_have_a_sentence(site):
    figures = 0
    for path in site.rglob("*.html"):
        for label in re.findall(r'class="fn-figure.*?aria-label="([^"]*)"', path.read_text()):
            figures += 1
            assert len(label.split()) >= 4, (path.name, label)
    assert figures >= 10


@pytest.mark.parametrize("path", sorted((ROOT / "book").rglob("*.md")), ids=lambda p: p.stem)
def test_statements_have_labels_and_exercises_solutions(path):
    text = path.read_text(encoding="utf-8")
    kinds = r"prf:(?!proof\b|ref\b)\w+|exercise|solution"
    for block in re.finditer(rf"^(`{{3,}})\{{({kinds})\}}(.*(?:\n.*){{0,4}})", text, flags=re.M):
        label = re.search(r"^:label: (\S+)$", block[3], flags=re.M)
        assert label and re.fullmatch(r"[a-z]{3}-[a-z0-9-]+", label[1]), block[0]
    exercises = re.findall(r"^`{3,}\{exercise\}.*\n(?::.*\n)*?:label: (\S+)", text, flags=re.M)
    solved = set(re.findall(r"^`{3,}\{solution\} (\S+)", text, flags=re.M))
    assert set(exercises) == solved
    if path.parent.name.startswith("part"):
        assert len(exercises) >= 6


def test_address_stands_in_one_place():
    """Owner and name of the repository are in _config.yml alone."""
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    name = url.removeprefix("https://github.com/")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    files = listed.stdout.split() or [p.relative_to(ROOT) for p in (ROOT / "book").rglob("*.md")]
    found = []
    for file in files:
        path = ROOT / file
        if path.suffix in (".md", ".py", ".yml", ".toml", ".cff", ".js", ".css", "") and (
            path.is_file() and name in path.read_text(encoding="utf-8", errors="ignore")
        ):
            found.append(str(file))
    assert found == ["_config.yml"]


# ---------------------------------------------------------------------------------------------
# A page of 150 displayed formulas, and a fork

DISPLAYS = (
    r"p_t(x) = \int_{\mathbb{R}^d} p_t(x \mid x_1)\, p_1(x_1)\, \mathrm{d}x_1",
    r"\begin{aligned} \partial_t p_t &= -\nabla\cdot\bigl(p_t u_t\bigr) + \tfrac12 g_t^2 \Delta p_t"
    r" \\ &= -\sum_{i=1}^d \frac{\partial}{\partial x_i}\bigl(p_t\,u_t^{(i)}\bigr)"
    r" + \frac{g_t^2}{2}\sum_{i=1}^d \frac{\partial^2 p_t}{\partial x_i^2} \end{aligned}",
    r"\mathbb{E}\lVert u^\theta_t(X_t) - u_t(X_t\mid X_1)\rVert^2 ="
    r" \mathbb{E}\lVert u^\theta_t(X_t)-u_t(X_t)\rVert^2 + \operatorname{tr}\operatorname{Cov}",
    r"s_t(x) = \frac{\sum_k w_k\,\mathcal{N}(x; m_k, C_k)\,C_k^{-1}(m_k - x)}"
    r"{\sum_k w_k\,\mathcal{N}(x; m_k, C_k)}",
    r"e^{tA} = \sum_{k=0}^\infty \frac{t^k}{k!}"
    r"\begin{pmatrix} a_{11} & \cdots & a_{1n}\\ \vdots & \ddots & \vdots \\"
    r" a_{n1} & \cdots & a_{nn}\end{pmatrix}^{k}",
)
INLINES = (
    r"x_t = \alpha_t x_1 + \sigma_t \varepsilon",
    r"\lambda_t = \log(\alpha_t/\sigma_t)",
    r"u_t : \mathbb{R}^d \to \mathbb{R}^d",
    r"D_t(x)=\mathbb{E}[X_1\mid X_t=x]",
)
NOTEBOOK = """---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
# A page with a cell

```{code-cell} python3
1 + 1
```
"""


@pytest.fixture(scope="session")
def formulas(tmp_path_factory):
    """A site of two pages, built as a fork would build it: 150 displays; a cell."""
    folder = tmp_path_factory.mktemp("formulas")
    book = folder / "book"
    book.mkdir()
    lines = ["(ch-formulas)=", "# A page of formulas", ""]
    for k in range(150):
        if k % 10 == 0:
            lines += [f"(part-{k // 10})=", f"## Part {k // 10} on $p_{{{k}}}$", ""]
        words = "every point of the law keeps its own path and moves with the field"
        lines += [f"{words} ${INLINES[k % 4]}$ {words} ${INLINES[(k + 1) % 4]}$, {words}.", ""]
        lines += ["```{math}", f":label: eq-{k}", DISPLAYS[k % 5], "```", ""]
    (book / "index.md").write_text("\n".join(lines), encoding="utf-8")
    (book / "cell.md").write_text(NOTEBOOK, encoding="utf-8")
    (book / "references.bib").write_text("", encoding="utf-8")
    shutil.copytree(
        ROOT / "book" / "_static", book / "_static", ignore=shutil.ignore_patterns("checkpoints")
    )
    shutil.copy2(ROOT / "CITATION.cff", folder)
    toc = folder / "_toc.yml"
    toc.write_text("format: jb-book\nroot: index\nchapters: [{file: cell}]\n", encoding="utf-8")
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import build_book\n"
        "out = Path(sys.argv[2]); sys.exit(build_book.run_sphinx(out / '_build', out / '_toc.yml',"
        " {'nb_execution_mode': 'off', 'citable_assign': True, 'citable_package': ''},"
        " book=out / 'book', quiet=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "tools"), str(folder)],
        env={**os.environ, "GITHUB_REPOSITORY": "reader/fork"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    server, url = serve(folder / "_build" / "html")
    yield folder / "_build" / "html", url
    server.shutdown()


def test_buttons_of_a_fork_lead_to_the_fork(formulas):
    text = (formulas[0] / "cell.html").read_text(encoding="utf-8")
    own = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert own not in text
    colab = "https://colab.research.google.com/github/reader/fork/blob/notebooks/cell.ipynb"
    for link in (colab, "https://github.com/reader/fork/edit/main/book/cell.md"):
        assert f'href="{link}"' in text, link
    assert 'rel="canonical" href="https://reader.github.io/fork/cell.html"' in text


SHIFT = """window.shift = 0; new PerformanceObserver(list => { for (const entry of
  list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value; })
  .observe({ type: "layout-shift", buffered: true });"""
FIRST = "performance.getEntriesByName('fn-first-screen').length > 0"
PENDING = "document.querySelectorAll('article .math:not(.typeset)').length"
PENDING_SEEN = """[...document.querySelectorAll("article .math:not(.typeset)")]
  .map(e => e.getBoundingClientRect())
  .filter(box => box.bottom > 0 && box.top < innerHeight).length"""


SEEN = """[...document.querySelectorAll("article .math.typeset")]
  .map(e => e.getBoundingClientRect())
  .filter(box => box.bottom > 0 && box.top < innerHeight).length"""
# What the page has done when its first screen is shown, noted at that very moment.
WORK = f"""const mark = performance.mark.bind(performance);
  performance.mark = (name, ...rest) => {{
    if (name === "fn-first-screen") window.work = {{
      typeset: document.querySelectorAll("article .math.typeset").length,
      seen: {SEEN},
      pending: {PENDING_SEEN},
      later: document.querySelectorAll('script[type="text/later"]').length,
      files: performance.getEntriesByType("resource")
        .map(entry => [entry.name.split("/").pop(), entry.encodedBodySize]) }};
    return mark(name, ...rest); }};"""


@needs_browser
def test_the_first_screen_waits_for_its_own_formulas_only(formulas, browser):
    """How long it takes depends on the machine: `benchmarks/page.py`.  What is done does not."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(SHIFT)
    page.add_init_script(WORK)
    page.goto(formulas[1], wait_until="commit")
    page.wait_for_function(FIRST)
    work = page.evaluate("window.work")
    assert work["pending"] == 0 and work["seen"] >= 10
    assert work["typeset"] <= 1.5 * work["seen"]  # of 450; typesetting one moves those below
    assert work["later"] >= 1, "the theme's scripts come when there is something to see"
    sizes = dict(work["files"])
    assert sum(sizes.values()) <= 2_200_000, sizes  # not compressed here; MathJax is 1.16 MB
    page.wait_for_function(f"{PENDING} === 0", timeout=90_000)  # when the browser is idle
    assert page.locator("mjx-container").count() >= 450
    assert page.evaluate("window.shift") <= 0.02
    page.close()


@needs_browser
def test_a_jump_finds_its_target_typeset_and_in_view(formulas, browser):
    top = "document.getElementById('part-13').getBoundingClientRect().top"
    for enter in ("address", "click"):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        if enter == "address":
            page.goto(f"{formulas[1]}#part-13")
            page.wait_for_function(FIRST)
        else:
            page.goto(formulas[1])
            page.wait_for_function(FIRST)
            page.evaluate("location.hash = 'part-13'")
            page.wait_for_function(f"{top} < innerHeight")
        page.wait_for_timeout(50)
        assert page.evaluate(PENDING_SEEN) == 0
        place = page.evaluate(top)
        assert 0 <= place < 300, (enter, place)
        page.wait_for_function(f"{PENDING} === 0", timeout=90_000)
        page.wait_for_timeout(100)
        # 130 formulas above have found their height since, and the page has not moved
        assert abs(page.evaluate(top) - place) <= 2, enter
        page.close()


@needs_browser
def test_printing_leaves_nothing_untypeset(formulas, browser):
    page = browser.new_page()
    page.add_init_script(f"addEventListener('afterprint', () => {{ window.left = {PENDING}; }})")
    page.goto(formulas[1])
    page.wait_for_function(FIRST)
    assert page.evaluate(PENDING) > 0  # else the test says nothing
    page.pdf()
    assert page.evaluate("window.left") == 0
    page.close()
