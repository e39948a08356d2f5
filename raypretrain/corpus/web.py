"""``.warc`` and ``.wet``: web archives, of which the records of plain text are documents."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Any

from raypretrain.corpus.compression import Damaged
from raypretrain.corpus.format_base import Format, Found
from raypretrain.errors import InputError, RaypretrainError

_CHUNK = 1 << 16


@dataclass(frozen=True)
class WebArchive(Format):
    """``.warc`` and ``.wet``, read record by record. A position is the number of the record, from 0.

    Documents are ``conversion`` records (the text that a crawl made of its pages), and what was fetched as
    ``text/plain``. Pages of HTML are not.
    """

    name = "warc"
    suffixes = (".warc", ".wet")

    def texts(self, start: int, stop: int) -> Iterator[Found]:
        number = 0
        try:
            for record in self._records():
                charset = _charset(record)
                data = _payload(record, self.url, wanted=charset is not None)
                if charset is not None:
                    yield number, _decode(data, charset)
                number += 1
        except Damaged as error:
            yield number, error

    def _records(self) -> Iterator[Any]:
        try:
            from warcio.archiveiterator import ArchiveIterator
        except ImportError:
            fix = "pip install 'raypretrain[web]'"
            raise InputError("reading it needs the package warcio", where=self.url, fix=fix) from None
        try:
            yield from ArchiveIterator(io.BufferedReader(_Chunks(self.chunks()), _CHUNK))
        except RaypretrainError:
            raise
        except Exception as error:  # warcio has many for what is no archive
            raise Damaged(f"is damaged ({error})", where=self.url) from None


class _Chunks(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _charset(record: Any) -> str | None:
    """How the text of a record is written down; None where it is no document."""
    if record.rec_type == "conversion":
        kind = record.content_type
    elif record.rec_type in ("response", "resource"):
        headers = record.http_headers
        kind = headers.get_header("Content-Type") if headers else record.content_type
    else:
        return None
    message = Message()
    message["Content-Type"] = kind or ""
    if not kind or message.get_content_type() != "text/plain":
        return None
    return message.get_content_charset("utf-8")


def _payload(record: Any, url: str, wanted: bool) -> bytes:
    """What a record holds; nothing where it is not ``wanted``, but it is seen to be whole."""
    data = bytes(record.content_stream().read()) if wanted else b""
    while record.raw_stream.read(_CHUNK):
        pass
    if record.length is None or getattr(record.raw_stream, "limit", 0) > 0:
        raise Damaged("is cut off: its last record has no end", where=url)
    return data


def _decode(data: bytes, charset: str) -> str | InputError:
    try:
        return data.decode(charset)
    except UnicodeDecodeError as error:
        return InputError(f"is not {charset.upper()} (byte 0x{data[error.start]:02x})")
    except LookupError:
        return InputError(f"there is no character set '{charset}'")
