"""The book's figures: one style, light and dark, on a page, in Jupyter and in Colab.

A figure is drawn by matplotlib and shown as *inline* SVG.  Inline, because only then can its ink
follow the page: whatever is drawn in `ink` becomes `currentColor`, and a series colour becomes a
CSS variable with the colour itself as fallback, so that a page may brighten it on a dark ground
and a notebook that knows no such variable still shows it.  Every figure carries a sentence that
says what is to be seen (`alt`); it is the figure for a reader who can't see it, and the text
that a terminal prints.

Three functions end a cell: `show` (a figure), `images` (a grid of pictures), `frames` (a slider
through time that needs neither a server nor a library).  The others draw on an `Axes`.

The output depends only on what is drawn: no dates, no random ids.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

__all__ = [
    "Picture",
    "arrows",
    "colors",
    "density",
    "figure",
    "frames",
    "images",
    "ink",
    "loglog_slope",
    "muted",
    "paths",
    "points",
    "shade",
    "show",
    "square",
]

ink = "#24292f"
"""The page's own text colour: axes, labels and every line drawn in it follow the theme."""

muted = "#7d7f83"
"""A grey that reads on white and on black: references, guides, things in the background."""

colors = ["#006bad", "#c94f00", "#008f68", "#a83f85", "#d19500", "#4fa3dc"]
"""Six series colours after Okabe and Ito, told apart under every common colour blindness; the
first four keep a contrast of 3 or more on white and on the book's dark ground."""

_FONT = 11.0  # points; the smallest text of a figure, unless its author asks for less
_LEGIBLE = 8.5  # CSS pixels; below this a figure scrolls in its box rather than shrink further
_SCALE = 2  # raster pixels per CSS pixel
_CSS_PER_INCH = 96
_CSS_PER_POINT = 96 / 72

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": ink,
    "axes.facecolor": "none",
    "axes.formatter.use_mathtext": True,
    "axes.grid": False,
    "axes.labelcolor": ink,
    "axes.labelsize": _FONT,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": matplotlib.cycler(color=colors),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": ink,
    "axes.titlesize": _FONT,
    "boxplot.boxprops.color": ink,
    "boxplot.capprops.color": ink,
    "boxplot.whiskerprops.color": ink,
    "figure.edgecolor": "none",
    "figure.facecolor": "none",
    "figure.titlesize": _FONT + 1,
    "font.family": ["DejaVu Sans"],
    "font.size": _FONT,
    "grid.alpha": 0.15,
    "grid.color": ink,
    "grid.linewidth": 0.8,
    "hatch.color": ink,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
    "legend.fontsize": _FONT,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "mathtext.fontset": "cm",
    "patch.edgecolor": ink,
    "savefig.facecolor": "none",
    "savefig.edgecolor": "none",
    "svg.fonttype": "path",  # glyphs travel with the figure: the same picture on every machine
    "svg.hashsalt": "fromnoise",
    "svg.image_inline": True,
    "text.color": ink,
    "xtick.color": ink,
    "xtick.labelsize": _FONT,
    "ytick.color": ink,
    "ytick.labelsize": _FONT,
}


# ---------------------------------------------------------------------------------------------
# What a cell returns


@dataclass(frozen=True)
class Picture:
    """Something to be seen: HTML for a page or a notebook, a sentence for everything else.

    `markup` is self-contained HTML; `alt` says what is to be seen; `name` is a short word for
    it (may be empty).
    """

    markup: str
    alt: str
    name: str = ""

    def _repr_html_(self) -> str:
        return self.markup

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.markup, "text/plain": str(self)}

    def __repr__(self) -> str:
        return f"[figure: {self.alt}]"


# ---------------------------------------------------------------------------------------------
# Making a figure


