"""``.txt`` and ``.jsonl``, plain or compressed: bytes of UTF-8, of which only ``\\n`` ends a line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raypretrain import storage
from raypretrain.corpus import records
from raypretrain.corpus.compression import decompress
from raypretrain.corpus.format_base import NAME_THE_COLUMN, Format
from raypretrain.errors import InputError

_COMPRESSION_RATIO = 3  # how much larger text is than its gzip or zstd, about; a window's size hangs on it
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class _TextFormat(Format):
    """What is made of bytes of UTF-8. A position is the document's first byte in the (decompressed) file."""

    separator = records.LINES

    def fragments(self, fragment_bytes: int) -> list[tuple[int, int, int]]:
        if self.compression:
            return [(0, 0, self.size * _COMPRESSION_RATIO)]
        count = -(-self.size // fragment_bytes)
        edges = [self.size * i // count for i in range(count + 1)]
        return [(a, b, b - a) for a, b in itertools.pairwise(edges)]

    def texts(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        for offset, record in self._records(start, stop):
            yield offset, self._decode(offset, record)

    def _records(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        if self.compression:
            parts = records.in_stream(self._chunks(), self.separator)
        else:
            parts = records.in_range(self._read, start, stop, self.size, self.separator)
        for offset, data in parts:
            skip = len(_BOM) if offset == 0 and data.startswith(_BOM) else 0
            yield from self.separator.split(data[skip:] if skip else data, offset + skip)

    def _read(self, start: int, stop: int) -> bytes:
        data = storage.read_range(self.url, start, stop, self.options)
        if len(data) != stop - start:
            raise InputError("has become shorter since the corpus was listed", where=self.url)
        return data

    def _chunks(self) -> Iterator[bytes]:
        with self._file() as file:
            if self.compression:
                yield from decompress(file, self.compression, self.url)
            else:
                while chunk := file.read(1 << 20):
                    yield chunk

    def _decode(self, offset: int, record: bytes) -> str:
        try:
            return record.decode("utf-8")
        except UnicodeDecodeError as error:
            bad = f"is not UTF-8 (byte 0x{record[error.start]:02x})"
            raise self.bad(offset + error.start, bad, "convert the file to UTF-8") from None

    def bad(self, offset: int, what: str, fix: str | None = None) -> InputError:
        """The error for what is wrong at the byte ``offset``; only now are the lines before it counted."""
        line, seen = 1, 0
        for chunk in self._chunks():
            line += chunk.count(b"\n", 0, max(0, offset - seen))
            seen += len(chunk)
            if seen >= offset:
                break
        return InputError(what, where=f"{self.url}:{line}", fix=fix)


@dataclass(frozen=True)
class TextLines(_TextFormat):
    """``.txt``, each line a document."""


@dataclass(frozen=True)
class TextBlocks(_TextFormat):
    """``.txt``, each run of lines between empty lines a document."""

    separator = records.BLOCKS


@dataclass(frozen=True)
class WholeText(_TextFormat):
    """``.txt``, the whole file one document."""

    def fragments(self, fragment_bytes: int) -> list[tuple[int, int, int]]:
        return [(0, 0, self.size * (_COMPRESSION_RATIO if self.compression else 1))]

    def texts(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        yield 0, self._decode(0, b"".join(self._chunks())).removeprefix("\ufeff")


@dataclass(frozen=True)
class JsonLines(_TextFormat):
    """``.jsonl``: a JSON object a line; lines of nothing but space are passed over."""

    def texts(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        key = self.key
        for offset, line in self._records(start, stop):
            if not line or line.isspace():
                continue
            row = self._parse(offset, line)
            text = row.get(key) if isinstance(row, dict) else None
            if not isinstance(text, str):
                raise self._no_text(offset, row)
            if not text.isascii():
                self._refuse_surrogates(offset, text)
            yield offset, text

    def check(self) -> None:
        for offset, line in self._records(0, min(self.size, 1 << 16)):
            if line and not line.isspace():
                row = self._parse(offset, line)
                if not isinstance(row, dict) or self.key not in row:
                    raise self._no_text(offset, row)
                return

    def _parse(self, offset: int, line: bytes) -> Any:
        text = self._decode(offset, line)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = (
                f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            )
            raise self.bad(offset, f"is not valid JSON ({reason})") from None

    def _no_text(self, offset: int, row: Any) -> InputError:
        if not isinstance(row, dict):
            return self.bad(offset, "is not a JSON object", f'write {{"{self.key}": "…"}}')
        if self.key not in row:
            there = ", ".join(f"'{k}'" for k in list(row)[:20]) or "no key at all"
            return self.bad(offset, f"has no key '{self.key}', only {there}", NAME_THE_COLUMN)
        return self.bad(offset, f"'{self.key}' is {_json_type(row[self.key])}, not text")

    def _refuse_surrogates(self, offset: int, text: str) -> None:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise self.bad(offset, f"'{self.key}' holds {half}, half of a character") from None


def _json_type(value: object) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), "a number")
