"""From a resolved doctree to the cells of a notebook.

Numbers, references and citations are known only after Sphinx has resolved a page, so a notebook is
written from the doctree, not from the Markdown of the chapter.  Each kind of node has one method:
`block_<class>` returns blocks, `inline_<class>` returns text within a line.  A node without one is
reported, and its content still shown.

Markdown readers differ, so only what all of them understand is written: a statement is a block
quote that begins with its bold name, a hidden solution is `<details>` with blank lines around its
content, a display is one line, an anchor is an empty `<a>`.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from docutils import nodes
from sphinx.util import logging

from . import tex

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Code:
    """The place of the chapter's cell number `index`."""

    index: int


@dataclass(frozen=True)
class Markdown:
    """A block of Markdown; `kind` is "heading", "paragraph", "display", "quote", "list",
    "table" or "other"."""

    text: str
    kind: str = "other"


Block = Code | Markdown


@dataclass(frozen=True)
class Page:
    """What the writer must know about the page besides its doctree.

    `address`: of the page on the site.  `figure_number(kind, id)` and `section_number(id)`: as on
    the page, "" without.  `picture(uri)`, `download(filename)`: absolute addresses.
    `citations`: address of a bibliography entry -> its anchor in this notebook.
    """

    address: str
    figure_number: Callable[[str, str], str]
    section_number: Callable[[str], str]
    equation_number: Callable[[nodes.math_block], str]
    picture: Callable[[str], str]
    download: Callable[[str], str]
    number_formats: dict[str, str] = field(default_factory=dict)
    macros: tex.Macros = field(default_factory=dict)
    citations: dict[str, str] = field(default_factory=dict)