def figure(
    rows: int = 1,
    cols: int = 1,
    width: float = 6.4,
    height: float | None = None,
    **kw: Any,
) -> tuple[Figure, Any]:
    """A figure in the book's style and its axes.

    `width`, `height` are in inches (96 CSS pixels each); without a height a panel is 0.62 as
    high as wide.  Further keywords go to `Figure.subplots` (`sharex`, `sharey`, `width_ratios`,
    `subplot_kw`, ...).  Returns `(fig, axes)`: one `Axes` for a single panel, else an array of
    shape `(cols,)`, `(rows,)` or `(rows, cols)`.

    The figure is not pyplot's: nothing is left open and nothing is drawn twice.  The style is
    put into `matplotlib.rcParams` and stays there, since a legend or a line reads its style when
    it is made, after this function has returned.
    """
    for name, value in (("rows", rows), ("cols", cols)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} = {value!r} must be a whole number ≥ 1.")
    if not width > 0:
        raise ValueError(f"width = {width!r} must be positive (inches).")
    matplotlib.rcParams.update(_STYLE)
    if height is None:
        height = 0.62 * width / cols * rows
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, cols, **kw)


def square(ax: Any, extent: float | Sequence[float] | None = None, *, frame: bool = True) -> Any:
    """Give `ax` equal units on both axes, so that a circle is round.

    `extent` is a half-width or `(left, right, bottom, top)`.  `frame=False` takes spines and
    ticks away.  Returns `ax`.
    """
    ax.set_aspect("equal", adjustable="box")
    if extent is not None:
        left, right, bottom, top = _extent(extent)
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)
    if not frame:
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)
    return ax


def shade(color: int | str = 0) -> LinearSegmentedColormap:
    """A colour map from clear to `color` (an index into `colors`, or a colour).

    It has one hue and fades into the page, so that it reads on white and on black: the more ink,
    the larger the value.
    """
    red, green, blue = to_rgb(_color(color))
    return LinearSegmentedColormap.from_list(
        f"shade-{color}", [(red, green, blue, 0.0), (red, green, blue, 0.92)]
    )


# ---------------------------------------------------------------------------------------------
# Drawing on axes


def points(
    ax: Any,
    x: Tensor | np.ndarray,
    color: int | str = 0,
    *,
    size: float = 5.0,
    alpha: float = 0.55,
    **kw: Any,
) -> PathCollection:
    """Scatter `x: (n, 2)` as small dots.

    More than 300 points are rasterized at twice the screen's resolution: as vectors they would
    weigh more than everything else on the page.
    """
    x = _array(x)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"x has shape {x.shape}; points draws (n, 2). Choose two columns.")
    kw.setdefault("rasterized", len(x) > 300)
    color = _color(color)
    if kw["rasterized"] and color == ink:
        color = muted  # a raster can't follow the theme
    kw.setdefault("linewidths", 0)
    return ax.scatter(x[:, 0], x[:, 1], s=size, color=color, alpha=alpha, **kw)


def paths(
    ax: Any,
    trajectory: Tensor | np.ndarray,
    color: int | str = muted,
    *,
    alpha: float = 0.7,
    linewidth: float = 0.9,
    **kw: Any,
) -> LineCollection:
    """Draw `trajectory: (times, batch, 2)`, as solvers return it, one line per member of the
    batch.
    """
    trajectory = _array(trajectory)
    if trajectory.ndim != 3 or trajectory.shape[2] != 2:
        raise ValueError(
            f"trajectory has shape {trajectory.shape}; paths draws (times, batch, 2). "
            "Solve with trajectory=True and choose two coordinates."
        )
    kw.setdefault("rasterized", trajectory.shape[0] * trajectory.shape[1] > 6000)
    lines = LineCollection(
        list(trajectory.transpose(1, 0, 2)),
        colors=_color(color),
        alpha=alpha,
        linewidths=linewidth,
        **kw,
    )
    ax.add_collection(lines)
    ax.autoscale_view()
    return lines


