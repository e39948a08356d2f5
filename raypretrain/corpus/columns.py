"""A column of text in Arrow's tables, which may be a field of a structure: ``a.b``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc

from raypretrain.corpus.compression import Damaged
from raypretrain.corpus.format_base import NAME_THE_COLUMN
from raypretrain.errors import InputError, RaypretrainError, StorageError

_AT_ONCE = 4 << 20  # bytes of text


def text_column(schema: pa.Schema, key: str, url: str) -> list[str]:
    """The way to the column ``key``: its name, or the names from the outermost structure to the text.

    Raises:
        InputError: it is not there, or holds something else than text.
    """
    if key in schema.names:
        way, kind = [key], schema.field(key).type
    else:
        way, kind = key.split("."), pa.struct(list(schema))
        for name in way:
            if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
                there = ", ".join(f"'{name}'" for name in _names(schema)[:20]) or "none"
                raise InputError(f"has no column '{key}', only {there}", where=url, fix=NAME_THE_COLUMN)
            kind = kind.field(name).type
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)):
        raise InputError(f"the column '{key}' is {kind}, not text", where=url, fix=NAME_THE_COLUMN)
    return way


def strings(batch: pa.RecordBatch, way: list[str], key: str) -> Iterator[str | InputError]:
    """The text of each row of ``batch``, or what is wrong with it."""
    column = batch.column(way[0])
    for name in way[1:]:
        column = pc.struct_field(column, name)
    step = max(1, _AT_ONCE * len(column) // max(1, column.nbytes))
    for first in range(0, len(column), step):
        for value in _values(column.slice(first, step)):
            if isinstance(value, str):
                yield value
            elif value is None:
                yield InputError(f"'{key}' is null, not text")
            else:
                yield InputError(f"'{key}' is not UTF-8")


def _values(column: pa.Array) -> list[str | UnicodeDecodeError | None]:
    try:
        values: list[str | UnicodeDecodeError | None] = column.to_pylist()
        return values
    except UnicodeDecodeError:
        return [_decoded(value) for value in column]


def _decoded(value: pa.Scalar) -> str | UnicodeDecodeError | None:
    try:
        text: str | None = value.as_py()
        return text
    except UnicodeDecodeError as error:
        return error


def _names(schema: pa.Schema) -> list[str]:
    """The columns, and the fields of those that are structures."""
    names: list[str] = []
    for field in schema:
        names += (
            [f"{field.name}.{f.name}" for f in field.type] if pa.types.is_struct(field.type) else [field.name]
        )
    return names


@contextmanager
def named(url: str) -> Iterator[None]:
    """What Arrow says of a file that it cannot read, as an error of ours."""
    try:
        yield
    except RaypretrainError:
        raise
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError(error.strerror or str(error), where=url) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Damaged(f"is damaged ({reason})", where=url) from None
