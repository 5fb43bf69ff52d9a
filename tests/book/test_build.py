"""What makes a chapter run again, and what a cell that fails has to say."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import build_book  # noqa: E402
import check_chapter  # noqa: E402

HEADER = """---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
# A chapter

Prose.

"""
CELL = "```{{code-cell}} python3\n{}\n```\n\n"


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A book of one chapter, and a package of four rooms in which `c` imports `b` imports `a`."""
    book, package = tmp_path / "book", tmp_path / "src" / "fromnoise"
    for folder in (book, package / "wing"):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("x = 1\n")
    (package / "b.py").write_text("from fromnoise.a import x\n")
    (package / "wing" / "__init__.py").write_text("from . import c\n")
    (package / "wing" / "c.py").write_text("from ..b import x\n")
    (package / "d.py").write_text("")
    monkeypatch.setattr(build_book, "ROOT", tmp_path)
    monkeypatch.setattr(build_book, "BOOK", book)
    monkeypatch.setattr(build_book, "PACKAGE", package)
    monkeypatch.setattr(build_book, "CHECKPOINTS", book / "_static" / "checkpoints")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: one\n")
    return tmp_path


def run_all(
    house: Path, chapter: build_book.Chapter, place: build_book.Workplace | None = None
) -> bool:
    """Execute the chapter; its outputs go to `house / "cache"`, the record beside it."""
    place = place or build_book.checkout()
    record = build_book.Record(house / "executed.json", place.name)
    return build_book.execute_all([chapter], house / "cache", record, jobs=1, place=place)


def fresh(house: Path, chapter: build_book.Chapter, place: str = "checkout") -> bool:
    return build_book.Record(house / "executed.json", place).fresh(chapter, house / "cache")


def printed(house: Path, chapter: build_book.Chapter) -> str:
    """What the last cell has printed."""
    from jupyter_cache import get_cache

    _, notebook = get_cache(house / "cache").merge_match_into_notebook(chapter.notebook)
    (output,) = notebook.cells[-1].outputs
    return output.text


def write(house: Path, *cells: str, prose: str = "") -> build_book.Chapter:
    text = HEADER + prose + "".join(CELL.format(cell) for cell in cells)
    (house / "book" / "one.md").write_text(text, encoding="utf-8")
    (chapter,) = build_book.chapters(house / "_toc.yml")
    return chapter


def test_key_follows_cells_and_imports_but_not_prose(house):
    cell = "from fromnoise import wing"
    key = write(house, cell).key
    assert write(house, cell, prose="More words.\n\n").key == key
    assert write(house, cell + "  # again").key != key
    package = house / "src" / "fromnoise"
    (package / "d.py").write_text("y = 2\n")  # not imported
    assert write(house, cell).key == key
    (package / "a.py").write_text("x = 2\n")  # imported through two others
    assert write(house, cell).key != key


def test_key_follows_weights_only_of_chapters_that_load_some(house):
    (house / "src" / "fromnoise" / "checkpoints.py").write_text("")
    plain, loading = "from fromnoise import a", "from fromnoise import checkpoints"
    before = [write(house, cell).key for cell in (plain, loading)]
    weights = house / "book" / "_static" / "checkpoints" / "digits.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    after = [write(house, cell).key for cell in (plain, loading)]
    assert after[0] == before[0] and after[1] != before[1]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import fromnoise.b", {"__init__.py", "b.py"}),
        ("%time x\nfrom fromnoise.wing.c import x", {"__init__.py", "c.py"}),
        ("import torch", set()),
    ],
)
def test_imported_modules(house, source, names):
    assert {path.name for path in build_book.imported_modules(source)} == names


def test_execution_is_kept_and_reused(house):
    chapter = write(house, "import os, sys\nprint(os.listdir(), 'FROMNOISE_DATA' in os.environ)")
    assert not fresh(house, chapter)
    assert run_all(house, chapter)
    assert fresh(house, write(house, chapter.notebook.cells[-1].source, prose="New.\n\n"))
    assert not fresh(house, chapter, "wheel")  # outputs of the checkout are not the book's
    assert printed(house, chapter) == "[] False\n"  # an empty folder, and no folder of data
    assert not fresh(house, write(house, "print(1)"))


