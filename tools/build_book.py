"""Build the book: execute the chapters whose code or package changed, then run Sphinx.

    python tools/build_book.py [--out _build] [--jobs 2]

Chapters are executed where only the package's wheel is, with what it declares, and nothing of the
checkout; trained weights come, verified, from a local server.  So what a page shows is what its
notebook gives to a reader who has installed the package.

Execution is separate from Sphinx, for three reasons: chapters run in parallel; a chapter that
raises is named with its cell and traceback before anything is written; and what is executed is
decided by more than the chapter's own cells.  A chapter runs again when its cells change, when a
module of `fromnoise` that it imports (directly or through others) changes, when a landed
checkpoint changes and it loads one, or when the numerical libraries change version.  Prose never
counts.  Outputs go to a jupyter-cache from which myst-nb reads them.

The machine checks of the book's results are run in the same way, a module of
`fromnoise.derivations` at a time, and again when it or anything that it imports changes; the pages
show what came out, in `_build/checks.json`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import functools
import hashlib
import http.server
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import clean_environment
import nbformat
import yaml
from build_wheel import build_wheel, digest
from myst_nb.core.read import read_myst_markdown_notebook

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
PACKAGE = ROOT / "src" / "fromnoise"
CHECKPOINTS = BOOK / "_static" / "checkpoints"
CHECKING = ("sympy", "mpmath", "torch", "numpy", "scipy", "POT")
NUMERICAL = ("torch", "numpy", "scipy", "matplotlib", "POT", "mlxtend")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# A kernel is told its ports before it opens them; now and then another program takes one between.
NOT_STARTED = "Kernel died before replying to kernel_info"
KERNEL_STARTS = 3


def say(message: str) -> None:
    """Print a progress line at once."""
    print(message, flush=True)


# ---------------------------------------------------------------------------------------------
# What there is to build


@dataclass(frozen=True)
class Chapter:
    """A page with cells: its name in the table of contents, its notebook and its key."""

    docname: str
    path: Path
    notebook: nbformat.NotebookNode
    key: str


def pages(toc: Path) -> list[str]:
    """The names of all pages in the table of contents, the landing page first."""
    content = yaml.safe_load(toc.read_text(encoding="utf-8"))
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, Mapping):
            for key in ("root", "file"):
                if key in node:
                    found.append(str(node[key]).removesuffix(".md"))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(content)
    return found


def chapters(toc: Path) -> list[Chapter]:
    """The pages that have cells to execute."""
    result = []
    for docname in pages(toc):
        path = BOOK / f"{docname}.md"
        if not path.exists():
            raise SystemExit(f"{toc.name} names {docname}, but there is no {path}.")
        text = path.read_text(encoding="utf-8")
        if "{code-cell}" not in text:
            continue
        notebook = read_myst_markdown_notebook(text, add_source_map=True, path=path)
        result.append(Chapter(docname, path, notebook, key(notebook)))
    return result


# ---------------------------------------------------------------------------------------------
# When a chapter is stale


def key(notebook: nbformat.NotebookNode) -> str:
    """Everything that the outputs of `notebook` depend on, as a hash."""
    digest = hashlib.sha256()
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    for part in (platform.python_version_tuple()[:2], [(n, version(n)) for n in NUMERICAL], cells):
        digest.update(repr(part).encode())
    used = closure(imported_modules("\n".join(cells)))
    for path in sorted(used):
        digest.update(path.relative_to(PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    if any(path.name == "checkpoints.py" for path in used) and CHECKPOINTS.exists():
        for path in sorted(p for p in CHECKPOINTS.rglob("*") if p.is_file()):
            digest.update(path.relative_to(CHECKPOINTS).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def imported_modules(source: str, package: str = "fromnoise") -> set[Path]:
    """The files of `fromnoise` that `source`, being in `package`, imports itself.

    Lines of IPython magic are left out.  A name that may be a module or a member counts as both.
    """
    names = imported_names(source, package)
    if names is None:
        return set(PACKAGE.rglob("*.py"))  # the cell will say what is wrong; depend on everything
    found: set[Path] = set()
    for name in names:
        parts = name.split(".")
        if parts[0] != "fromnoise":
            continue
        for length in range(1, len(parts) + 1):
            stem = PACKAGE.joinpath(*parts[1:length])
            for path in (stem.with_suffix(".py"), stem / "__init__.py"):
                if path.is_file() and PACKAGE in path.parents:
                    found.add(path)
    return found


@functools.cache  # all chapters import much the same modules, which import each other
def imported_names(source: str, package: str) -> frozenset[str] | None:
    """The dotted names that `source` imports; None if it can't be parsed."""
    lines = [re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in source.splitlines()]
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return frozenset(names)


