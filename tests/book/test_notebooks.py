"""The notebooks: they read well, they are the chapters, and they run where only the wheel is.

The texts of a small book that uses every construct and of the real chapters are checked against
the same rules.  The book itself is executed in a clean environment, so what is tested here is that
a notebook has its chapter's code, that the pages show what came out there, and that the cell which
installs works; one notebook is run top to bottom as a reader would run it.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import clean_environment
import nbformat
import notebook_checks as checks
import pytest
import yaml
from myst_nb.core.read import read_myst_markdown_notebook
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
BUILD = ROOT / "_build"
MINI = Path(__file__).parent / "minibook"
MINI_SITE = "https://example.org/mini/"

sys.path[:0] = [str(BOOK / "_ext"), str(ROOT / "tools")]

import build_book  # noqa: E402
import build_wheel  # noqa: E402
import site_address  # noqa: E402
from notebooks import outputs, tex  # noqa: E402
from notebooks.install import install_cell  # noqa: E402


def chapters() -> list[str]:
    """The pages of the book with a kernel, each of which has a notebook."""
    named = build_book.pages(ROOT / "_toc.yml")
    return [
        name
        for name in named
        if "\nkernelspec:" in (BOOK / f"{name}.md").read_text(encoding="utf-8").split("\n---", 2)[0]
    ]


def source(path: Path) -> nbformat.NotebookNode:
    return read_myst_markdown_notebook(path.read_text(encoding="utf-8"), path=path)


# ---------------------------------------------------------------------------------------------
# The small book


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small book, built as a site and as notebooks, without a warning."""
    out = tmp_path_factory.mktemp("mini")
    for builder in ("html", "notebooks"):
        warnings = io.StringIO()
        with patch_docutils(MINI), docutils_namespace():
            app = Sphinx(
                MINI, MINI, out / builder, out / "doctrees", builder, status=None, warning=warnings
            )
            app.build()
        assert not warnings.getvalue()
    return out


def read(folder: Path, name: str) -> nbformat.NotebookNode:
    return nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4)


