"""Figures: what a page and a notebook get to see, and that it depends on nothing else."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from matplotlib.path import Path
from PIL import Image

from fromnoise import plotting
from fromnoise.distributions import laboratory

ALT = "A curve that rises from the origin."


def curve() -> plotting.Picture:
    fig, ax = plotting.figure()
    ax.plot([0, 1, 2], [0, 1, 4], label="$x^2$")
    ax.set_xlabel("$x$")
    ax.legend()
    return plotting.show(fig, ALT, "curve")


def svg_of(picture: plotting.Picture) -> ElementTree.Element:
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", picture.markup, flags=re.S)[0])


def test_ink_follows_the_page_and_series_are_variables():
    markup = curve().markup
    assert "currentColor" in markup and plotting.ink not in markup
    assert f"var(--fn-c0,{plotting.colors[0]})" in markup
    # a rule of matplotlib's that would restyle the page around the figure
    assert "<style" not in markup and "*{" not in markup


def test_output_is_deterministic_and_ids_are_its_own():
    first, second = curve(), curve()
    assert first.markup == second.markup
    fig, ax = plotting.figure()
    ax.plot([0, 1], [1, 0], label="$x^2$")
    ax.legend()
    other = plotting.show(fig, ALT, "other")
    ids = [set(re.findall(r'\bid="([^"]+)"', p.markup)) for p in (first, other)]
    assert ids[0] and not ids[0] & ids[1]
    for picture in (first, other):
        own = set(re.findall(r'\bid="([^"]+)"', picture.markup))
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', picture.markup))
        assert used <= own


def test_alt_text_in_every_form():
    picture = curve()
    assert svg_of(picture).attrib["role"] == "img"
    assert svg_of(picture).attrib["aria-label"] == ALT
    bundle = picture._repr_mimebundle_()
    assert ALT in bundle["text/plain"] and bundle["text/html"] == picture._repr_html_()
    with pytest.raises(ValueError, match="alt = ''"):
        plotting.show(plotting.figure()[0], "")
    quoted = plotting.show(plotting.figure()[0], 'A "box" <empty> & small.')
    assert svg_of(quoted).attrib["aria-label"] == 'A "box" <empty> & small.'


def test_a_phone_never_shrinks_text_below_legible():
    fig, axes = plotting.figure(1, 4, width=12)
    for ax in axes:
        ax.set_xlabel("time", fontsize=9)
    style = svg_of(plotting.show(fig, ALT)).attrib["style"]
    least = float(re.search(r"min-width:min\(([\d.]+)px", style)[1])
    smallest = 9 * 96 / 72  # points in CSS pixels
    assert smallest * least / (12 * 96) == pytest.approx(8.5, abs=0.05)
    assert "max-width:100%" in style


def test_compact_outlines_are_the_same_shapes():
    # Every vertex within half a unit of the last digit kept: 0.05 of a point for long paths.
    angle = np.linspace(0, 2 * np.pi, 200)
    x, y = 100 + 90 * np.cos(3 * angle), 80 + 70 * np.sin(2 * angle)
    steps = [
        f"{'M' if i == 0 else 'L'} {a:.6f} {b:.6f}"
        for i, (a, b) in enumerate(zip(x, y, strict=True))
    ]
    text = plotting._outline(" ".join(steps) + " z M 1 2 L 3 4")
    assert len(text) < 0.45 * len(" ".join(steps))
    vertices, command = [], ""
    for word in re.findall(r"[Mlz]|-?\d*\.?\d+", text):
        if word.isalpha():
            command = word
        elif vertices and len(vertices[-1]) == 1:
            vertices[-1].append(float(word))
            if command == "l":
                vertices[-1] = [a + b for a, b in zip(vertices[-1], vertices[-2], strict=True)]
        else:
            vertices.append([float(word)])
    expected = np.vstack([np.stack([x, y], axis=1), [[1, 2], [3, 4]]])
    assert np.abs(np.array(vertices) - expected).max() <= 0.05 + 1e-9


def test_many_points_are_one_raster_and_few_are_shapes(generator):
    for n, rasters in ((2000, 1), (50, 0)):
        fig, ax = plotting.figure()
        plotting.points(ax, torch.randn(n, 2, generator=generator))
        picture = plotting.show(fig, "A cloud of points.")
        assert len(re.findall("<image ", picture.markup)) == rasters
        assert len(picture.markup) < 60_000


def test_field_and_density_weigh_little():
    law = laboratory(torch.float32)
    fig, ax = plotting.figure(width=5, height=5)
    plotting.density(ax, law.log_prob, 3.5)
    plotting.arrows(ax, law.score, 3.5)
    plotting.square(ax, 3.5, frame=False)
    picture = plotting.show(fig, "Contours of three islands, and arrows that point to them.")
    assert len(picture.markup) < 60_000
    assert ax.get_aspect() == 1.0


def test_masked_arrows_are_left_out():
    fig, ax = plotting.figure(width=3, height=3)
    plotting.arrows(ax, lambda x: x.where(x[:, :1] > 0, torch.nan), 2.0, 9, scale=4.0)
    picture = plotting.show(fig, "Arrows to the right of the axis, none on its left.")
    assert "nan" not in picture.markup


def test_raster_without_theme_is_marked():
    fig, ax = plotting.figure()
    ax.imshow(np.eye(4))
    assert 'class="fn-pixels"' in plotting.show(fig, "A diagonal of four squares.").markup
    assert "fn-pixels" not in curve().markup


def pixels(markup: str) -> np.ndarray:
    data = re.search(r"data:image/png;base64,([^\"]+)", markup)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_images_grid_holds_the_pixels():
    batch = torch.tensor([-1.0, 0.0, 1.0, 3.0]).reshape(4, 1, 1, 1).expand(4, 1, 5, 5)
    picture = plotting.images(batch, columns=3, alt="Four squares, from black to white.")
    sheet = pixels(picture.markup)
    assert sheet.shape == (2 * (2 * 5 + 2), 2 * (3 * 5 + 2 * 2), 2)  # at twice the size
    centres = [sheet[5, 5, 0], sheet[5, 19, 0], sheet[5, 33, 0], sheet[19, 5, 0]]
    assert centres == [0, 128, 255, 255]  # 3 is clipped
    assert sheet[5, 5, 1] == 255 and sheet[5, 11, 1] == 0  # the gap is clear
    assert "image-rendering:pixelated" in picture.markup
    colour = plotting.images(torch.zeros(2, 3, 4, 4), alt="Two grey squares.")
    assert pixels(colour.markup).shape[2] == 4


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(4, 2, 5, 5), "shape"),
        (torch.zeros(5), "shape"),
        (torch.zeros(0, 1, 5, 5), "n ≥ 1"),
        (torch.full((1, 1, 2, 2), float("nan")), "NaN"),
    ],
)
def test_images_refuses_what_it_can_not_draw(batch, message):
    with pytest.raises(ValueError, match=message):
        plotting.images(batch, alt="Something to be seen.")


def test_frames_show_one_and_carry_all(generator):
    figs = []
    for k in range(5):
        fig, ax = plotting.figure(width=4, height=4)
        plotting.points(ax, torch.randn(40, 2, generator=generator) * k)
        plotting.square(ax, 3.5)
        figs.append(fig)
    labels = [f"t = {k / 4:.2f}" for k in range(5)]
    picture = plotting.frames(figs, labels, "A point that spreads into a cloud.")
    markup = picture.markup
    assert markup.count("data-frame data-label") == 5
    assert len(re.findall(r'data-label="[^"]*" hidden', markup)) == 4
    assert 'max="4" value="4"' in markup and "prefers-reduced-motion" in markup
    # glyphs are stored once for all frames, and everything that is used is there
    own = re.findall(r'\bid="([^"]+)"', markup)
    assert len(own) == len(set(own))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', markup))
    assert used <= set(own)
    assert len(markup) < 60_000
    with pytest.raises(ValueError, match="one label for each"):
        plotting.frames([torch.zeros(1, 2, 2)], [], "Nothing at all.")
    still = plotting.frames([torch.zeros(2, 1, 5, 5)] * 3, list("abc"), "Three grey frames.")
    assert still.markup.count("<img ") == 3


def test_slope_reference_has_the_slope():
    _fig, ax = plotting.figure()
    h = np.array([0.4, 0.2, 0.1])
    plotting.loglog_slope(ax, h, 3 * h**2, 2, "error")
    data, reference = ax.get_lines()
    np.testing.assert_allclose(reference.get_ydata(), data.get_ydata())
    with pytest.raises(ValueError, match="positive"):
        plotting.loglog_slope(ax, h, h - 0.2, 1)


def test_paths_are_one_line_for_each_member():
    _fig, ax = plotting.figure()
    trajectory = torch.arange(24.0).reshape(4, 3, 2)  # (times, batch, 2)
    lines = plotting.paths(ax, trajectory)
    assert [type(p) for p in lines.get_paths()] == [Path] * 3
    np.testing.assert_array_equal(lines.get_paths()[1].vertices, trajectory[:, 1].numpy())
    with pytest.raises(ValueError, match="trajectory=True"):
        plotting.paths(ax, trajectory[0])


def test_density_levels_are_fractions_of_the_maximum():
    _fig, ax = plotting.figure()
    drawn = plotting.density(
        ax, lambda x: -0.5 * (x**2).sum(1), 3.0, levels=[0.5], filled=False, resolution=201
    )
    radius = np.linalg.norm(drawn.get_paths()[0].vertices, axis=1)
    # the density falls to half at radius sqrt(2 log 2); the grid is 0.03 wide
    np.testing.assert_allclose(radius, np.sqrt(2 * np.log(2)), atol=1e-3)
    with pytest.raises(ValueError, match="fractions"):
        plotting.density(ax, lambda x: x[:, 0], levels=[1.5])


def luminance(colour: str) -> float:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("ground", ["#ffffff", "#14171c"])
def test_colours_read_on_both_grounds(ground):
    # WCAG asks 3 : 1 of graphics; the last two are for a fifth and sixth series, and lighter
    for colour, least in zip(plotting.colors, [3, 3, 3, 3, 2.5, 2.5], strict=True):
        light, dark = sorted([luminance(colour), luminance(ground)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= least, colour