def closure(files: Iterable[Path]) -> set[Path]:
    """`files` and all files of the package that they import, directly or through others."""
    todo, done = set(files), set()
    while todo:
        path = todo.pop()
        done.add(path)
        parts = ["fromnoise", *path.relative_to(PACKAGE).with_suffix("").parts]
        package = ".".join(parts[:-1])
        todo |= imported_modules(path.read_text(encoding="utf-8"), package) - done
    return done


# ---------------------------------------------------------------------------------------------
# Executing


@dataclass(frozen=True)
class Workplace:
    """Where chapters are executed.

    Attributes:
        name: as the record of what was executed has it.
        python: the interpreter; nbclient and ipykernel are there.
        variables: the environment's variables, given the folder that a chapter has for itself.
    """

    name: str
    python: Path
    variables: Callable[[Path], Mapping[str, str]]


def checkout() -> Workplace:
    """The Python that runs, with the package as it imports it: for writing a chapter."""
    own = {name: value for name, value in os.environ.items() if name != "FROMNOISE_DATA"}
    return Workplace("checkout", Path(sys.executable), lambda _: own)


@contextlib.contextmanager
def only_the_wheel(out: Path) -> Iterator[Workplace]:
    """An environment with the wheel and what it declares; weights are served from `BOOK`."""
    wheel = build_wheel(wheels(out))
    folder = out / "environments" / "book"
    with clean_environment.locked(folder.parent / "book.lock"):
        python = clean_environment.make(folder, wheel)
        marker, stamp = folder / "wheel", digest(wheel)
        if not marker.exists() or marker.read_text() != stamp:
            clean_environment.without_package(python)
            install = ["-m", "pip", "install", "--no-index", "--quiet", str(wheel)]
            done = clean_environment.run(python, *install)
            if done.returncode:
                raise SystemExit(f"The wheel can't be installed:\n{done.stdout}{done.stderr}")
            marker.write_text(stamp)
    with served(BOOK) as address:

        def variables(own: Path) -> Mapping[str, str]:
            shown = clean_environment.variables(own, address)
            # fonts are found once; the bar of a download has no place on a page
            return {**shown, "MPLCONFIGDIR": str(folder / "matplotlib"), "TQDM_DISABLE": "1"}

        yield Workplace("wheel", python, variables)