def density(
    ax: Any,
    log_prob: Callable[[Tensor], Tensor],
    extent: float | Sequence[float] = 3.5,
    *,
    color: int | str = 0,
    levels: int | Sequence[float] = 8,
    filled: bool = True,
    resolution: int = 121,
    **kw: Any,
) -> Any:
    """Contours of a 2-D density given by `log_prob: (n, 2) -> (n,)`.

    `extent` is a half-width or `(left, right, bottom, top)`.  Filled contours are in one hue that
    fades into the page (`shade`); `filled=False` draws lines.  `levels` counts equal steps of the
    *density* up to its maximum, or gives them as fractions of the maximum in (0, 1).  Returns
    matplotlib's contour set.
    """
    xs, ys, grid = _grid(extent, resolution)
    with torch.no_grad():
        value = _array(log_prob(grid)).reshape(resolution, resolution)
    if not np.isfinite(value).any():
        raise ValueError("log_prob is finite nowhere on the grid. Choose another extent.")
    value = np.exp(value - np.max(value[np.isfinite(value)]))  # relative to the maximum
    if isinstance(levels, int):
        fractions = (np.arange(levels) + 0.5) / levels
    else:
        fractions = np.asarray(sorted(levels), dtype=float)
        if fractions.min() <= 0 or fractions.max() >= 1:
            raise ValueError(f"levels = {list(levels)} must lie in (0, 1): fractions of the max.")
    if filled:
        kw.setdefault("cmap", shade(color))
        edges = [*fractions, 1.0001]
        return ax.contourf(xs, ys, value, levels=edges, vmin=0, vmax=1, **kw)
    kw.setdefault("linewidths", 1.0)
    return ax.contour(xs, ys, value, levels=fractions, colors=[_color(color)], **kw)


def arrows(
    ax: Any,
    velocity: Callable[[Tensor], Tensor],
    extent: float | Sequence[float] = 3.5,
    n: int = 15,
    *,
    color: int | str = ink,
    alpha: float = 0.75,
    **kw: Any,
) -> Any:
    """Draw the vector field `velocity: (n, 2) -> (n, 2)` as `n × n` arrows.

    For a field that depends on time pass `lambda x: field.velocity(x, t)`.  The longest arrow
    spans about one cell of the grid; pass `scale` (and `scale_units="xy", angles="xy"`) to
    compare panels.
    """
    xs, ys, grid = _grid(extent, n)
    with torch.no_grad():
        vectors = _array(velocity(grid)).reshape(n, n, 2)
    longest = float(np.linalg.norm(vectors, axis=-1).max())
    spacing = min(xs[1] - xs[0], ys[1] - ys[0]) if n > 1 else 1.0
    kw.setdefault("angles", "xy")
    kw.setdefault("scale_units", "xy")
    kw.setdefault("scale", max(longest, 1e-12) / (1.1 * spacing))
    kw.setdefault("width", 0.0035)
    return ax.quiver(
        xs, ys, vectors[..., 0], vectors[..., 1], color=_color(color), alpha=alpha, **kw
    )


def loglog_slope(
    ax: Any,
    x: Tensor | np.ndarray | Sequence[float],
    y: Tensor | np.ndarray | Sequence[float],
    order: float,
    label: str | None = None,
    *,
    color: int | str = 0,
    anchor: int = -1,
    **kw: Any,
) -> None:
    """Plot `y` against `x` on logarithmic axes with a dashed line of slope `order` beside it.

    The reference passes through the data point with index `anchor`: where the two part, the order
    is not reached (or not yet).  `x, y: (n,)` and positive.
    """
    x, y = _array(x).astype(float), _array(y).astype(float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"x and y have shapes {x.shape} and {y.shape}; both must be (n,).")
    if (x <= 0).any() or (y <= 0).any():
        raise ValueError("x and y must be positive: their logarithms are drawn.")
    color = _color(color)
    ax.loglog(x, y, "o-", color=color, label=label, **kw)
    reference = y[anchor] * (x / x[anchor]) ** order
    ax.loglog(x, reference, "--", color=color, alpha=0.6, linewidth=1.2, zorder=1)


