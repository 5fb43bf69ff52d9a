"""Tags, citations, the graph of proofs and the rules, on small books written for the purpose.

Each rule is broken by a book of a page or two, which must not build and must say what to do.
"""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pybtex.database
import pybtex.plugin
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace, patch_docutils

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "book" / "_ext")]

from citable import cite, drawing, model, registry  # noqa: E402

CITATION = """cff-version: 1.2.0
title: "Small Book: Of Signs & Formulas"
authors:
  - name: "The Small Authors"
version: 1.2.3
date-released: 2031-05-06
"""
ADDRESS = "https://example.org/small/"
FIRST = """(ch-first)=
# First things

## Signs

```{prf:definition} Sign
:label: def-sign

A sign is $+$ or $-$.
```

````{prf:theorem} Itô's rule of $\\sqrt{x}$
:label: thm-rule

Two signs make one, by {prf:ref}`def-sign`:

```{math}
:label: eq-rule
(-)(-)=+
```
````

```{prf:proof}
Multiply. Compare {see}`lem-last`.
```

## Summary

{prf:ref}`thm-rule` is the rule.
"""
SECOND = """(ch-second)=
# Second things

```{prf:lemma} Last
:label: lem-last

Everything follows from {eq}`eq-rule`.
```

```{prf:proof}
Clear.
```
"""
REGISTER = ["ch-first", "def-sign", "thm-rule", "eq-rule", "ch-second", "lem-last"]


def rows(labels: list[str]) -> str:
    return "tag,label,since\n" + "".join(f"{i:04d},{x},1.0\n" for i, x in enumerate(labels, 1))


def outcome(label: str, status: str = "symbolic", **changes) -> dict:
    return {
        "label": label,
        "passed": True,
        "status": status,
        "tolerance": 1e-12 if status == "numeric" else 0.0,
        "steps": [{"text": "multiply out", "kind": status, "result": "0", "tolerance": 0.0}],
        "mutants": {"a sign": "differs by 2", "a factor": "differs by 1"},
        "failure": "",
        "seconds": 0.1,
        "covers": "both signs",
        "omits": "nothing",
        "path": "src/small/checks.py",
        "first": 3,
        "last": 9,
        "source": "def check(): ...",
        "with": "SymPy 1",
        **changes,
    }


