"""What Sphinx keeps of a page: its statements, proofs, labelled equations, what they cite."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.builders import Builder
from sphinx.domains import Domain
from sphinx.environment import BuildEnvironment
from sphinx.roles import XRefRole
from sphinx.util.docutils import SphinxDirective
from sphinx_proof.directive import ProofDirective
from sphinx_proof.nodes import NODE_TYPES, proof_node, unenumerable_node

STATEMENTS = (*NODE_TYPES.values(), unenumerable_node)
PROVED = ("theorem", "lemma", "proposition", "corollary")


@dataclass
class Item:
    """What has a tag: a statement, a labelled equation, a chapter, a withdrawn result.

    Attributes:
        label: its name, which never changes.
        kind: "theorem", "equation", "chapter", "withdrawn" and so on.
        docname: the page it stands on.
        title: its words, with formulas between dollars.
        anchor: its id on the page.
        section: title and id of the section that holds it.
        uses: what the statement itself refers to: labels, of statements and of other things.
        inside: the statement (or the statement of the proof) that holds an equation.
        line: where in the source.
        text: the statement in words, for searching.
        replaced: the labels that took a withdrawn result's place.
        since: the version that withdrew it.
        was: what a withdrawn result was: "proposition", say.
    """

    label: str
    kind: str
    docname: str
    title: str = ""
    anchor: str = ""
    section: tuple[str, str] = ("", "")
    uses: list[str] = field(default_factory=list)
    inside: str = ""
    line: int = 0
    text: str = ""
    replaced: list[str] = field(default_factory=list)
    since: str = ""
    was: str = ""


@dataclass
class Proof:
    """A proof: which statement it proves, what it uses, and where it stands."""

    of: str
    docname: str
    anchor: str
    uses: list[str]


@dataclass
class PageData:
    """All of a page."""

    items: list[Item] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class See(XRefRole):
    """`see`: a reference to a statement or an equation that is not used, only mentioned.

    Inside a statement or a proof `prf:ref` and `eq` say "this is used here". What is only pointed
    to (a sharper result further on, a converse) is referred to by this role; it prints the same.
    """

    def result_nodes(
        self, document: nodes.document, env: Any, node: nodes.Element, is_ref: bool
    ) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Leave it to `CitableDomain.resolve_xref`, which knows all equations."""
        node["refdomain"], node["mention"] = "citable", True
        return [node], []