# ---------------------------------------------------------------------------------------------
# Showing


def show(fig: Figure, alt: str, name: str = "") -> Picture:
    """Render `fig` as inline SVG that follows the page's theme; the last expression of a cell.

    `alt` says in a sentence what is to be seen; `name` is a short word for it.
    """
    alt = _sentence(alt)
    svg, css_width, least = _svg(fig)
    _close(fig)
    unique = _unique(name, svg)
    body = _prefix(svg, unique)
    return Picture(_box(body, css_width, least, alt, name), alt, name)


def images(
    pictures: Tensor | np.ndarray,
    columns: int = 8,
    alt: str = "",
    *,
    name: str = "",
    scale: float = 2.0,
    gap: int = 2,
    span: tuple[float, float] = (-1.0, 1.0),
) -> Picture:
    """A grid of pictures `(n, 1, h, w)`, `(n, 3, h, w)` or `(n, h, w)` with values in `span`.

    Values outside `span` are clipped, and uint8 pictures are taken as they are.  A pixel is shown
    as `scale × scale` CSS pixels with hard edges, since to smooth an image of 28 × 28 is to show
    something else.
    """
    alt = _sentence(alt)
    sheet = _sheet(_array(pictures), columns, gap, span)
    return Picture(_raster(sheet, scale, alt, name), alt, name)


def frames(
    pictures: Sequence[Any],
    labels: Sequence[str],
    alt: str = "",
    *,
    name: str = "",
    start: int = -1,
    seconds: float = 4.0,
    columns: int = 8,
    scale: float = 2.0,
) -> Picture:
    """Frames under a time slider with a play button; needs no server and no library.

    `pictures` are figures, or batches of images as `images` takes them; `labels` name the frames
    ("t = 0.25").  The frame `start` shows first, and stays if scripts are off.  One run through
    all frames takes `seconds`; nothing moves before the reader asks for it.
    """
    alt = _sentence(alt)
    if len(pictures) != len(labels) or not len(pictures):
        raise ValueError(
            f"{len(pictures)} pictures and {len(labels)} labels; give one label for each frame."
        )
    start = range(len(pictures))[start]
    if all(isinstance(picture, Figure) for picture in pictures):
        rendered = [_svg(fig) for fig in pictures]
        for fig in pictures:
            _close(fig)
        unique = _unique(name, *(svg for svg, _, _ in rendered))
        shared, bodies = _share(rendered, unique)
        css_width = max(width for _, width, _ in rendered)
        least = max(least for _, _, least in rendered)
        width = f"min-width:min({least:.0f}px,{css_width:.0f}px);max-width:{css_width:.0f}px"
    else:
        sheets = [_sheet(_array(p), columns, 2, (-1.0, 1.0)) for p in pictures]
        unique = _unique(name, *(sheet.tobytes().hex() for sheet in sheets))
        shared = ""
        bodies = [_img(sheet, scale) for sheet in sheets]
        width = f"max-width:{max(sheet.shape[1] for sheet in sheets) * scale:.0f}px"
    slides = "".join(
        f'<div data-frame data-label="{html.escape(label, quote=True)}"'
        f"{'' if i == start else ' hidden'}>{body}</div>"
        for i, (body, label) in enumerate(zip(bodies, labels, strict=True))
    )
    label = html.escape(alt, quote=True)
    pause = max(40, round(1000 * seconds / len(pictures)))
    markup = (
        f'<div class="fn-figure fn-frames" id="{unique}"{_data_name(name)} '
        f'style="margin:1em auto;{width};overflow-x:auto;color:inherit">{shared}'
        f'<div role="img" aria-label="{label}">{slides}</div>'
        '<div class="fn-controls" hidden style="display:flex;gap:.6em;align-items:center;'
        'font-size:.9em;position:sticky;left:0">'
        '<button type="button" aria-label="Play" style="font:inherit;color:inherit;'
        "background:none;border:1px solid currentColor;border-radius:4px;min-width:2.2em;"
        'padding:.15em .5em;cursor:pointer">▶</button>'
        f'<input type="range" min="0" max="{len(pictures) - 1}" value="{start}" step="1" '
        f'aria-label="Frame" aria-valuetext="{html.escape(labels[start], quote=True)}" '
        'style="flex:1;min-width:4em;accent-color:var(--fn-c0,#006bad)">'
        '<output style="min-width:5.5em;font-variant-numeric:tabular-nums">'
        f"{html.escape(labels[start])}</output></div>"
        f"<script>{_SLIDER.replace('UNIQUE', unique).replace('PAUSE', str(pause))}</script></div>"
    )
    return Picture(markup, alt, name)


