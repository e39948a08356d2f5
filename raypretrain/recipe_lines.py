"""Where in a recipe's file a key stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from raypretrain.errors import RecipeError


def lines_of(root: yaml.Node | None, path: Path) -> dict[tuple[str, ...], int]:
    """The line of every key. YAML itself would let a second value of a key silently replace the first."""
    lines: dict[tuple[str, ...], int] = {}
    for key, line in _key_lines(root):
        if key in lines:
            raise RecipeError(f"the key '{'.'.join(key)}' is given twice", where=f"{path}:{line}")
        lines[key] = line
    return lines


def _key_lines(node: yaml.Node | None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """The line (from 1) of every key of a composed YAML document."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _key_lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield (*path, str(i)), value.start_mark.line + 1
            yield from _key_lines(value, (*path, str(i)))


def place_of(
    location: tuple[str, ...], key: str, where: str, lines: dict[tuple[str, ...], int]
) -> tuple[int | None, str]:
    """The line of a key, 0 if ``--set`` gave it, and how a user is told of the place."""
    line = next((lines[p] for n in range(len(location), 0, -1) if (p := location[:n]) in lines), None)
    return line, f"--set {key}" if line == 0 else where if line is None else f"{where}:{line}"
