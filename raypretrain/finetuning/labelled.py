"""Labelled files: CSV, JSON lines and Parquet, with a text and a label in each row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from zstandard import ZstdDecompressor, ZstdError

from raypretrain.config import Config, Location, nearest
from raypretrain.errors import InputError
from raypretrain.storage import list_files, open_read

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


class LabelledFile(Config):
    """Where labelled examples are.

    Args:
        path: a file, a folder or a glob of ``.csv``, ``.tsv``, ``.jsonl`` (each also ``.gz`` or ``.zst``) or
            ``.parquet``; local or ``s3://``.
        text: the column of the text.
        label: the column of the label; a number is taken as its digits.
    """

    path: Location
    text: str = "text"
    label: str = "label"


@dataclass(frozen=True, slots=True)
class Example:
    """A text and its label; ``where`` is its file and line (or row), for messages."""

    text: str
    label: str
    where: str = ""


Row = tuple[str, dict[str, object]]


def read_labelled(file: LabelledFile) -> list[Example]:
    """All examples of a file (or of several, sorted by name).

    Raises:
        InputError: no file, an unknown suffix, a broken file, a column that is not there, an empty text or
        label.
    """
    infos = list_files(file.path)
    if not infos:
        raise InputError("no file matches", where=file.path)
    examples = [_example(row, where, file) for info in infos for where, row in _rows(info.url)]
    if not examples:
        raise InputError("holds no example", where=file.path)
    return examples


def _example(row: dict[str, object], where: str, file: LabelledFile) -> Example:
    for column in (file.text, file.label):
        if column not in row:
            there = ", ".join(f"'{name}'" for name in row) or "none"
            guess = nearest(column, row)
            raise InputError(
                f"there is no column '{column}', there are: {there}",
                where=where,
                fix=f"did you mean '{guess}'?" if guess else "name yours with the file's keys text and label",
            )
    text, label = row[file.text], row[file.label]
    if text is None or (isinstance(text, str) and not text.strip()):
        raise InputError(f"column '{file.text}': the text is empty", where=where)
    if not isinstance(text, str):
        raise InputError(f"column '{file.text}': {text!r} is no text", where=where)
    if isinstance(label, bool | int):
        label = str(label).lower()
    if not isinstance(label, str) or not label.strip():
        raise InputError(
            f"column '{file.label}': {label!r} is no label; give a word or a whole number", where=where
        )
    return Example(text, label.strip(), where)


def _rows(url: str) -> Iterator[Row]:
    """Each row with where it is; a broken file is named."""
    bare = url.removesuffix(".gz").removesuffix(".zst")
    if not bare.endswith(SUFFIXES):
        raise InputError("is of an unknown kind", where=url, fix=f"known: {', '.join(SUFFIXES)}, .gz, .zst")
    try:
        with open_read(url) as raw:
            if bare.endswith(".parquet"):
                yield from _parquet_rows(raw, url)
            else:
                stream = io.TextIOWrapper(_decompressed(raw, url), encoding="utf-8-sig", newline="")
                yield from _json_rows(stream, url) if "json" in bare[-6:] else _csv_rows(stream, url, bare)
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 ({error.reason})", where=url) from None
    except (OSError, EOFError, zlib.error, ZstdError) as error:
        raise InputError(f"cannot be read to its end ({error})", where=url) from None


def _decompressed(raw: BinaryIO, url: str) -> BinaryIO:
    if url.endswith(".gz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if url.endswith(".zst"):
        return cast(
            BinaryIO, io.BufferedReader(ZstdDecompressor().stream_reader(raw, read_across_frames=True))
        )
    return raw


def _csv_rows(stream: io.TextIOWrapper, url: str, bare: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(stream, delimiter="\t" if bare.endswith(".tsv") else ",", strict=True)
    try:
        for row in reader:
            where = f"{url}:{reader.line_num}"
            if None in row or None in row.values():
                found = "more" if None in row else "fewer"
                raise InputError(f"the row has {found} columns than the head of the file", where=where)
            yield where, cast(dict[str, object], row)
    except csv.Error as error:
        raise InputError(f"is no valid CSV ({error})", where=f"{url}:{reader.line_num}") from None


def _json_rows(stream: io.TextIOWrapper, url: str) -> Iterator[Row]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        where = f"{url}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"is no valid JSON ({error})", where=where) from None
        if not isinstance(row, dict):
            raise InputError("is no JSON object", where=where)
        yield where, row


def _parquet_rows(raw: BinaryIO, url: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(raw)
        number = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                yield f"{url}: row {number}", row
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"is no whole Parquet file ({error})", where=url) from None