def markdown(notebook: nbformat.NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("name", ["part/first", "part/second"])
def test_small_book_obeys_every_rule(mini: Path, name: str) -> None:
    notebook = read(mini, name)
    nbformat.validate(notebook)
    checks.check_text(notebook)
    assert checks.check_links(notebook, MINI_SITE, mini / "html") >= 3
    checks.check_code(notebook, source(MINI / f"{name}.md"))
    on_page = checks.numbers_on_page(mini / "html" / f"{name}.html")
    assert on_page == checks.numbers_in_notebook(notebook)
    assert on_page["equations"]


def test_small_book_writes_notebooks_only_and_an_index(mini: Path) -> None:
    written = sorted(
        path.relative_to(mini / "notebooks").as_posix()
        for path in (mini / "notebooks").rglob("*")
        if path.is_file()
    )
    assert written == ["README.md", "part/first.ipynb", "part/second.ipynb"]
    index = (mini / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert index.index("(part/first.ipynb)") < index.index("(part/second.ipynb)")


@pytest.mark.parametrize(
    "expected",
    [
        # statements, proofs, algorithms
        "**Definition 1.1** (Sum of $n$ terms)\n>\n> The *sum* of",
        '> <a id="thm-sum" name="thm-sum"></a>**Theorem 1.1** (Gauss)',
        "> $$S_n = \\sum_{i=1}^n x_i .$$",
        "\\frac{n (n + 1)}{2} \\\\ &\\le n^2 . \\end{aligned} \\tag{1.1}$$",
        "> 2.  Second, that\n>\n>     $$a = b .$$",
        "**Proof.** Write [(1.1)](#equation-eq-sum) twice.",
        "**Proof.** $1 + 1 = 2$, so we are done. ∎",
        "$$\\begin{aligned}2 S_n = n (n+1) \\\\ S_n = n(n+1)/2\\end{aligned}$$\n\n∎",
        "**Algorithm 1.1** (Adding)",
        "> 2.  For $i = 1, \\dots, n$:\n>     -   $s \\leftarrow s + x_i$\n>     -   keep $s$",
        "> ```python\n> def add(xs):\n>     return sum(xs)  # $not maths$\n> ```",
        "> **Remark**\n>\n> A remark without a number.",
        # formulas
        "# 1. The first chapter, with $x^2$ in its title",
        "the condition $a< b$, the macro $\\mathbb{R}^d$",
        "$\\mathbb{E}\\left[X \\mid Y\\right]$",
        "v \\text{ for all }v\\text{ that matter}",
        "a price of 5\\$, snake_case_words",
        # references
        "Next comes [Chapter 2](https://example.org/mini/part/second.html#ch-second)",
        "[(2.1)](https://example.org/mini/part/second.html#equation-eq-second)",
        "[its page](https://example.org/mini/part/second.html)",
        "[this very theorem](#thm-sum)",
        "[Figure 1.2](#fig-dot), [Table 1.1](#tab-conventions) and [Exercise 1.1](#exr-first)",
        "[[Euler, 1768](#ref-euler1768institutionum)] came before Gauss [[1809](#ref-",
        '## References\n\n-   <a id="ref-euler1768institutionum"',
        "</a>Leonhard Euler. *Institutionum calculi integralis*.",
        "<sup>[1](#older)</sup>",
        '<a id="older" name="older"></a><sup>1</sup> By 41 years, and $\\int_0^1',
        # tables, figures
        "**Table 1.1.** Conventions for $|x|$\n\n| Symbol | Code | Meaning |\n| :--- | :---: |",
        "| $\\vert x\\vert$ | `a \\| b` | the norm, [(1.2)](#equation-eq-first) |",
        "| one | • item $a\\vert b$<br>• item |",
        '<img src="https://example.org/mini/_images/dot.svg" alt="A dot" width="200">',
        "**Figure 1.2.** The dot of [Definition 1.1](#def-sum).",
        "**Figure 1.1.** A *drawn* figure of $x$.",
        "![another dot](https://example.org/mini/_images/dot.svg)",
        # boxes, exercises, solutions
        "> **How papers write it**\n>\n> They write $\\epsilon_\\theta$ for\n>\n> $$\\epsilon .$$",
        "> **What can go wrong**\n>\n> -   everything\n> -   nothing",
        "**PyTorch**\n\n> one\n\n**JAX**\n\n> two",
        "<summary><b>More about $x$</b></summary>\n\nDropped.\n\n</details>",
        "**Exercise 1.1** (The variance of $x$)\n>\n> ● Compute it, with [Theorem 1.1](#thm-sum).",
        "<details>\n<summary><b>Solution to Exercise 1.1 (The variance of $x$)</b></summary>\n\nBy",
        '```python\nprint("a solution")  # not run\n```\n\nThe solution ends.\n\n</details>',
        "<summary><b>Solution to Exercise 1.2</b></summary>\n\nIt needs a cell:\n\n</details>",
        "<summary><b>Solution to Exercise 1.2</b>, continued</summary>\n\nand words after it.",
    ],
)
def test_small_book_reads(mini: Path, expected: str) -> None:
    text = markdown(read(mini, "part/first"))
    assert expected in text, text


def test_first_cells_say_what_this_is_and_install(mini: Path) -> None:
    opening, install, first = read(mini, "part/first").cells[:3]
    version = importlib.metadata.version("fromnoise")
    assert opening.source.startswith("# 1. The first chapter")
    assert f"{MINI_SITE}part/first.html" in opening.source
    assert all(word in opening.source for word in ("executable edition", version, "CC BY", "MIT"))
    assert install.source == install_cell(version, MINI_SITE)
    assert first.source.startswith("import math")
    assert first.metadata["cellView"] == "form" and first.metadata["tags"] == ["hide-input"]


def test_outputs_of_the_page_come_along(mini: Path) -> None:
    code = [cell for cell in read(mini, "part/first").cells if cell.cell_type == "code"]
    assert [output["text"] for output in code[1].outputs] == ["x**2=4\n"]
    assert code[3].outputs[0]["data"]["text/plain"].startswith("1.41")
    assert code[0].outputs == []


def test_metadata_is_what_colab_and_jupyter_read(mini: Path) -> None:
    metadata = read(mini, "part/second").metadata
    assert metadata["kernelspec"]["name"] == "python3"
    assert metadata["colab"]["name"] == "second.ipynb"
    assert metadata["title"] == "2. The second chapter"
    assert metadata["fromnoise"]["page"] == f"{MINI_SITE}part/second.html"


# ---------------------------------------------------------------------------------------------
# Formulas, outputs, addresses


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("x", "$$x$$"),
        ("a \\\\ b", "$$\\begin{aligned}a \\\\ b\\end{aligned}$$"),
        ("\\begin{cases}a \\\\ b\\end{cases}", "$$\\begin{cases}a \\\\ b\\end{cases}$$"),
        ("\\begin{align}a \\nonumber\\end{align}", "$$\\begin{aligned}a\\end{aligned}$$"),
        ("\\begin{gather*}a\\end{gather*}", "$$\\begin{gathered}a\\end{gathered}$$"),
        ("\\begin{equation}a\n=\nb\\end{equation}", "$$a = b$$"),
        ("a = 1 % one\n+ 2", "$$a = 1 + 2$$"),
        ("a\n\nb", "$$\\begin{gathered}a \\\\ b\\end{gathered}$$"),
    ],
)
def test_display_is_one_line_that_dollars_may_hold(formula: str, expected: str) -> None:
    assert tex.display(formula) == expected


