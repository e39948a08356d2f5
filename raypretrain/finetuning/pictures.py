"""The pictures of a search's report, as SVG: plain functions from the data of ``figures.py`` to text.

Colours are classes, so that the page's style sheet decides them, for light and for dark. A way to adapt has a
colour and a shape of its own; from the base it is filled and its line is whole, from scratch hollow and dashed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

from raypretrain.finetuning import svg
from raypretrain.finetuning.axes import Scale, scale, score_text, tick_text
from raypretrain.finetuning.figures import Row
from raypretrain.finetuning.svg import BOTTOM, HEIGHT, RIGHT, TOP, WIDTH

_COLUMN, _SIDE = 118, 84
"""Between two axes of parallel coordinates, and beside the first and the last."""

_FEW = 5
"""So many values stand at an axis as they are; of more, round ones."""

_SHAPES = (
    "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0z",  # circle
    "M-4,-4h8v8h-8z",  # square
    "M0,-5.5L5,4H-5z",  # triangle
    "M0,-5.8L5.2,0L0,5.8L-5.2,0z",  # diamond
    "M0,5.5L5,-4H-5z",  # triangle, upside down
    "M-5.5,-2.5h11v5h-11z",  # bar
    "M-2,-5.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z",  # plus
)
COLOURS = len(_SHAPES)
"""So many ways can be told apart; the next one looks like the first."""

RANKS = 6
"""Colours from the worst to the best trial."""


def curves(lines: Sequence[Row], ways: Sequence[str], title: str, unit: str) -> str:
    """A line a trial by epoch, its last point marked; the best one is thick and on top.

    Args:
        lines: of :func:`figures.curves`, at least one.
        ways: all of the task; a way's place gives its colour and shape.
        title: what the picture shows, for who cannot see it.
        unit: stands at the vertical axis.
    """
    root = svg.canvas(title)
    x = svg.across([p[0] for line in lines for p in line["points"]], whole=True)
    y = svg.up([p[1] for line in lines for p in line["points"]])
    svg.frame(root, x, y, "epoch", unit)
    for line in sorted(lines, key=lambda line: line["best"]):
        group = svg.add(root, "g", f"line {_look(line, ways)}", title=f"{_name(line)}: {_last(line)}")
        svg.add(group, "polyline", points=svg.path(line["points"], x, y))
        _mark(group, line, ways, x.at(line["points"][-1][0]), y.at(line["points"][-1][1]))
    return svg.as_text(root)


def pareto(points: Sequence[Row], front: Sequence[Sequence[float]], ways: Sequence[str], unit: str) -> str:
    """Score against forgetting, a point a trial (at least one), the front as steps, a ring at the best."""
    root = svg.canvas(f"{unit} against forgetting, a point a trial")
    x, y = svg.across([p["x"] for p in points]), svg.up([p["y"] for p in points])
    svg.frame(root, x, y, "forgetting, nats a token (less is better)", unit)
    steps: list[Sequence[float]] = []
    for corner in front:
        steps += [[corner[0], steps[-1][1]], corner] if steps else [corner]
    svg.add(root, "polyline", "front", points=svg.path([*steps, [x.high, front[-1][1]]], x, y))
    for point in sorted(points, key=lambda point: point["best"]):
        at = x.at(point["x"]), y.at(point["y"])
        if point["best"]:
            svg.add(root, "circle", "ring", cx=at[0], cy=at[1], r=9)
        note = f"{_name(point)}: {score_text(point['y'])}, forgot {score_text(point['x'])}"
        _mark(root, point, ways, *at, title=note)
    return svg.as_text(root)


def comparison(groups: Sequence[Row], rival: float | None, ways: Sequence[str], unit: str) -> str:
    """The mean of each way and initialisation as a mark, its spread as a bar, the rival as a line.

    Args:
        groups: way, init, mean, spread (or None), seeds; at least one.
    """
    height = TOP + 28 * len(groups) + BOTTOM
    root = svg.canvas(f"{unit}: mean and spread over seeds", height=height)
    reach = [g["mean"] + sign * (g["spread"] or 0) for g in groups for sign in (-1, 1)]
    x = scale([*reach, *([] if rival is None else [rival])], 150, WIDTH - RIGHT)
    svg.bottom(root, x, height - BOTTOM, unit, x.ticks(most=4))
    if rival is not None:
        svg.line(
            root, x.at(rival), TOP, x.at(rival), height - BOTTOM, "rival", f"TF-IDF: {score_text(rival)}"
        )
    for i, group in enumerate(groups):
        y = TOP + 28 * i + 14
        svg.label(root, 140, y + 4, _short(_way(group), 20), "end", title=_way(group))
        _spread(root, group, ways, (x.at(group["mean"]), y), x, upright=False)
    return svg.as_text(root)


def label_counts(lines: Sequence[Row], ways: Sequence[str], unit: str) -> str:
    """The score by the number of labelled examples, with bars for the spread over seeds.

    Args:
        lines: of :func:`figures.label_counts`, at least one.
    """
    root = svg.canvas(f"{unit} by the number of labelled examples")
    points = [point for line in lines for point in line["points"]]
    x = svg.across([p["examples"] for p in points], log=True)
    y = svg.up([p["mean"] + sign * (p["spread"] or 0) for p in points for sign in (-1, 1)])
    counts = sorted({p["examples"] for p in points})
    svg.frame(root, x, y, "labelled examples", unit, counts if len(counts) <= _FEW else None)
    for line in lines:
        group = svg.add(root, "g", f"line {_look(line, ways)}")
        svg.add(
            group, "polyline", points=svg.path([[p["examples"], p["mean"]] for p in line["points"]], x, y)
        )
        for point in line["points"]:
            at = x.at(point["examples"]), y.at(point["mean"])
            note = f", {point['examples']:,.0f} examples"
            _spread(group, line | point, ways, at, y, upright=True, note=note)
    return svg.as_text(root)


def parallel(axes: Sequence[Row], lines: Sequence[Row]) -> str:
    """Parallel coordinates: an upright axis a setting, a line a trial, coloured from the worst to the best.

    Args:
        axes, lines: of :func:`figures.parallel`, at least two axes and one line.
    """
    width = max(WIDTH, 2 * _SIDE + _COLUMN * (len(axes) - 1))
    gap = (width - 2 * _SIDE) / (len(axes) - 1)
    top, bottom = 52, HEIGHT - 20
    root = svg.canvas("the settings that vary, a line a trial", width=width)
    scales = [_upright(axis, bottom - 24, top) for axis in axes]
    for line in sorted(lines, key=lambda line: line["rank"]):
        look = f"line s{round(line['rank'] * (RANKS - 1))}" + (" best" if line["best"] else "")
        group = svg.add(root, "g", look, title=f"{_name(line)}: {score_text(line['values'][-1])}")
        heights = [_height(v, a, s, bottom) for v, a, s in zip(line["values"], axes, scales, strict=True)]
        places = [f"{_SIDE + gap * i:.1f},{y:.1f}" for i, y in enumerate(heights)]
        svg.add(group, "polyline", points=" ".join(places))
    for i, (axis, one) in enumerate(zip(axes, scales, strict=True)):
        x = _SIDE + gap * i
        svg.line(root, x, top - 6, x, bottom, "axis")
        # Every second name stands a line higher, so that long ones do not run into each other.
        svg.label(root, x, 34 if i % 2 else 16, axis["name"].replace("_", " "), "middle", "name")
        for value, text in _marks(axis, one):
            svg.label(root, x - 5, one.at(value) + 4, _short(text, 11), "end", title=text)
        if any(line["values"][i] is None for line in lines):
            svg.label(root, x - 5, bottom + 4, "none", "end")
    return svg.as_text(root)


def swatch(way: str, init: str, ways: Sequence[str]) -> str:
    """The mark of a way and initialisation, for a legend."""
    root = svg.canvas(f"{way} from {init}", width=18, height=14)
    root.set("class", "swatch")
    _mark(root, {"way": way, "init": init, "best": False}, ways, 9, 7)
    return svg.as_text(root)


def _look(line: Row, ways: Sequence[str]) -> str:
    hollow = " scratch" if line["init"] == "scratch" else ""
    return f"c{ways.index(line['way']) % COLOURS}{hollow}" + (" best" if line.get("best") else "")


def _mark(root: Element, of: Row, ways: Sequence[str], x: float, y: float, title: str = "") -> None:
    shape = _SHAPES[ways.index(of["way"]) % COLOURS]
    svg.add(root, "path", f"mark {_look(of, ways)}", title, d=shape, transform=f"translate({x:.1f} {y:.1f})")


def _spread(
    root: Element,
    group: Row,
    ways: Sequence[str],
    at: tuple[float, float],
    along: Scale,
    *,
    upright: bool,
    note: str = "",
) -> None:
    """A mark at a mean, with a bar of one standard deviation to both sides."""
    (x, y), title = at, f"{_way(group)}{note}: {score_text(group['mean'])}"
    if group["spread"]:
        low, high = (along.at(group["mean"] + sign * group["spread"]) for sign in (-1, 1))
        ends = (x, low, x, high) if upright else (low, y, high, y)
        svg.line(root, *ends, look=f"bar {_look(group, ways)}")
        title += f" ± {score_text(group['spread'])}, {group['seeds']} seeds"
    _mark(root, group, ways, x, y, title)


def _upright(axis: Row, start: float, end: float) -> Scale:
    if axis["kind"] == "names":
        return scale(range(len(axis["values"])), start, end)
    return scale(axis["values"], start, end, log=axis["kind"] == "log")


def _height(value: Any, axis: Row, one: Scale, missing: float) -> float:
    if value is None:
        return missing
    return one.at(axis["values"].index(value) if axis["kind"] == "names" else value)


def _marks(axis: Row, one: Scale) -> list[tuple[float, str]]:
    """What stands beside an axis of parallel coordinates: its values where they are few, else round ones."""
    if axis["kind"] == "names":
        return list(enumerate(axis["values"]))
    values = sorted(set(axis["values"]))
    return [(value, tick_text(value)) for value in (values if len(values) <= _FEW else one.ticks())]


def _name(line: Row) -> str:
    return f"{line['trial']} ({_way(line)}, seed {line['seed']})"


def _way(group: Row) -> str:
    return f"{group['way']} from {group['init']}"


def _last(line: Row) -> str:
    epoch, value = line["points"][-1]
    return f"{score_text(value)} after epoch {epoch:g}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
