"""The whole book as a graph of statements, with tags, checks and code; and the rules it obeys."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from . import cite, registry
from .domain import PROVED, Item, Proof

AT_LEAST = 0.9  # of the results that have proofs must be checked
LABEL = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Function:
    """A function or class of the package whose docstring names a statement."""

    name: str
    summary: str
    path: str
    first: int
    last: int


@dataclass
class Book:
    """All that can be cited.

    Attributes:
        items: by label, in the order of the book.
        proofs: by the label of what they prove.
        tags: by label.
        since: the first version with it, by label.
        citation: the book itself.
        checks: what came out of the machine checks, by label.
        exceptions: why a result is not checked, by label.
        code: functions whose docstrings name a label, by label.
        parts: caption of the part that a page belongs to, by page.
        problems: found while the pages were read.
        rows: the register.
        checked: whether checks were run at all.
    """

    items: dict[str, Item]
    proofs: dict[str, list[Proof]]
    citation: cite.Citation
    rows: list[registry.Row]
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    exceptions: dict[str, str] = field(default_factory=dict)
    code: dict[str, list[Function]] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    checked: bool = False

    @cached_property
    def tags(self) -> dict[str, str]:
        """Tags by label."""
        return {row.label: row.tag for row in self.rows}

    @cached_property
    def since(self) -> dict[str, str]:
        """First versions by label."""
        return {row.label: row.since for row in self.rows}

    @cached_property
    def uses(self) -> dict[str, list[str]]:
        """What a statement and its proofs use, by label; labels of the book only."""
        made = {}
        for label, item in self.items.items():
            found = dict.fromkeys(item.uses)
            for proof in self.proofs.get(label, []):
                found.update(dict.fromkeys(proof.uses))
            made[label] = [
                other
                for other in found
                if other in self.items and self.items[other].kind != "chapter" and other != label
            ]
        return made

    @cached_property
    def used_by(self) -> dict[str, list[str]]:
        """The other way round."""
        made: dict[str, list[str]] = {label: [] for label in self.items}
        for label, others in self.uses.items():
            for other in others:
                made[other].append(label)
        return made

    def holder(self, label: str) -> str:
        """The statement that holds an equation; any other label itself."""
        return self.items[label].inside or label

    @cached_property
    def graph(self) -> nx.DiGraph:
        """`A -> B`: A, or its proof, uses B. Equations count as the statement that holds them."""
        graph = nx.DiGraph()
        for label, item in self.items.items():
            if item.kind not in ("chapter", "withdrawn") and self.holder(label) in self.items:
                graph.add_node(self.holder(label))
        for label, others in self.uses.items():
            for other in others:
                pair = self.holder(label), self.holder(other)
                if pair[0] != pair[1] and self.items.keys() >= set(pair):
                    graph.add_edge(*pair)
        return graph

    def address(self, label: str) -> str:
        """The permanent address of a label's tag."""
        return f"{self.citation.address}tag/{self.tags[label]}.html"

    def cited(self, label: str) -> cite.Cited:
        """What the citation of a label says."""
        item = self.items[label]
        title = item.title or cite.beginning(item.text)
        return cite.Cited(self.tags[label], item.was or item.kind, title, self.address(label))

    def badge(self, label: str) -> tuple[str, str]:
        """How a result is checked: a class and the words; empty for what needs no check."""
        if label in self.checks:
            check = self.checks[label]
            if check["status"] == "symbolic":
                return "symbolic", "checked symbolically"
            if not check["tolerance"]:
                return "numeric", "checked numerically"
            tolerance = f"{check['tolerance']:.0e}".replace("e-0", "e-")
            return "numeric", f"checked numerically to {tolerance}"
        if self.checked and self.items[label].kind in PROVED:
            return "proof", "proof only"
        return "", ""

    def results(self) -> Iterator[Item]:
        """The statements that need a proof and a check."""
        return (item for item in self.items.values() if item.kind in PROVED)

    # Rules ---------------------------------------------------------------------------------

    def broken(self) -> list[str]:
        """Every rule that the book breaks, in words that say what to do."""
        if not self.rows and self.problems:
            return self.problems  # the register is unreadable: no need to name every label
        return [
            *self.problems,
            *self._misnamed(),
            *registry.problems(self.rows),
            *self._without_tag(),
            *self._lost(),
            *self._unproved(),
            *self._circles(),
            *self._gone(),
            *(self._unchecked() if self.checked else ()),
        ]

    def _misnamed(self) -> Iterator[str]:
        for label, item in self.items.items():
            if not LABEL.fullmatch(label):
                yield (
                    f"{where(item)}: the label {label!r} stays for good and is part of addresses. "
                    "Write it in small letters and digits, with hyphens between words."
                )

    def _without_tag(self) -> Iterator[str]:
        for label, item in self.items.items():
            if label not in self.tags:
                yield (
                    f"{where(item)}: {label} has no tag. Run `make tags` and commit book/tags.csv."
                )

    def _lost(self) -> Iterator[str]:
        for row in self.rows:
            if row.label not in self.items:
                yield (
                    f"tag {row.tag} belongs to {row.label}, which the book no longer has. A tag is "
                    "for good: give the statement its label back, or say what became of it with "
                    "the directive `withdrawn`."
                )
        for item in self.items.values():
            for label in item.replaced:
                if label not in self.items:
                    yield f"{where(item)}: replaced by {label}, which the book does not have."

    def _unproved(self) -> Iterator[str]:
        for item in self.results():
            if item.label not in self.proofs:
                yield (
                    f"{where(item)}: {item.label} has no proof. Put it behind the statement, or "
                    f'write ":of: {item.label}" at the head of the proof that stands elsewhere.'
                )
        for label, proofs in self.proofs.items():
            if label not in self.items:
                yield f"{proofs[0].docname}: a proof of {label}, which the book does not state."

    def _circles(self) -> Iterator[str]:
        advice = "If one of these is only mentioned, refer to it by the role `see`."
        for label, item in self.items.items():
            if any(label in part.uses for part in (item, *self.proofs.get(label, []))):
                yield f"proved from itself: {label} uses {label}. {advice}"
        # one circle for each knot, so that the message names a way round and not a heap
        for knot in nx.strongly_connected_components(self.graph):
            if len(knot) > 1:
                circle = nx.find_cycle(self.graph.subgraph(knot))
                steps = ", ".join(f"{a} uses {b}" for a, b in circle)
                yield f"proved from itself: {steps}. {advice}"

    def _gone(self) -> Iterator[str]:
        for label, others in self.uses.items():
            for other in others:
                if self.items[other].kind == "withdrawn":
                    yield (
                        f"{where(self.items[label])}: {label} uses {other}, which is withdrawn. "
                        "To mention it only, refer to it by the role `see`."
                    )

    def _unchecked(self) -> Iterator[str]:
        wanted = list(self.results())
        for item in wanted:
            if item.label not in self.checks and item.label not in self.exceptions:
                yield (
                    f"{where(item)}: {item.label} has no machine check. Write one in "
                    "src/fromnoise/derivations/, or give the reason there with `unchecked`."
                )
        for label in [*self.checks, *self.exceptions]:
            if label not in self.items:
                yield f"src/fromnoise/derivations checks {label}, which the book does not have."
            elif self.items[label].kind == "withdrawn":
                yield f"src/fromnoise/derivations checks {label}, which is withdrawn."
        for label, check in self.checks.items():
            if not check["passed"]:
                yield f"the check of {label} failed: {check['failure']}"
        reached = sum(item.label in self.checks for item in wanted)
        if wanted and reached < AT_LEAST * len(wanted):
            yield (
                f"{reached} of {len(wanted)} results are checked; at least {AT_LEAST:.0%} must be."
            )