class ProofOf(ProofDirective):
    """`prf:proof`, which proves the statement before it, or the one that its option `of` names."""

    option_spec: ClassVar[dict[str, Any]] = {
        **ProofDirective.option_spec,
        "of": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """Make sphinx-proof's node and remember what it proves."""
        self.assert_has_content()
        made = super().run()
        made[0]["of"] = self.options.get("of", "").strip()
        made[0]["line"] = self.lineno
        return made


class withdrawn_node(nodes.admonition):
    """A result that was withdrawn; its label and tag stay its own."""


class Withdrawn(SphinxDirective):
    """`withdrawn`: what became of a result that the book no longer states.

    Argument: its title. Options: `label` and `kind` as they were, `since`, the version without it,
    `replaced-by`, labels of what took its place. Content: what it said, and why it went.
    """

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {
        "label": directives.unchanged_required,
        "kind": directives.unchanged_required,
        "since": directives.unchanged_required,
        "replaced-by": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        """Make a box with the title, what it was, and the content."""
        self.assert_has_content()
        missing = {"label", "kind", "since"} - self.options.keys()
        if missing:
            raise self.error(f"withdrawn needs the options {sorted(missing)}.")
        words, messages = self.state.inline_text(self.arguments[0], self.lineno)
        label, kind = self.options["label"], self.options["kind"]
        box = withdrawn_node(
            ids=[label],
            classes=["admonition", "withdrawn"],
            label=label,
            was=kind,
            since=self.options["since"],
            replaced=self.options.get("replaced-by", "").replace(",", " ").split(),
        )
        box.line = self.lineno
        # so that sphinx-proof's references still find it
        if not hasattr(self.env, "proof_list"):
            self.env.proof_list = {}
        self.env.proof_list[label] = {
            "docname": self.env.docname,
            "countertype": kind,
            "realtype": f"withdrawn {kind}",
            "ids": [label],
            "label": label,
            "prio": 0,
            "nonumber": True,
        }
        head = nodes.inline("", f"Withdrawn {kind}, since version {self.options['since']}")
        box += nodes.title("", "", head, nodes.Text(" ("), *words, nodes.Text(")"))
        body = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, body)
        box += body.children
        return [box, *messages]


class CitableDomain(Domain):
    """Keeps what was found on each page."""

    name = "citable"
    label = "What can be cited"
    initial_data: ClassVar[dict[str, Any]] = {"pages": {}}
    data_version = 1

    @property
    def pages(self) -> dict[str, PageData]:
        """What was found, by page."""
        return self.data["pages"]

    def clear_doc(self, docname: str) -> None:
        """Forget a page."""
        self.pages.pop(docname, None)

    def merge_domaindata(self, docnames: list[str], otherdata: dict[str, Any]) -> None:
        """Take over pages that another process read."""
        for docname in docnames:
            if docname in otherdata["pages"]:
                self.pages[docname] = otherdata["pages"][docname]

    def resolve_xref(
        self,
        env: BuildEnvironment,
        fromdocname: str,
        builder: Builder,
        typ: str,
        target: str,
        node: pending_xref,
        contnode: nodes.Element,
    ) -> nodes.Element | None:
        """What `see` refers to, as the maths domain or sphinx-proof's would show it."""
        equation = target in env.get_domain("math").equations
        node["refdomain"], typ = ("math", "eq") if equation else ("prf", "ref")
        domain = env.get_domain(node["refdomain"])
        return domain.resolve_xref(env, fromdocname, builder, typ, target, node, contnode)


# ---------------------------------------------------------------------------------------------
# Reading a page


def collect(app: Sphinx, doctree: nodes.document) -> None:
    """Note what a page states and proves; connected to `doctree-read`."""
    docname = app.env.docname
    page = app.env.get_domain("citable").pages[docname] = PageData()
    chapter = title_label(doctree)
    if chapter:
        heading = next(doctree.findall(nodes.title))
        page.items.append(
            Item(
                chapter,
                "chapter",
                docname,
                words(heading),
                doctree.next_node(nodes.section)["ids"][0],
            )
        )
    for node in doctree.findall():
        if isinstance(node, STATEMENTS):
            add_statement(page, docname, node)
        elif isinstance(node, proof_node):
            add_proof(page, docname, node)
        elif isinstance(node, withdrawn_node):
            add_withdrawn(page, docname, node)
        elif isinstance(node, nodes.math_block) and node.get("label"):
            add_equation(page, docname, node)

    if not chapter and page.items:
        page.problems.append(
            f"{docname} states results but has no label before its title, by which the chapter is "
            "cited. Write (ch-name)= in front of it; (app-name)= for an appendix."
        )


def title_label(doctree: nodes.document) -> str:
    """The label in front of a chapter's title, `ch-flows`, or "" if the page is no chapter."""
    section = doctree.next_node(nodes.section)
    names = section["names"] + section["ids"] if section is not None else []
    return next((name for name in names if re.match(r"(ch|app)-", name)), "")


def add_statement(page: PageData, docname: str, node: nodes.Element) -> None:
    kind, label = node["realtype"], node["label"]
    if re.fullmatch(rf"{kind}-\d+", label):
        page.problems.append(
            f"{docname}, {place(node)}: the {kind} {words(node[0]).strip()} has no label. "
            f'Give it one in words (":label: thm-transport") and run `make tags`.'
        )
        return
    if node["names"]:
        # by a second name a proof could use it, and the graph would not know
        page.problems.append(
            f"{docname}, {place(node)}: {label} has another name, {', '.join(node['names'])}. Take "
            "that away and refer to the label."
        )
    page.items.append(
        Item(
            label=label,
            kind=kind,
            docname=docname,
            title=bare(words(node[0])),
            anchor=label,
            section=section_of(node),
            uses=used(node),
            line=node.line or 0,
            text=" ".join(words(node).split()),
        )
    )


def add_proof(page: PageData, docname: str, node: nodes.Element) -> None:
    of = node.get("of") or statement_before(node)
    if not of:
        page.problems.append(
            f"{docname}, line {node.get('line', 0)}: a proof that belongs to no statement. Put it "
            'behind its statement, or name that (":of: thm-transport").'
        )
        return
    count = sum(proof.of == of for proof in page.proofs)
    anchor = f"proof-of-{of}" + (f"-{count + 1}" if count else "")
    node["of"] = of
    node[0]["ids"] = [anchor]
    page.proofs.append(Proof(of, docname, anchor, used(node)))


def add_withdrawn(page: PageData, docname: str, node: nodes.Element) -> None:
    title = words(node[0]).partition("(")[2].removesuffix(")")
    page.items.append(
        Item(
            label=node["label"],
            kind="withdrawn",
            docname=docname,
            title=title,
            anchor=node["label"],
            section=section_of(node),
            line=node.line or 0,
            text=" ".join(words(node).split()),
            replaced=node["replaced"],
            since=node["since"],
            was=node["was"],
        )
    )


def add_equation(page: PageData, docname: str, node: nodes.math_block) -> None:
    holder = next(around(node, (*STATEMENTS, proof_node)), None)
    inside = ""
    if holder is not None:
        inside = holder.get("of", "") if isinstance(holder, proof_node) else holder["label"]
        if isinstance(holder, proof_node) and not inside:
            inside = statement_before(holder)
    name = node["label"].removeprefix("eq-").replace("-", " ")
    page.items.append(
        Item(
            label=node["label"],
            kind="equation",
            docname=docname,
            title=f"Equation “{name}”",
            anchor=node["ids"][0],
            section=section_of(node),
            inside=inside,
            line=node.line or 0,
            text=node.astext(),
        )
    )


def statement_before(proof: nodes.Element) -> str:
    """The label of the statement that stands before a proof, with only text or cells between."""
    siblings = proof.parent.children
    for node in reversed(siblings[: siblings.index(proof)]):
        if isinstance(node, STATEMENTS):
            return node["label"]
        if isinstance(node, proof_node | nodes.section | nodes.title):
            return ""
    return ""


def used(node: nodes.Element) -> list[str]:
    """What `node` refers to as used, by whatever role or link; each once, in order."""
    found = {}
    for reference in node.findall(pending_xref):
        if not reference.get("mention"):
            found[reference["reftarget"].removeprefix("#")] = True
    return list(found)


def around(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> Iterator[nodes.Element]:
    """Those of the nodes around `node` that are of one of the `kinds`, inside out."""
    while node := node.parent:
        if isinstance(node, kinds):
            yield node


def section_of(node: nodes.Node) -> tuple[str, str]:
    """Title and id of the section that holds a node."""
    for section in around(node, (nodes.section,)):
        # sphinx-proof wraps the inside of a statement in a section, too
        if isinstance(section[0], nodes.title) and section["ids"]:
            return words(section[0]), section["ids"][0]
    return "", ""


def words(node: nodes.Node) -> str:
    """Text of a node, with formulas between dollars."""
    if isinstance(node, nodes.math | nodes.math_block):
        return f"${node.astext()}$"
    if isinstance(node, nodes.Text):
        return node.astext()
    return "".join(words(child) + gap(child) for child in node.children)


def gap(node: nodes.Node) -> str:
    return " " if isinstance(node, nodes.Body) and not isinstance(node, nodes.Inline) else ""


def bare(title: str) -> str:
    """A title without the brackets that sphinx-proof puts around it."""
    title = title.strip()
    return title[1:-1] if title.startswith("(") and title.endswith(")") else title


def place(node: nodes.Node) -> str:
    """Where a node stands, in words."""
    return f"line {node.line}" if node.line else f"in section “{section_of(node)[0]}”"