def test_display_takes_a_number() -> None:
    assert tex.display("a", number="2.3") == r"$$a \tag{2.3}$$"


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (r"|x| + \|y\|", r"$\vert x\vert + \Vert y\Vert$"),
        (r"a \\|b|", r"$a \\\vert b\vert$"),
        (r"a<b", r"$a< b$"),
        (r"1<2", r"$1<2$"),
        (r"\text{if $a \in A$ holds}", r"$\text{if }a \in A\text{ holds}$"),
    ],
)
def test_inline_formula_survives_markdown(formula: str, expected: str) -> None:
    assert tex.inline(formula, table=True) == expected


def test_macros_are_expanded_as_mathjax_does() -> None:
    macros = {
        "R": r"\mathbb{R}",
        "E": [r"\mathbb{E}[#1]", 1],
        "d": r"\mathrm{d}",
        "at": ["#2|_{#1}", 2, "0"],
    }
    assert tex.expand(r"\R^d \E{\R x}", macros) == r"\mathbb{R}^d \mathbb{E}[\mathbb{R} x]"
    assert tex.expand(r"\d x \E Y \Rightarrow", macros) == r"\mathrm{d} x \mathbb{E}[Y] \Rightarrow"
    assert tex.expand(r"\at{f} \at[1]{f}", macros) == "f|_{0} f|_{1}"
    with pytest.raises(ValueError, match="expand without end"):
        tex.expand(r"\a", {"a": r"\a \a"})
    with pytest.raises(ValueError, match="misses an argument"):
        tex.expand(r"\E", macros)


def test_unbalanced_formula_is_an_error() -> None:
    with pytest.raises(ValueError, match="never closed"):
        tex.inline(r"\text{for $x$")


FIGURE = (
    '<div class="fn-figure" data-name="a" style="color:inherit"><svg role="img" '
    'aria-label="A &amp; B" viewBox="0 0 40 30" xmlns:xlink="x" width="80" style="display:block">'
    '<g style="stroke:currentColor;fill:var(--fn-c0,#0067a6)"/></svg></div>'
)


def output(**data: str) -> nbformat.NotebookNode:
    data = {name.replace("_", "/"): value for name, value in data.items()}
    return nbformat.v4.new_output("execute_result", data, execution_count=1)


def test_figure_becomes_an_image_of_fixed_ink_on_white() -> None:
    (kept,) = outputs.portable([output(text_html=FIGURE, text_plain="[figure: A & B]")])
    assert sorted(kept.data) == ["image/svg+xml", "text/plain"]
    svg = checks.soup_of(kept.data["image/svg+xml"])
    assert svg["width"] == "80" and svg["height"] == "60"
    assert svg.find("title").get_text() == "A & B"
    assert svg.find("rect")["fill"] == "#ffffff"
    assert svg.find("g")["style"] == "stroke:#24292f;fill:#0067a6"


def test_pictures_become_a_png_on_white() -> None:
    buffer = io.BytesIO()
    Image.new("LA", (4, 4), (0, 0)).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    markup = f'<div class="fn-figure"><img alt="x" src="data:image/png;base64,{data}"></div>'
    (kept,) = outputs.portable([output(text_html=markup, text_plain="[figure: x]")])
    picture = Image.open(io.BytesIO(base64.b64decode(kept.data["image/png"])))
    assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_scripts_and_progress_bars_are_not_carried() -> None:
    bar = nbformat.v4.new_output("stream", name="stderr", text="50%|###  |")
    words = nbformat.v4.new_output("stream", name="stdout", text="loss 0.1\n")
    slider = output(text_html='<div class="fn-figure"><script></script></div>', text_plain="[x]")
    kept = outputs.portable([bar, words, slider])
    assert [item.output_type for item in kept] == ["stream", "execute_result"]
    assert kept[1].data == {"text/plain": "[x]"}


def test_heaviest_pictures_go_until_a_notebook_is_light() -> None:
    cells = [
        nbformat.v4.new_code_cell(
            outputs=[
                nbformat.v4.new_output("display_data", {"image/png": "A" * size, "text/plain": "p"})
            ]
        )
        for size in (100, 5000, 300)
    ]
    assert outputs.fit(cells, 2000) == 1
    assert [sorted(cell.outputs[0].data) for cell in cells] == [
        ["image/png", "text/plain"],
        ["text/plain"],
        ["image/png", "text/plain"],
    ]


