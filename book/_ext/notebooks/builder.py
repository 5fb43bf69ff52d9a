"""The Sphinx builder `notebooks`: one `.ipynb` for each page that is a notebook.

It writes from the same pickled doctrees as the site, so it reads and executes nothing that the site
has read and executed.  The sources and tags of the code cells come from the chapter's own text, and
their outputs from the execution that made the page.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

import nbformat
import pybtex.plugin
import site_address
from docutils import nodes
from jupyter_cache import get_cache
from myst_nb.core.read import create_nb_reader
from sphinx.builders import Builder
from sphinx.config import Config
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

from . import outputs
from .install import install_cell
from .writer import Code, Markdown, Page, Writer, anchor, cells, escape

logger = logging.getLogger(__name__)

HIDDEN = {"hide-input", "hide_input", "hide-cell", "remove-input", "remove_input", "remove-cell"}
LIMIT = 1_900_000  # bytes; above 2 MB readers on the web begin to refuse a notebook


class NotebookBuilder(Builder):
    """Writes `<outdir>/<page>.ipynb` and an index, `README.md`."""

    name = "notebooks"
    format = "notebooks"
    epilog = "The notebooks are in %(outdir)s."
    allow_parallel = True
    supported_image_types: ClassVar[list[str]] = [
        "image/svg+xml",
        "image/png",
        "image/gif",
        "image/jpeg",
        "image/webp",
    ]
    supported_remote_images = True

    def init(self) -> None:
        self.fignumbers: dict[str, dict[str, tuple[int, ...]]] = {}
        self.secnumbers: dict[str, tuple[int, ...]] = {}
        self.current_docname = ""
        self.site = published_at(self.config)
        self.written: dict[str, str] = {}

    def get_target_uri(self, docname: str, typ: str | None = None) -> str:
        return f"{self.site}{quote(docname)}.html"

    def get_relative_uri(self, from_: str, to: str, typ: str | None = None) -> str:
        """A notebook leaves the site, so every address is absolute."""
        return self.get_target_uri(to)

    def chapters(self) -> Iterator[str]:
        """The pages that are notebooks, in the order of the book."""
        relations = self.env.collect_relations()
        docname: str | None = self.config.root_doc
        while docname is not None:
            if "kernelspec" in self.env.metadata.get(docname, {}):
                yield docname
            docname = relations[docname][2] if docname in relations else None

    def get_outdated_docs(self) -> list[str]:
        return list(self.chapters())  # a page's numbers may change with any other page

    def prepare_writing(self, docnames: set[str]) -> None:
        pass

    def write(self, build_docnames: Any, updated_docnames: Any, method: str = "update") -> None:
        # Sphinx adds the pages that list a changed page; only notebooks are to be written here
        wanted = set(self.chapters())
        self.prepare_writing(wanted)
        for docname in sorted(wanted):
            self._write_serial([docname])

    def write_doc(self, docname: str, doctree: nodes.document) -> None:
        self.current_docname = docname
        self.fignumbers = self.env.toc_fignumbers.get(docname, {})
        self.secnumbers = self.env.toc_secnumbers.get(docname, {})
        self.post_process_images(doctree)
        notebook = self._notebook(docname, doctree)
        nbformat.validate(notebook)
        target = Path(self.outdir, f"{docname}.ipynb")
        target.parent.mkdir(parents=True, exist_ok=True)
        text = nbformat.writes(notebook)
        target.write_text(text + "\n", encoding="utf-8")
        self.written[docname] = notebook.metadata["title"]

    def finish(self) -> None:
        """Take away notebooks of pages that are gone, write the index."""
        for old in Path(self.outdir).rglob("*.ipynb"):
            if old.relative_to(self.outdir).with_suffix("").as_posix() not in self.written:
                old.unlink()
        lines = [
            f"# {self._title()}: the notebooks",
            "",
            f"One executable notebook for each page of [the book]({self.site}), written from its "
            "source; do not edit them here.  Text CC BY 4.0, code MIT.",
            "",
        ]
        for docname in self.chapters():
            links = [
                f"[notebook]({quote(docname)}.ipynb)",
                f"[page]({self.get_target_uri(docname)})",
            ]
            if repository := repository_url(self.config):
                links.insert(0, f"[Colab]({site_address.colab(repository, docname)})")
            lines.append(f"- {self.written[docname]} ({', '.join(links)})")
        Path(self.outdir, "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

    # -----------------------------------------------------------------------------------------

    def _title(self) -> str:
        """The book's title: Jupyter Book puts it here and leaves `project` unset."""
        return self.config.html_title or self.config.project

    def _notebook(self, docname: str, doctree: nodes.document) -> nbformat.NotebookNode:
        source = self._source(docname)
        bibliography = self._bibliography(docname)
        writer = Writer(self._page(docname, bibliography), doctree)
        blocks = writer.blocks(doctree)
        blocks += self._references(writer, bibliography)
        body = cells(_with_removed(blocks, source))
        title = self.env.titles[docname].astext()
        number = self._section_number("")
        made = [nbformat.v4.new_markdown_cell(self._opening(docname, body))]
        first = nbformat.v4.new_code_cell(install_cell(version("fromnoise"), self.site))
        first.metadata.update(cellView="form", tags=["install"])
        made.append(first)
        executed = self._executed(source)
        for item in body[1:]:
            if isinstance(item, Code):
                made.append(_code_cell(source.cells[item.index], executed.get(item.index)))
            else:
                made.append(nbformat.v4.new_markdown_cell(item))
        for i, cell in enumerate(made):
            content = f"{i}:{cell.cell_type}:{cell.source}"
            cell["id"] = hashlib.sha256(content.encode()).hexdigest()[:12]
        metadata = {
            "title": f"{number}{title}",
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
            "colab": {"name": f"{docname.rsplit('/', 1)[-1]}.ipynb", "toc_visible": True},
            "fromnoise": {"version": version("fromnoise"), "page": self.get_target_uri(docname)},
        }
        notebook = nbformat.v4.new_notebook(cells=made, metadata=metadata)
        text = len(nbformat.writes(notebook)) - sum(
            len(str(cell.get("outputs", ""))) for cell in made
        )
        if gone := outputs.fit(made, LIMIT - max(text, 0)):
            logger.info("notebooks: %s left %d heavy pictures to be drawn anew", docname, gone)
        return notebook

    def _opening(self, docname: str, body: list[Code | str]) -> str:
        """The chapter's heading and a line that says what this file is."""
        if not body or isinstance(body[0], Code) or "# " not in body[0]:
            raise ValueError(f"{docname}: a chapter begins with its title, not with a cell.")
        heading, _, rest = body[0].partition("\n\n")
        if not heading.lstrip().startswith("#"):  # an anchor stands before
            title, _, rest = rest.partition("\n\n")
            heading = f"{heading}\n\n{title}"
        line = (
            f"*The executable edition of [this page of {escape(self._title())}]"
            f"({self.get_target_uri(docname)}), package version {version('fromnoise')}. "
            "Text under CC BY 4.0, code under MIT. "
            "The first cell installs the book's package where it is missing.*"
        )
        return "\n\n".join(filter(None, [heading, line, rest]))

    def _page(self, docname: str, bibliography: list[Any]) -> Page:
        mathjax = (self.config.mathjax3_config or {}) if "mathjax3_config" in self.config else {}
        return Page(
            address=self.get_target_uri(docname),
            figure_number=self._figure_number,
            section_number=self._section_number,
            equation_number=lambda node: get_node_equation_number(_Numbers(self), node),
            picture=self._picture,
            download=lambda name: f"{self.site}_downloads/{quote(name)}",
            number_formats=dict(self.config.numfig_format),
            macros=mathjax.get("tex", {}).get("macros", {}),
            citations={
                f"{self.get_target_uri(entry.bibliography_key.docname)}#{entry.citation_id}": (
                    f"ref-{entry.key}"
                )
                for entry in bibliography
            },
        )

    def _figure_number(self, kind: str, name: str) -> str:
        return ".".join(map(str, self.fignumbers.get(kind, {}).get(name, ())))

    def _section_number(self, name: str) -> str:
        """ "2.1. ", or "" where the page has none; the chapter itself has the empty name."""
        number = self.secnumbers.get(f"#{name}") or (
            self.secnumbers.get("") if not name or self._is_title(name) else None
        )
        suffix = getattr(self.config, "html_secnumber_suffix", ". ")
        return ".".join(map(str, number)) + suffix if number else ""

    def _is_title(self, name: str) -> bool:
        document = self.env.get_doctree(self.current_docname)
        section = next(iter(document.findall(nodes.section)), None)
        return section is not None and name in section["ids"]

    def _picture(self, uri: str) -> str:
        if urlsplit(uri).scheme:
            return uri
        return f"{self.site}_images/{quote(self.images.get(uri, Path(uri).name))}"

    def _bibliography(self, docname: str) -> list[Any]:
        """The works that this page cites and does not list itself, in the order of their lists."""
        if "cite" not in self.env.domaindata:
            return []
        domain = self.env.get_domain("cite")
        cited = {
            target.key
            for ref in domain.citation_refs
            if ref.docname == docname
            for target in ref.targets
        }
        own = {c.key for c in domain.citations if c.bibliography_key.docname == docname}
        found = {c.key: c for c in domain.citations if c.key in cited - own}
        backend = pybtex.plugin.find_plugin("pybtex.backends", "plaintext")()
        return sorted(found.values(), key=lambda entry: self._order(entry, backend))

    def _order(self, entry: Any, backend: Any) -> tuple[str, str]:
        """By label where the text cites labels, else by family name and year."""
        people = entry.entry.persons.get("author") or entry.entry.persons.get("editor") or []
        names = " ".join(" ".join(person.last_names) for person in people)
        if self._cites_labels():
            return entry.formatted_entry.label.zfill(4), names
        return names.lower() or entry.formatted_entry.text.render(backend), entry.entry.fields.get(
            "year", ""
        )

    def _cites_labels(self) -> bool:
        return not self.config.bibtex_reference_style.startswith("author_year")

    def _references(self, writer: Writer, bibliography: list[Any]) -> list[Code | Markdown]:
        if not bibliography:
            return []
        backend = self.env.get_domain("cite").backend
        items = []
        for entry in bibliography:
            text = nodes.paragraph("", "", *entry.formatted_entry.text.render(backend))
            label = f"[{escape(entry.formatted_entry.label)}] " if self._cites_labels() else ""
            items.append(f"-   {anchor(f'ref-{entry.key}')}{label}{writer.inline(text)}")
        return [Markdown("## References", "heading"), Markdown("\n".join(items), "list")]

    def _source(self, docname: str) -> nbformat.NotebookNode:
        """The chapter's cells as they stand in its file, unexecuted."""
        path = self.env.doc2path(docname)
        text = Path(path).read_text(encoding="utf-8")
        reader = create_nb_reader(path, self.env.myst_config, self.env.mystnb_config, text)
        if reader is None:
            raise ValueError(f"{path} has a kernel but is not a notebook. See its header.")
        return reader.read(text)

    def _executed(self, source: nbformat.NotebookNode) -> dict[int, list[nbformat.NotebookNode]]:
        """The outputs of the code cells by index, from the cache that the page was made with.

        Empty if the cells, as they stand now, were not executed.
        """
        try:
            cache = get_cache(self.env.mystnb_config.execution_cache_path)
            _, executed = cache.merge_match_into_notebook(copy.deepcopy(source))
        except KeyError:
            return {}
        return {i: cell.outputs for i, cell in enumerate(executed.cells) if "outputs" in cell}