def where(item: Item) -> str:
    """Where an item stands, for a message."""
    return f"{item.docname}, line {item.line}" if item.line else item.docname


# ---------------------------------------------------------------------------------------------
# Putting it together


def assemble(app: Sphinx, env: BuildEnvironment | None = None) -> Book:
    """The book as it was last read, with register, citation, checks and code."""
    env = env or app.env
    source, config = Path(app.srcdir), app.config
    order = pages_in_order(env)
    kept = env.get_domain("citable").pages
    items: dict[str, Item] = {}
    proofs: dict[str, list[Proof]] = {}
    problems: list[str] = []
    for docname in [*order, *(name for name in sorted(kept) if name not in order)]:
        page = kept.get(docname)
        if page is None:
            continue
        problems += page.problems
        for item in page.items:
            if item.label in items:
                other = items[item.label]
                problems.append(f"{item.label} is stated twice: {where(other)} and {where(item)}.")
            items.setdefault(item.label, item)
        for proof in page.proofs:
            proofs.setdefault(proof.of, []).append(proof)
    address = (config.html_baseurl or "").rstrip("/") + "/"
    rows: list[registry.Row] = []
    try:
        rows = registry.read(source / config.citable_registry)
    except ValueError as error:
        problems.append(f"{config.citable_registry}: {error}")
    record = {}
    if config.citable_checks:
        record = json.loads(Path(config.citable_checks).read_text(encoding="utf-8"))
    package = (source / config.citable_package).resolve() if config.citable_package else None
    return Book(
        items=items,
        proofs=proofs,
        citation=cite.read(source / config.citable_citation, address),
        rows=rows,
        checks=record.get("checks", {}),
        exceptions=record.get("exceptions", {}),
        code=functions(package, items, {row.label: row.tag for row in rows}) if package else {},
        parts=captions(env),
        problems=problems,
        checked=bool(config.citable_checks),
    )