def test_addresses_derive_from_the_repository() -> None:
    assert site_address.site("https://github.com/Ada/book") == "https://ada.github.io/book/"
    assert site_address.site("https://github.com/ada/ada.github.io") == "https://ada.github.io/"
    assert site_address.colab("https://github.com/ada/book.git", "part1/flows") == (
        "https://colab.research.google.com/github/ada/book/blob/notebooks/part1/flows.ipynb"
    )
    with pytest.raises(ValueError, match=r"_config\.yml"):
        site_address.site("https://example.org/ada/book")


def test_on_github_a_fork_publishes_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "ada/noise")
    assert build_wheel.site() == "https://ada.github.io/noise/"
    monkeypatch.delenv("GITHUB_REPOSITORY")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert build_wheel.site() == site_address.site(config["repository"]["url"])


# ---------------------------------------------------------------------------------------------
# The cell that installs


def run_install_cell(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]
) -> tuple[list[list[str]], list[str], str]:
    """The commands the cell would run, the constraints it gives them and what it prints."""
    commands: list[list[str]] = []
    constraints: list[str] = []

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    def run(command: list[str], **options: object) -> SimpleNamespace:
        assert options == {"check": True}
        commands.append(command)
        constraints.extend(Path(command[command.index("-c") + 1]).read_text().split())
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.delenv("FROMNOISE_SITE", raising=False)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(install_cell("1.2.3", "https://a.github.io/b/"), "<cell>", "exec"), {})
    return commands, constraints, printed.getvalue()


def test_install_cell_is_silent_where_the_version_is_there(monkeypatch) -> None:
    commands, _, printed = run_install_cell(monkeypatch, {"fromnoise": "1.2.3", "torch": "2.5.1"})
    assert commands == [] and printed == ""


@pytest.mark.parametrize("present", [{}, {"fromnoise": "1.2.2"}])
def test_install_cell_installs_the_wheel_and_holds_torch(monkeypatch, present) -> None:
    versions = {"torch": "2.9.0+cu126", "torchvision": "0.24.0+cu126", "numpy": "2.0.2", **present}
    (command,), constraints, printed = run_install_cell(monkeypatch, versions)
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    wheel = "https://a.github.io/b/_static/wheels/fromnoise-1.2.3-py3-none-any.whl"
    assert command[-1] == wheel
    assert [word for word in command[4:-1] if not word.startswith("-")] == [
        command[command.index("-c") + 1]
    ], "pip is asked for the wheel and nothing else"
    assert not {"--upgrade", "-U", "--force-reinstall"} & set(command)
    assert sorted(constraints) == [
        "numpy==2.0.2",
        "torch==2.9.0+cu126",
        "torchvision==0.24.0+cu126",
    ]
    assert "Installing fromnoise 1.2.3" in printed


def test_install_cell_pins_nothing_that_is_missing(monkeypatch) -> None:
    (_,), constraints, _ = run_install_cell(monkeypatch, {})
    assert constraints == []


# ---------------------------------------------------------------------------------------------
# The real book


@pytest.fixture(scope="session")
def built() -> Path:
    """The built site and notebooks; `make test` has brought them up to date already."""
    if os.environ.get("FROMNOISE_BOOK_IS_BUILT") != "1":
        with clean_environment.locked(BUILD / "notebooks.lock"):
            for tool in ("build_book.py", "build_notebooks.py"):
                done = subprocess.run(
                    [sys.executable, ROOT / "tools" / tool], capture_output=True, text=True
                )
                assert done.returncode == 0, done.stdout + done.stderr
    return BUILD


@pytest.fixture(scope="session")
def address(built: Path) -> Iterator[str]:
    """The built site, served over HTTP."""
    with build_book.served(built / "html") as found:
        yield found


@pytest.mark.parametrize("name", chapters())
def test_chapter_reads_well(built: Path, name: str) -> None:
    notebook = read(built, name)
    nbformat.validate(notebook)
    assert (built / "notebooks" / f"{name}.ipynb").stat().st_size < 2_000_000
    assert notebook.cells[0].source.lstrip().startswith(("# ", "<a id="))
    checks.check_text(notebook)
    page = notebook.metadata["fromnoise"]["page"]
    site = page.removesuffix(f"{name}.html")
    assert site == build_wheel.site()
    assert checks.check_links(notebook, site, built / "html") >= 1
    checks.check_code(notebook, source(BOOK / f"{name}.md"))
    on_page = checks.numbers_on_page(built / "html" / f"{name}.html")
    assert on_page == checks.numbers_in_notebook(notebook)


