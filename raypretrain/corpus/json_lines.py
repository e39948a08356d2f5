"""``.jsonl``: a JSON object a line, one of whose keys holds the text."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from raypretrain.corpus.compression import Damaged
from raypretrain.corpus.format_base import NAME_THE_COLUMN
from raypretrain.corpus.text_formats import TextFormat
from raypretrain.errors import InputError

_LONGEST_QUICKLY = 1 << 20
"""Bytes; orjson is twice as fast, but takes memory for 14 copies of a record."""


class NoSuchKey(InputError):
    """An object without the text's key."""


@dataclass(frozen=True)
class JsonLines(TextFormat):
    """``.jsonl``: a JSON object a line; lines of nothing but space are passed over.

    ``key`` is the text's key, or the way to it through objects within objects: ``a.b``.
    """

    name = "jsonl"
    suffixes = (".jsonl", ".ndjson")

    def parse(self, record: bytes) -> str:
        if not record or record.isspace():
            return ""
        row = _load(record)
        text = row.get(self.key) if isinstance(row, dict) else None
        if not isinstance(text, str):
            text = self._inner(row)
        if not text.isascii():
            self._refuse_surrogates(text)
        return text

    def check(self, patient: bool = False) -> None:
        verdict: InputError | None = None
        for start, stop, _ in self.fragments(1 << 20) if patient else [(0, min(self.size, 1 << 16), 0)]:
            for _, found in self.texts(start, stop):
                if isinstance(found, str):
                    return
                if not patient:
                    raise found
                if isinstance(found, NoSuchKey | Damaged):
                    verdict = verdict or found
        if verdict:
            raise verdict

    def _inner(self, row: Any) -> str:
        """The text where it is not simply there: in an object within, or an error."""
        if not isinstance(row, dict):
            raise InputError("is not a JSON object", fix=f'write {{"{self.key}": "…"}}')
        value: Any = row
        way = ""
        for part in [self.key] if self.key in row else self.key.split("."):
            if not isinstance(value, dict):
                raise self._no_such_key(row, "")
            if part not in value:
                raise self._no_such_key(value, way)
            value, way = value[part], f"{way}{part}."
        if not isinstance(value, str):
            raise InputError(f"'{self.key}' is {_json_type(value)}, not text")
        return value

    def _no_such_key(self, there: dict[str, Any], way: str) -> NoSuchKey:
        names = ", ".join(f"'{way}{k}'" for k in list(there)[:20]) or "no key at all"
        return NoSuchKey(f"has no key '{self.key}', only {names}", fix=NAME_THE_COLUMN)

    def _refuse_surrogates(self, text: str) -> None:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise InputError(f"'{self.key}' holds {half}, half of a character") from None


def _load(record: bytes) -> Any:
    if len(record) <= _LONGEST_QUICKLY:
        with suppress(orjson.JSONDecodeError):  # it is stricter
            return orjson.loads(record)
    text = record.decode("utf-8")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise InputError(f"is not valid JSON ({reason})") from None


def _json_type(value: object) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), "a number")
