"""The parts of a picture, as SVG by ElementTree, which escapes whatever text comes in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from raypretrain.finetuning.axes import Scale, scale, tick_text

WIDTH, HEIGHT = 380, 280
"""Of a picture: as wide as a phone shows it, so that its text keeps its size there."""

LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 50
"""Around the field between the axes."""


def canvas(title: str, width: float = WIDTH, height: float = HEIGHT) -> Element:
    """An empty picture that fills its column; ``title`` is for who cannot see it."""
    values = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width:g} {height:g}", "role": "img"}
    return Element("svg", values | {"aria-label": _clean(title), "style": f"--width:{width:g}px"})


def add(parent: Element, tag: str, look: str = "", title: str = "", **values: Any) -> Element:
    """A new element in ``parent``: ``look`` is its class, ``title`` its tooltip, the rest its attributes."""
    shown = {key: f"{value:.1f}" if isinstance(value, float) else str(value) for key, value in values.items()}
    element = ElementTree.SubElement(parent, tag, ({"class": look} if look else {}) | shown)
    if title:
        ElementTree.SubElement(element, "title").text = _clean(title)
    return element


def as_text(root: Element) -> str:
    """The picture as it stands in a page."""
    return ElementTree.tostring(root, encoding="unicode")


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)


def across(values: Sequence[float], **kind: bool) -> Scale:
    """The horizontal scale of a picture of the usual size."""
    return scale(values, LEFT, WIDTH - RIGHT, **kind)


def up(values: Sequence[float]) -> Scale:
    """Its vertical scale."""
    return scale(values, HEIGHT - BOTTOM, TOP)


def frame(
    root: Element, x: Scale, y: Scale, below: str, beside: str, ticks: Sequence[float] | None = None
) -> None:
    """Both axes, their names ``below`` and ``beside``, with round ticks or, on the horizontal one, these."""
    for value in y.ticks():
        line(root, x.start, y.at(value), x.end, y.at(value), "grid")
        label(root, x.start - 6, y.at(value) + 4, tick_text(value), "end")
    middle = (y.start + y.end) / 2
    upright = label(root, 14, middle, beside, "middle", "name")
    upright.set("transform", f"rotate(-90 14 {middle:.1f})")
    bottom(root, x, y.start, below, ticks or x.ticks())


def bottom(root: Element, x: Scale, y: float, name: str, ticks: Sequence[float]) -> None:
    """The horizontal axis at height ``y``."""
    line(root, x.start, y, x.end, y, "axis")
    for value in ticks:
        line(root, x.at(value), y, x.at(value), y + 4, "axis")
        label(root, x.at(value), y + 18, tick_text(value), "middle")
    label(root, (x.start + x.end) / 2, y + 38, name, "middle", "name")


def line(root: Element, x1: float, y1: float, x2: float, y2: float, look: str, title: str = "") -> None:
    """A straight line."""
    add(root, "line", look, title, x1=x1, y1=y1, x2=x2, y2=y2)


def label(
    root: Element, x: float, y: float, text: str, anchor: str, look: str = "", title: str = ""
) -> Element:
    """A text that starts, ends or has its middle (``anchor``) at ``x``."""
    element = add(root, "text", look, title, x=x, y=y)
    element.set("text-anchor", anchor)
    element.text = _clean(text)
    return element


def path(points: Sequence[Sequence[float]], x: Scale, y: Scale) -> str:
    """The points of a polyline."""
    return " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in points)