# It looks for its own box only, so that any number of them may stand on a page.  A run ends at
# the last frame; for readers who ask for reduced motion a press on the button steps one frame.
_SLIDER = re.sub(
    r"\n\s*",
    " ",
    """(function () {
  const box = document.getElementById("UNIQUE");
  if (!box) return;
  const slides = box.querySelectorAll("[data-frame]");
  const bar = box.querySelector(".fn-controls");
  const range = bar.querySelector("input");
  const button = bar.querySelector("button");
  const output = bar.querySelector("output");
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let timer = null;
  function go(k) {
    slides.forEach((slide, i) => { slide.hidden = i !== k; });
    range.value = k;
    output.textContent = slides[k].dataset.label;
    range.setAttribute("aria-valuetext", slides[k].dataset.label);
  }
  function stop() {
    clearInterval(timer); timer = null;
    button.textContent = "▶"; button.setAttribute("aria-label", "Play");
  }
  function step() {
    const k = +range.value + 1;
    if (k < slides.length) go(k);
    if (k >= slides.length - 1) stop();
  }
  button.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (+range.value === slides.length - 1) go(0);
    if (still.matches) { step(); return; }
    button.textContent = "❚❚"; button.setAttribute("aria-label", "Pause");
    timer = setInterval(step, PAUSE);
  });
  range.addEventListener("input", () => { stop(); go(+range.value); });
  bar.hidden = false;
})();""",
)


# ---------------------------------------------------------------------------------------------
# SVG


_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_LONG = re.compile(r"-?\d*\.\d{3,}(?:e-?\d+)?")


