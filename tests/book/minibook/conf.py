"""A book of three pages that uses every construct a chapter may use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "book" / "_ext"))

project = html_title = "Mini Book"
extensions = [
    "myst_nb",
    "sphinx_proof",
    "sphinx_exercise",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "notebooks",
]
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
bibtex_bibfiles = ["mini.bib"]
bibtex_reference_style = "author_year"
bibtex_default_style = "unsrt"
numfig = True
math_numfig = True
numfig_secnum_depth = 1
math_eqref_format = "({number})"
numfig_format = {"section": "Chapter %s", "figure": "Figure %s", "table": "Table %s"}
html_baseurl = "https://example.org/mini/"
mathjax3_config = {
    "tex": {"macros": {"R": "\\mathbb{R}", "E": ["\\mathbb{E}\\left[#1\\right]", 1]}}
}
