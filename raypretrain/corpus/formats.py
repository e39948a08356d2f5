"""The file formats: how a file is cut into fragments, and how a fragment becomes texts.

=============  ============================================  ==============================================
suffix         fragment                                      document
=============  ============================================  ==============================================
``.jsonl``     a range of bytes                              a line's text key
``.txt``       a range of bytes (``documents: file``: all)   a line, a block between empty lines, the file
``.parquet``   a range of row groups                         a row's text column
``.gz .zst``   the whole file                                as in the format inside
=============  ============================================  ==============================================

A fragment of a range of bytes owns the documents that *begin* in it, wherever they end. Only ``\\n`` ends a
line.
"""

from __future__ import annotations

from raypretrain import storage
from raypretrain.corpus.compression import SUFFIXES
from raypretrain.corpus.format_base import Format
from raypretrain.corpus.parquet_format import ParquetFormat
from raypretrain.corpus.text_formats import JsonLines, TextBlocks, TextLines, WholeText

KNOWN_SUFFIXES = (".txt", ".jsonl", *(f + c for c in SUFFIXES for f in (".txt", ".jsonl")), ".parquet")


def format_of(url: str, documents: str) -> str | None:
    """The format of the file, e.g. ``jsonl.zst`` or ``txt-line``; None where its suffix is unknown."""
    name = url.rpartition("/")[2].lower()
    suffix = next((s for s in KNOWN_SUFFIXES if name.endswith(s)), None)
    return suffix[1:].replace("txt", f"txt-{documents}") if suffix else None


def open_format(url: str, size: int, name: str, key: str, options: storage.Options | None) -> Format:
    """The file ``url`` as what reads it; ``key`` is the JSON key or the Parquet column of the text."""
    kind, _, compression = name.partition(".")
    suffix = f".{compression}" if compression else ""
    if kind == "parquet":
        return ParquetFormat(url, size, key, options, suffix)
    if kind == "jsonl":
        return JsonLines(url, size, key, options, suffix)
    return {"txt-file": WholeText, "txt-line": TextLines, "txt-block": TextBlocks}[kind](
        url, size, key, options, suffix
    )
