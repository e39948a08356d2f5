"""How a recipe (YAML) is read, overridden with ``--set a.b=c``, validated and saved.

The settings themselves live beside what they build; a recipe is a :class:`Config` composed of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo

from raypretrain.errors import RecipeError
from raypretrain.recipe_lines import lines_of, place_of


class Config(BaseModel):
    """Settings of one thing: immutable, unknown keys refused, defaults validated as well."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        arbitrary_types_allowed=True,
        serialize_by_alias=True,  # a key may be a word that Python keeps for itself
    )


# USER:PASSWORD@ behind the scheme, or over HTTP also TOKEN@; Azure's abfss://CONTAINER@ACCOUNT holds no secret.
_PASSWORD = re.compile(r"://[^/@:\s]*:[^@\s]+@|https?://[^/@\s]+@", re.IGNORECASE)
_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}


def parse_count(value: object) -> object:
    """``5M`` → 5,000,000; also ``1_000``, ``2e9`` and ``1.5B``. Anything else is left to pydantic."""
    if isinstance(value, bool):
        raise ValueError(f"'{str(value).lower()}' is not a count; write e.g. 4096, 64K, 5M or 1.5B")
    if not isinstance(value, str):
        return int(value) if isinstance(value, float) and value.is_integer() else value
    found = re.fullmatch(
        r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e\+?[0-9]{1,2})?)\s*([kmbgt]?)b?\s*", value.lower()
    )
    if not found:
        raise ValueError(f"'{value}' is not a count; write e.g. 4096, 64K, 5M or 1.5B")
    count = Decimal(found[1].replace("_", "")) * _SUFFIXES[found[2]]
    if count != int(count):
        raise ValueError(f"'{value}' is not a whole number")
    return int(count)


Count = Annotated[int, BeforeValidator(parse_count)]
"""A number of tokens, sequences or bytes; ``5M`` and ``20MB`` are understood."""


class Typed(str):
    """A text given by ``--set``: as a path, relative to where the command was typed."""


def resolve_path(value: object, info: ValidationInfo) -> object:
    """Make a path relative to the recipe's file absolute; URLs (``s3://…``) stay as they are."""
    if not isinstance(value, str | Path) or not str(value):
        return value
    text = str(value)
    if "://" in text:
        return text
    folder = Path.cwd() if isinstance(value, Typed) else (info.context or {}).get("folder")
    path = Path(text).expanduser()
    return str(path if path.is_absolute() or folder is None else Path(folder) / path)


Location = Annotated[str, BeforeValidator(resolve_path)]
"""A path or URL. A relative path is relative to the recipe's folder, or, given by ``--set``, to the current one."""

C = TypeVar("C", bound=Config)


def keys_of(path: str | Path) -> frozenset[str]:
    """The keys of the recipe at ``path``, which tell its kind; none if it cannot be read: who loads it says why."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        values = None
    return frozenset(map(str, values)) if isinstance(values, dict) else frozenset()


def load_recipe(path: str | Path, schema: type[C], overrides: Iterable[str] = ()) -> C:
    """Read the recipe at ``path``, apply ``a.b=c`` overrides, and validate it as a ``schema``.

    Raises:
        RecipeError: the file cannot be read, is no YAML, or a key or value is wrong (with file, line, key).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            "there is no such recipe", where=str(path), fix="give the path of a YAML file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read ({error})", where=str(path)) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = lines_of(root, path)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(
            f"is not valid YAML ({getattr(error, 'problem', None) or error})", where=where
        ) from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise RecipeError("a recipe is a mapping of keys to values", where=str(path))
    for override in overrides:
        changed = _apply_override(values, override)
        # What the override replaced has no line in the file any more, nor has what it made on its way.
        lines = {key: line for key, line in lines.items() if key[: len(changed)] != changed}
        lines |= {changed[:n]: 0 for n in range(1, len(changed) + 1) if changed[:n] not in lines}
    return validate(
        values, schema, folder=path.resolve().parent, where=str(path), name=path.stem, lines=lines
    )


def validate(
    values: dict[str, Any],
    schema: type[C],
    *,
    folder: Path,
    where: str,
    name: str = "run",
    lines: dict[tuple[str, ...], int] | None = None,
    context: dict[str, Any] | None = None,
) -> C:
    """``values`` as a ``schema``; the first thing that is wrong becomes one :class:`RecipeError`.

    Args:
        context: what the validators are told beside the folder and the name.
    """
    _refuse_passwords(values, where, lines or {})
    try:
        return schema.model_validate(values, context={"folder": str(folder), "name": name, **(context or {})})
    except ValidationError as error:
        # A misspelt key says more than what is missing because of it.
        details = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise _recipe_error(details[0], schema, where, lines or {}) from None