def _svg(fig: Figure) -> tuple[ElementTree.Element, float, float]:
    """The figure as a tidy SVG tree, its width and its least legible width in CSS pixels."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({**_STYLE, "path.simplify": True}):
        fig.savefig(
            buffer,
            format="svg",
            dpi=_CSS_PER_INCH * _SCALE,
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    root = ElementTree.fromstring(buffer.getvalue())
    _tidy(root)
    if any(isinstance(artist, AxesImage | QuadMesh) for artist in fig.findobj()):
        root.set("class", "fn-pixels")  # values, not dots: a theme must not brighten them
    css_width = float(fig.get_size_inches()[0]) * _CSS_PER_INCH
    sizes = [
        text.get_fontsize() * _CSS_PER_POINT
        for text in fig.findobj(Text)
        if text.get_visible() and text.get_text().strip()
    ]
    least = css_width * min(1.0, _LEGIBLE / min(sizes, default=1e9))
    return root, css_width, least


def _tidy(root: ElementTree.Element) -> None:
    """Strip what a page does not need, and name colours so that a theme can change them."""
    for parent in list(root.iter()):
        for child in list(parent):
            # matplotlib's <style> says `* {...}`; inline it would restyle the whole page
            if child.tag == _SVG + "metadata" or child.tag == _SVG + "style":
                parent.remove(child)
    used: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == _HREF and value.startswith("#"):
                used.add(value[1:])
            elif "url(#" in value:
                used.update(re.findall(r"url\(#([^)]+)\)", value))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.text = (element.text or "").strip() or None
        element.tail = None
        for key in list(element.attrib):
            value = element.attrib.pop(key)
            if key == "id" and value not in used:
                continue
            if key == _HREF:
                key = "href"
                if value.startswith("data:image/png"):
                    value = _shrink(value)
            elif key in ("style", "fill", "stroke"):
                value = _theme(re.sub(r"\s*([:;])\s*", r"\1", value))
            elif key == "d":
                value = _outline(value)
            elif key in ("x", "y", "width", "height", "points") or (
                key == "transform" and "scale" not in value
            ):
                value = _round(value)
            element.attrib[key] = value
    _unwrap(root)
    _merge(root)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("style", "stroke-linejoin:round;stroke-linecap:butt")


def _outline(d: str) -> str:
    """Path data in fewer characters: relative steps for polygons, no needless blanks.

    A path of many points (a contour, a trajectory) is rounded to a tenth of a point, which is
    less than a seventh of a CSS pixel; each step starts where rounding has left the last one.
    """
    tokens = d.split()
    if set(tokens) & set("QCqcHVhvSsTtAa") or not tokens:
        return re.sub(r" ?([A-Za-z]) ?", r"\1", _round(" ".join(tokens)))
    digits = 1 if len(tokens) > 150 else 2
    out: list[str] = []
    here = start = (0.0, 0.0)
    command, i = "", 0
    repeats = False  # a command that repeats need not be written again
    while i < len(tokens):
        if tokens[i] in ("M", "L"):
            command = tokens[i]
            i += 1
        elif tokens[i] in ("z", "Z"):
            out.append("z")
            here, repeats = start, False
            command = ""
            i += 1
            continue
        point = (round(float(tokens[i]), digits), round(float(tokens[i + 1]), digits))
        i += 2
        if command == "M":
            out.append(f"M{_short(point[0])} {_short(point[1])}")
            start, repeats = point, False
            command = "L"
        else:
            step = (round(point[0] - here[0], digits), round(point[1] - here[1], digits))
            x, y = _short(step[0]), _short(step[1])
            lead = " " if repeats and not x.startswith("-") else "" if repeats else "l"
            out.append(f"{lead}{x}{y}" if y.startswith("-") else f"{lead}{x} {y}")
            repeats = True
        here = point
    return "".join(out)


def _short(number: float) -> str:
    text = f"{number:.2f}".rstrip("0").rstrip(".")
    text = re.sub(r"^(-?)0\.", r"\1.", text)
    return "0" if text in ("", "-0", "-") else text


def _merge(element: ElementTree.Element) -> None:
    """Many shapes of one style become one (arrows), many lines of one style share it (paths)."""
    for child in element:
        _merge(child)
    children: list[ElementTree.Element] = []
    # matplotlib writes a masked arrow (a velocity that is nan) as a path without an outline
    everything = [child for child in element if child.tag != "path" or "d" in child.attrib]
    i = 0
    while i < len(everything):
        first, rest = everything[i], _look(everything[i])
        run = [first]
        for other in everything[i + 1 :]:
            if first.tag != "path" or other.tag != "path" or _look(other) != rest:
                break
            run.append(other)
        style = rest.get("style", "")
        stroked = "stroke:" in style and "stroke:none" not in style
        if len(run) < 8 or "id" in rest or (stroked and "fill:none" not in style):
            children.extend(run)
        elif stroked:
            # opacity of a group would be that of the union, stroke-opacity is each line's own
            shared = {**rest, "style": style.replace(";opacity:", ";stroke-opacity:")}
            group = ElementTree.Element("g", shared)
            group.extend(ElementTree.Element("path", {"d": path.attrib["d"]}) for path in run)
            children.append(group)
        else:
            outlines = "".join(path.attrib["d"] for path in run)
            children.append(ElementTree.Element("path", {**rest, "d": outlines}))
        i += len(run)
    element[:] = children


def _look(path: ElementTree.Element) -> dict[str, str]:
    return {key: value for key, value in path.attrib.items() if key != "d"}


def _unwrap(element: ElementTree.Element) -> None:
    """Put the children of groups without attributes into their parent."""
    children: list[ElementTree.Element] = []
    for child in element:
        _unwrap(child)
        if child.tag == "g" and not child.attrib:
            children.extend(child)
        elif child.tag != "defs" or len(child):
            children.append(child)
    element[:] = children


def _round(value: str) -> str:
    return _LONG.sub(lambda m: f"{float(m.group()):.2f}".rstrip("0").rstrip("."), value)


def _theme(style: str) -> str:
    style = style.replace(ink, "currentColor").replace(muted, f"var(--fn-muted,{muted})")
    for i, color in enumerate(colors):
        style = style.replace(color, f"var(--fn-c{i},{color})")
    return style


def _shrink(uri: str) -> str:
    """Re-encode an embedded PNG with a palette: a scatter has few colours."""
    data = base64.b64decode(uri.split(",", 1)[1])
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    small = picture.quantize(128, method=Image.Quantize.FASTOCTREE)
    packed = _png(small)
    if len(packed) < len(data):
        data = packed
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _prefix(root: ElementTree.Element, unique: str) -> str:
    """The tree as text, every id beginning with `unique`: figures share one page's ids."""
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
    text = re.sub(r'\bid="', f'id="{unique}-', text)
    text = text.replace("url(#", f"url(#{unique}-")
    return text.replace('href="#', f'href="#{unique}-')