def wheels(out: Path) -> Path:
    """Where the site has the wheel that the notebooks install."""
    return out / "html" / "_static" / "wheels"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """`folder` over HTTP while the context lasts; its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    class Patient(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # one who left without waiting
                super().handle_error(request, client_address)

    handler = functools.partial(Quiet, directory=str(folder))
    server = Patient(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refresh(out: Path, toc: Path, jobs: int) -> tuple[int, str]:
    """Execute the stale chapters where only the wheel is: `(how many, what went wrong)`."""
    cache_path = out / ".jupyter_cache"
    record = Record(out / "executed.json", place="wheel")
    out.mkdir(parents=True, exist_ok=True)
    stale = [c for c in chapters(toc) if not record.fresh(c, cache_path)]
    if not stale:
        say("Every chapter's outputs are up to date: no cell is executed.")
    else:
        with only_the_wheel(out) as place:
            if not execute_all(stale, cache_path, record, jobs, place):
                return len(stale), "a chapter failed (see above)."
    return len(stale), ""


def execute_all(
    todo: list[Chapter], cache_path: Path, record: Record, jobs: int, place: Workplace
) -> bool:
    """Execute `todo` in `place`, the slowest first, `jobs` at a time; True if none failed."""
    todo = sorted(todo, key=lambda c: -record.seconds(c.docname))
    say(f"Executing {len(todo)} chapter(s), {min(jobs, len(todo))} at a time:")
    good = True
    with ThreadPoolExecutor(jobs) as pool:
        runs = {pool.submit(execute, chapter, place): chapter for chapter in todo}
        for run in as_completed(runs):
            chapter = runs[run]
            notebook, seconds, failure = run.result()
            if failure:
                good = False
                say(f"\n  {chapter.docname} FAILED after {seconds:.1f} s\n{failure}\n")
                continue
            store(notebook, chapter, cache_path, seconds)
            record.put(chapter, seconds)
            cells = sum(cell.cell_type == "code" for cell in notebook.cells)
            say(f"  {chapter.docname}: {cells} cells in {seconds:.1f} s")
    return good


# The numbers on a page are the same on any machine.
SAME = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "MPLBACKEND": "agg"}
RUN_NOTEBOOK = Path(__file__).with_name("run_notebook.py")


def execute(chapter: Chapter, place: Workplace) -> tuple[nbformat.NotebookNode | None, float, str]:
    """Run one chapter in a process of its own: `(executed notebook, seconds, failure)`."""
    say(f"  {chapter.docname} …")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.ipynb"), Path(folder, "out.ipynb")
        work, home = Path(folder, "work"), Path(folder, "home")
        work.mkdir()
        home.mkdir()
        environment = {**place.variables(home), **SAME}
        nbformat.write(chapter.notebook, source)
        command = [str(place.python), "-I", str(RUN_NOTEBOOK), str(source), str(target), str(work)]
        for _ in range(KERNEL_STARTS):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode == 0 or NOT_STARTED not in done.stderr:
                break
        seconds = time.perf_counter() - start
        if done.returncode == 0:
            return nbformat.read(target, as_version=4), seconds, ""
    report = done.stdout.strip()
    try:
        failed = json.loads(report.splitlines()[-1])
    except (IndexError, ValueError):
        return None, seconds, f"  the kernel could not run:\n{done.stderr.strip()}"
    cells = chapter.notebook.cells
    index = failed["cell"]
    number = sum(cell.cell_type == "code" for cell in cells[: index + 1])
    line = chapter.notebook.metadata["source_map"][index] + 1
    where = f"  {chapter.path.relative_to(ROOT)}, code cell {number}, line {line}:"
    code = "\n".join("    | " + text for text in cells[index].source.splitlines())
    trace = failed["traceback"] if sys.stdout.isatty() else ANSI.sub("", failed["traceback"])
    return None, seconds, f"{where}\n{code}\n\n{trace.rstrip()}"


def store(
    notebook: nbformat.NotebookNode, chapter: Chapter, cache_path: Path, seconds: float
) -> None:
    """Put an executed notebook where myst-nb looks for it.

    The cache finds it by cells and kernel as they stand in the chapter, so the outputs go into
    the chapter's own notebook: running one adds metadata.
    """
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    own = copy.deepcopy(chapter.notebook)
    for cell, executed in zip(own.cells, notebook.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = executed.outputs
            cell.execution_count = executed.execution_count
    bundle = CacheBundleIn(own, str(chapter.path), data={"execution_seconds": seconds})
    get_cache(cache_path).cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


class Record:
    """Where and with which key each chapter's outputs were made, in a file beside the cache.

    `place` is the name of the workplace in which chapters are executed now; outputs made in
    another one are not fresh.
    """

    def __init__(self, path: Path, place: str) -> None:
        self.path, self.place = path, place
        self.content: dict[str, Any] = {}
        if path.exists():
            self.content = json.loads(path.read_text(encoding="utf-8"))

    def seconds(self, docname: str) -> float:
        """How long the chapter took last time; a new one is taken for slow."""
        return float(self.content.get(docname, {}).get("seconds", 1e9))

    def fresh(self, chapter: Chapter, cache_path: Path) -> bool:
        """Whether the chapter's outputs are in the cache and made with what is there now."""
        from jupyter_cache import get_cache

        entry = self.content.get(chapter.docname, {})
        if (entry.get("key"), entry.get("place")) != (chapter.key, self.place):
            return False
        try:
            get_cache(cache_path).match_cache_notebook(chapter.notebook)
        except KeyError:
            return False
        return True

    def put(self, chapter: Chapter, seconds: float) -> None:
        """Note that the chapter has just been executed."""
        self.content[chapter.docname] = {
            "key": chapter.key,
            "place": self.place,
            "seconds": round(seconds, 1),
            "executed": time.time(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.content, indent=1), encoding="utf-8")


