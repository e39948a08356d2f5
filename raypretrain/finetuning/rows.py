"""Rows of labelled files: tables, JSON, Parquet, tagged sentences; each with the place where it stands."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field, field_validator

from raypretrain.config import Config, Location, nearest
from raypretrain.corpus import compression, records
from raypretrain.corpus.columns import named
from raypretrain.corpus.listing import COMPANIONS
from raypretrain.errors import InputError
from raypretrain.finetuning.conll import conll_rows, slashed_rows
from raypretrain.finetuning.sequences import read_sequences
from raypretrain.storage import FileInfo, list_files, open_read

Row = tuple[str, dict[str, object]]
"""A place (``FILE:LINE``, or ``FILE: row N`` from 0), and the columns that stand there."""

Kind = Literal["csv", "tsv", "jsonl", "json", "parquet", "conll", "slashes", "folders"]

SUFFIXES: dict[str, Kind] = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".json": "json", ".parquet": "parquet",
    ".conll": "conll", ".iob2": "conll", ".bio": "conll", ".txt": "folders",
}  # fmt: skip

_CHUNK = 1 << 20
_LARGEST_FIELD = 1 << 29  # characters


class LabelledFile(Config):
    """Where labelled examples are.

    Args:
        path: a file, a folder or a glob, local or ``s3://``: ``.csv``, ``.tsv``, ``.jsonl``, ``.json``, ``.conll``,
            ``.iob2``, ``.bio``, ``.txt`` (each also ``.gz``, ``.zst`` or ``.xz``) or ``.parquet``. A ``.txt`` file is
            one text, and the folder that it is in names its label.
        format: what the files are, where their suffixes do not say it. ``slashes`` is a sentence a line, each word
            with a slash and its tag; ``folders`` is as ``.txt``.
        encoding: of the characters, as Python names it.
        text: the column of the text.
        pair: the column of a second text, where the examples are pairs of texts.
        label: the column of the label; a number is taken as its digits.
        words, tags: the columns of a sentence's words and of their tags, in JSON and Parquet.
        token_column, tag_column: the same in CoNLL files, counted from 1; the first and the last one.
        iob2: tags of names that go on with nothing are refused (``strict``), or begin a name (``repair``).
        fasta: sequences (FASTA; a file, a folder or a glob), which become the text of the rows that name them.
        identifier: with ``fasta``, the column with the name of the row's sequence.
    """

    path: Location
    format: Kind | None = None
    encoding: str = "utf-8"
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    words: str = "words"
    tags: str = "tags"
    token_column: int = Field(default=1, gt=0)
    tag_column: int | None = Field(default=None, gt=0)
    iob2: Literal["strict", "repair"] = "strict"
    fasta: Location | None = None
    identifier: str = "id"

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(f"there is no encoding '{encoding}'; write e.g. utf-8 or cp1252") from None
        return encoding


def read_rows(file: LabelledFile) -> Iterator[Row]:
    """Every row of a file, or of several, sorted by name. A tagged sentence is ``{"words": […], "tags": […]}``.

    Raises:
        InputError: no file or no row, an unknown suffix, a broken file or row; or a sequence that is not there.
        StorageError: it cannot be read.
    """
    infos = list_files(file.path)
    beside = [info for info in infos if info.url.rpartition("/")[2].lower() not in COMPANIONS]
    infos = beside or infos
    if not infos:
        raise InputError("no file matches", where=file.path)
    rows = itertools.chain.from_iterable(_rows(info, file) for info in infos)
    first = next(rows, None)
    if first is None:
        raise InputError("holds no example", where=file.path)
    rows = itertools.chain([first], rows)
    yield from rows if file.fasta is None else _with_sequences(rows, file, file.fasta)


def value_of(row: dict[str, object], column: str, where: str) -> object:
    """What stands in a column.

    Raises:
        InputError: there is no such column.
    """
    if column not in row:
        there = ", ".join(f"'{name}'" for name in row) or "none"
        guess = nearest(column, row)
        fix = f"did you mean '{guess}'?" if guess else "name yours by the keys of the file in the recipe"
        raise InputError(f"there is no column '{column}', there are: {there}", where=where, fix=fix)
    return row[column]


def text_of(row: dict[str, object], column: str, where: str) -> str:
    """The text in a column.

    Raises:
        InputError: there is no such column, it is empty, or holds no text.
    """
    text = value_of(row, column, where)
    if text is None or (isinstance(text, str) and not text.strip()):
        raise InputError(f"column '{column}': the text is empty", where=where)
    if not isinstance(text, str):
        raise InputError(f"column '{column}': {text!r} is no text", where=where)
    return text


def token_place(file: LabelledFile, where: str, token: int) -> str:
    """Where word ``token`` (from 0) of the sentence at ``where`` is: in a CoNLL file it has a line of its own."""
    url, _, line = where.rpartition(":")
    if line.isdigit() and _kind(url, file) == "conll":
        return f"{url}:{int(line) + token}"
    return f"{where}: word {token + 1}"


def _kind(url: str, file: LabelledFile) -> Kind:
    if file.format:
        return file.format
    name = url.lower().removesuffix(_packed(url))
    kind = next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)
    if kind is None:
        known = ", ".join([*SUFFIXES, *compression.SUFFIXES])
        raise InputError(
            "is of an unknown kind", where=url, fix=f"known: {known}; or say what it is by the key format"
        )
    return kind


def _packed(url: str) -> str:
    return next((suffix for suffix in compression.SUFFIXES if url.lower().endswith(suffix)), "")


def _rows(info: FileInfo, file: LabelledFile) -> Iterator[Row]:
    """The rows of one file; whatever is broken is named."""
    url, kind = info.url, _kind(info.url, file)
    lines = _lines(info, file.encoding)
    try:
        if kind == "parquet":
            yield from _parquet_rows(info)
        elif kind == "conll":
            yield from conll_rows(lines, url, file.token_column, file.tag_column)
        elif kind == "slashes":
            yield from slashed_rows(lines, url)
        elif kind == "folders":
            yield url, {"text": "".join(lines).strip(), "label": url.split("/")[-2] if "/" in url else ""}
        elif kind in ("jsonl", "json"):
            yield from _json_rows(lines, url, kind)
        else:
            yield from _table_rows(lines, url, "\t" if kind == "tsv" else ",")
    except OSError as error:
        raise InputError(f"cannot be read to its end ({error})", where=url) from None


def _lines(info: FileInfo, encoding: str) -> Iterator[str]:
    """The lines, each with the ``\\n`` that alone ends it, as :mod:`csv` wants them."""
    pieces = records.in_stream(_chunks(info), records.LINES)
    raw = (line for _, data in pieces for line in data.split(b"\n"))
    for number, line in enumerate(raw, start=1):
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError as error:
            what = f"is not {encoding.upper()} (byte 0x{line[error.start]:02x})"
            fix = "convert the file to UTF-8, or say what it is by the key encoding"
            raise InputError(what, where=f"{info.url}:{number}", fix=fix) from None
        yield (text.removeprefix("\ufeff") if number == 1 else text) + "\n"


def _chunks(info: FileInfo) -> Iterator[bytes]:
    with open_read(info.url, size=info.size, tag=info.tag) as file:
        if packed := _packed(info.url):
            yield from compression.decompress(file, packed, info.url)
        else:
            yield from iter(lambda: file.read(_CHUNK), b"")


def _table_rows(lines: Iterable[str], url: str, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] = []
    line = 1
    try:
        for row in reader:
            where, line = f"{url}:{line}", reader.line_num + 1
            if not row:
                continue
            if not names:
                names = _head(row, where)
            elif len(row) != len(names):
                found = "more" if len(row) > len(names) else "fewer"
                raise InputError(f"the row has {found} columns than the head of the file", where=where)
            else:
                yield where, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise InputError(f"is no valid CSV ({error})", where=f"{url}:{line}") from None


def _head(names: list[str], where: str) -> list[str]:
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise InputError(f"names the column '{twice[0]}' twice", where=where)
    return names


def _json_rows(lines: Iterator[str], url: str, kind: Kind) -> Iterator[Row]:
    """Of an object a line; of ``.json`` also of one list of objects."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if kind == "json" and line.lstrip().startswith("["):
            listed = _parsed(line + "".join(lines), url)
            yield from ((where := f"{url}: row {i}", _object(row, where)) for i, row in enumerate(listed))
            return
        where = f"{url}:{number}"
        yield where, _object(_parsed(line, where), where)


def _parsed(text: str, where: str) -> list[object]:
    try:
        found: list[object] = json.loads(text)
        return found
    except (ValueError, RecursionError) as error:
        raise InputError(f"is no valid JSON ({error})", where=where) from None


def _object(row: object, where: str) -> dict[str, object]:
    if not isinstance(row, dict):
        raise InputError("is no JSON object", where=where)
    return row


def _parquet_rows(info: FileInfo) -> Iterator[Row]:
    import pyarrow.parquet as pq

    numbers = itertools.count()
    with open_read(info.url, size=info.size, tag=info.tag) as raw, named(info.url):
        for batch in pq.ParquetFile(raw).iter_batches():
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise InputError(f"is not UTF-8 ({error.reason})", where=info.url) from None
            yield from ((f"{info.url}: row {next(numbers)}", row) for row in rows)


def _with_sequences(rows: Iterable[Row], file: LabelledFile, fasta: str) -> Iterator[Row]:
    sequences = read_sequences(fasta)
    for where, row in rows:
        name = str(value_of(row, file.identifier, where)).strip()
        if name not in sequences:
            what = f"column '{file.identifier}': there is no sequence '{name}' in {fasta}"
            raise InputError(what, where=where, fix="name it as its header does: the first word behind '>'")
        yield where, {**row, file.text: sequences[name]}
