"""Labelled texts: a text and a label in each row of a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raypretrain.errors import InputError
from raypretrain.finetuning.rows import value_of


@dataclass(frozen=True, slots=True)
class Example:
    """A text and its label; ``where`` is its file and line (or row), for messages."""

    text: str
    label: Any
    where: str = ""
    parts: Any = None


def label_of(row: dict[str, object], column: str, where: str) -> str:
    """The label in a column; whole numbers and truth values are labels by their text.

    Raises:
        InputError: there is no such column, or no label in it.
    """
    label = value_of(row, column, where)
    if isinstance(label, bool | int):
        label = str(label).lower()
    if not isinstance(label, str) or not label.strip():
        raise InputError(
            f"column '{column}': {label!r} is no label; give a word or a whole number", where=where
        )
    return label.strip()
