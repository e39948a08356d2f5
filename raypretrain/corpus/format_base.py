"""What every file format can do. A new format is a subclass: see docs/formats.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

from raypretrain import storage
from raypretrain.corpus.compression import decompress
from raypretrain.errors import InputError

NAME_THE_COLUMN = "name the one with the text in the source's 'text'"
COMPRESSION_RATIO = 3  # how much larger text is than its gzip or zstd, about; a window's size hangs on it

_CHUNK = 1 << 20

Found = tuple[int, str | InputError]
"""A position, and the text that is there, or what is wrong with it."""

Named = tuple[int, tuple[str, str] | InputError]
"""A position, and the name and the text of what is there, or what is wrong with it."""


@dataclass(frozen=True)
class Format:
    """One file of one format.

    A subclass has to write :meth:`texts`; it can be as short as that.

    Args:
        url: where the file is.
        size: its bytes, as listed.
        key: the source's ``text``: the key or column of the text.
        options: how :mod:`raypretrain.storage` reaches it.
        compression: ``.gz``, ``.zst``, ``.xz`` or nothing.
        tag: what the storage said of its state when it was listed; a file in another state is refused.
    """

    name: ClassVar[str] = ""
    """What the format is called in the manifest, and in the ``format`` of a source."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Of its files, without the compression's."""
    passes_over_others: ClassVar[bool] = False
    """Whether files with other suffixes are passed over where a source's ``format`` is this one."""
    compressible: ClassVar[bool] = True
    """Whether ``.gz``, ``.zst`` or ``.xz`` may follow the suffix."""
    reads_to_cut: ClassVar[bool] = False
    """Whether :meth:`fragments` reads from the file; such files are asked many at a time."""
    has_names: ClassVar[bool] = False
    """Whether documents have names in the file, which :meth:`named` gives."""

    url: str
    size: int
    key: str = "text"
    options: storage.Options | None = None
    compression: str = ""
    tag: str = ""

    def fragments(self, fragment_bytes: int) -> list[tuple[int, int, int]]:
        """``(start, stop, bytes)`` of each fragment; ``bytes`` is about how much text it holds."""
        return [(0, 0, self.size * (COMPRESSION_RATIO if self.compression else 1))]

    def texts(self, start: int, stop: int) -> Iterator[Found]:
        """``(position, text)`` of each document of a fragment, in order; an empty text is no document.

        A bad record is ``(position, InputError)``, and the next ones follow; an error that does not say where
        gets the record's :meth:`place`. Where a damaged file cannot be read on, it is the last one.

        Raises:
            InputError: the file cannot be used at all.
        """
        raise NotImplementedError

    def named(self, start: int, stop: int) -> Iterator[Named]:
        """As :meth:`texts`, each with its name; only where :attr:`has_names`."""
        raise NotImplementedError

    def check(self, patient: bool = False) -> None:
        """Raise an :class:`InputError` if the text is not where the recipe says, having read little.

        ``patient``: pass over bad records, and look until there is a good one.
        """

    def place(self, position: int) -> str:
        """How a person finds the document at ``position``: ``PATH:LINE``, or ``PATH, row N``."""
        return f"{self.url}, row {position}"

    def position(self, line: int) -> int:
        """The position of the document that line ``line`` (from 1; or row, from 0) of the file is part of.

        Raises:
            InputError: the file has no such line.
        """
        return line

    @property
    def language(self) -> str | None:
        """The programming language, for a file of source code."""
        return None

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes in order, decompressed; raises :class:`Damaged` where it is."""
        with self.open() as file:
            if self.compression:
                yield from decompress(file, self.compression, self.url)
            else:
                while chunk := file.read(_CHUNK):
                    yield chunk

    def open(self) -> BinaryIO:
        """The file as it lies there, still compressed; refused if it is not the one that was listed."""
        return storage.open_read(self.url, self.options, self.size, self.tag or None)