@pytest.fixture(scope="module")
def wheel_only():
    """Where the book is executed, as the build makes it or finds it made."""
    with build_book.only_the_wheel(ROOT / "_build") as place:
        yield place


def test_the_book_is_executed_where_only_the_wheel_is(wheel_only, house, capsys, monkeypatch):
    """The package is the wheel's, weights come over HTTP, and nothing undeclared is there."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("FROMNOISE_DATA", str(ROOT))
    cell = (
        "import fromnoise, os, sys, pathlib\n"
        "from fromnoise import checkpoints\n"
        "checkpoints.load('moons-flow')\n"
        "found = list(pathlib.Path(os.environ['FROMNOISE_CACHE']).rglob('*.safetensors'))\n"
        "seen = [name for name in ('PYTHONPATH', 'FROMNOISE_DATA') if name in os.environ]\n"
        "print(fromnoise.__file__, len(found), seen, os.environ['HOME'], any('src' in p for p in "
        "sys.path))"
    )
    chapter = write(house, cell)
    assert run_all(house, chapter, wheel_only), capsys.readouterr().out
    file, weights, seen, home, path = printed(house, chapter).split()
    assert file.startswith(str(wheel_only.python.parents[1].resolve()))
    assert (weights, seen, path) == ("1", "[]", "False") and home != str(Path.home())
    assert fresh(house, chapter, "wheel")

    undeclared = write(house, "import hypothesis")  # which the tests need and the package doesn't
    assert run_all(house, undeclared) and not run_all(house, undeclared, wheel_only)
    assert "No module named 'hypothesis'" in capsys.readouterr().out


def test_failure_names_chapter_cell_line_and_traceback_every_time(house, capsys):
    chapter = write(house, "a = 1", "b = 2\nraise ArithmeticError(f'{a + b} is odd')")
    for _ in range(2):
        assert not run_all(house, chapter)
        said = capsys.readouterr().out
        assert "one FAILED" in said
        line = chapter.path.read_text().splitlines().index("b = 2") + 1
        assert f"book/one.md, code cell 2, line {line}:" in said
        assert "ArithmeticError: 3 is odd" in said and "\x1b[" not in said
        assert not fresh(house, chapter)


@pytest.mark.parametrize(
    ("failures", "cell", "runs", "done"),
    [
        (0, "print(1)", 1, True),
        (1, "print(1)", 2, True),
        (2, "print(1)", 3, True),
        (3, "print(1)", 3, False),
        (0, "1 / 0", 1, False),  # the cell's own fault, which another run would repeat
    ],
)
def test_a_kernel_that_did_not_start_is_started_again(
    house, capsys, monkeypatch, failures, cell, runs, done
):
    """Its ports may be taken between choosing and opening them, which no cell can be blamed for."""
    started, real = [], build_book.subprocess.run

    def run(command, **options):
        started.append(command)
        if len(started) <= failures:
            text = f"zmq.error.ZMQError: Address already in use\n{build_book.NOT_STARTED}"
            return build_book.subprocess.CompletedProcess(command, 1, stdout="", stderr=text)
        return real(command, **options)

    monkeypatch.setattr(build_book.subprocess, "run", run)
    assert run_all(house, write(house, cell)) == done
    assert len(started) == runs
    assert ("the kernel could not run" in capsys.readouterr().out) == (failures == 3)


def test_a_cell_that_writes_to_stderr_fails(house, capsys):
    chapter = write(house, "import warnings\nwarnings.warn('deprecated since long')")
    assert not run_all(house, chapter)
    said = capsys.readouterr().out
    assert "writes to stderr" in said and "deprecated since long" in said


def test_record_survives_on_disk(house):
    record = build_book.Record(house / "executed.json", "wheel")
    record.put(write(house, "1"), 12.34)
    content = json.loads((house / "executed.json").read_text())
    assert content["one"]["seconds"] == 12.3
    assert build_book.Record(house / "executed.json", "wheel").seconds("one") == 12.3


def test_checks_run_again_when_their_code_changes_and_leave_with_it(house, monkeypatch, capsys):
    folder = house / "src" / "fromnoise" / "derivations"
    folder.mkdir()
    for name in ("__init__", "checking", "report", "flows"):
        (folder / f"{name}.py").write_text("")
    (folder / "paths.py").write_text("from fromnoise import b\n")
    ran, out = [], house / "_build"
    out.mkdir()

    def run(name, out):
        ran.append(name)
        bad = "wrong" in (folder / f"{name}.py").read_text()
        report = {"checks": {f"thm-{name}": {}}, "exceptions": {f"thm-no-{name}": "why"}}
        return (None if bad else report), "wrong\n" if bad else "1 of 1\n", 0.1

    def build() -> tuple[bool, list[str], set[str]]:
        ran.clear()
        good = build_book.run_checks(out, 1)
        content = json.loads((out / "checks.json").read_text())
        assert {label.replace("-no", "") for label in content["exceptions"]} == set(
            content["checks"]
        )
        return good, sorted(ran), set(content["checks"])

    monkeypatch.setattr(build_book, "check_chapter", run)
    both = {"thm-flows", "thm-paths"}
    assert build() == (True, ["flows", "paths"], both)
    assert build() == (True, [], both)
    (house / "src" / "fromnoise" / "a.py").write_text("x = 3\n")  # imported through another
    assert build() == (True, ["paths"], both)
    (folder / "checking.py").write_text("strict = True\n")
    assert build() == (True, ["flows", "paths"], both)
    (folder / "flows.py").write_text("wrong\n")
    for _ in range(2):  # what failed is not shown, and runs until it passes
        assert build() == (False, ["flows"], {"thm-paths"})
    assert "the checks of flows FAILED" in capsys.readouterr().out
    (folder / "flows.py").rename(folder / "currents.py")
    (folder / "currents.py").write_text("right\n")
    assert build() == (True, ["currents"], {"thm-currents", "thm-paths"})
    (folder / "paths.py").unlink()
    assert build() == (True, [], {"thm-currents"})


def test_lint_sees_what_a_chapter_must_not_do(tmp_path):
    path = tmp_path / "chapter.md"
    path.write_text(
        "(ch-x)=\n# X\n\n```{prf:theorem} T\nText, see Theorem 3.\n```\n\n"
        "```{exercise} E\n:label: exr-e\n\nNo grade.\n```\n\n$\\eqref{x}$\n"
    )
    found = "\n".join(check_chapter.lint(path))
    for phrase in ("without a :label:", "by hand", "no grade", "no solution", "\\eqref", "six"):
        assert phrase in found, phrase


def test_pages_are_written_again_when_anything_they_are_made_from_changes(house, monkeypatch):
    out, toc, ran, code = house / "_build", house / "_toc.yml", [], 0

    def run(out, toc, overrides, *, builder, quiet):
        ran.append(builder)
        (out / builder).mkdir(parents=True, exist_ok=True)
        return code

    monkeypatch.setattr(build_book, "run_sphinx", run)
    out.mkdir()

    def runs(builder: str = "html") -> int:
        before = len(ran)
        assert build_book.write_pages(out, toc, builder) == code
        return len(ran) - before

    write(house, "1")
    assert (runs(), runs(), runs("notebooks"), runs("notebooks"), runs()) == (1, 0, 1, 0, 0)
    write(house, "1", prose="New.\n\n")
    assert (runs(), runs()) == (1, 0)
    for path in (out / "executed.json", out / "checks.json", house / "_config.yml"):
        path.write_text("{}")
        assert (runs(), runs()) == (1, 0), path
    (house / "src" / "fromnoise" / "d.py").write_text("x = 2\n")  # pages show its source
    assert (runs(), runs()) == (1, 0)
    monkeypatch.setenv("GITHUB_REPOSITORY", "reader/fork")
    assert (runs(), runs()) == (1, 0)
    (out / "html").rmdir()
    assert (runs(), runs()) == (1, 0)
    code = 1
    (house / "_config.yml").write_text("{wrong}")
    assert (runs(), runs()) == (1, 1), "what failed is written again"
