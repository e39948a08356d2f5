"""Reading ``.gz``, ``.zst`` and ``.xz`` as streams; a file that was cut off or damaged is noticed and named."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import zstandard

from raypretrain.errors import InputError

SUFFIXES = (".gz", ".zst", ".xz")

_CHUNK = 1 << 16  # small, since what it becomes is in memory at once
_LARGEST_WINDOW = 1 << 31  # zstd --long=31
_ERRORS = (zlib.error, zstandard.ZstdError, lzma.LZMAError)


class Damaged(InputError):
    """A file, or its rest, that cannot be read."""

    def __init__(
        self, what: str, *, where: str | None = None, fix: str | None = "copy or write the file again"
    ) -> None:
        super().__init__(what, where=where, fix=fix)


def decompress(file: BinaryIO, suffix: str, where: str) -> Iterator[bytes]:
    """The decompressed content of ``file``, in chunks; its members or frames together are one text.

    No decoder says by itself that the end is missing: a member that never reaches its end is an error here.

    Raises:
        Damaged: damaged or cut off; names ``where``. All text before the damage has been given.
    """
    decoder, given, before = _Decoder(suffix), 0, 0
    try:
        while data := file.read(_CHUNK):
            for text in decoder.feed(data):
                given += len(text)
                yield text
            before += len(data)
    except _ERRORS as error:
        yield from _up_to_the_damage(file, suffix, before, given)
        raise Damaged(f"is damaged ({error})", where=where) from None
    if decoder.member is not None:
        raise Damaged(f"is cut off: its last {suffix} member has no end", where=where)


class _Decoder:
    """The members of a file, one after the other. ``member`` is the one that has not ended yet."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        self.member: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self.member is None:
                # Padding between members.
                if self.suffix != ".zst" and not (data := data.lstrip(b"\0")):
                    return
                self.member = _member(self.suffix)
            text = self.member.decompress(data)
            if text:
                yield text
            data = b""
            if self.member.eof:
                data, self.member = self.member.unused_data, None


def _up_to_the_damage(file: BinaryIO, suffix: str, before: int, given: int) -> Iterator[bytes]:
    """What a decoder that failed in the chunk after byte ``before`` had made of it, but kept.

    Everything again, and that chunk byte by byte; the first ``given`` bytes of text are known already.
    """
    file.seek(0)
    decoder = _Decoder(suffix)
    try:
        while data := file.read(min(_CHUNK, before) or 1):
            before = max(0, before - len(data))
            for text in decoder.feed(data):
                if len(text) > given:
                    yield text[given:]
                given = max(0, given - len(text))
    except _ERRORS:
        return


def _member(suffix: str) -> Any:
    if suffix == ".gz":
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    if suffix == ".xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ)
    return zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