def test_every_chapter_has_a_notebook_and_nothing_else_has(built: Path) -> None:
    folder = built / "notebooks"
    found = {
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.ipynb")
    }
    assert found == set(chapters())
    index = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.ipynb)" in index for name in found)


def test_every_formula_is_typeset_without_an_error(built: Path) -> None:
    """MathJax takes each formula of each notebook; what it can't read it marks as an error."""
    from playwright.sync_api import sync_playwright

    found = {formula: name for name in chapters() for formula in checks.formulas(read(built, name))}
    assert len(found) > 100
    mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    convert = """formulas => formulas.map(([tex, display]) => {
        const typeset = MathJax.tex2chtml(tex, {display});
        const marked = typeset.querySelector('[data-mjx-error], mjx-merror');
        return marked ? (marked.getAttribute('data-mjx-error') || marked.textContent) : '';
    })"""
    with build_book.served(mathjax) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{address}package.json")
        page.set_content(
            "<script>MathJax = {startup: {typeset: false}}</script>"
            f'<script src="{address}tex-chtml.js"></script>'
        )
        page.wait_for_function("() => Boolean(window.MathJax && MathJax.tex2chtml)")
        problems = page.evaluate(convert, [list(formula) for formula in found])
        browser.close()
    wrong = [
        f"{name}: {tex}: {problem}"
        for ((tex, _), name), problem in zip(found.items(), problems, strict=True)
        if problem
    ]
    assert not wrong, "\n".join(wrong)


def environment(name: str, wheel: Path) -> Path:
    return clean_environment.make(BUILD / "environments" / name, wheel)


def the_wheel(built: Path) -> Path:
    (wheel,) = (built / "html" / "_static" / "wheels").glob("*.whl")
    return wheel


def installs(python: Path, cell: str, folder: Path, address: str) -> str:
    """Run the cell that installs in a clean environment; returns what it prints."""
    variables = clean_environment.variables(folder, address)
    done = clean_environment.run(python, "-c", cell, cwd=folder, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


RUN = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
where = "import fromnoise; print(fromnoise.__file__)"
notebook.cells.append(nbformat.v4.new_code_cell(where))
resources = {"metadata": {"path": sys.argv[2]}}
NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
print(notebook.cells[-1].outputs[0].text)
"""


def shortest_with_weights(built: Path) -> str:
    """The chapter that loads trained weights and takes the least time."""
    record = build_book.Record(built / "executed.json", place="wheel")
    loads = re.compile(r"\bcheckpoints\.load\(")
    found = [
        name
        for name in chapters()
        if any(loads.search(cell.source) for cell in read(built, name).cells)
    ]
    return min(found, key=record.seconds)


def test_a_reader_installs_from_the_site_and_runs_a_notebook(
    built: Path, address: str, tmp_path: Path
) -> None:
    """By the notebooks' own first cell, then top to bottom; weights come, verified, over HTTP.

    pip has no index here: it can take the wheel and what is there already, and nothing more.
    """
    python = environment("install", the_wheel(built))
    clean_environment.without_package(python)
    name = shortest_with_weights(built)
    cell = read(built, name).cells[1].source

    def installed() -> dict[str, str]:
        done = clean_environment.run(python, "-m", "pip", "list", "--format", "freeze")
        return dict(line.split("==") for line in done.stdout.split())

    before = installed()
    assert "torch" in before and "fromnoise" not in before
    printed = installs(python, cell, tmp_path, address)
    assert len(printed.strip().split("\n")) == 1 and address in printed
    assert installed() == {**before, "fromnoise": importlib.metadata.version("fromnoise")}
    assert installs(python, cell, tmp_path, address) == ""

    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    variables = clean_environment.variables(home, address)
    path = built / "notebooks" / f"{name}.ipynb"
    done = clean_environment.run(python, "-c", RUN, str(path), str(work), cwd=work, env=variables)
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stdout.strip().startswith(str(python.parents[1].resolve()))
    assert list((home / "cache").rglob("*.safetensors"))


def test_pages_show_what_came_out_where_only_the_wheel_is(built: Path) -> None:
    """The book executed the notebooks' own code, as it is now, in such an environment.

    That code is the same, `test_chapter_reads_well` sees; what the environment is, `test_build`.
    """
    record = build_book.Record(built / "executed.json", place="wheel")
    found = build_book.chapters(ROOT / "_toc.yml")
    assert {chapter.docname for chapter in found} >= set(chapters())
    stale = [c.docname for c in found if not record.fresh(c, built / ".jupyter_cache")]
    assert not stale
