"""What every file format can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from raypretrain import storage

NAME_THE_COLUMN = "name the one with the text in the source's 'text'"


@dataclass(frozen=True)
class Format:
    """One file of one format."""

    url: str
    size: int
    key: str
    options: storage.Options | None
    compression: str

    def fragments(self, fragment_bytes: int) -> list[tuple[int, int, int]]:
        """``(start, stop, bytes)`` of each fragment; ``bytes`` is about how much text it holds."""
        raise NotImplementedError

    def texts(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        """``(position, text)`` of each document of a fragment, in order."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise an :class:`InputError` if the text column is not there, having read as little as possible."""

    def _file(self) -> BinaryIO:
        return storage.open_read(self.url, self.options, self.size)