class _Numbers:
    """What `get_node_equation_number` asks of an HTML writer."""

    def __init__(self, builder: NotebookBuilder) -> None:
        self.builder = builder


class KeepCellsOnly(SphinxPostTransform):
    """Leave of each executed cell its place and the captions of its figures.

    Before myst-nb chooses among the forms of an output, since it knows none for this builder.
    """

    default_priority = 1
    builders = ("notebooks",)

    def run(self, **kwargs: Any) -> None:
        """Run the transform."""
        for node in list(self.document.findall(nodes.container)):
            if node.get("nb_element") != "cell_code":
                continue
            figures = list(node.findall(nodes.figure))
            for figure in figures:
                figure.children = [
                    child
                    for child in figure.children
                    if isinstance(child, nodes.caption | nodes.legend)
                ]
            node.children = []
            node.extend(figure for figure in figures if figure.children)


def published_at(config: Config) -> str:
    """The address of the published site, with a slash at its end: `html_baseurl`, else derived."""
    if config.html_baseurl:
        return config.html_baseurl.rstrip("/") + "/"
    return site_address.site(repository_url(config))


def repository_url(config: Config) -> str:
    """The repository's address; it stands in `_config.yml` only."""
    return (config.html_theme_options or {}).get("repository_url", "")


def _with_removed(
    blocks: list[Code | Markdown], source: nbformat.NotebookNode
) -> list[Code | Markdown]:
    """Put back the code cells that the page leaves out: the cells after them need them."""
    code = [
        i for i, cell in enumerate(source.cells) if cell.cell_type == "code" and cell.source.strip()
    ]
    shown = [block.index for block in blocks if isinstance(block, Code)]
    if shown != sorted(shown) or not set(shown) <= set(code):
        raise ValueError(f"The page shows cells {shown}, its source has {code}.")
    missing = [i for i in code if i not in shown]
    made: list[Code | Markdown] = []
    for block in blocks:
        if isinstance(block, Code):
            while missing and missing[0] < block.index:
                made.append(Code(missing.pop(0)))
        made.append(block)
    return [*made, *map(Code, missing)]


def _code_cell(
    source: nbformat.NotebookNode, executed: list[nbformat.NotebookNode] | None
) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell(source.source)
    cell.metadata.update(source.metadata)
    tags = set(source.metadata.get("tags", []))
    if tags & HIDDEN:
        cell.metadata["cellView"] = "form"
        cell.metadata["jupyter"] = {"source_hidden": True}
    if executed is not None and not tags & {"remove-output", "remove_output", "remove-cell"}:
        cell["outputs"] = outputs.portable(executed)
    return cell
