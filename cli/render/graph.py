"""The propagation of one fault as inline SVG: the culprit at the top, each causal step below, symptoms at the bottom.

A layered layout in its simplest form: the chain is one box a row, the symptoms share the last row.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from textwrap import wrap

from cli.render import words
from wardround.models.document import Document, Hypothesis

WIDTH = 640
_WIDE, _GAP, _LINE, _PAD = 400, 34, 16, 9
_LETTER = 7.2  # pixels of an average letter
_MOST = 4  # symptoms in the last row


@dataclass(frozen=True, slots=True)
class _Node:
    kind: str
    x: float
    y: float
    width: float
    lines: tuple[str, ...]

    @property
    def height(self) -> float:
        return len(self.lines) * _LINE + 2 * _PAD


def graph_svg(hypothesis: Hypothesis, document: Document) -> str:
    """Return the graph as an ``<svg>`` element."""
    nodes, edges, height = _layout(hypothesis)
    chain = ", then ".join(words.plain(step) for step in hypothesis.causal_chain)
    label = f"{hypothesis.fault} of {words.culprit(hypothesis)} propagates: {chain or 'directly'}"
    symptoms = ", ".join(hypothesis.explains[:_MOST])
    label += f"; it explains {symptoms}" if symptoms else ""
    return (
        f'<svg class="graph" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'
        + "".join(_edge(nodes[a], nodes[b]) for a, b in edges)
        + "".join(_box(node) for node in nodes)
        + "</svg>"
    )


def _layout(hypothesis: Hypothesis) -> tuple[list[_Node], list[tuple[int, int]], float]:
    """Place the boxes; edges are pairs of positions in the list."""
    y = 2.0
    nodes: list[_Node] = []
    edges: list[tuple[int, int]] = []
    for kind, text in [("cause", f"{words.culprit(hypothesis)}: {hypothesis.fault}"), *_steps(hypothesis)]:
        node = _Node(kind, (WIDTH - _WIDE) / 2, y, _WIDE, _lines(text, _WIDE))
        if nodes:
            edges.append((len(nodes) - 1, len(nodes)))
        nodes.append(node)
        y += node.height + _GAP
    parent = len(nodes) - 1
    symptoms = _symptoms(hypothesis)
    step = WIDTH / max(len(symptoms), 1)
    width = min(200.0, step - 8)
    for column, text in enumerate(symptoms):
        edges.append((parent, len(nodes)))
        nodes.append(_Node("symptom", step * (column + 0.5) - width / 2, y, width, _lines(text, width)))
    return nodes, edges, max(node.y + node.height for node in nodes) + 2


def _lines(text: str, width: float) -> tuple[str, ...]:
    return tuple(wrap(text, int(width / _LETTER))) or ("",)


def _symptoms(hypothesis: Hypothesis) -> list[str]:
    names = [words.plain(name) for name in hypothesis.explains]
    if len(names) <= _MOST:
        return names
    return [*names[: _MOST - 1], f"and {len(names) - _MOST + 1} more"]


def _steps(hypothesis: Hypothesis) -> list[tuple[str, str]]:
    return [("step", words.plain(step)) for step in hypothesis.causal_chain]


def _box(node: _Node) -> str:
    middle = node.x + node.width / 2
    lines = "".join(
        f'<text x="{middle:.1f}" y="{node.y + _PAD + _LINE * (number + 0.8):.1f}">{escape(line)}</text>'
        for number, line in enumerate(node.lines)
    )
    frame = f'<rect x="{node.x:.1f}" y="{node.y:.1f}" width="{node.width:.1f}" height="{node.height:.1f}" rx="6"/>'
    return f'<g class="{node.kind}">{frame}{lines}</g>'


def _edge(above: _Node, below: _Node) -> str:
    x1, y1 = above.x + above.width / 2, above.y + above.height
    x2, y2 = below.x + below.width / 2, below.y
    bend = (y1 + y2) / 2
    tip = f"M{x2 - 4:.1f},{y2 - 7:.1f} L{x2:.1f},{y2:.1f} L{x2 + 4:.1f},{y2 - 7:.1f}"
    return (
        f'<path class="edge" d="M{x1:.1f},{y1:.1f} C{x1:.1f},{bend:.1f} {x2:.1f},{bend:.1f} {x2:.1f},{y2:.1f} {tip}"/>'
    )