def _share(
    rendered: Sequence[tuple[ElementTree.Element, float, float]], unique: str
) -> tuple[str, list[str]]:
    """Move the definitions of all frames (mostly glyphs) into one SVG, each once.

    An id that stands for different content in different frames stays in its frame.
    """
    content: dict[str, set[str]] = {}
    for root, _, _ in rendered:
        for defs in root.iter("defs"):
            for child in defs:
                if "id" in child.attrib:
                    text = ElementTree.tostring(child, encoding="unicode")
                    content.setdefault(child.attrib["id"], set()).add(text)
    common = {key: texts.pop() for key, texts in content.items() if len(texts) == 1}
    bodies = []
    for i, (root, css_width, _) in enumerate(rendered):
        for defs in root.iter("defs"):
            defs[:] = [child for child in defs if child.attrib.get("id") not in common]
        _unwrap(root)
        own = {child.attrib["id"] for defs in root.iter("defs") for child in defs if child.attrib}
        text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
        text = re.sub(
            r'(\bid="|url\(#|href="#)([^")]+)',
            lambda m, i=i, own=own: f"{m[1]}{unique}-{f'{i}-' if m[2] in own else ''}{m[2]}",
            text,
        )
        bodies.append(_sized(text, css_width, "100%"))
    store = _prefix(ElementTree.fromstring(f"<defs>{''.join(common.values())}</defs>"), unique)
    hide = 'style="position:absolute" width="0" height="0" aria-hidden="true"'
    return f"<svg {hide}>{store}</svg>", bodies


def _sized(svg: str, css_width: float, least: str) -> str:
    return svg.replace(
        'style="stroke-linejoin:round;stroke-linecap:butt"',
        f'width="{css_width:.0f}" style="display:block;margin:0 auto;height:auto;'
        f"max-width:100%;min-width:min({least},{css_width:.0f}px);"
        'stroke-linejoin:round;stroke-linecap:butt"',
        1,
    )


def _box(svg: str, css_width: float, least: float, alt: str, name: str) -> str:
    label = html.escape(alt, quote=True)
    svg = _sized(svg, css_width, f"{least:.0f}px")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return (
        f'<div class="fn-figure"{_data_name(name)} '
        f'style="max-width:100%;overflow-x:auto;margin:1em 0;color:inherit">{svg}</div>'
    )


