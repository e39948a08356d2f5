"""The plan as one page that stands alone: the answer, four pictures, and what of it is a guess."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from raypretrain.errors import StorageError
from raypretrain.finetuning import pictures as of_reports
from raypretrain.finetuning import svg
from raypretrain.finetuning.axes import scale
from raypretrain.finetuning.svg import BOTTOM, RIGHT, TOP, WIDTH
from raypretrain.planview import (
    STEP_PARTS,
    fit_lines,
    fits_line,
    headline,
    law_lines,
    memory_parts,
    probe_lines,
)
from raypretrain.storage import write_atomic

_BAR = 26
_NAMES = 168
"""Where bars begin, right of their names."""

Picture = tuple[str, str, str]
"""Its title, the SVG, and what is to be said below."""


def write_page(found: dict[str, Any], path: Path) -> None:
    """Write the page of a plan.

    Raises:
        StorageError: it cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("raypretrain", ""), autoescape=select_autoescape(["j2"], default=True)
    )
    template = environment.get_template("planpage.html.j2")
    text = template.render(
        title=f"Plan of {Path(found['recipe']).name} on {found['gpu']['number']:,} × {found['gpu']['name']}",
        fits=f"Does it fit? {fits_line(found)}.",
        lines=headline(found),
        pictures=of_reports,  # the style sheet asks it for the number of its colours
        drawn=pictures(found),
        options=found["options"],
        law=[
            line
            for line in law_lines(found) + probe_lines(found["probe"]) + fit_lines(found.get("fit"))
            if line
        ],
        guesses=found["guesses"],
    )
    try:
        write_atomic(path, text)
    except OSError as error:
        raise StorageError(f"cannot be written ({error.strerror or error})", where=str(path)) from None


def pictures(found: dict[str, Any]) -> list[Picture]:
    """Memory and time by part, dollars against hours, and the fitted law where there is one."""
    memory = found["memory"]
    parts = [(name, size / 1e9) for name, size in memory_parts(memory) if name != "total"]
    made = [
        (
            "Memory of a GPU",
            bars(parts, "GB", memory["capacity"] / 1e9),
            f"{memory['total'] / 1e9:.1f} GB in all; the dashed line is what the GPU has.",
        )
    ]
    if found["step"]:
        step = found["step"]
        shares = [(name, step[key]) for key, name in STEP_PARTS.items() if key != "seconds"]
        made.append(("Time of a step", bars(shares, "seconds"), f"{step['seconds']:.3f} seconds in all."))
    if len(found["options"]) > 1:
        made.append(("Dollars against hours", trade(found["options"]), "A point for each number of GPUs."))
    if found.get("fit"):
        note = "A point a run; on the line the law is right. The last one is this recipe, with its interval."
        made.append(("Loss by the fitted law", law(found["fit"]), note))
    return made


def bars(parts: list[tuple[str, float]], unit: str, limit: float | None = None) -> str:
    """A bar for each part, and a line at ``limit``."""
    height = TOP + _BAR * len(parts) + BOTTOM
    root = svg.canvas(f"{unit} by part", height=height)
    x = scale(
        [0.0, *(value for _, value in parts), *([limit] if limit else [])], _NAMES, WIDTH - RIGHT, margin=0.0
    )
    svg.bottom(root, x, height - BOTTOM, unit, x.ticks(most=4))
    for i, (name, value) in enumerate(parts):
        y = TOP + _BAR * i
        svg.label(root, _NAMES - 8, y + 15, name, "end", "name")
        width = max(0.5, x.at(value) - x.at(0.0))
        svg.add(
            root,
            "rect",
            f"part{i % 7}",
            f"{name}: {value:,.4g} {unit}",
            x=x.at(0.0),
            y=y + 3.0,
            width=width,
            height=16.0,
        )
    if limit:
        svg.line(root, x.at(limit), TOP, x.at(limit), height - BOTTOM, "limit", f"{limit:,.1f} {unit}")
    return svg.as_text(root)


def trade(options: list[dict[str, Any]]) -> str:
    """Dollars against hours, a point for each number of GPUs."""
    root = svg.canvas("dollars against hours, by the number of GPUs")
    many = max(one["dollars"] for one in options) >= 10_000
    points = [[one["hours"], one["dollars"] / (1000 if many else 1)] for one in options]
    x, y = svg.across([p[0] for p in points], log=True), svg.up([0.0, *(p[1] for p in points)])
    svg.frame(root, x, y, "hours of the whole run", "thousand dollars" if many else "dollars")
    svg.add(root, "polyline", "curve", points=svg.path(points, x, y))
    for one, (hours, dollars) in zip(options, points, strict=True):
        note = f"{one['gpus']:,} GPUs: {hours:,.1f} h, ${one['dollars']:,.0f}"
        svg.add(root, "circle", "dot", note, cx=x.at(hours), cy=y.at(dollars), r=4)
        svg.label(root, x.at(hours), y.at(dollars) - 9, f"{one['gpus']:,}", "middle")
    return svg.as_text(root)


def law(fit: dict[str, Any]) -> str:
    """The loss that the law says against the measured one, and the predicted one with its interval."""
    root = svg.canvas("loss: the law's against the measured")
    runs, aim = fit["runs"], fit["predicted"]
    values = [value for run in runs for value in (run["loss"], run["fitted"])] + list(aim.values())
    x, y = svg.across(values), svg.up(values)
    svg.frame(root, x, y, "the law's loss, nats a token", "measured")
    svg.line(root, x.at(min(values)), y.at(min(values)), x.at(max(values)), y.at(max(values)), "ideal")
    for run in runs:
        note = f"{run['name']}: {run['loss']:.3f}, by the law {run['fitted']:.3f}"
        svg.add(root, "circle", "dot", note, cx=x.at(run["fitted"]), cy=y.at(run["loss"]), r=4)
    note = f"predicted {aim['loss']:.3f}, {aim['low']:.3f} to {aim['high']:.3f}"
    at = x.at(aim["loss"])
    svg.line(root, at, y.at(aim["low"]), at, y.at(aim["high"]), "interval", note)
    svg.add(root, "circle", "aim", note, cx=at, cy=y.at(aim["loss"]), r=5)
    return svg.as_text(root)