class Writer:
    """Writes one page; `blocks(doctree)` is the way in."""

    def __init__(self, page: Page, doctree: nodes.document) -> None:
        self.page = page
        self.level = 0
        self.in_table = False
        self.present = {
            name for node in doctree.findall(nodes.Element) for name in node.get("ids", [])
        }
        self.present |= set(page.citations.values())
        self.wanted = {
            anchor[1:]
            for node in doctree.findall(nodes.Element)
            if (anchor := self._link(node)).startswith("#") and not _in_summary(node)
        }
        self.emitted: set[str] = set()

    # -----------------------------------------------------------------------------------------
    # Blocks

    def blocks(self, node: nodes.Node) -> list[Block]:
        """The blocks of `node`'s children, text that stands among them included."""
        found: list[Block] = []
        line: list[nodes.Node] = []

        def end_line() -> None:
            if line:
                text = self._join(line)
                line.clear()
                if text:
                    found.append(Markdown(_guard(text), "paragraph"))

        for child in node.children:
            if isinstance(child, nodes.Text | nodes.Inline) and not isinstance(child, nodes.target):
                line.append(child)
                continue
            if isinstance(child, nodes.image | nodes.reference):
                line.append(child)
                continue
            end_line()
            self._place(found, child)
        end_line()
        return found

    def _place(self, found: list[Block], node: nodes.Node) -> None:
        """Append the blocks of `node` to `found`, its anchors before or within."""
        if isinstance(node, nodes.Invisible | nodes.comment):
            return
        if not isinstance(node, nodes.Element):
            return
        anchors = "" if isinstance(node, nodes.section) else self.anchors(node)
        made = self._dispatch("block", node)(node)
        if not anchors:
            found.extend(made)
            return
        first = made[0] if made else None
        if isinstance(first, Markdown) and first.kind == "quote":
            made[0] = Markdown(first.text.replace("> ", f"> {anchors}", 1), "quote")
        elif isinstance(first, Markdown) and first.kind == "paragraph":
            made[0] = Markdown(anchors + first.text, "paragraph")
        elif found and isinstance(found[-1], Markdown) and found[-1].kind == "paragraph":
            # an anchor in a paragraph of its own would leave a gap above the display or table
            found[-1] = Markdown(f"{found[-1].text} {anchors}", "paragraph")
        else:
            found.append(Markdown(anchors, "paragraph"))
        found.extend(made)

    def anchors(self, node: nodes.Element) -> str:
        """Anchors for the ids of `node` that something in this notebook links to."""
        found = []
        for name in node.get("ids", []):
            if name in self.wanted and name not in self.emitted:
                self.emitted.add(name)
                found.append(anchor(name))
        return "".join(found)

    def _dispatch(self, prefix: str, node: nodes.Element) -> Callable[..., list[Block] | str]:
        for cls in type(node).__mro__:
            if method := getattr(self, f"{prefix}_{cls.__name__}", None):
                return method
            if cls in (nodes.Element, nodes.Admonition):
                break
        logger.warning(
            "notebooks: no way to write <%s>", type(node).__name__, location=node, type="notebooks"
        )
        return self.blocks if prefix == "block" else self.inline

    def block_document(self, node: nodes.Element) -> list[Block]:
        return self.blocks(node)

    def block_section(self, node: nodes.section) -> list[Block]:
        title = node.next_node(nodes.title, descend=True)
        if title is None or title.parent is not node:
            return self.blocks(node)
        self.level += 1
        number = self.page.section_number(node["ids"][0] if node["ids"] else "")
        heading = "#" * min(self.level, 6) + f" {number}{self.inline(title)}"
        if anchors := self.anchors(node) + self.anchors(title):
            heading = f"{anchors}\n\n{heading}"
        made: list[Block] = [Markdown(heading, "heading"), *self._without(node, title)]
        self.level -= 1
        return made

    def block_paragraph(self, node: nodes.Element) -> list[Block]:
        text = self.inline(node)
        return [Markdown(_guard(text), "paragraph")] if text else []

    block_compact_paragraph = block_paragraph
    block_attribution = block_paragraph

    def block_inline(self, node: nodes.Element) -> list[Block]:
        return self.block_paragraph(node)

    def block_rubric(self, node: nodes.Element) -> list[Block]:
        return [Markdown(f"**{self.inline(node)}**", "paragraph")]

    def block_transition(self, node: nodes.Element) -> list[Block]:
        return [Markdown("***")]

    def block_math_block(self, node: nodes.math_block) -> list[Block]:
        number = self.page.equation_number(node) if node.get("number") else ""
        text = tex.display(node.astext(), self.page.macros, number=number, table=self.in_table)
        return [Markdown(text, "display")]

    def block_literal_block(self, node: nodes.literal_block) -> list[Block]:
        language = node.get("language", "")
        language = {"ipython3": "python", "ipython": "python", "default": "", "none": ""}.get(
            language, language
        )
        text = node.astext().strip("\n")
        fence = _fence(text, 3)
        return [Markdown(f"{fence}{language}\n{text}\n{fence}")]

    block_doctest_block = block_literal_block

    def block_block_quote(self, node: nodes.Element) -> list[Block]:
        return quote(self.blocks(node))

    def block_line_block(self, node: nodes.Element) -> list[Block]:
        lines = [self.inline(line) for line in node.findall(nodes.line)]
        return [Markdown("<br>\n".join(_guard(line) for line in lines), "paragraph")]

    def block_bullet_list(self, node: nodes.Element) -> list[Block]:
        return self._list(node, lambda _: "-   ")

    def block_enumerated_list(self, node: nodes.Element) -> list[Block]:
        start = int(node.get("start", 1))
        return self._list(node, lambda i: f"{start + i}.".ljust(4))

    def _list(self, node: nodes.Element, marker: Callable[[int], str]) -> list[Block]:
        items = [self._item(item) for item in node.children if isinstance(item, nodes.list_item)]
        tight = all(
            sum(isinstance(b, Markdown) and b.kind == "paragraph" for b in item) <= 1
            and all(isinstance(b, Markdown) and b.kind in ("paragraph", "list") for b in item)
            for item in items
        )
        made: list[Block] = []
        for i, item in enumerate(items):
            mark = marker(i)
            for j, group in enumerate(_groups(item)):
                if isinstance(group, Code):
                    made.append(group)
                    continue
                text = ("\n" if tight else "\n\n").join(block.text for block in group)
                indented = _indent(text, " " * len(mark))
                made.append(Markdown(mark + indented[len(mark) :] if j == 0 else text, "list"))
        return _merge(made, "\n" if tight else "\n\n")

    def _item(self, item: nodes.Element) -> list[Block]:
        anchors = self.anchors(item)
        made = self.blocks(item)
        if made and isinstance(made[0], Markdown) and made[0].kind in ("paragraph", "display"):
            return [Markdown(anchors + made[0].text, "paragraph"), *made[1:]]
        return [Markdown(anchors, "paragraph"), *made]

    def block_definition_list(self, node: nodes.Element) -> list[Block]:
        made: list[Block] = []
        for item in node.children:
            terms = [self.inline(child) for child in item.children if isinstance(child, nodes.term)]
            made.append(Markdown(f"**{' · '.join(terms)}**", "paragraph"))
            for child in item.children:
                if isinstance(child, nodes.definition):
                    made.extend(quote(self.blocks(child)))
        return made

    def block_field_list(self, node: nodes.Element) -> list[Block]:
        items = []
        for item in node.children:
            name, body = item.children[0], item.children[1]
            items.append(f"-   **{self.inline(name)}:** {self._flat(body)}")
        return [Markdown("\n".join(items), "list")]

    block_docinfo = block_field_list

    def block_table(self, node: nodes.Element) -> list[Block]:
        made: list[Block] = []
        for child in node.children:
            if isinstance(child, nodes.title):
                made.append(Markdown(self._caption(node, child, "table"), "paragraph"))
            elif isinstance(child, nodes.tgroup):
                made.append(Markdown(self._table(child), "table"))
        return made

    def _table(self, group: nodes.tgroup) -> str:
        self.in_table = True
        columns = sum(isinstance(child, nodes.colspec) for child in group.children)
        head = [row for part in group.findall(nodes.thead) for row in part.findall(nodes.row)]
        body = [row for part in group.findall(nodes.tbody) for row in part.findall(nodes.row)]
        rows = [self._row(row, columns) for row in [*head, *body]]
        if not head:
            rows.insert(0, [""] * columns)
        alignment = self._alignment((head or body)[0], columns)
        self.in_table = False
        lines = [rows[0], alignment, *rows[1:]]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def _row(self, row: nodes.Element, columns: int) -> list[str]:
        cells: list[str] = []
        for entry in row.children:
            cells.append(self.anchors(entry) + self._flat(entry))
            cells.extend([""] * int(entry.get("morecols", 0)))
        return (cells + [""] * columns)[:columns]

    @staticmethod
    def _alignment(row: nodes.Element, columns: int) -> list[str]:
        marks = {"text-left": ":---", "text-center": ":---:", "text-right": "---:"}
        found = []
        for entry in row.children:
            mark = next((marks[name] for name in entry.get("classes", []) if name in marks), "---")
            found.extend([mark] * (1 + int(entry.get("morecols", 0))))
        return (found + ["---"] * columns)[:columns]

    def _flat(self, node: nodes.Node) -> str:
        """The blocks within `node` on one line: a table's cell, a field."""
        lines = []
        for child in node.children:
            if isinstance(child, nodes.bullet_list | nodes.enumerated_list):
                lines.extend(f"• {self._flat(item)}" for item in child.children)
            elif isinstance(child, nodes.Text | nodes.Inline | nodes.paragraph):
                lines.append(self._join([child]) if not child.children else self.inline(child))
            else:
                for block in self._dispatch("block", child)(child):
                    if isinstance(block, Code) or "\n" in block.text:
                        logger.warning(
                            "notebooks: a table's cell holds more than a line", location=node
                        )
                    if isinstance(block, Markdown):
                        lines.append(" ".join(block.text.split("\n")))
        return "<br>".join(line for line in lines if line)

    # Pictures, figures ------------------------------------------------------------------------

    def block_figure(self, node: nodes.Element) -> list[Block]:
        made: list[Block] = []
        for child in node.children:
            if isinstance(child, nodes.caption):
                made.append(Markdown(self._caption(node, child, "figure"), "paragraph"))
            elif isinstance(child, nodes.legend):
                made.extend(self.blocks(child))
            elif isinstance(child, nodes.image | nodes.reference):
                made.append(Markdown(self._join([child]), "paragraph"))
            else:
                self._place(made, child)
        return made

    def _caption(self, node: nodes.Element, caption: nodes.Element, kind: str) -> str:
        number = self.page.figure_number(kind, node["ids"][0]) if node.get("ids") else ""
        name = self.page.number_formats.get(kind, "%s") % number if number else ""
        return " ".join(filter(None, [f"**{name}.**" if name else "", self.inline(caption)]))

    def block_container(self, node: nodes.Element) -> list[Block]:
        if node.get("nb_element") == "cell_code":
            made: list[Block] = [Code(node["cell_index"])]
            for figure in node.findall(nodes.figure):
                self._place(made, figure)
            return made
        component = node.get("design_component")
        if component == "dropdown":
            title = next((c for c in node.children if isinstance(c, nodes.rubric)), None)
            summary = self.summary(title) if title is not None else "More"
            return details(f"<b>{summary}</b>", self._without(node, title))
        if component == "tab-item":
            label = node.children[0]
            name = Markdown(f"**{self.inline(label)}**", "paragraph")
            return [name, *quote(self._without(node, label))]
        if "literal-block-wrapper" in node.get("classes", []):
            caption = next((c for c in node.children if isinstance(c, nodes.caption)), None)
            if caption is not None:
                title = self._caption(node, caption, "code-block")
                return [Markdown(title, "paragraph"), *self._without(node, caption)]
        return self.blocks(node)

    block_compound = block_container
    block_legend = block_container
    block_topic = block_container
    block_PassthroughTextElement = block_container
    block_collected_footnotes = block_container

    def _without(self, node: nodes.Element, child: nodes.Node | None) -> list[Block]:
        rest = nodes.Element()
        rest.children = [other for other in node.children if other is not child]
        return self.blocks(rest)

    # Statements, proofs, exercises, admonitions -----------------------------------------------

    def _statement(self, node: nodes.Element) -> list[Block]:
        kind, name = node["countertype"], node["realtype"].title()
        number = self.page.figure_number(kind, node["ids"][0])
        return self._boxed(node, f"{name} {number}".strip())

    block_axiom_node = _statement
    block_theorem_node = _statement
    block_lemma_node = _statement
    block_algorithm_node = _statement
    block_definition_node = _statement
    block_remark_node = _statement
    block_conjecture_node = _statement
    block_corollary_node = _statement
    block_criterion_node = _statement
    block_example_node = _statement
    block_property_node = _statement
    block_observation_node = _statement
    block_proposition_node = _statement
    block_assumption_node = _statement
    block_notation_node = _statement

    def block_unenumerable_node(self, node: nodes.Element) -> list[Block]:
        return self._boxed(node, node["realtype"].title())

    def _boxed(self, node: nodes.Element, name: str) -> list[Block]:
        title = next((c for c in node.children if isinstance(c, nodes.title)), None)
        words = self.inline(title).strip() if title is not None else ""
        head = " ".join(filter(None, [f"**{name}**", words]))
        return quote([Markdown(head, "paragraph"), *self._without(node, title)])

    def block_proof_node(self, node: nodes.Element) -> list[Block]:
        made = self.blocks(node)
        first = made[0] if made else None
        if isinstance(first, Markdown) and first.kind == "paragraph":
            # the directive puts the word in front of the text
            text = re.sub(r"^(\s*<a [^>]*></a>)*\s*Proof\. ?", r"\1", first.text)
            made[0] = Markdown(f"**Proof.** {text}".strip(), "paragraph")
        else:
            made.insert(0, Markdown("**Proof.**", "paragraph"))
        last = made[-1]
        if isinstance(last, Markdown) and last.kind == "paragraph":
            made[-1] = Markdown(f"{last.text} ∎", "paragraph")
        else:
            made.append(Markdown("∎", "paragraph"))
        return made

    def block_exercise_enumerable_node(self, node: nodes.Element) -> list[Block]:
        number = self.page.figure_number("exercise", node["ids"][0])
        return self._boxed(node, f"Exercise {number}".strip())

    def block_exercise_node(self, node: nodes.Element) -> list[Block]:
        title = node.children[0]
        words = self.inline(title)
        words = words.removeprefix("Exercise").strip()
        head = Markdown(" ".join(filter(None, ["**Exercise**", words])), "paragraph")
        return quote([head, *self._without(node, title)])

    def block_solution_node(self, node: nodes.Element) -> list[Block]:
        title = node.children[0]
        return details(f"<b>{self.summary(title)}</b>", self._without(node, title))

    def block_exercise_end_node(self, node: nodes.Element) -> list[Block]:
        return []

    def block_admonition(self, node: nodes.Element) -> list[Block]:
        if "proof" in node.get("classes", []):  # the inside of {prf:proof}
            return self.blocks(node)
        title = next((c for c in node.children if isinstance(c, nodes.title)), None)
        rest = self._without(node, title)
        if {"dropdown", "toggle"} & set(node.get("classes", [])):
            return details(f"<b>{self.summary(title)}</b>" if title else "More", rest)
        head = [Markdown(f"**{self.inline(title)}**", "paragraph")] if title else []
        return quote([*head, *rest])

    def block_sidebar(self, node: nodes.Element) -> list[Block]:
        return self.block_admonition(node)

    def _named_admonition(self, node: nodes.Element) -> list[Block]:
        name = {"seealso": "See also"}.get(type(node).__name__, type(node).__name__.capitalize())
        if {"dropdown", "toggle"} & set(node.get("classes", [])):
            return details(f"<b>{name}</b>", self.blocks(node))
        return quote([Markdown(f"**{name}**", "paragraph"), *self.blocks(node)])

    block_attention = _named_admonition
    block_caution = _named_admonition
    block_danger = _named_admonition
    block_error = _named_admonition
    block_hint = _named_admonition
    block_important = _named_admonition
    block_note = _named_admonition
    block_tip = _named_admonition
    block_warning = _named_admonition
    block_seealso = _named_admonition

    # Notes and the rest -----------------------------------------------------------------------

    def block_footnote(self, node: nodes.Element) -> list[Block]:
        label = node.children[0]
        made = self._without(node, label)
        mark = f"<sup>{html.escape(label.astext())}</sup> "
        if made and isinstance(made[0], Markdown) and made[0].kind == "paragraph":
            made[0] = Markdown(mark + made[0].text, "paragraph")
            return made
        return [Markdown(mark.strip(), "paragraph"), *made]

    def block_citation(self, node: nodes.Element) -> list[Block]:
        label = node.children[0]
        made = self._without(node, label)
        mark = f"[{escape(label.astext())}] "
        if made and isinstance(made[0], Markdown):
            made[0] = Markdown(mark + made[0].text, "paragraph")
        return made

    def block_target(self, node: nodes.Element) -> list[Block]:
        return self.blocks(node)

    def block_raw(self, node: nodes.Element) -> list[Block]:
        return [Markdown(node.astext().strip())] if "html" in node.get("format", "") else []

    def block_index(self, node: nodes.Element) -> list[Block]:
        return []

    block_meta = block_index
    block_tabular_col_spec = block_index
    block_toctree = block_index

    def block_system_message(self, node: nodes.Element) -> list[Block]:
        logger.warning("notebooks: %s", node.astext(), location=node, type="notebooks")
        return []

    # -----------------------------------------------------------------------------------------
    # Text within a line

    def inline(self, node: nodes.Node) -> str:
        """The children of `node` as Markdown within a line."""
        return self._join(node.children)

    def _join(self, children: Sequence[nodes.Node]) -> str:
        pieces = []
        for child in children:
            if isinstance(child, nodes.Text):
                pieces.append(self._text(child))
            elif isinstance(child, nodes.Element) and not isinstance(
                child, nodes.comment | nodes.substitution_definition
            ):
                pieces.append(self.anchors(child) + self._dispatch("inline", child)(child))
        text = re.sub(r"[ \n\t]+", " ", "".join(pieces)).strip()
        if r"\$$" in text or r"$\$" in text:
            logger.warning(
                "notebooks: a display $$ within a paragraph; put it on lines of its own: %s",
                text[:90],
                location=next(iter(children), None),
                type="notebooks",
            )
        return text

    def _text(self, node: nodes.Text) -> str:
        text = escape(node.astext())
        return text.replace("|", r"\|") if self.in_table else text

    def inline_paragraph(self, node: nodes.Element) -> str:
        return self.inline(node)

    inline_generated = inline_paragraph
    inline_target = inline_paragraph
    inline_title = inline_paragraph
    inline_caption = inline_paragraph
    inline_inline = inline_paragraph
    inline_PassthroughTextElement = inline_paragraph
    inline_container = inline_paragraph

    def inline_abbreviation(self, node: nodes.Element) -> str:
        return self.inline(node)

    def inline_emphasis(self, node: nodes.Element) -> str:
        return _wrap(self.inline(node), "*")

    inline_title_reference = inline_emphasis
    inline_literal_emphasis = inline_emphasis

    def inline_strong(self, node: nodes.Element) -> str:
        return _wrap(self.inline(node), "**")

    inline_literal_strong = inline_strong

    def inline_literal(self, node: nodes.Element) -> str:
        text = " ".join(node.astext().split())
        fence = _fence(text, 1)
        if self.in_table:
            text = text.replace("|", r"\|")
        pad = " " if text.startswith("`") or text.endswith("`") else ""
        return f"{fence}{pad}{text}{pad}{fence}"

    def inline_math(self, node: nodes.Element) -> str:
        return tex.inline(node.astext(), self.page.macros, table=self.in_table)

    def inline_math_block(self, node: nodes.math_block) -> str:
        return self.block_math_block(node)[0].text

    def inline_superscript(self, node: nodes.Element) -> str:
        return f"<sup>{self.inline(node)}</sup>"

    def inline_subscript(self, node: nodes.Element) -> str:
        return f"<sub>{self.inline(node)}</sub>"

    def inline_raw(self, node: nodes.Element) -> str:
        return node.astext() if "html" in node.get("format", "") else ""

    def inline_reference(self, node: nodes.Element) -> str:
        text, link = self.inline(node), self._link(node)
        if not link:
            logger.warning("notebooks: a reference without a target", location=node)
            return text
        return f"[{text or link}]({link})"

    inline_number_reference = inline_reference

    def inline_download_reference(self, node: nodes.Element) -> str:
        text = self.inline(node)
        if "filename" in node:
            return f"[{text}]({self.page.download(node['filename'])})"
        return f"[{text}]({node['refuri']})" if "refuri" in node else text

    def inline_footnote_reference(self, node: nodes.Element) -> str:
        return f"<sup>[{escape(node.astext())}]({self._link(node)})</sup>"

    def inline_image(self, node: nodes.Element) -> str:
        if "only-dark" in node.get("classes", []):
            return ""
        source, alt = self.page.picture(node["uri"]), node.get("alt", "")
        if width := node.get("width"):
            width = str(width).removesuffix("px")
            return f'<img src="{source}" alt="{html.escape(alt, quote=True)}" width="{width}">'
        return f"![{escape(alt)}]({source})"

    def inline_index(self, node: nodes.Element) -> str:
        return ""

    def inline_problematic(self, node: nodes.Element) -> str:
        logger.warning("notebooks: a reference was not resolved: %s", node.astext(), location=node)
        return escape(node.astext())

    inline_pending_xref = inline_problematic

    def _link(self, node: nodes.Element) -> str:
        """Where a reference leads: `#anchor` in this notebook, or an absolute address."""
        if isinstance(node, nodes.target):
            return ""
        if refid := node.get("refid"):
            return f"#{refid}" if refid in self.present else f"{self.page.address}#{refid}"
        uri = node.get("refuri", "")
        if uri in self.page.citations:
            return f"#{self.page.citations[uri]}"
        page, _, name = uri.partition("#")
        if page in ("", self.page.address) and name in self.present:
            return f"#{name}"
        if uri == self.page.address:
            return uri
        return uri.replace(" ", "%20").replace("(", "%28").replace(")", "%29")

    # A summary is the inside of an HTML element, where Markdown does not reach ------------------

    def summary(self, node: nodes.Node) -> str:
        """`node`'s text as HTML, its formulas as TeX."""
        return " ".join(self._summary(node).split())

    def _summary(self, node: nodes.Node) -> str:
        pieces = []
        for child in node.children:
            if isinstance(child, nodes.Text):
                pieces.append(html.escape(child.astext(), quote=False))
            elif isinstance(child, nodes.math):
                pieces.append(html.escape(tex.inline(child.astext(), self.page.macros)))
            elif isinstance(child, nodes.literal):
                pieces.append(f"<code>{html.escape(child.astext(), quote=False)}</code>")
            elif isinstance(child, nodes.emphasis):
                pieces.append(f"<em>{self._summary(child)}</em>")
            elif isinstance(child, nodes.Element):
                pieces.append(self._summary(child))
        return "".join(pieces)


