"""Reading ``.gz`` and ``.zst`` as streams; a file that was cut off or damaged is noticed and named."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import zstandard

from raypretrain.errors import InputError

SUFFIXES = (".gz", ".zst")

_CHUNK = 1 << 18
_LARGEST_WINDOW = 1 << 31  # zstd --long=31


def decompress(file: BinaryIO, suffix: str, where: str) -> Iterator[bytes]:
    """The decompressed content of ``file``, in chunks; its members or frames together are one text.

    Neither zlib nor zstd says by itself that the end is missing: a member that never reaches its end is an
    error here.

    Raises:
        InputError: damaged or cut off; names ``where``.
    """
    member: Any = None
    fix = "copy or write the file again"
    try:
        while data := file.read(_CHUNK):
            while data:
                if member is None:
                    if suffix == ".gz" and not (data := data.lstrip(b"\0")):  # padding between members
                        break
                    member = _member(suffix)
                text = member.decompress(data)
                if text:
                    yield text
                data = b""
                if member.eof:
                    data, member = member.unused_data, None
    except (zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"is damaged ({error})", where=where, fix=fix) from None
    if member is not None:
        raise InputError(f"is cut off: its last {suffix} member has no end", where=where, fix=fix)


def _member(suffix: str) -> Any:
    if suffix == ".gz":
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    return zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