def save_recipe(recipe: Config, path: str | Path) -> None:
    """Write ``recipe`` as resolved: every default, every override, absolute paths."""
    Path(path).write_text(to_yaml(recipe), encoding="utf-8")


def to_yaml(recipe: Config) -> str:
    """The recipe as YAML text, keys in the order of their definition."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` → ``{"a.b": 1}``; lists by index. For comparing two recipes key by key."""
    children: Iterable[tuple[str, Any]]
    if isinstance(values, dict) and values:
        children = ((str(k), v) for k, v in values.items())
    elif isinstance(values, list) and values:
        children = ((str(i), v) for i, v in enumerate(values))
    else:
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in children:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` is most likely a misspelling of."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def _apply_override(values: dict[str, Any], override: str) -> tuple[str, ...]:
    """Set ``a.b=c`` in ``values`` (c is YAML) and return the path of the key."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise RecipeError(f"'{override}' is not an override", where="--set", fix="write --set a.b=c")
    try:
        value = _typed(yaml.safe_load(text))
    except yaml.YAMLError:
        raise RecipeError(f"'{text}' is not a YAML value", where=f"--set {key}") from None
    parts = key.split(".")
    node: Any = values
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise RecipeError(f"the list has {len(node)} entries, '{part}' is none", where=f"--set {key}")
            if last:
                node[int(part)] = value
            else:
                node = node[int(part)]
        elif isinstance(node, dict):
            if last:
                node[part] = value
            else:
                if node.get(part) is None:
                    node[part] = {}
                node = node[part]
        else:
            raise RecipeError(f"'{'.'.join(parts[:i])}' has no keys inside", where=f"--set {key}")
    return tuple(parts)


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return Typed(value) if isinstance(value, str) else value


def _recipe_error(
    detail: Any, schema: type[Config], where: str, lines: dict[tuple[str, ...], int]
) -> RecipeError:
    location = tuple(str(part) for part in detail["loc"])
    keys = [part for part in location if not part.startswith(("function-", "union", "tagged"))]
    key = ".".join(keys)
    line, place = place_of(location, key, where, lines)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(schema, location[:-1])
        guess = nearest(location[-1], known)
        fix = f"did you mean '{guess}'?" if guess else f"known here: {', '.join(known)}"
        return RecipeError(f"unknown key '{key}'", where=place, fix=fix)
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "missing":
        return RecipeError(f"the key '{key}' is missing", where=place)
    subject = f"{key}: " if key and line != 0 else ""
    got = detail.get("input")
    shown = (
        f" (got {got!r})" if isinstance(got, str | int | float | bool) and repr(got) not in message else ""
    )
    return RecipeError(f"{subject}{message}{shown}", where=place)


def _refuse_passwords(values: dict[str, Any], where: str, lines: dict[tuple[str, ...], int]) -> None:
    """Refuse a URL with a password, without showing it: it would stand in every copy of the recipe."""
    for key, value in flatten(values).items():
        if isinstance(value, str) and _PASSWORD.search(value):
            line, place = place_of(tuple(key.split(".")), key, where, lines)
            raise RecipeError(
                f"{key}: a URL with a password in it" if line else "a URL with a password in it",
                where=place,
                fix="take it out; keys come from the environment, or from the store's own files",
            )


def _known_keys(schema: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    current: Any = schema
    chosen = False  # the next part is a key that the user chooses
    for part in path:
        if part.isdigit() or chosen:  # an index into a list of configs
            chosen = False
            continue
        if isinstance(current, type) and issubclass(current, BaseModel):
            named = {field.alias or name: field for name, field in current.model_fields.items()}
            field = named.get(part)
            current = _config_in(field.annotation) if field else None
            chosen = field is not None and get_origin(field.annotation) is dict
    if isinstance(current, type) and issubclass(current, BaseModel):
        return [field.alias or name for name, field in current.model_fields.items()]
    return []


def _config_in(annotation: Any) -> Any:
    """The Config class inside ``list[X]``, ``X | None`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _config_in(arg)) is not None), None)