# ---------------------------------------------------------------------------------------------
# Machine checks


def run_checks(out: Path, jobs: int) -> bool:
    """Run the checks whose code changed, and put all results into one file; True if none failed."""
    target = out / "checks.json"
    record, keys = checked(out), check_keys()
    fresh = {name: entry for name, entry in record.items() if entry["key"] == keys.get(name)}
    stale = sorted(keys.keys() - fresh.keys())
    failures = 0
    if stale:
        say(f"Checking the results of {len(stale)} chapter(s), {min(jobs, len(stale))} at a time:")
    with ThreadPoolExecutor(jobs) as pool:
        runs = {pool.submit(check_chapter, name, out): name for name in stale}
        for run in as_completed(runs):
            name = runs[run]
            report, said, seconds = run.result()
            if report is None:
                failures += 1
                say(f"\n  the checks of {name} FAILED after {seconds:.1f} s\n{said}\n")
                continue
            fresh[name] = {"key": keys[name], **report}
            say(f"  {name}: {said.strip().splitlines()[-1]} {seconds:.1f} s")
    if stale or fresh.keys() != record.keys():
        merged = {
            part: {k: v for name in sorted(fresh) for k, v in fresh[name][part].items()}
            for part in ("checks", "exceptions")
        }
        part = target.with_suffix(".part")  # an interrupted build leaves no half a record
        part.write_text(json.dumps({**merged, "modules": fresh}, ensure_ascii=False), "utf-8")
        part.replace(target)
    return not failures


FRAMEWORK = ("checking", "report")


def checked(out: Path) -> dict[str, Any]:
    """What came out of each module's checks when they ran last, with the key of then."""
    target = out / "checks.json"
    return json.loads(target.read_text(encoding="utf-8"))["modules"] if target.exists() else {}


def check_keys() -> dict[str, str]:
    """The key of each module of checks, as its code is now."""
    modules = (PACKAGE / "derivations").glob("*.py")
    own = (path for path in modules if path.stem not in ("__init__", *FRAMEWORK))
    return {path.stem: check_key(path) for path in own}


