"""Outputs that a notebook carries: what the page printed and drew, in forms every reader shows.

The page's figures are HTML with inline SVG that follows the page's theme.  GitHub drops such HTML
and other readers show it in whatever ink they have, so here a figure becomes an SVG image, and a
grid of pictures a PNG, both on white.  Whatever else is HTML (a time slider) keeps only its
sentence, until the reader runs the cell.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Iterable
from typing import Any

from nbformat import NotebookNode
from PIL import Image

_INK = "#24292f"
_SVG = re.compile(r'<div class="fn-figure"[^>]*>\s*(<svg .*</svg>)\s*</div>', re.DOTALL)
_PNG = re.compile(
    r'<div class="fn-figure"[^>]*>\s*<img [^>]*src="data:image/png;base64,([^"]+)"[^>]*>\s*</div>'
)


def portable(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """The outputs of one cell, as a saved notebook should carry them."""
    kept = []
    for output in outputs:
        output = NotebookNode(json.loads(json.dumps(output)))
        if output.output_type == "stream" and output.name == "stderr":
            continue  # progress bars and warnings of the machine that built the page
        if output.output_type in ("display_data", "execute_result"):
            output["data"] = _portable_data(output["data"])
        kept.append(output)
    return kept


def fit(cells: Iterable[NotebookNode], limit: int) -> int:
    """Take pictures away, the heaviest first, until the outputs weigh at most `limit` bytes.

    A picture that goes leaves its sentence.  Returns how many went.
    """
    weights: list[tuple[int, dict[str, Any]]] = []
    total = 0
    for cell in cells:
        for output in cell.get("outputs", []):
            size = len(json.dumps(output))
            total += size
            if "data" in output and len(output["data"]) > 1:
                weights.append((size, output["data"]))
    gone = 0
    for size, data in sorted(weights, key=lambda item: -item[0]):
        if total <= limit:
            break
        for mime in [mime for mime in data if mime != "text/plain"]:
            del data[mime]
        total -= size
        gone += 1
    return gone


def _portable_data(data: dict[str, Any]) -> dict[str, Any]:
    markup = data.get("text/html")
    if markup is None:
        return data
    markup = "".join(markup)
    rest = {mime: value for mime, value in data.items() if mime != "text/html"}
    if figure := _SVG.fullmatch(markup.strip()):
        return {"image/svg+xml": _standalone(figure[1]), **rest}
    if picture := _PNG.fullmatch(markup.strip()):
        return {"image/png": _on_white(picture[1]), **rest}
    if "<script" in markup or "fn-figure" in markup:
        return rest or {"text/plain": "[shown when the cell is run]"}
    return data  # a table of pandas, say: every reader shows it


def _standalone(svg: str) -> str:
    """Inline SVG as a file of its own: a name space, a size, fixed ink, a white ground."""
    head, body = svg.split(">", 1)
    box = [float(number) for number in re.search(r'viewBox="([^"]+)"', head)[1].split()]
    width = re.search(r'\bwidth="([\d.]+)"', head)
    scale = float(width[1]) / box[2] if width else 1.0
    label = re.search(r'aria-label="([^"]*)"', head)
    title = f"<title>{html.escape(html.unescape(label[1]))}</title>" if label else ""
    ground = f'<rect x="{box[0]:g}" y="{box[1]:g}" width="{box[2]:g}" height="{box[3]:g}"'
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box[0]:g} {box[1]:g} {box[2]:g} {box[3]:g}" '
        f'width="{box[2] * scale:.0f}" height="{box[3] * scale:.0f}" '
        f'style="stroke-linejoin:round;stroke-linecap:butt">{title}{ground} fill="#ffffff"/>{body}'
    )
    return re.sub(r"var\(--[\w-]+,\s*([^()]+)\)", r"\1", svg.replace("currentColor", _INK))


def _on_white(data: str) -> str:
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    buffer = io.BytesIO()
    ground.convert("RGB").quantize(256).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