# ---------------------------------------------------------------------------------------------
# Putting blocks together


def cells(blocks: Sequence[Block]) -> list[Code | str]:
    """Code cells and Markdown cells in order; a heading begins a new cell."""
    made: list[Code | list[Markdown]] = []
    for block in blocks:
        if isinstance(block, Code):
            made.append(block)
        elif not made or isinstance(made[-1], Code) or block.kind == "heading":
            made.append([block])
        else:
            made[-1].append(block)
    return [item if isinstance(item, Code) else join(item) for item in made]


def join(blocks: Sequence[Markdown]) -> str:
    """Blocks with blank lines between; two block quotes in a row stay two."""
    pieces: list[str] = []
    for before, block in zip([None, *blocks], blocks, strict=False):
        if before is not None and before.kind == block.kind == "quote":
            pieces.append("<!-- -->")
        pieces.append(block.text)
    return "\n\n".join(pieces)


def quote(blocks: Sequence[Block]) -> list[Block]:
    """Blocks as a block quote; a code cell or a table among them stands outside.

    Some readers know no tables within a block quote.
    """
    made: list[Block] = []
    for group in _groups(blocks):
        if isinstance(group, Code):
            made.append(group)
            continue
        for is_table, run in itertools.groupby(group, key=lambda block: block.kind == "table"):
            if is_table:
                made.extend(run)
                continue
            lines = join(list(run)).split("\n")
            made.append(Markdown("\n".join(f"> {line}".rstrip() for line in lines), "quote"))
    return made


