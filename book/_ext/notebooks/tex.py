"""TeX that every notebook reader typesets: macros expanded, one line, nothing Markdown could eat.

A notebook's Markdown is read by several programs (Colab, GitHub, JupyterLab, VS Code) that
disagree about where maths begins and Markdown ends.  What they all agree on is narrow: `$...$` and
`$$...$$` on one line, without a `|` inside a table and without a `<` that looks like a tag.
Everything here brings an equation of the book into that form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Macros = Mapping[str, "str | list[str | int]"]

_CONTROL = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\(begin|end)\{([A-Za-z]+\*?)\}")
_INSIDE_DISPLAY = {  # top-level environments and what stands for them within $$...$$
    "align": "aligned",
    "alignat": "alignedat",
    "eqnarray": "aligned",
    "flalign": "aligned",
    "gather": "gathered",
    "multline": "gathered",
}
_TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|mbox)\s*\{")


def inline(tex: str, macros: Macros | None = None, *, table: bool = False) -> str:
    """`$...$` for an inline formula; `table=True` for a cell of a Markdown table."""
    return f"${_clean(tex, macros or {}, table)}$"


def display(
    tex: str, macros: Macros | None = None, *, number: str = "", table: bool = False
) -> str:
    r"""`$$...$$` on one line, numbered by `\tag{number}` when there is a number.

    As Sphinx does for the page, parts between blank lines become lines of one equation, and a
    part with `\\` outside every environment is aligned.  A top-level `align` or `gather`, which is
    an error within dollars, becomes `aligned` or `gathered`.
    """
    parts = [_aligned(part) for part in re.split(r"\n\s*\n", _strip_comments(tex)) if part.strip()]
    body = parts[0] if len(parts) == 1 else _environment("gathered", r" \\ ".join(parts))
    body = _clean(body, macros or {}, table)
    if table:
        return rf"$\displaystyle {body}$"
    tag = rf" \tag{{{number}}}" if number else ""
    return f"$${body}{tag}$$"


def expand(tex: str, macros: Macros) -> str:
    r"""Replace macros, given as MathJax takes them: `"R": "\\mathbb{R}"`, `"E": ["E[#1]", 1]`,
    `"f": ["#1_{#2}", 2, "default of the first"]`.

    Raises `ValueError` when an argument is missing or the macros call each other without end.
    """
    expanded, longest = tex, 1000 * (len(tex) + 100)
    for _ in range(50):
        before, expanded = expanded, _expand_once(expanded, macros)
        if expanded == before:
            return expanded
        if len(expanded) > longest:
            break
    raise ValueError(
        f"The macros in {tex[:80]!r} expand without end. Look for one that uses itself."
    )


# ---------------------------------------------------------------------------------------------


def _clean(tex: str, macros: Macros, table: bool) -> str:
    tex = expand(_strip_comments(tex), macros)
    tex = _no_dollars(tex)
    tex = " ".join(tex.split())
    tex = re.sub(r"<(?=[A-Za-z/!?])", "< ", tex)  # `a<b` would open an HTML tag
    tex = re.sub(r"&(?=#?\w+;)", "& ", tex)  # `&lt;` would be a character reference
    if table:
        bars = {"|": r"\vert ", r"\|": r"\Vert "}
        tex = re.sub(r"\\.|\|", lambda m: bars.get(m.group(), m.group()), tex)
        tex = " ".join(tex.split())
    return re.sub(r"(?<!\\)\\$", r"\\ ", tex)  # a formula may end in a control space


def _strip_comments(tex: str) -> str:
    return re.sub(r"(?<!\\)%.*", "", tex)


def _aligned(part: str) -> str:
    """One equation in a form that may stand within dollars."""
    part = part.strip()
    whole = re.fullmatch(r"\\begin\{([A-Za-z]+)(\*?)\}(.*)\\end\{\1\2\}", part, re.DOTALL)
    if whole and whole[1] in _INSIDE_DISPLAY:
        body = re.sub(r"\\(?:nonumber|notag)\b", "", whole[3])
        return _environment(_INSIDE_DISPLAY[whole[1]], body)
    if whole and whole[1] == "equation":
        return _aligned(whole[3])
    if _breaks_outside_environments(part):
        return _environment("aligned", part)
    return part


def _breaks_outside_environments(tex: str) -> bool:
    depth = 0
    position = 0
    while position < len(tex):
        if environment := _ENVIRONMENT.match(tex, position):
            depth += 1 if environment[1] == "begin" else -1
            position = environment.end()
        elif tex[position] == "\\":
            if tex[position + 1 : position + 2] == "\\" and depth == 0:
                return True
            position += 2
        else:
            depth += {"{": 1, "}": -1}.get(tex[position], 0)
            position += 1
    return False


def _environment(name: str, body: str) -> str:
    return rf"\begin{{{name}}}{body.strip()}\end{{{name}}}"


def _no_dollars(tex: str) -> str:
    r"""Turn `\text{for $x$}` into `\text{for }x`: a dollar within would end the formula."""
    out, position = [], 0
    while match := _TEXT.search(tex, position):
        end = _group_end(tex, match.end() - 1)
        command, inner = match.group(), tex[match.end() : end - 1]
        out.append(tex[position : match.start()])
        pieces = re.split(r"(?<!\\)\$", inner)
        if len(pieces) % 2 == 0:
            raise ValueError(f"{tex[match.start() : end]!r} has a dollar sign without its partner.")
        for i, piece in enumerate(pieces):
            if i % 2:
                out.append(piece)
            elif piece:
                out.append(command + piece + "}")
        position = end
    return "".join([*out, tex[position:]])


def _group_end(tex: str, start: int) -> int:
    """The position after the group whose opening brace is at `start`."""
    depth, position = 0, start
    while position < len(tex):
        if tex[position] == "\\":
            position += 2
            continue
        depth += {"{": 1, "}": -1}.get(tex[position], 0)
        position += 1
        if depth == 0:
            return position
    raise ValueError(f"{tex[start : start + 40]!r} opens a brace that is never closed.")


def _expand_once(tex: str, macros: Macros) -> str:
    out, position = [], 0
    while match := _CONTROL.search(tex, position):
        out.append(tex[position : match.start()])
        position = match.end()
        if match[1] not in macros:
            out.append(match.group())
            continue
        body, count, default = _definition(macros[match[1]])
        arguments: list[str] = []
        if default is not None:
            optional = re.compile(r"\s*\[([^\]]*)\]").match(tex, position)
            arguments.append(optional[1] if optional else default)
            position = optional.end() if optional else position
        while len(arguments) < count:
            argument, position = _argument(tex, position, match[1])
            arguments.append(argument)
        text = re.sub(r"#(\d)", lambda m, a=arguments: a[int(m[1]) - 1], body)
        follows = tex[position : position + 1]
        out.append(text + (" " if text[-1:].isalpha() and follows.isalpha() else ""))
    return "".join([*out, tex[position:]])


def _definition(value: str | list[str | int]) -> tuple[str, int, str | None]:
    if isinstance(value, str):
        return value, 0, None
    body, count, *default = value
    return str(body), int(count), str(default[0]) if default else None


def _argument(tex: str, position: int, name: str) -> tuple[str, int]:
    while tex[position : position + 1].isspace():
        position += 1
    if position >= len(tex):
        raise ValueError(f"\\{name} misses an argument at the end of {tex[-60:]!r}.")
    if tex[position] == "{":
        end = _group_end(tex, position)
        return tex[position + 1 : end - 1], end
    if control := _CONTROL.match(tex, position):
        return control.group(), control.end()
    return tex[position], position + 1
