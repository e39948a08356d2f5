"""A tokenized copy of a corpus: the windows of a run as Parquet files, written once and read by any number of runs.

A row of a file, and a row group, is a part of a window, in the order of the plan. ``TOKENIZED.json`` beside the files
says what they were made from, and is written last: without it there is no copy.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from raypretrain import storage
from raypretrain.corpus.manifest import Manifest
from raypretrain.errors import InputError
from raypretrain.tokens.dealing import Part
from raypretrain.tokens.tokenized_files import CopyFile, Footer, read_part
from raypretrain.tokens.tokenizer import Tokenizer

FINISHED = "TOKENIZED.json"
BEGUN = "TOKENIZING.json"
"""The same, for what is there while a copy is made."""

_FORMAT = 1
_COPY_AGAIN = (
    "copy the file again, or make it again: remove it and TOKEN*.json, and run 'raypretrain corpus tokenize'"
)
_MOST_FOOTERS = 4


@dataclass(frozen=True)
class Copy:
    """What is known of a copy: the content of ``TOKENIZED.json``.

    Args:
        settings: all keys of the recipe that its rows depend on, with their values.
        corpus, tokenizer: fingerprints of manifest and tokenizer.
        vocabulary: of the tokenizer.
        companions: what else a run needs: the size and the SHA-256 of each file.
        files: in the order of the windows.
        next: window and part of what would come after the last row.
    """

    settings: dict[str, Any]
    corpus: str
    tokenizer: str
    vocabulary: int
    companions: dict[str, tuple[int, str]]
    files: list[CopyFile] = field(default_factory=list)
    next: tuple[int, int] = (0, 0)

    @cached_property
    def sequences(self) -> int:
        """How many it has."""
        return sum(file.sequences for file in self.files)

    @cached_property
    def tokens(self) -> int:
        """How many it has, without padding."""
        return sum(file.tokens for file in self.files)

    @cached_property
    def size(self) -> int:
        """The bytes of its files of windows."""
        return sum(file.size for file in self.files)

    @cached_property
    def bad_records(self) -> int:
        """How many were left out when it was made."""
        return sum(file.bad_records for file in self.files)

    def windows_from(self, first: int) -> Iterator[int]:
        """The windows from ``first`` on that it has, each once."""
        for file in self.files:
            for start, stop in file.windows:
                for w in range(max(first, start), stop + 1):
                    yield w
                    first = w + 1

    def to_json(self) -> bytes:
        """The content of the file, which has a hash of itself."""
        values = {"format": _FORMAT, **asdict(self)}
        return json.dumps({"sha256": _hash_of(values), **values}, indent=1).encode()


def read_copy(url: str, options: storage.Options | None, name: str = FINISHED) -> Copy | None:
    """The copy at ``url``; None if there is none.

    Raises:
        InputError: the file is damaged, or of a later version of this program.
        StorageError: it cannot be read.
    """
    place = f"{url.rstrip('/')}/{name}"
    if not storage.exists(place, options):
        return None
    with storage.open_read(place, options) as file:
        content = file.read()
    try:
        values = json.loads(content)
        given, version = values.pop("sha256"), values.pop("format")
        if version != _FORMAT:
            raise InputError(f"is of format {version}, not {_FORMAT}", where=place, fix="make the copy again")
        if given != _hash_of({"format": version, **values}):
            raise ValueError("its hash differs")
        files = [CopyFile(**{**f, "windows": [(a, b) for a, b in f["windows"]]}) for f in values.pop("files")]
        companions = {k: (int(size), str(sha)) for k, (size, sha) in values.pop("companions").items()}
        window, part = values.pop("next")
        return Copy(**values, files=files, companions=companions, next=(window, part))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"is damaged ({error})", where=place, fix="make the copy again") from None


def fetch_companions(
    companions: dict[str, tuple[int, str]], url: str, options: storage.Options | None, folder: Path
) -> None:
    """Write what a run needs besides windows into ``folder``: the manifest, the tokenizer, the held-out text.

    Args:
        companions: of a :class:`Copy`.

    Raises:
        InputError: one of them is not what was written.
    """
    for name, (size, sha256) in companions.items():
        place = f"{url.rstrip('/')}/{name}"
        with storage.open_read(place, options) as file:
            content = file.read()
        if len(content) != size or hashlib.sha256(content).hexdigest() != sha256:
            raise InputError(
                "is not the file that was written: its hash differs", where=place, fix=_COPY_AGAIN
            )
        storage.write_atomic(folder / name, content)


@dataclass
class TokenizedWindows:
    """The windows of a copy: what the stream reads in place of :class:`~raypretrain.tokens.window.Windows`.

    Pickled to a task, it has neither manifest nor tokenizer, which only the driver needs.
    """

    url: str
    options: storage.Options | None
    copy: Copy
    manifest: Manifest
    tokenizer: Tokenizer
    _footers: dict[str, Footer] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {"url": self.url, "options": self.options, "copy": self.copy, "_footers": {}}

    def windows_from(self, first: int) -> Iterator[int]:
        """The windows from ``first`` on; it ends where the copy does."""
        return self.copy.windows_from(first)

    def begin(self, w: int) -> None:
        """Nothing: a window is one request, and there is little to do beside it."""

    def parts(self, w: int, first: int = 0) -> Iterator[Part]:
        """Window ``w`` from part ``first`` on.

        Raises:
            InputError: a file is damaged.
            StorageError: a file cannot be read.
        """
        storage.take_counts()
        files = self.copy.files
        for file in files[bisect_left(files, w, key=lambda f: f.windows[-1][1]) :]:
            if file.windows[0][0] > w:
                return
            footer = self._footer(file)
            for part, group in footer.groups.get(w, []):
                if part >= first:
                    yield replace(self._part(file, footer, group), storage=storage.take_counts())

    def _footer(self, file: CopyFile) -> Footer:
        if file.name not in self._footers:
            data = self._bytes(file, file.size - file.footer, file.size)
            if hashlib.sha256(data).hexdigest() != file.footer_sha256:
                raise self._damaged(file, "its footer's hash differs")
            while len(self._footers) >= _MOST_FOOTERS:
                self._footers.pop(next(iter(self._footers)))
            self._footers[file.name] = Footer(data)
        return self._footers[file.name]

    def _part(self, file: CopyFile, footer: Footer, group: int) -> Part:
        start, stop = footer.span(group)
        data = self._bytes(file, start, stop)
        try:
            return read_part(data, group, footer, file.size, self.copy.vocabulary)
        except ValueError as error:
            raise self._damaged(file, str(error)) from None

    def _bytes(self, file: CopyFile, start: int, stop: int) -> bytes:
        data = storage.read_range(self._place(file), start, stop, self.options)
        if len(data) != stop - start:
            raise self._damaged(file, "it is too short")
        return data

    def _place(self, file: CopyFile) -> str:
        return f"{self.url.rstrip('/')}/{file.name}"

    def _damaged(self, file: CopyFile, reason: str) -> InputError:
        return InputError(f"is damaged ({reason})", where=self._place(file), fix=_COPY_AGAIN)


def _hash_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