def pages_in_order(env: BuildEnvironment) -> list[str]:
    """The pages in the order of the table of contents."""
    found: list[str] = []

    def walk(docname: str) -> None:
        if docname not in found:
            found.append(docname)
            for child in env.toctree_includes.get(docname, []):
                walk(child)

    walk(env.config.root_doc)
    return found


def captions(env: BuildEnvironment) -> dict[str, str]:
    """The part of each page: the caption of its list in the table of contents."""
    found = {}
    for toctree in env.get_doctree(env.config.root_doc).findall(addnodes.toctree):
        for docname in toctree["includefiles"]:
            found[docname] = toctree.get("caption") or ""
    return found


def functions(
    package: Path, labels: Iterable[str], tags: dict[str, str]
) -> dict[str, list[Function]]:
    """The package's functions by the labels (or tags) that their docstrings name."""
    known = {label: label for label in labels}
    known.update({tag: label for label, tag in tags.items()})
    found: dict[str, list[Function]] = {}
    for path in sorted(package.rglob("*.py")):
        if "derivations" in path.relative_to(package).parts:
            continue
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        module = ".".join(part for part in parts if part != "__init__")
        for name, node in documented(ast.parse(path.read_text(encoding="utf-8")), module):
            text = ast.get_docstring(node) or ""
            for word in dict.fromkeys(re.findall(r"`([\w-]+)`|\b[Tt]ag ([0-9A-Z]{4})\b", text)):
                label = known.get(word[0] or word[1])
                if label:
                    function = Function(
                        name,
                        text.splitlines()[0],
                        path.relative_to(package.parent.parent).as_posix(),
                        getattr(node, "lineno", 1),
                        getattr(node, "end_lineno", None) or 1,
                    )
                    found.setdefault(label, []).append(function)
    return found


def documented(tree: ast.AST, name: str) -> Iterator[tuple[str, Any]]:
    """Every public class and function, methods too, with its name in full."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield f"{name}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from documented(node, f"{name}.{node.name}")


class Sources:
    """Addresses of files in the repository, at the commit that last changed them.

    Args:
        root: the repository's folder.
        repository: its address on the web; "" if it has none.
    """

    def __init__(self, root: Path, repository: str) -> None:
        self.root, self.repository = root, repository.rstrip("/")
        self._commits: dict[str, str] = {}

    def commit(self, path: str) -> str:
        """The commit that made `path` as it is now; "" if it has changes that are in none."""
        if path not in self._commits:
            changed = self._git("status", "--porcelain", "--", path)
            last = self._git("log", "-1", "--format=%H", "--", path)
            self._commits[path] = "" if changed or not last else last
        return self._commits[path]

    def address(self, path: str, first: int, last: int) -> str:
        """Where to read these lines, exactly as they are now; "" if nowhere."""
        commit = self.commit(path) if self.repository else ""
        return f"{self.repository}/blob/{commit}/{path}#L{first}-L{last}" if commit else ""

    def _git(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=self.root, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return ""
        return done.stdout.strip()


def number_of(env: BuildEnvironment, item: Item) -> str:
    """The number that an item has in this version, "4.2"; "" if none."""
    if item.kind == "chapter":
        number = env.toc_secnumbers.get(item.docname, {}).get("")
        number = number or env.titles[item.docname].get("secnumber", ())
    else:
        kind = "displaymath" if item.kind == "equation" else item.kind
        number = env.toc_fignumbers.get(item.docname, {}).get(kind, {}).get(item.anchor, ())
    return ".".join(map(str, number or ()))


def title_nodes(title: str) -> list[nodes.Node]:
    """A title with formulas between dollars, as nodes."""
    made: list[nodes.Node] = []
    for i, part in enumerate(re.split(r"\$([^$]*)\$", title)):
        if part:
            made.append(nodes.math(part, part) if i % 2 else nodes.Text(part))
    return made