class Small:
    """A book in a folder of its own, that can be changed and built again."""

    def __init__(self, folder: Path) -> None:
        self.source, self.out = folder / "book", folder / "out"
        self.source.mkdir()
        self.root = folder
        self.write("index", "# Small\n\n```{toctree}\n:caption: Part one\nfirst\nsecond\n```\n")
        self.write("first", FIRST)
        self.write("second", SECOND)
        (self.source / "tags.csv").write_text(rows(REGISTER))
        (folder / "CITATION.cff").write_text(CITATION)
        self.checks: dict | None = None

    def write(self, name: str, text: str) -> None:
        (self.source / f"{name}.md").write_text(text, encoding="utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.source / f"{name}.md").read_text(encoding="utf-8")
        assert old in text
        self.write(name, text.replace(old, new))

    def register(self, labels: list[str]) -> None:
        (self.source / "tags.csv").write_text(rows(labels))

    def build(self, builder: str = "html", **changes) -> str:
        """Build the site, or notebooks; what Sphinx warned of."""
        options = {
            "extensions": ["myst_parser", "sphinx_proof", "citable"],
            "myst_enable_extensions": ["dollarmath"],
            # said here, since Sphinx's default is one dictionary for all builds of a process
            "source_suffix": {".md": "markdown"},
            "numfig": True,
            "math_numfig": True,
            "numfig_secnum_depth": 1,
            "html_baseurl": ADDRESS,
            "html_theme": "basic",
            "suppress_warnings": ["myst.domains"],
            **changes,
        }
        if self.checks is not None:
            path = self.root / "checks.json"
            path.write_text(json.dumps(self.checks))
            options["citable_checks"] = str(path)
        said = io.StringIO()
        with patch_docutils(), docutils_namespace():
            app = Sphinx(
                self.source, None, self.out, self.root / "doctrees", builder,
                confoverrides=options, status=None, warning=said,
            )  # fmt: skip
            try:
                app.build()
            except ExtensionError as error:
                (self.root / "doctrees" / "environment.pickle").unlink(missing_ok=True)
                raise ExtensionError(f"{error}\n{said.getvalue()}") from error
        return said.getvalue()

    def page(self, name: str) -> str:
        return (self.out / f"{name}.html").read_text(encoding="utf-8")

    def tags(self) -> dict[str, dict]:
        content = json.loads((self.out / "tags.json").read_text(encoding="utf-8"))
        return {entry["label"]: entry for entry in content["tags"]}


@pytest.fixture
def small(tmp_path) -> Small:
    return Small(tmp_path)


def visible(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


# ---------------------------------------------------------------------------------------------
# A book that obeys


def test_a_good_book_builds_without_a_warning(small):
    assert small.build() == ""
    assert {p.stem for p in (small.out / "tag").glob("*.html")} == {f"{i:04d}" for i in range(1, 7)}


def test_a_tag_page_has_statement_proof_place_uses_and_citation(small):
    small.build()
    html = small.page("tag/0003")
    text = visible(html)
    assert "Theorem 1" in text and "Two signs make one" in text and "Multiply." in text
    assert r"(-)(-)=+" in text and 'href="../first.html#thm-rule"' in html
    assert "since version 1.0; this is version 1.2.3" in text
    # a link in the statement leads where it led on the page of the book
    assert 'href="../first.html#def-sign"' in html
    uses = html.partition('id="uses"')[2].partition("</section>")[0]
    assert "0002" in uses and "0006" not in uses, "a `see` is no use"
    assert f"{ADDRESS}tag/0003.html" in text
    equation = small.page("tag/0004")
    assert "Stands in" in visible(equation) and 'href="0003.html"' in equation
    assert "0006" in equation.partition('id="used-by"')[2]


def test_tags_stand_beside_statements_equations_and_in_summaries(small):
    small.build()
    html = small.page("first")
    for tag in ("0002", "0003", "0004"):
        assert f'href="tag/{tag}.html"' in html
    summary = html.partition('id="summary"')[2]
    assert 'href="tag/0003.html"' in summary.partition("</section>")[0]
    assert "Cite this chapter" in html


def test_a_chapters_page_names_it_and_lists_what_it_states(small):
    small.build()
    text = visible(small.page("tag/0001"))
    assert "“First things”" in text.replace(" ”", "”")
    listed = small.page("tag/0001").partition('id="states"')[2].partition("</section>")[0]
    assert re.findall(r'href="(\d{4}).html"', listed) == ["0002", "0003"]


def test_numbers_and_formulas_are_those_of_the_page(small):
    small.build()
    number = re.search(r'class="eqno">\(([\d.]+)\)?<?', small.page("first"))[1]
    for tag in ("0003", "0004"):
        assert f'class="eqno">({number})' in small.page(f"tag/{tag}").replace(
            "(" + number + "<", "(" + number + ")<"
        )


def test_a_theorem_moved_to_another_chapter_keeps_its_address(small):
    small.build()
    before = small.tags()["thm-rule"]
    theorem = FIRST[FIRST.index("````{prf:theorem}") : FIRST.index("## Summary")]
    small.write("first", FIRST.replace(theorem, ""))
    small.write("second", SECOND + "\n" + theorem)
    assert small.build() == ""
    after = small.tags()["thm-rule"]
    assert after["address"] == before["address"] == f"{ADDRESS}tag/0003.html"
    assert before["chapter"] == "First things" and after["chapter"] == "Second things"
    assert 'href="../second.html#thm-rule"' in small.page("tag/0003")
    # and with another title, in a file of another name
    small.write("second", "(ch-second)=\n# Other things\n")
    small.edit("index", "second", "second\nthird")
    small.register([*REGISTER, "ch-third"])
    small.write(
        "third",
        "(ch-third)=\n# Third\n\n"
        + SECOND.partition("\n\n")[2]
        + theorem.replace("Itô's rule of", "Another name of"),
    )
    small.build()
    assert small.tags()["thm-rule"]["address"] == before["address"]
    assert "Another name" in small.page("tag/0003")


def test_a_withdrawn_result_keeps_its_page(small):
    small.write(
        "second",
        SECOND.replace("lem-last", "lem-new").replace("Last", "New")
        + "\n````{withdrawn} Last\n:label: lem-last\n:kind: lemma\n:since: 1.2\n"
        ":replaced-by: lem-new\n\nIt said that everything follows. Not everything does.\n````\n",
    )
    small.register([*REGISTER, "lem-new"])
    assert small.build() == ""
    text = visible(small.page("tag/0006"))
    assert "Withdrawn lemma" in text and "Not everything does" in text
    assert "Its place was taken by 0007" in text.replace(" ,", ",")


def test_a_reader_is_led_to_what_was_withdrawn(small):
    """On a page that did not change, too; and whatever it was."""
    small.edit("first", "{see}`lem-last`", "{see}`lem-last` and {see}`eq-old`")
    small.write("second", SECOND + "\n$$\na=b\n$$ (eq-old)\n")
    small.register([*REGISTER, "eq-old"])
    assert small.build() == ""
    assert re.search(r'href="second.html#equation-eq-old">', small.page("first"))
    box = "```{withdrawn} Old\n:label: %s\n:kind: %s\n:since: 1.2\n\nGone.\n```\n"
    text = box % ("lem-last", "lemma") + "\n" + box % ("eq-old", "equation")
    small.write("second", "(ch-second)=\n# Second things\n\n" + text)
    assert small.build() == ""
    for label, kind in (("lem-last", "Lemma"), ("eq-old", "Equation")):
        assert re.search(f'href="second.html#{label}">Withdrawn {kind}', small.page("first"))


def test_a_withdrawn_result_is_in_the_chapters_notebook(small):
    head = (
        "---\njupytext:\n  text_representation: {extension: .md, format_name: myst}\n"
        "kernelspec: {display_name: Python 3, language: python, name: python3}\n---\n"
    )
    box = "```{withdrawn} Last\n:label: lem-last\n:kind: lemma\n:since: 1.2\n\nGone.\n```\n"
    small.write("second", f"{head}(ch-second)=\n# Second things\n\n{box}")
    said = small.build(
        "notebooks",
        extensions=["myst_nb", "sphinx_proof", "sphinxcontrib.bibtex", "notebooks", "citable"],
        bibtex_bibfiles=[],
        nb_execution_mode="off",
        html_title="Small",
        source_suffix={".md": "myst-nb"},
    )
    assert said == ""
    cells = json.loads((small.out / "second.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(cell["source"]) for cell in cells)
    assert f"Withdrawn lemma, since version 1.2 (Last) [0006]({ADDRESS}tag/0006.html)" in text


def test_a_tag_page_lists_the_functions_that_name_it(small):
    package = small.root / "src" / "small"
    package.mkdir(parents=True)
    (package / "signs.py").write_text(
        'class Sign:\n    """Plus or minus (tag 0002)."""\n\n'
        '    def times(self):\n        """One of `self` and `thm-rule`."""\n\n\n'
        'def _hidden():\n    """`thm-rule`"""\n'
    )
    assert small.build(citable_package="../src/small") == ""
    code = {tag: small.page(f"tag/{tag}").partition('id="code"')[2] for tag in ("0002", "0003")}
    assert "small.signs.Sign" in code["0002"] and "Plus or minus" in code["0002"]
    text = visible(code["0003"].partition("</section>")[0])
    assert "small.signs.Sign.times : One of self and thm-rule" in text and "_hidden" not in text
    assert small.tags()["thm-rule"]["code"] == ["small.signs.Sign.times"]


def test_a_reference_to_nothing_is_named(small):
    small.edit("first", "{see}`lem-last`", "{see}`eq-none`")
    assert "label 'eq-none' not found" in small.build()


def test_a_number_that_moves_moves_on_all_pages(small):
    more = "```{prf:%s} %s\n:label: def-%s\n\nX.\n```\n\n"
    one, two = more % ("definition", "One", "one"), more % ("definition", "Two", "two")
    small.write("first", FIRST + one + two)
    small.edit("second", "Clear.", "Clear from {prf:ref}`def-one`.")
    small.register([*REGISTER, "def-one", "def-two"])
    assert small.build() == "" and "Definition 2" in visible(small.page("second"))
    small.write("first", FIRST + two + one)
    assert small.build() == "" and "Definition 3" in visible(small.page("second"))


def test_pictures_and_footnotes_of_a_proof_work_on_its_tags_page(small):
    picture = "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    (small.source / "a.png").write_bytes(bytes.fromhex(picture))
    small.edit("first", "Multiply.", "Multiply.[^why]\n\n![A sign](a.png)\n\n")
    small.edit("first", "## Summary", "[^why]: Since it is so.\n\n## Summary")
    assert small.build() == ""
    html = small.page("tag/0003")
    assert 'src="../_images/a.png"' in html and (small.out / "_images" / "a.png").exists()
    place = re.search(r'href="../first.html#([\w-]+)">1</a>', html)[1]
    assert f'id="{place}"' in small.page("first")


def test_titles_with_signs_of_html_are_shown_as_they_are(small):
    small.edit("second", "# Second things", "# Less & a<b")
    small.edit("second", "} Last", "} If $a<b$ and $c>d$")
    small.edit("index", ":caption: Part one", ":caption: Part <one>")
    small.edit("index", "second\n", "second\ntags\n")
    small.write("tags", "# Tags\n\n```{tag-index}\n```\n")
    assert small.build() == ""
    assert "<title>Tag 0006: If a&lt;b and c&gt;d " in small.page("tag/0006")
    options = re.findall("<option.*?</option>", small.page("tags"))
    assert '<option value="1">Less &amp; a&lt;b</option>' in options
    assert '<option value="part-0">Part &lt;one&gt;</option>' in options


def test_a_statement_without_a_title_is_cited_by_its_first_words(small):
    formula = "$\\sqrt{a^2 + b^2 + c^2 + d^2 + e^2 + f^2}$"
    small.edit("second", "} Last", "}")
    small.edit("second", "Everything", f"For all numbers of the kind of {formula}, everything")
    small.build()
    entries = pybtex.database.parse_file(small.out / "tags.bib", "bibtex").entries
    title = entries["fromnoise-0006"].fields["title"]
    assert title == r"{For all numbers of the kind of \ldots}"


def test_make_tags_adds_lines_and_changes_none(small):
    small.register(REGISTER[:2])
    small.build(citable_assign=True)
    lines = (small.source / "tags.csv").read_text().splitlines()
    assert lines[:3] == rows(REGISTER[:2]).splitlines()
    assert lines[3:] == [f"{i:04d},{label},1.2.3" for i, label in enumerate(REGISTER[2:], 3)]


# ---------------------------------------------------------------------------------------------
# Books that break a rule, and what they are told


def spoil_label(small):
    small.edit("second", ":label: lem-last\n\n", "\n")


def spoil_chapter(small):
    small.edit("second", "(ch-second)=\n", "")
    small.register([label for label in REGISTER if label != "ch-second"])


def spoil_twice_stated(small):
    small.write("second", SECOND.replace("lem-last", "thm-rule"))


def spoil_tag(small):
    small.register(REGISTER[:-1])


def spoil_register(small):
    path = small.source / "tags.csv"
    path.write_text(path.read_text().replace("0006", "0003"))


def spoil_two_tags(small):
    path = small.source / "tags.csv"
    path.write_text(path.read_text() + "0007,lem-last,1.0\n")


def spoil_order(small):
    path = small.source / "tags.csv"
    lines = path.read_text().splitlines()
    lines[-1], lines[-2] = lines[-2], lines[-1]
    path.write_text("\n".join(lines) + "\n")


def spoil_characters(small):
    path = small.source / "tags.csv"
    path.write_text(path.read_text().replace("0006", "006b"))


def spoil_fields(small):
    path = small.source / "tags.csv"
    path.write_text(path.read_text().replace("0006,lem-last,1.0", "0006,lem-last"))


def spoil_lost(small):
    small.write("second", "(ch-second)=\n# Second things\n")


def spoil_circle(small):
    small.edit("first", "{see}`lem-last`", "{prf:ref}`lem-last`")


def spoil_itself(small):
    small.edit("second", "Clear.", "By {prf:ref}`lem-last`.")


def circle_by(link):
    def spoil(small):
        small.edit("second", "Clear.\n", "Clear.\n\n$$\na=b\n$$ (eq-last)\n")
        small.register([*REGISTER, "eq-last"])
        small.edit("first", "{see}`lem-last`", link)

    return spoil


def spoil_second_name(small):
    small.edit("second", "```{prf:lemma}", "(other)=\n```{prf:lemma}")
    small.edit("first", "{see}`lem-last`", "{ref}`that <other>`")


def spoil_label_form(small):
    small.write("second", SECOND.replace("lem-last", "Lem Last"))
    small.edit("first", " Compare {see}`lem-last`.", "")
    small.register([*REGISTER[:-1], "Lem Last"])


def spoil_chapter_of_equations(small):
    small.write("second", "# Second things\n\n```{math}\n:label: eq-b\na=b\n```\n")
    small.register([*REGISTER[:-2], "eq-b"])
    small.edit("first", " Compare {see}`lem-last`.", "")


def spoil_proof(small):
    small.edit("second", "```{prf:proof}\nClear.\n```\n", "")


def spoil_stray_proof(small):
    small.edit("second", "```{prf:lemma}", "```{prf:proof}\nOf what?\n```\n\n```{prf:lemma}")


def spoil_foreign_proof(small):
    small.edit("second", "{prf:proof}\n", "{prf:proof}\n:of: lem-none\n")


def spoil_replaced(small):
    options = ":label: lem-old\n:kind: lemma\n:since: 1.2\n:replaced-by: lem-none\n"
    small.write("second", SECOND + "\n```{withdrawn} Old\n" + options + "\nGone.\n```\n")
    small.register([*REGISTER, "lem-old"])


def spoil_use_of_withdrawn(small):
    spoil_circle(small)
    options = ":label: lem-last\n:kind: lemma\n:since: 1.2\n"
    box = "```{withdrawn} Last\n" + options + "\nGone.\n```\n"
    small.write("second", "(ch-second)=\n# Second things\n\n" + box)


def with_checks(**changes):
    def spoil(small):
        checks = {label: outcome(label) for label in ("thm-rule", "lem-last")}
        small.checks = {"checks": checks, "exceptions": {}}
        for name, value in changes.items():
            label = name.replace("_", "-")
            if value is None:
                checks.pop(label)
            elif isinstance(value, str):
                checks.pop(label)
                small.checks["exceptions"][label] = value
            else:
                checks[label] = value

    return spoil


FAILED = outcome("lem-last", passed=False, failure="the mutant 'x' is accepted")
BROKEN = {
    "a statement without a label": (
        spoil_label,
        r"second.*the lemma \(Last\) has no label.*:label:.*make tags",
    ),
    "a chapter without a label": (
        spoil_chapter,
        r"second states results but has no label before its title.*\(ch-name\)=",
    ),
    "a label stated twice": (spoil_twice_stated, r"thm-rule is stated twice: first.* and second"),
    "a label without a tag": (spoil_tag, r"second.*lem-last has no tag. Run `make tags`"),
    "two labels with one tag": (
        spoil_register,
        r"tag 0003 is given twice: to thm-rule and to lem-last",
    ),
    "one label with two tags": (spoil_two_tags, r"lem-last has two tags: 0006 and 0007"),
    "a line put in between": (spoil_order, r"tag 0005 of ch-second comes after 0006"),
    "a tag of other characters": (spoil_characters, r"'006b' of lem-last is not four characters"),
    "a line that is no line": (spoil_fields, r"tags.csv: Line 7 is '0006,lem-last'"),
    "a statement taken away": (spoil_lost, r"tag 0006 belongs to lem-last.*withdrawn"),
    "a circle of proofs": (
        spoil_circle,
        r"proved from itself: .*thm-rule uses lem-last.*`see`",
    ),
    "a result that its own proof uses": (
        spoil_itself,
        r"proved from itself: lem-last uses lem-last",
    ),
    "a circle by a link": (circle_by("[that](#lem-last)"), r"thm-rule uses lem-last"),
    "a circle by an equation": (circle_by("{eq}`eq-last`"), r"thm-rule uses lem-last"),
    "a circle by an equation's link": (circle_by("[](eq-last)"), r"thm-rule uses lem-last"),
    "a circle by another role": (circle_by("{any}`eq-last`"), r"thm-rule uses lem-last"),
    "a statement with two names": (
        spoil_second_name,
        r"second.*lem-last has another name, other. Take that away",
    ),
    "a label that is no address": (
        spoil_label_form,
        r"second.*the label 'Lem Last' stays for good.*small letters",
    ),
    "a page of equations without a label": (
        spoil_chapter_of_equations,
        r"second states results but has no label",
    ),
    "a theorem without a proof": (spoil_proof, r"lem-last has no proof"),
    "a proof of nothing": (
        spoil_stray_proof,
        r"second, line \d+: a proof that belongs to no statement",
    ),
    "a proof of what is not stated": (
        spoil_foreign_proof,
        r"a proof of lem-none, which the book does not state",
    ),
    "a successor that is none": (
        spoil_replaced,
        r"replaced by lem-none, which the book does not have",
    ),
    "a proof that uses what is withdrawn": (
        spoil_use_of_withdrawn,
        r"thm-rule uses lem-last, which is withdrawn",
    ),
    "a theorem without a check": (
        with_checks(lem_last=None),
        r"second.*lem-last has no machine check",
    ),
    "a check that failed": (
        with_checks(lem_last=FAILED),
        r"the check of lem-last failed: the mutant 'x' is accepted",
    ),
    "a check of nothing": (
        with_checks(lem_none=outcome("lem-none")),
        r"checks lem-none, which the book does not have",
    ),
    "too many exceptions": (
        with_checks(lem_last="It exists."),
        r"1 of 2 results are checked; at least 90% must be",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_stops_the_build_and_says_what_to_do(name, small):
    spoil, message = BROKEN[name]
    spoil(small)
    with pytest.raises(ExtensionError) as caught:
        small.build()
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(caught.value))
    assert re.search(message, text.replace("\n", " ")), text
    assert "rule(s) of citation are broken" in text


def test_a_register_in_conflict_is_the_only_thing_named(small):
    path = small.source / "tags.csv"
    path.write_text(path.read_text() + "<<<<<<< HEAD\n")
    for assign in (False, True):
        with pytest.raises(ExtensionError, match=r"Line 8 is '<<<<<<< HEAD'") as caught:
            small.build(citable_assign=assign)
        assert "1 rule(s)" in str(caught.value)


def test_a_proof_without_words_is_refused(small):
    small.edit("second", "Clear.\n", ":of: lem-last\n")
    with pytest.raises(ExtensionError, match='Content block expected for the "prf:proof"'):
        small.build()


def test_only_mentioning_breaks_a_circle(small):
    spoil_circle(small)
    small.edit("second", "{eq}`eq-rule`", "{see}`eq-rule`")
    assert small.build() == ""


def test_a_proof_elsewhere_is_found_by_its_option(small):
    small.edit("first", "```{prf:proof}\nMultiply. Compare {see}`lem-last`.\n```\n", "")
    proof = "```{prf:proof}\n:of: thm-rule\n\nFar away, by {prf:ref}`def-sign`.\n```\n\n"
    small.edit("second", "```{prf:lemma}", proof + "```{prf:lemma}")
    assert small.build() == ""
    assert "Far away" in visible(small.page("tag/0003"))


# ---------------------------------------------------------------------------------------------
# Badges


def test_badges_say_what_ran_and_lead_to_it(small):
    with_checks(lem_last=outcome("lem-last", "numeric"))(small)
    assert small.build() == ""
    first, second = small.page("first"), small.page("second")
    assert 'href="tag/0003.html#check"' in first and "checked symbolically" in first
    assert "checked numerically to 1e-12" in second
    text = visible(small.page("tag/0003"))
    for words in ("Both signs.", "multiply out", "a sign", "differs by 2", "fromnoise check 0003"):
        assert words in text
    assert "fn-source" in small.page("tag/0003")


def test_without_a_run_nothing_is_shown_as_checked(small):
    small.build()
    assert "fn-badge" not in small.page("first") and "Machine check" not in small.page("tag/0003")


def test_a_new_outcome_renews_every_page(small):
    with_checks()(small)
    small.build()
    with_checks(lem_last=outcome("lem-last", "numeric"))(small)
    small.build()
    assert "checked numerically" in small.page("second")
    assert "Checked numerically" in small.page("tag/0006")


# ---------------------------------------------------------------------------------------------
# Citations


class Head(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.meta: dict[str, list[str]] = {}
        self.data = ""
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "meta" and "name" in values:
            self.meta.setdefault(values["name"], []).append(values["content"])
        self._inside = tag == "script" and values.get("type") == "application/ld+json"

    def handle_data(self, data):
        if self._inside:
            self.data += data


@pytest.mark.parametrize(
    ("page", "title", "kind"),
    [
        ("tag/0003", r"Itô’s rule of \sqrt{x}", "CreativeWork"),
        ("first", "First things", "Chapter"),
        ("index", "Small Book: Of Signs & Formulas", "Book"),
    ],
)
def test_pages_describe_themselves_to_machines(small, page, title, kind):
    small.build(myst_enable_extensions=["dollarmath", "smartquotes"])
    head = Head(small.page(page))
    assert head.meta["citation_title"] == [title]
    assert head.meta["citation_author"] == ["The Small Authors"]
    assert head.meta["citation_publication_date"] == ["2031/05/06"]
    assert ("citation_book_title" in head.meta) is (kind != "Book")
    here = ADDRESS + ("" if kind == "Book" else f"{page}.html")
    assert head.meta["citation_fulltext_html_url"] == [here]
    if kind == "Chapter":
        assert head.meta["citation_public_url"] == [f"{ADDRESS}tag/0001.html"]
    data = json.loads(head.data)
    assert data["@context"] == "https://schema.org" and data["@type"] == kind
    assert data["version"] == "1.2.3" and data["url"].startswith(ADDRESS)
    if kind == "CreativeWork":
        assert data["isPartOf"]["name"] == "First things"
        assert data["isPartOf"]["isPartOf"]["name"] == "Small Book: Of Signs & Formulas"


def test_the_bibliography_of_tags_is_read_by_a_library(small):
    small.build()
    text = (small.out / "tags.bib").read_text(encoding="utf-8")
    assert text.isascii()
    entries = pybtex.database.parse_string(text, "bibtex").entries
    assert set(entries) == {"fromnoise", *(f"fromnoise-{i:04d}" for i in range(1, 7))}
    theorem = entries["fromnoise-0003"]
    (author,) = theorem.persons["author"]
    assert str(author) == "{The Small Authors}"
    assert theorem.fields["url"] == f"{ADDRESS}tag/0003.html" and theorem.fields["year"] == "2031"
    assert r"\^o" in theorem.fields["title"] and r"$\sqrt{x}$" in theorem.fields["title"]
    assert r"Signs \& Formulas, version 1.2.3" in theorem.fields["howpublished"]


def test_the_bibliography_of_tags_can_be_set(small):
    """Every entry has what the plainest style needs of its kind."""
    small.build()
    data = pybtex.database.parse_file(small.out / "tags.bib", "bibtex")
    style = pybtex.plugin.find_plugin("pybtex.style.formatting", "plain")()
    backend = pybtex.plugin.find_plugin("pybtex.backends", "plaintext")()
    lines = [entry.text.render(backend) for entry in style.format_bibliography(data)]
    assert len(lines) == 7
    book = "The Small Authors. Small Book: Of Signs & Formulas. Online book, version 1.2.3, 2031."
    assert sum(line.startswith(book) for line in lines) == 1
    assert all(ADDRESS in line and "2031" in line for line in lines)


def test_all_formats_carry_the_address():
    book = cite.Citation("A: B", ("Gauß, Carl",), "1801-01-01", "1", ADDRESS)
    cited = cite.Cited("0A3F", "lemma", "On $x_1$", f"{ADDRESS}tag/0A3F.html")
    made = cite.formats(book, cited)
    assert list(made) == ["BibTeX", "Plain text", "Markdown", "LaTeX"]
    assert all(cited.address in text and "0A3F" in text for text in made.values())
    (entry,) = pybtex.database.parse_string(made["BibTeX"], "bibtex").entries.values()
    assert entry.persons["author"][0].last_names == ["Gau\\ss"]
    assert made["Markdown"] == f"[A, Tag 0A3F]({cited.address})"


def test_a_citation_file_without_a_version_is_refused(tmp_path):
    (tmp_path / "CITATION.cff").write_text(CITATION.replace("version: 1.2.3\n", ""))
    with pytest.raises(ValueError, match=r"CITATION.cff lacks \['version'\]"):
        cite.read(tmp_path / "CITATION.cff", ADDRESS)


# ---------------------------------------------------------------------------------------------
# The register


def test_tags_are_counted_in_base_36():
    assert [registry.following(t) for t in ("0000", "0009", "000Z", "00ZZ", "0A3F")] == [
        "0001", "000A", "0010", "0100", "0A3G",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="All tags"):
        registry.following("ZZZZ")


@given(st.integers(0, 36**4 - 2))
def test_the_next_tag_is_the_next_number(number):
    digits = ""
    for _ in range(4):
        number, digit = divmod(number, 36)
        digits = registry.DIGITS[digit] + digits
    assert int(registry.following(digits), 36) == int(digits, 36) + 1
    assert registry.following(digits) > digits, "so that lines can be compared as text"


def history(root: Path) -> list[str]:
    """Every version of the book's register in a repository's history."""
    git = ["git", "-C", str(root)]
    # in full: else what a merge has lost would not be among them
    log = [*git, "log", "--full-history", "--format=%H", "--", "book/tags.csv"]
    commits = subprocess.run(log, capture_output=True, text=True, check=True).stdout.split()
    texts = []
    for commit in commits:
        show = [*git, "show", f"{commit}:book/tags.csv"]
        done = subprocess.run(show, capture_output=True, text=True)
        texts += [done.stdout] if done.returncode == 0 else [""]
    return texts


def test_no_tag_was_ever_removed_or_given_away():
    """Against all of the register's history that this clone has (a shallow one has less)."""
    now = registry.read(ROOT / "book" / "tags.csv")
    assert registry.problems(now) == []
    for text in history(ROOT):
        before = registry.parse(text) if text else []
        assert registry.changed(before, now) == []
        assert [row.tag for row in now][: len(before)] == [row.tag for row in before]


def test_what_a_merge_has_lost_is_in_the_history(tmp_path):
    path = tmp_path / "book" / "tags.csv"
    path.parent.mkdir()

    def git(*arguments):
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    def commit(labels):
        path.write_text(rows(labels))
        git("add", ".")
        git("commit", "-qm", "tags")

    git("init", "-q", "-b", "main")
    commit(["thm-a"])
    git("switch", "-qc", "side")
    commit(["thm-a", "thm-b"])
    git("switch", "-q", "main")
    git("commit", "-q", "--allow-empty", "-m", "else")
    git("merge", "-q", "-s", "ours", "side", "-m", "without the tag")
    assert any("thm-b" in text for text in history(tmp_path))


def test_a_changed_register_would_be_noticed():
    before = registry.parse(rows(["thm-a", "thm-b"]))
    assert registry.changed(before, before) == []
    assert "0002 (thm-b) was removed" in registry.changed(before, before[:1])[0]
    other = registry.parse(rows(["thm-a", "thm-c"]))
    assert "0002 was given from thm-b to thm-c" in registry.changed(before, other)[0]
    later = registry.parse(rows(["thm-a", "thm-b"]).replace("0002,thm-b,1.0", "0002,thm-b,2.0"))
    assert "version changed" in registry.changed(before, later)[0]


def test_the_package_knows_the_same_tags():
    copy = ROOT / "src" / "fromnoise" / "derivations" / "tags.csv"
    assert copy.read_bytes() == (ROOT / "book" / "tags.csv").read_bytes(), "run `make tags`"
    with copy.open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == list(registry.HEADER)


# ---------------------------------------------------------------------------------------------
# Sources, and the drawing


def test_a_source_is_linked_at_its_commit_unless_it_is_changed(tmp_path):
    def git(*arguments):
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "a.py").write_text("x = 1\n")
    git("add", "a.py")
    git("commit", "-qm", "a")
    first = git("rev-parse", "HEAD")
    (tmp_path / "b.py").write_text("y = 1\n")
    git("add", "b.py")
    git("commit", "-qm", "b")
    address = model.Sources(tmp_path, "https://github.com/o/r").address("a.py", 2, 5)
    assert address == f"https://github.com/o/r/blob/{first}/a.py#L2-L5"
    (tmp_path / "a.py").write_text("x = 2\n")
    assert model.Sources(tmp_path, "https://github.com/o/r").address("a.py", 2, 5) == ""
    assert model.Sources(tmp_path, "").address("b.py", 1, 1) == ""


def test_the_drawing_puts_a_result_right_of_all_it_rests_on():
    import networkx as nx

    graph = nx.DiGraph([("c", "a"), ("c", "b"), ("b", "a"), ("d", "a")])
    columns = drawing.columns(graph)
    depth = {name: i for i, column in enumerate(columns) for name in column}
    assert all(depth[user] > depth[thing] for user, thing in graph.edges)
    svg = drawing.draw(graph, lambda n: (n, "<", n), lambda n: f"{n}.html", lambda n: "k", ["a"])
    assert svg.count("fn-edge") == 4 and svg.count("<rect") == 4 and svg.count("fn-outside") == 1
    assert "&lt;" in svg and "<<" not in svg