def details(summary: str, blocks: Sequence[Block]) -> list[Block]:
    """Blocks hidden behind `summary`; a code cell among them can't be hidden and stands between."""
    made: list[Block] = []
    for group in _groups(blocks):
        if isinstance(group, Code):
            made.append(group)
            continue
        more = ", continued" if any(isinstance(block, Markdown) for block in made) else ""
        made.append(
            Markdown(
                f"<details>\n<summary>{summary}{more}</summary>\n\n{join(group)}\n\n</details>"
            )
        )
    return made


def anchor(name: str) -> str:
    """An empty anchor; some readers keep the id of an element, some only the name."""
    name = html.escape(name, quote=True)
    return f'<a id="{name}" name="{name}"></a>'


def escape(text: str) -> str:
    """Text with everything escaped that Markdown or a formula could begin with."""
    text = text.replace("\\", "\\\\")
    text = re.sub(r"([*`$])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    text = re.sub(r"&(?=#?\w+;)(?!lt;)", "&amp;", text)
    return text.replace("](", "&#93;(").replace("[^", "&#91;^")


def _in_summary(node: nodes.Node) -> bool:
    """Whether `node` is in the title of a solution, whose links are left out."""
    while node is not None:
        if isinstance(node, nodes.title):
            return type(node.parent).__name__ == "solution_node"
        node = node.parent
    return False


def _guard(text: str) -> str:
    """Keep a paragraph from becoming a heading, a list, a quote or a table by how it begins."""
    if match := re.match(r"(\d+)([.)])(?=\s|$)", text):
        return f"{match[1]}\\{match[2]}{text[match.end() :]}"
    if re.match(r"(#{1,6}|[-+>]|=+|-+)(\s|$)|>|~~~|\|", text):
        return f"\\{text}"
    return text


def _wrap(text: str, mark: str) -> str:
    return f"{mark}{text}{mark}" if text else ""


def _fence(text: str, least: int) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * (max(least, longest + 1) if longest >= least else least)


def _indent(text: str, by: str) -> str:
    return "\n".join(by + line if line else line for line in text.split("\n"))


def _groups(blocks: Sequence[Block]) -> list[Code | list[Markdown]]:
    """Runs of Markdown, split by code cells."""
    made: list[Code | list[Markdown]] = []
    for block in blocks:
        if isinstance(block, Code):
            made.append(block)
        elif made and isinstance(made[-1], list):
            made[-1].append(block)
        else:
            made.append([block])
    return made


def _merge(blocks: Sequence[Block], between: str) -> list[Block]:
    return [
        group
        if isinstance(group, Code)
        else Markdown(between.join(block.text for block in group), "list")
        for group in _groups(blocks)
    ]