# ---------------------------------------------------------------------------------------------
# Rasters


def _sheet(pictures: np.ndarray, columns: int, gap: int, span: tuple[float, float]) -> np.ndarray:
    """The grid as uint8 `(height, width, 2 or 4)`: grey or colour, and alpha 0 in the gaps."""
    if pictures.ndim == 3:
        pictures = pictures[:, None]
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or not len(pictures):
        raise ValueError(
            f"pictures has shape {pictures.shape}; expected (n, h, w), (n, 1, h, w) or "
            "(n, 3, h, w) with n ≥ 1."
        )
    if columns < 1:
        raise ValueError(f"columns = {columns} must be at least 1.")
    if pictures.dtype != np.uint8:
        low, high = span
        if not high > low:
            raise ValueError(f"span = {span} must be (low, high) with low < high.")
        if not np.isfinite(pictures).all():
            raise ValueError("pictures holds NaN or infinite values; look at them before drawing.")
        pictures = np.clip((pictures - low) / (high - low), 0, 1)
        pictures = np.round(255 * pictures).astype(np.uint8)
    n, channels, height, width = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels + 1)
    sheet = np.zeros(shape, dtype=np.uint8)
    for k, picture in enumerate(pictures):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        tile = sheet[top : top + height, left : left + width]
        tile[..., :-1] = picture.transpose(1, 2, 0)
        tile[..., -1] = 255
    return sheet


def _img(sheet: np.ndarray, scale: float, attributes: str = 'alt=""') -> str:
    picture = Image.fromarray(sheet, mode=None)
    picture = picture.resize((_SCALE * sheet.shape[1], _SCALE * sheet.shape[0]), Image.NEAREST)
    data = base64.b64encode(_png(picture)).decode()
    width, height = sheet.shape[1] * scale, sheet.shape[0] * scale
    return (
        f'<img {attributes} width="{width:.0f}" height="{height:.0f}" '
        'style="display:block;margin:0 auto;max-width:100%;height:auto;'
        'image-rendering:pixelated;background:none" '
        f'src="data:image/png;base64,{data}">'
    )


def _raster(sheet: np.ndarray, scale: float, alt: str, name: str) -> str:
    image = _img(sheet, scale, f'alt="{html.escape(alt, quote=True)}"')
    return f'<div class="fn-figure"{_data_name(name)} style="margin:1em 0">{image}</div>'


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------
# Small things


def _array(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def _color(color: int | str) -> str:
    return colors[color % len(colors)] if isinstance(color, int) else to_hex(color)


def _extent(extent: float | Sequence[float]) -> tuple[float, float, float, float]:
    if isinstance(extent, int | float):
        return -float(extent), float(extent), -float(extent), float(extent)
    left, right, bottom, top = (float(value) for value in extent)
    return left, right, bottom, top


def _grid(extent: float | Sequence[float], n: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Coordinates along both axes and the `n²` points of the grid as float32 `(n * n, 2)`."""
    left, right, bottom, top = _extent(extent)
    xs, ys = torch.linspace(left, right, n), torch.linspace(bottom, top, n)
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return xs.numpy(), ys.numpy(), torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2)


def _sentence(alt: str) -> str:
    alt = " ".join(str(alt).split())
    if len(alt) < 8:
        raise ValueError(f"alt = {alt!r} must say in a sentence what is to be seen.")
    return alt


def _unique(name: str, *content: str | ElementTree.Element) -> str:
    digest = hashlib.sha256(name.encode())
    for item in content:
        text = item if isinstance(item, str) else ElementTree.tostring(item, encoding="unicode")
        digest.update(text.encode())
    return "fn" + digest.hexdigest()[:10]


def _data_name(name: str) -> str:
    return f' data-name="{html.escape(name, quote=True)}"' if name else ""


def _close(fig: Figure) -> None:
    """Close a figure that pyplot made; ours are nobody's to close."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(fig)