def check_key(path: Path) -> str:
    """All that the outcome of a module's checks depends on, as a hash."""
    framework = [PACKAGE / "derivations" / f"{name}.py" for name in FRAMEWORK]
    versions = [(name, version(name)) for name in CHECKING]
    digest = hashlib.sha256(repr((platform.python_version_tuple()[:2], versions)).encode())
    for file in sorted(closure([path, *framework])):
        digest.update(file.relative_to(PACKAGE).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def check_chapter(name: str, out: Path) -> tuple[dict[str, Any] | None, str, float]:
    """Run the checks of a module in a process of its own: `(record, what it said, seconds)`."""
    target = out / f"checks-{name}.json"
    command = [sys.executable, "-m", "fromnoise", "check"]
    command += ["--chapter", name, "--json", str(target)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        return None, done.stdout + done.stderr, seconds
    report = json.loads(target.read_text(encoding="utf-8"))
    target.unlink()
    return report, done.stdout, seconds


# ---------------------------------------------------------------------------------------------
# Sphinx


def run_sphinx(
    out: Path,
    toc: Path,
    overrides: dict[str, Any] | None = None,
    *,
    book: Path = BOOK,
    strict: bool = True,
    quiet: bool = False,
    builder: str = "html",
) -> int:
    """Turn chapters and cached outputs into pages; returns 0 if all went well."""
    from jupyter_book.sphinx import build_sphinx

    doctrees = out / ".doctrees"
    config = {
        "external_toc_path": str(toc),
        "latex_individualpages": False,
        "nb_execution_cache_path": str(out / ".jupyter_cache"),
        **(overrides or {}),
    }
    code = build_sphinx(
        book,
        out / builder,
        confdir=None,
        noconfig=True,
        path_config=ROOT / "_config.yml",
        confoverrides=config,
        doctreedir=doctrees,
        warningiserror=strict,
        keep_going=True,
        quiet=quiet,
        builder=builder,
    )
    if code != 0:
        # Otherwise the next run would reuse the pages that warned, and pass.
        (doctrees / "environment.pickle").unlink(missing_ok=True)
        return 1
    return 0


SOURCES = ("book", "src", "tools")  # folders; what lies at the top counts too


def pages_key(out: Path, toc: Path) -> str:
    """Everything that the pages are made from, as a hash."""
    installed = sorted(f"{d.name}=={d.version}" for d in distributions())
    digest = hashlib.sha256(repr((installed, os.environ.get("GITHUB_REPOSITORY"))).encode())
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in SOURCES:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in [*sorted(files), toc, out / "executed.json", out / "checks.json"]:
        if "__pycache__" in path.parts or not path.exists():
            continue
        digest.update(str(path).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def write_pages(out: Path, toc: Path, builder: str = "html", *, quiet: bool = False) -> int:
    """Run Sphinx with `builder`, unless it has run on just this; returns 0 if all went well.

    Sphinx alone would write the pages of the tags anew every time, which takes a minute.
    """
    stamp, key = out / f"{builder}.key", pages_key(out, toc)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == key and (out / builder).is_dir():
        say("They are up to date.")
        return 0
    stamp.unlink(missing_ok=True)
    checks = {"citable_checks": str(out / "checks.json")}
    code = run_sphinx(out, toc, checks, builder=builder, quiet=quiet)
    if code == 0:
        stamp.write_text(key, encoding="utf-8")
    return code


def build(out: Path, toc: Path, jobs: int) -> int:
    """Execute what is stale, build the pages and say how long each took."""
    start = time.perf_counter()
    count, problem = refresh(out, toc, jobs)
    if problem:
        say(f"The book was not built: {problem}")
        return 1
    executed = time.perf_counter()
    if not run_checks(out, jobs):
        say("The book was not built: a machine check failed (see above).")
        return 1
    checked = time.perf_counter()
    say("Building the pages …")
    if code := write_pages(out, toc):
        say("The book was not built: Sphinx warned (see above), and warnings are errors.")
        return code
    build_wheel(wheels(out))  # what the notebooks install
    built = time.perf_counter()
    say(
        f"\nThe book is in {out / 'html'} (open index.html through `make serve`).\n"
        f"Time: {executed - start:.0f} s executing {count} chapter(s), "
        f"{checked - executed:.0f} s checking results, {built - checked:.0f} s building pages, "
        f"{built - start:.0f} s in all."
    )
    return 0


def arguments(description: str) -> argparse.ArgumentParser:
    """What every builder may be told: where to, of which chapters, on how many cores."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "_build")
    parser.add_argument("--toc", type=Path, default=ROOT / "_toc.yml")
    parser.add_argument("--jobs", type=int, default=max(1, os.cpu_count() or 1))
    return parser


def main() -> int:
    """Read the command line."""
    options = arguments(__doc__).parse_args()
    return build(options.out.resolve(), options.toc.resolve(), options.jobs)


if __name__ == "__main__":
    sys.exit(main())
