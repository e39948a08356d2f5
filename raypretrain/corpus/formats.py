"""The file formats: which class reads a file, by its suffix or by what the source says. See docs/formats.md."""

from __future__ import annotations

import importlib
from functools import cache

from raypretrain import storage
from raypretrain.corpus import compression
from raypretrain.corpus.arrow_format import ArrowFormat
from raypretrain.corpus.format_base import Format
from raypretrain.corpus.json_lines import JsonLines
from raypretrain.corpus.parquet_format import ParquetFormat
from raypretrain.corpus.source_code import SourceCode
from raypretrain.corpus.sources import SourceConfig
from raypretrain.corpus.tables import CommaTable, TabTable
from raypretrain.corpus.text_formats import Fasta, TextBlocks, TextLines, WholeText
from raypretrain.corpus.web import WebArchive
from raypretrain.errors import InputError

FORMATS: tuple[type[Format], ...] = (
    WholeText,
    TextLines,
    TextBlocks,
    JsonLines,
    ParquetFormat,
    ArrowFormat,
    CommaTable,
    TabTable,
    Fasta,
    WebArchive,
    SourceCode,
)

_BY_NAME: dict[str, type[Format]] = {"txt": WholeText, **{kind.name: kind for kind in FORMATS}}
_BY_SUFFIX = {suffix: kind.name.partition("-")[0] for kind in FORMATS for suffix in kind.suffixes}


def format_of(url: str, source: SourceConfig) -> str | None:
    """The format of the file, e.g. ``jsonl.zst`` or ``txt-line``; None where its suffix is unknown.

    Raises:
        InputError: the source names a format that there is not.
    """
    name = url.rpartition("/")[2].lower()
    packed = next((s for s in compression.SUFFIXES if name.endswith(s)), "")
    bare = name.removesuffix(packed)
    kind = source.format or _BY_SUFFIX.get(bare[bare.rfind(".") :])
    if kind is None:
        return None
    if kind == "txt":
        kind = f"txt-{source.documents}"
    chosen = format_class(kind)
    if chosen.passes_over_others and not bare.endswith(chosen.suffixes):
        return None
    return kind + packed if chosen.compressible or not packed else None


def passes_over_others(source: SourceConfig) -> bool:
    """Whether files of unknown suffixes are no error in this source."""
    return source.format is not None and format_class(source.format).passes_over_others


def open_format(
    url: str, size: int, name: str, key: str, options: storage.Options | None, tag: str = ""
) -> Format:
    """The file ``url`` as what reads it; ``key`` is the JSON key or the column of the text."""
    packed = next((s for s in compression.SUFFIXES if name.endswith(s)), "")
    return class_of(name)(url, size, key, options, packed, tag)


def class_of(name: str) -> type[Format]:
    """What reads files of a format, as :func:`format_of` names it."""
    packed = next((s for s in compression.SUFFIXES if name.endswith(s)), "")
    return format_class(name.removesuffix(packed))


@cache
def format_class(name: str) -> type[Format]:
    """The class of a built-in format, or the one that ``package.module:ClassName`` names.

    Raises:
        InputError: there is no such format, it cannot be imported, or is none.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    where = f"corpus.sources: format: {name}"
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(sorted({n.partition("-")[0] for n in _BY_NAME}))
        raise InputError(
            "there is no such format", where=where, fix=f"known: {known}; or package.module:ClassName"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        fix = "install it on every machine, or put its folder on PYTHONPATH"
        raise InputError(
            f"cannot be imported ({type(error).__name__}: {error})", where=where, fix=fix
        ) from None
    if not (isinstance(found, type) and issubclass(found, Format)):
        raise InputError("is no subclass of raypretrain.corpus.format_base.Format", where=where)
    return found


def known_suffixes() -> str:
    """What a message says of the suffixes that are understood."""
    data = [kind for kind in FORMATS if not kind.passes_over_others]
    shown = dict.fromkeys(suffix for kind in data for suffix in kind.suffixes)
    return f"{', '.join(shown)}, most also with {', '.join(compression.SUFFIXES)}, and source code"
