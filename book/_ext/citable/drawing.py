"""The graph "the proof of A uses B" of a chapter, drawn from left to right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape

import networkx as nx

WIDTH, HEIGHT = 92, 34  # of a box
ACROSS, DOWN = 58, 14  # gaps between boxes
MARGIN = 6


def columns(graph: nx.DiGraph) -> list[list[str]]:
    """The nodes by how long the longest way to what they rest on is; in each column in an order
    that keeps lines short.
    """
    depth: dict[str, int] = {}
    for node in reversed(list(nx.topological_sort(graph))):
        depth[node] = max((depth[other] + 1 for other in graph.successors(node)), default=0)
    made: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for node in graph:  # in the order of the book
        made[depth[node]].append(node)
    for sweep in range(4):
        order = made if sweep % 2 == 0 else list(reversed(made))
        near = graph.successors if sweep % 2 == 0 else graph.predecessors
        for column in order:
            rank = {name: (i + 0.5) / len(other) for other in made for i, name in enumerate(other)}

            def height(name: str, rank=rank, near=near) -> float:
                seen = [rank[other] for other in near(name)]
                return sum(seen) / len(seen) if seen else rank[name]

            column.sort(key=height)
    return made


def draw(
    graph: nx.DiGraph,
    names: Callable[[str], tuple[str, str, str]],
    link: Callable[[str], str],
    kind: Callable[[str], str],
    outside: Iterable[str] = (),
) -> str:
    """An SVG of an acyclic graph whose edges go from a result to what it uses.

    Args:
        graph: the graph.
        names: two short lines for a box, and a sentence for who hovers or listens.
        link: the address of a node.
        kind: a class for its colour.
        outside: nodes of other chapters, drawn quieter.
    """
    order = columns(graph)
    outside = set(outside)
    tallest = max(map(len, order), default=0)
    height = 2 * MARGIN + tallest * (HEIGHT + DOWN) - DOWN
    width = 2 * MARGIN + len(order) * (WIDTH + ACROSS) - ACROSS
    at: dict[str, tuple[float, float]] = {}
    for i, column in enumerate(order):
        space = (height - 2 * MARGIN - len(column) * HEIGHT) / (len(column) + 1)
        for j, name in enumerate(column):
            at[name] = (
                MARGIN + i * (WIDTH + ACROSS),
                MARGIN + space * (j + 1) + j * HEIGHT,
            )
    parts = []
    for user, thing in graph.edges:
        (x1, y1), (x2, y2) = at[thing], at[user]
        x1, y1, y2 = x1 + WIDTH, y1 + HEIGHT / 2, y2 + HEIGHT / 2
        bend = max(24.0, (x2 - x1) / 2)
        parts.append(
            f'<path class="fn-edge" data-from="{escape(user)}" data-to="{escape(thing)}" '
            f'd="M{x1:.0f} {y1:.0f}C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f} '
            f'{x2:.0f} {y2:.0f}"/>'
        )
    for name, (x, y) in at.items():
        first, second, sentence = names(name)
        classes = f"fn-node {kind(name)}" + (" fn-outside" if name in outside else "")
        parts.append(
            f'<a class="{classes}" href="{escape(link(name))}" data-node="{escape(name)}" '
            f'aria-label="{escape(sentence)}"><title>{escape(sentence)}</title>'
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="4"/>'
            f'<text x="{x + WIDTH / 2:.0f}" y="{y + 14:.0f}">{escape(first)}</text>'
            f'<text class="fn-second" x="{x + WIDTH / 2:.0f}" y="{y + 27:.0f}">{escape(second)}'
            "</text></a>"
        )
    return (
        f'<svg class="fn-graph" viewBox="0 0 {width} {height:.0f}" width="{width}" '
        f'height="{height:.0f}" role="group" aria-label="Graph: lines lead from a result to those '
        f'whose proofs use it">{"".join(parts)}</svg>'
    )
