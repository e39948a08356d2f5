"""The model card of a released model: a README.md written from the run itself."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from raypretrain.models.shape import ModelShape
from raypretrain.storage import write_atomic
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training.events import read_events
from raypretrain.training.goodput import account_of
from raypretrain.training.metrics import read_log
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder

CARD = "README.md"
_TEMPLATE = "model_card.md.j2"
_MOST_EVALUATIONS = 12


def write_card(
    folder: RunFolder,
    recipe: PretrainRecipe,
    tokenizer: Tokenizer,
    shape: ModelShape,
    averaged: list[int],
    to: Path,
) -> None:
    """Write ``README.md`` of the model in ``to``: data, recipe, curves, compute, limits, licence.

    Args:
        averaged: the steps of the checkpoints that its weights are of.
    """
    values = {**values_of(folder, recipe, tokenizer, shape), "averaged": sorted(averaged)}
    render_card("raypretrain.training", _TEMPLATE, values, to)


def render_card(package: str, template: str, values: dict[str, Any], to: Path) -> None:
    """Write ``README.md`` in ``to``, by a template in Markdown that lies in a package."""
    environment = Environment(
        loader=PackageLoader(package, "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    write_atomic(to / CARD, environment.get_template(template).render(values))


def values_of(
    folder: RunFolder, recipe: PretrainRecipe, tokenizer: Tokenizer, shape: ModelShape
) -> dict[str, Any]:
    """What the card says, from the run's folder."""
    rows, evaluations = read_log(folder.metrics), read_log(folder.evaluations)
    sources: dict[str, int] = {}
    for row in rows:
        for name, tokens in row.get("sources", {}).items():
            sources[name] = sources.get(name, 0) + tokens
    total = sum(sources.values())
    return {
        "name": recipe.card.name or Path(recipe.run.folder).name,
        "card": recipe.card,
        "shape": shape,
        "tokenizer": tokenizer,
        "base": Path(_json(folder.base).get("folder", "")).name,
        "parent": Path(_json(folder.parent).get("run", "")).name,
        "sources": {name: (tokens, tokens / total if total else 0.0) for name, tokens in sources.items()},
        "bad": sum(row.get("quarantined", 0) for row in rows),
        "skipped": sum("skipped" in row for row in rows),
        "steps": rows[-1]["step"] if rows else 0,
        "tokens": rows[-1]["tokens"] if rows else 0,
        "evaluations": thinned(evaluations, _MOST_EVALUATIONS),
        "of_sources": evaluations[-1].get("sources", {}) if evaluations else {},
        "compute": compute_of(folder, recipe),
        "recipe": published(recipe),
        "recipe_length": recipe.sequences.length,
        "packages": _json(folder.environment).get("packages", {}),
    }


def compute_of(folder: RunFolder, recipe: PretrainRecipe) -> dict[str, Any]:
    """Device-hours of the whole run, and the energy that they come to at the recipe's watts a device."""
    sizes = _json(folder.environment).get("sizes", {})
    groups = [event for event in read_events(folder.events) if event["event"] == "group"]
    account = account_of(folder.path, time.time())
    workers = max([group["world"] for group in groups], default=sizes.get("workers", 1))
    hours = account.wall * workers / 3600
    watts = recipe.card.watts
    return {
        "workers": workers,
        "device": sizes.get("device", "cpu"),
        "precision": sizes.get("precision", "fp32"),
        "hours": hours,
        "kilowatt_hours": None if watts is None else hours * watts / 1000,
        "goodput": account.goodput,
        "restarts": sum(event["event"] == "lost" for event in read_events(folder.events)),
    }


def published(recipe: PretrainRecipe) -> str:
    """The recipe as YAML, without where things lay on its maker's machines."""
    values = recipe.model_dump(mode="json", exclude={"run": {"folder"}, "compute": True, "card": True})
    text: str = yaml.safe_dump(_without_places(values), sort_keys=False, allow_unicode=True, width=120)
    return text


def _without_places(value: Any) -> Any:
    """Of every path and URL in it the last part alone, and of the addresses of stores nothing."""
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if not key.endswith("endpoint_url")}
        return {key: _without_places(part) for key, part in kept.items()}
    if isinstance(value, list):
        return [_without_places(part) for part in value]
    if isinstance(value, str) and (value.startswith("/") or "://" in value):
        inside = value.partition("://")[2].partition("/")[2] if "://" in value else value
        return inside.rstrip("/").rpartition("/")[2]
    return value


def thinned(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many rows, the first and the last among them, evenly between."""
    if len(rows) <= most:
        return rows
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return values
