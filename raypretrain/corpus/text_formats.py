"""``.txt`` and what else is bytes of UTF-8 with records one after the other, plain or compressed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeVar

from raypretrain import storage
from raypretrain.corpus import records
from raypretrain.corpus.compression import Damaged
from raypretrain.corpus.format_base import Format, Found, Named
from raypretrain.corpus.lines import Counter, byte_of_line, newlines_before, newlines_before_in_stream
from raypretrain.corpus.records import Separator
from raypretrain.errors import InputError

T = TypeVar("T")

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class TextFormat(Format):
    """What is made of records of UTF-8, which ``separator`` divides and :meth:`parse` reads.

    A plain file is cut into ranges of bytes; a range owns the records that begin in it. A position is the
    record's first byte in the (decompressed) file.
    """

    separator: ClassVar[Separator] = records.LINES

    def parse(self, record: bytes) -> str:
        """The text of a record; nothing where it is no document.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
            InputError: anything else that is wrong with it; the place is filled in.
        """
        return record.decode("utf-8")

    def fragments(self, fragment_bytes: int) -> list[tuple[int, int, int]]:
        if self.compression:
            return super().fragments(fragment_bytes)
        count = -(-self.size // fragment_bytes)
        edges = [self.size * i // count for i in range(count + 1)]
        return [(a, b, b - a) for a, b in itertools.pairwise(edges)]

    def texts(self, start: int, stop: int) -> Iterator[Found]:
        return self._parsed(start, stop, self.parse)

    def _parsed(
        self, start: int, stop: int, parse: Callable[[bytes], T | None]
    ) -> Iterator[tuple[int, T | InputError]]:
        """The position of each record and what ``parse`` makes of it, unless that is nothing."""
        for offset, piece, lines in self._pieces(start, stop):
            if isinstance(piece, InputError):
                yield offset, piece
                return
            for position, record in self.separator.split(piece, offset):
                try:
                    found = parse(record)
                except (InputError, UnicodeDecodeError) as error:
                    yield position, self._bad(error, position, lines)
                else:
                    if found:
                        yield position, found

    def place(self, position: int) -> str:
        return f"{self.url}:{self._newlines_before(position) + 1}"

    def position(self, line: int) -> int:
        byte = byte_of_line(self.chunks(), line) if line > 0 else None
        if byte is None:
            raise InputError(f"there is no line {line}", where=self.url)
        if self.separator.lines:
            return len(_BOM) if byte == 0 and next(self.chunks()).startswith(_BOM) else byte
        return self._last_before(byte_of_line(self.chunks(), line + 1))

    def _last_before(self, stop: int | None) -> int:
        """The position of the last record that begins before byte ``stop``."""
        found = 0
        for offset, piece in self._streamed():
            if isinstance(piece, InputError):
                break
            offset, data = _without_mark(offset, piece)
            for position, record in self.separator.split(data, offset):
                if stop is not None and position >= stop:
                    return found
                found = position if record else found
        return found

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, bytes | InputError, Counter]]:
        """Whole records of the fragment, many at a time; where they begin, and their lines."""
        newlines = 0
        parts = self._streamed() if self.compression else self._ranged(start, stop)
        for offset, data in parts:
            if isinstance(data, InputError):
                yield offset, data, Counter(b"", 0, int)
                return
            offset, data = _without_mark(offset, data)
            if self.compression:
                before = newlines
                newlines += data.count(b"\n") + self.separator.lines  # the last one of lines is cut off
                yield offset, data, Counter(data, offset, partial(int, before))
            else:
                yield offset, data, Counter(data, offset, partial(self._newlines_before, offset))

    def _ranged(self, start: int, stop: int) -> Iterator[tuple[int, bytes | InputError]]:
        yield from records.in_range(self._read, start, stop, self.size, self.separator)

    def _streamed(self) -> Iterator[tuple[int, bytes | InputError]]:
        whole = 0
        try:
            for offset, data in records.in_stream(self.chunks(), self.separator):
                yield offset, data
                whole = offset + len(data) + self.separator.lines
        except Damaged as error:
            yield whole, error

    def _bad(self, error: InputError | UnicodeDecodeError, position: int, lines: Counter) -> InputError:
        if isinstance(error, InputError):
            return type(error)(error.what, where=f"{self.url}:{lines.line(position)}", fix=error.fix)
        what = f"is not UTF-8 (byte 0x{error.object[error.start]:02x})"
        where = f"{self.url}:{lines.line(position + error.start)}"
        return InputError(what, where=where, fix="convert the file to UTF-8")

    def _newlines_before(self, offset: int) -> int:
        if self.compression:
            return newlines_before_in_stream(offset, self.url, self.tag, self.chunks())
        return newlines_before(offset, self.url, self.tag, self.options)

    def _read(self, start: int, stop: int) -> bytes:
        data = storage.read_range(self.url, start, stop, self.options, self.tag or None)
        if len(data) != stop - start:
            raise InputError("has become shorter since the corpus was listed", where=self.url)
        return data


def _without_mark(offset: int, data: bytes) -> tuple[int, bytes]:
    """``data``, which begins at byte ``offset`` of a file, without the file's byte order mark."""
    marked = offset == 0 and data.startswith(_BOM)
    return (len(_BOM), data[len(_BOM) :]) if marked else (offset, data)


@dataclass(frozen=True)
class TextLines(TextFormat):
    """``.txt``, each line a document."""

    name = "txt-line"
    suffixes = (".txt",)

    def parse(self, record: bytes) -> str:
        return record.removesuffix(b"\r").decode("utf-8")


@dataclass(frozen=True)
class TextBlocks(TextFormat):
    """``.txt``, each run of lines between empty lines a document."""

    name = "txt-block"
    suffixes = (".txt",)
    separator = records.BLOCKS


@dataclass(frozen=True)
class WholeText(TextFormat):
    """``.txt``, the whole file one document."""

    name = "txt-file"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)

    def fragments(self, fragment_bytes: int) -> list[tuple[int, int, int]]:
        return Format.fragments(self, fragment_bytes)

    def position(self, line: int) -> int:
        super().position(line)
        return 0

    def texts(self, start: int, stop: int) -> Iterator[Found]:
        try:
            data = b"".join(self.chunks())
            yield 0, data.decode("utf-8").removeprefix("\ufeff")
        except Damaged as error:
            yield 0, error
        except UnicodeDecodeError as error:
            yield 0, self._bad(error, 0, Counter(data, 0, int))


@dataclass(frozen=True)
class Fasta(TextFormat):
    """``.fasta``: each sequence a document, without its header and its line breaks."""

    name = "fasta"
    suffixes = (".fasta", ".fa", ".faa", ".fna")
    separator = records.FASTA
    has_names = True

    def named(self, start: int, stop: int) -> Iterator[Named]:
        return self._parsed(start, stop, self._parse_named)

    def _parse_named(self, record: bytes) -> tuple[str, str] | None:
        """The first word of the header, and the sequence; None where that is empty."""
        if not (sequence := self.parse(record)):
            return None
        words = record[1 : record.find(b"\n")].split(None, 1)
        return words[0].decode() if words else "", sequence

    def parse(self, record: bytes) -> str:
        if record and not record.startswith(b">"):
            raise InputError("no sequence begins here", fix="begin each with a line '>NAME'")
        sequence = record[record.find(b"\n") :] if b"\n" in record else b""
        if not record.isascii():
            record.decode("utf-8")
        return sequence.translate(None, b" \t\r\n").decode("utf-8")
