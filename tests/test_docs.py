"""The documents say what is there: every key of the recipes, every link, every command line."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import typer.main
import yaml
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from raypretrain.cli import app
from raypretrain.config import Config, load_recipe, validate
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.models.config import PRESETS, ModelConfig
from raypretrain.sweeps.recipe import SweepRecipe, is_pretraining
from raypretrain.training.recipe import PretrainRecipe

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    *(ROOT / name / "README.md" for name in ("jobs", "cluster")),
    *sorted((ROOT / "docs").glob("*.md")),
]
RECIPES = {"Pretraining": PretrainRecipe, "Fine-tuning": FinetuneRecipe}
SCHEMAS = {
    "pretrain": PretrainRecipe,
    "plan": PretrainRecipe,
    "inspect": PretrainRecipe,
    "tokenize": PretrainRecipe,
    "doctor": PretrainRecipe,
    "finetune": FinetuneRecipe,
    "search": FinetuneRecipe,
    "submit": PretrainRecipe,
}


def section(title: str) -> str:
    """The part of docs/recipe.md under a heading of the second level."""
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/recipe.md has no section {title}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row that begins with a key in backticks."""
    lines = (line for line in text.splitlines() if line.startswith("| `"))
    return [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
    ]


def keys(schema: type[Config], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key; N stands for an index of a list, KEY for a key that the user chooses."""
    for own, field in schema.model_fields.items():
        name = field.alias or own
        kind, args = get_origin(field.annotation), get_args(field.annotation)
        inner = args[-1] if kind in (list, dict) and args else field.annotation
        if isinstance(inner, type) and issubclass(inner, Config):
            part = {list: f"{name}.N", dict: f"{name}.KEY"}.get(kind, name)
            yield from keys(inner, f"{prefix}{part}.")
        else:
            yield f"{prefix}{name}", field


@pytest.mark.parametrize("title", RECIPES)
def test_every_key_of_a_recipe_is_documented_and_no_other(title: str) -> None:
    documented = [row[0].strip("`") for row in rows(section(title))]
    assert len(documented) == len(set(documented))
    assert set(documented) == {key for key, _ in keys(RECIPES[title])}


@pytest.mark.parametrize("title", RECIPES)
def test_the_documented_defaults_and_choices_are_those_of_the_code(title: str) -> None:
    cells = {row[0].strip("`"): row for row in rows(section(title))}
    for key, field in keys(RECIPES[title]):
        _, kind, default, meaning = cells[key]
        assert kind, key
        assert meaning, key
        for choice in literals(field.annotation):
            assert f"`{choice}`" in kind, f"{key}: {choice} is not among the documented choices"
        shown = re.fullmatch(r"`(.*)`", default)
        if field.is_required():
            assert default == "required", key
        elif field.default is None or field.default == "":
            assert default, key
            assert not shown, f"{key}: has no fixed default"
        else:
            assert shown, f"{key}: the default is {field.default}"
            adapter = TypeAdapter(Annotated[field.annotation, field])
            assert adapter.validate_python(yaml.safe_load(shown[1]), context={}) == field.default, key


def literals(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from (str(value) for value in get_args(annotation))
    else:
        for inner in get_args(annotation):
            yield from literals(inner)


def test_the_documented_presets_are_those_of_the_code() -> None:
    documented = {row[0].strip("`"): row[1:] for row in rows(section("Presets"))}
    assert list(documented) == list(PRESETS)
    for name, shape in PRESETS.items():
        grouped = getattr(shape, "key_value_heads", "–")
        sizes = [shape.width, shape.layers, shape.heads, grouped, shape.feed_forward]
        assert documented[name] == [*map(str, sizes), "yes" if shape.tied else "no"], name


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """``(language, text)`` of every fenced code block."""
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def prose(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(word: str) -> list[tuple[str, list[str]]]:
    """``(document, words)`` of every line of a code block, fenced or indented, that runs ``word``."""
    found = []
    for path in DOCUMENTS:
        indented = "\n".join(re.findall(r"^ {4}(.*)$", prose(path), re.MULTILINE))
        for text in (indented, *(text for _, text in blocks(path))):
            for line in text.replace("\\\n", " ").splitlines():
                line = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
                if line == word or line.startswith(f"{word} "):
                    words = shlex.split(line, comments=True)
                    stop = next((i for i, w in enumerate(words) if w in ("|", "&&", ";", ">", "2>")), None)
                    found.append((path.name, words[1:stop]))
    return found


@pytest.mark.parametrize(("document", "words"), commands("raypretrain"), ids=lambda v: str(v)[:60])
def test_every_command_line_of_the_documents_parses(document: str, words: list[str], tmp_path: Path) -> None:
    command: Any = typer.main.get_command(app)
    name = "raypretrain"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, words = words[0], words[1:]
        assert name in command.commands, f"{document}: there is no command {name}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    if "--help" in words or "--version" in words:
        assert {word for word in words if word.startswith("-")} <= options
        return
    given = command.make_context(name, list(words)).params
    recipe = given.get("recipe")
    if recipe is not None and (ROOT / recipe).is_file():
        overrides = [*(given["overrides"] or [])]
        if re.search(r"^ *from: ", (ROOT / recipe).read_text(encoding="utf-8"), re.MULTILINE):
            base = ModelConfig().shape(1000, 1024).to_huggingface_config()
            (tmp_path / "config.json").write_text(json.dumps(base))
            overrides.append(f"model.from={tmp_path}")
        sweeps = name == "search" and is_pretraining(ROOT / recipe)
        load_recipe(ROOT / recipe, SweepRecipe if sweeps else SCHEMAS[name], overrides)
    elif recipe is not None:
        assert Path(recipe).parts[0] != "jobs", f"{document}: there is no {recipe}"


def test_every_make_target_of_the_documents_is_there() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for document, words in commands("make"):
        assert {word for word in words if "=" not in word} <= set(targets), document


def test_every_recipe_in_the_documents_is_valid() -> None:
    found = 0
    for path in DOCUMENTS:
        for language, text in blocks(path):
            values = yaml.safe_load(text) if language == "yaml" else {}
            schema = PretrainRecipe if "corpus" in values else FinetuneRecipe if "base" in values else None
            if schema:
                validate(values, schema, folder=ROOT, where=str(path))
                found += 1
    assert found


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_every_relative_link_resolves(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{path.name} links to {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), f"{path.name} links to {target}"
