"""``raypretrain corpus tokenize``: the windows that a run would read, written down as a tokenized copy."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from raypretrain import storage
from raypretrain.corpus.listing import list_corpus as list_files
from raypretrain.corpus.manifest import Manifest
from raypretrain.errors import RecipeError, RunError, user_error
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealing import Part
from raypretrain.tokens.stream import all_parts
from raypretrain.tokens.tokenized import BEGUN, FINISHED, Copy, fetch_companions, read_copy
from raypretrain.tokens.tokenized_files import FileOfParts
from raypretrain.tokens.window import Windows
from raypretrain.training.cluster import connect, footers_in_tasks
from raypretrain.training.copies import data_settings, refuse_other_settings
from raypretrain.training.length import run_length
from raypretrain.training.prepare import Prepared, prepare, read_windows
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder

FILE_BYTES = 64_000_000

Watch = Callable[[dict[str, Any]], None]
"""Is told what happens: ``{"say": line}``, and ``{"sequences": done, "of": all, "tokens_per_second": …}``."""


def tokenize(
    recipe: PretrainRecipe,
    to: str,
    watch: Watch,
    steps: int | None = None,
    endpoint_url: str | None = None,
    file_bytes: int = FILE_BYTES,
) -> dict[str, Any]:
    """Write a copy for ``recipe`` to ``to``, or what is missing of it; files that are there are kept.

    Args:
        to: a folder, or a prefix in a bucket.
        steps: of the recipe's global batch that it should have sequences for; by default as many as the run has.
        endpoint_url: of an S3-compatible store that is not AWS.
        file_bytes: size of a file, about.

    Returns:
        ``url``, ``steps``, ``files``, ``sequences``, ``tokens``, ``bytes``, ``kept`` (files that were there),
        ``seconds``, and ``complete``: whether the corpus had enough for all steps.

    Raises:
        RaypretrainError: the corpus cannot be read, the copy cannot be written, or another one is there.
    """
    if recipe.corpus.tokenized:
        raise RecipeError(
            "the recipe reads a copy", where="corpus.tokenized", fix="give corpus.sources, and not this key"
        )
    return _Copying(recipe, to.rstrip("/"), watch, endpoint_url, file_bytes).carry_out(steps)


class _Copying:
    """One call of :func:`tokenize`."""

    def __init__(
        self, recipe: PretrainRecipe, url: str, watch: Watch, endpoint_url: str | None, file_bytes: int
    ) -> None:
        self.recipe, self.url, self.watch, self.file_bytes = recipe, url, watch, file_bytes
        self.options = {"endpoint_url": endpoint_url} if endpoint_url else None
        self.begun = time.monotonic()

    def carry_out(self, steps: int | None) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="raypretrain-") as scratch:
            copy, windows = self._begin(RunFolder(scratch))
        kept = len(copy.files)
        shape = self.recipe.model.shape(copy.vocabulary, self.recipe.sequences.length)
        steps = steps or run_length(self.recipe, shape.parameters).steps
        batches = self.recipe.training.batches
        needed = batches.total(steps)
        if copy.sequences < needed:
            copy = self._write_windows(copy, windows, needed)
        if read_copy(self.url, self.options) != copy:
            storage.write(f"{self.url}/{FINISHED}", copy.to_json(), self.options)
        complete = copy.sequences >= needed
        if not complete:
            enough = batches.whole_steps(copy.sequences)
            self._say(f"note: the corpus is used up after {enough:,} of {steps:,} steps; see its 'epochs'")
        return {
            "url": self.url,
            "steps": batches.whole_steps(copy.sequences),
            "files": len(copy.files),
            "sequences": copy.sequences,
            "tokens": copy.tokens,
            "bytes": copy.size,
            "kept": kept,
            "complete": complete,
            "seconds": time.monotonic() - self.begun,
        }

    # What comes before the windows.

    def _begin(self, folder: RunFolder) -> tuple[Copy, Windows]:
        """The copy as far as it was made, and the windows to make the rest of it from."""
        folder.corpus.mkdir()
        copy = self._found()
        if copy is None:
            return self._new(folder)
        fix = "give another --to, or the recipe that the copy was begun with"
        refuse_other_settings(copy, self.recipe, self.url, fix)
        fetch_companions(copy.companions, self.url, self.options, folder.corpus)
        windows = read_windows(self.recipe, folder)
        self._refuse_other_files(windows.manifest)
        return copy, windows

    def _found(self) -> Copy | None:
        """The copy that is there, finished or not: of both the one that is further."""
        found = [read_copy(self.url, self.options, name) for name in (FINISHED, BEGUN)]
        there = [copy for copy in found if copy is not None]
        return max(there, key=lambda copy: copy.next, default=None)

    def _new(self, folder: RunFolder) -> tuple[Copy, Windows]:
        self._refuse_foreign()
        begun = RunFolder(self.recipe.run.folder)
        if begun.begun() and data_settings(begun.read_recipe()) == data_settings(self.recipe):
            self._say(f"with the listing and the tokenizer of {begun.path}")
            for name in _companions(begun):
                shutil.copy(begun.corpus / name, folder.corpus / name)
        prepared: Prepared = prepare(
            self.recipe, folder, self._say, partial(footers_in_tasks, self.recipe.compute.address)
        )
        windows = prepared.windows
        assert isinstance(windows, Windows)
        companions = {}
        for name in _companions(folder):
            content = (folder.corpus / name).read_bytes()
            storage.write(f"{self.url}/{name}", content, self.options)
            companions[name] = (len(content), hashlib.sha256(content).hexdigest())
        copy = Copy(
            settings=data_settings(self.recipe),
            corpus=windows.manifest.fingerprint,
            tokenizer=windows.tokenizer.fingerprint,
            vocabulary=windows.tokenizer.vocabulary,
            companions=companions,
        )
        storage.write(f"{self.url}/{BEGUN}", copy.to_json(), self.options)
        return copy, windows

    def _refuse_foreign(self) -> None:
        """Refuse a place that holds anything but the beginnings of a copy."""
        names = [
            info.url.removeprefix(self.url).lstrip("/") for info in storage.list_files(self.url, self.options)
        ]
        ours = ("manifest.parquet", "mixture.json", "held_out.parquet", "tokenizer")
        foreign = [name or "a file" for name in names if not name.startswith(ours)]
        if foreign:
            raise RunError(
                f"holds something else ('{min(foreign)}')", where=self.url, fix="give a new or an empty place"
            )

    def _refuse_other_files(self, manifest: Manifest) -> None:
        if self.recipe.corpus.on_change == "keep":
            return
        differing = manifest.compare(list_files(self.recipe.corpus))
        if differing:
            raise RunError(
                f"the corpus is not the one that the copy was begun with: {'; '.join(differing)}",
                where=self.url,
                fix="make a new copy elsewhere, or go on with the files that were listed then by "
                "--set corpus.on_change=keep",
            )

    # The windows.

    def _write_windows(self, copy: Copy, windows: Windows, needed: int) -> Copy:
        self._say("starting Ray")
        connect(self.recipe.compute.address)
        copied, tokens, begun = copy.sequences, 0, time.monotonic()
        file, following = FileOfParts(len(copy.files), copy.vocabulary), copy.next
        with closing(self._parts(windows, Cursor(*copy.next))) as parts:
            for part in parts:
                if file.size >= self.file_bytes:
                    copy = self._write_file(copy, file, following=(part.window, part.part))
                    file = FileOfParts(len(copy.files), copy.vocabulary)
                file.add(part)
                following = part.window, part.part + 1
                copied += len(part.sequences)
                tokens += int(part.sequences.filled.sum())
                rate = tokens / (time.monotonic() - begun)
                self.watch({"sequences": min(copied, needed), "of": needed, "tokens_per_second": rate})
                if copied >= needed:
                    break
        return self._write_file(copy, file, following) if following != copy.next else copy

    def _parts(self, windows: Windows, cursor: Cursor) -> Generator[Part, None, None]:
        try:
            yield from all_parts(windows, cursor, self.recipe.sequences.window)
        except Exception as error:
            raise user_error(error) or error from None

    def _write_file(self, copy: Copy, file: FileOfParts, following: tuple[int, int]) -> Copy:
        content, about = file.finish()
        storage.write(f"{self.url}/{about.name}", content, self.options)
        copy = replace(copy, files=[*copy.files, about], next=following)
        storage.write(f"{self.url}/{BEGUN}", copy.to_json(), self.options)
        return copy

    def _say(self, line: str) -> None:
        self.watch({"say": line})


def _companions(folder: RunFolder) -> list[str]:
    """The files of a run's ``corpus`` folder that every run of a copy needs."""
    names = {folder.manifest.name, folder.held_out.name, folder.mixture.name}
    found = [path.name for path in folder.corpus.iterdir()]
    return sorted(name for name in found if name in names or name.startswith("tokenizer"))
