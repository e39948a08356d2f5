"""``raypretrain trace``: what a run's steps were trained on, and when a document was."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from raypretrain.corpus.documents import Document, is_held_out, read_documents
from raypretrain.corpus.manifest import Manifest
from raypretrain.errors import InputError, RunError
from raypretrain.tokens.batching import BatchSizes
from raypretrain.tokens.cursor import Cursor, fingerprint_rows, format_fingerprint
from raypretrain.tokens.dealing import Batches
from raypretrain.tokens.trace import places_of, trace_sequences
from raypretrain.tokens.window import Windows
from raypretrain.training.length import run_length
from raypretrain.training.metrics import read_log
from raypretrain.training.prepare import read_windows
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder

_EXACT_WINDOWS = 64  # so many windows ahead of the run are read to say at which step a document will come


def trace_step(run: Path, step: int) -> dict[str, Any]:
    """The documents in the global batch of ``step``, done or to come.

    Returns:
        ``step``, ``batch_fingerprint``, ``recorded`` (the fingerprint in metrics.jsonl, if the step was done),
        ``skipped`` (why the guard made no update of it, if so), and ``sequences``: each with its ``sequence`` (place
        in the batch), ``window``, ``part``, ``index``, ``loss`` (if the run recorded it) and ``pieces``, each with its
        ``document``, ``source``, ``start``, ``stop``, ``column``, ``first``, ``tokens`` and ``text``.

    Raises:
        RunError: no such step; or the corpus does not give the recorded batch any more.
    """
    folder, recipe, windows = _open(run)
    if step < 1 or step > (last := _last_step(recipe, windows)):
        raise RunError(f"there is no step {step}", where=str(run), fix=f"name one from 1 to {last}")
    rows = read_log(folder.metrics)
    sizes = recipe.training.batches
    sequences = trace_sequences(windows, _cursor_before(windows, rows, step, sizes), sizes.of(step))
    found = format_fingerprint(fingerprint_rows(np.stack([s.ids for s in sequences]), first=0))
    row = rows[step - 1] if step <= len(rows) else {}
    recorded = row.get("batch_fingerprint")
    if recorded not in (None, found):
        raise RunError(
            f"step {step} was trained on the batch {recorded}, and the corpus gives {found} now",
            where=str(run),
            fix="put the corpus back as it was when the run was started",
        )
    losses = _losses(folder, step)
    return {
        "step": step,
        "batch_fingerprint": found,
        "recorded": recorded,
        "skipped": row.get("skipped"),
        "sequences": [
            {
                "sequence": i,
                "window": s.window,
                "part": s.part,
                "index": s.index,
                "loss": losses[i] if losses else None,
                "pieces": [asdict(piece) for piece in s.pieces],
            }
            for i, s in enumerate(sequences)
        ],
    }


def trace_document(run: Path, document: str, epochs: int = 1) -> dict[str, Any]:
    """When a document was, or will be, trained on.

    Args:
        document: ``PATH:LINE`` (or row), PATH as in the manifest or its end.
        epochs: so many times that it comes are looked for.

    Returns:
        ``document``, ``text`` (its first characters), ``state`` (``in training``, ``held out``) and ``occurrences``,
        each with ``epoch``, ``drawn`` (False where another member of its cluster is taken), ``sequences`` (window, part
        and index of those that hold any of it), ``steps`` (those that they are in), ``done`` (those of them that are
        done), and ``exact``, which is False where the steps are estimates because they are far ahead. Sequences are
        none where it was not drawn, or dropped with the tail of its window; steps are none where the run ends before.

    Raises:
        InputError: the run knows no such file or line.
    """
    folder, recipe, windows = _open(run)
    file, position = _find(windows.manifest, windows, document)
    fragment, found = _fragment_of(windows, file, position)
    place = windows.manifest.open(file, windows.corpus).place(position)
    result: dict[str, Any] = {"document": place, "text": found.text[:200]}
    if is_held_out(found.split_by, windows.corpus.held_out):
        return {**result, "state": "held out", "occurrences": []}
    order = _Steps(windows, read_log(folder.metrics), recipe.training.batches)
    last = _last_step(recipe, windows)
    occurrences = []
    for epoch, places in zip(range(epochs), places_of(windows, file, position, fragment), strict=False):
        steps, exact = order.of(places or [])
        steps = [s for s in steps if s <= last]
        occurrences.append(
            {
                "epoch": epoch,
                "drawn": places is not None,
                "sequences": [asdict(cursor) for cursor in places or []],
                "steps": steps,
                "done": [s for s in steps if s <= order.done],
                "exact": exact,
            }
        )
    return {**result, "state": "in training", "steps_of_the_run": last, "occurrences": occurrences}


class _Steps:
    """Sequence → step: by the cursors in metrics.jsonl, and for what is still to come by reading ahead."""

    def __init__(self, windows: Windows, rows: list[dict[str, Any]], sizes: BatchSizes) -> None:
        self._windows, self._sizes = windows, sizes
        self._cursors = [tuple(row["cursor"]) for row in rows]  # after step 1, 2, …
        self.done = len(rows)

    def of(self, places: list[Cursor]) -> tuple[list[int], bool]:
        """The steps that these sequences are in, and whether that is exact."""
        found = [self._of(place) for place in places]
        return sorted({step for step, _ in found}), all(exact for _, exact in found)

    def _of(self, place: Cursor) -> tuple[int, bool]:
        wanted = (place.window, place.part, place.index)
        last = self._cursors[-1][0] if self._cursors else 0
        if place.window - last > _EXACT_WINDOWS:
            return self._estimate(place), False
        if not self._cursors or wanted >= self._cursors[-1]:
            self._read_up_to(wanted)
        return bisect_right(self._cursors, wanted) + 1, True

    def _read_up_to(self, wanted: tuple[int, int, int]) -> None:
        start = Cursor(*self._cursors[-1]) if self._cursors else Cursor()
        sizes = self._sizes.after(len(self._cursors))
        for batch in Batches(_parts_from(self._windows, start), start, sizes):
            self._cursors.append((batch.cursor.window, batch.cursor.part, batch.cursor.index))
            if wanted < self._cursors[-1]:
                return

    def _estimate(self, place: Cursor) -> int:
        """As many sequences in every window to come as in those read, or in the first one."""
        if self._cursors and self._cursors[-1][0]:
            per_window = self._sizes.total(len(self._cursors)) / self._cursors[-1][0]
        else:
            per_window = sum(
                len(p.sequences) for p in self._windows.parts(next(self._windows.windows_from(0)))
            )
        return self._sizes.whole_steps(int(place.window * per_window)) + 1


def _open(run: Path) -> tuple[RunFolder, PretrainRecipe, Windows]:
    folder = RunFolder(run)
    recipe = folder.read_recipe()
    return folder, recipe, read_windows(recipe, folder)


def _last_step(recipe: PretrainRecipe, windows: Windows) -> int:
    shape = recipe.model.shape(windows.tokenizer.vocabulary, recipe.sequences.length)
    return run_length(recipe, shape.parameters).steps


def _cursor_before(windows: Windows, rows: list[dict[str, Any]], step: int, sizes: BatchSizes) -> Cursor:
    """The first sequence of ``step``; what no metrics say is found by reading on from where they end."""
    known = min(step - 1, len(rows))
    cursor = Cursor(*rows[known - 1]["cursor"]) if known else Cursor()
    if known == step - 1:
        return cursor
    batches = Batches(_parts_from(windows, cursor), cursor, sizes.after(known))
    for number, made in enumerate(batches, start=known + 1):
        if number == step - 1:
            return made.cursor
    raise RunError(f"the corpus is used up before step {step}", where="corpus.sources")


def _parts_from(windows: Windows, cursor: Cursor) -> Any:
    for w in windows.windows_from(cursor.window):
        yield from windows.parts(w, cursor.part if w == cursor.window else 0)


def _losses(folder: RunFolder, step: int) -> list[float] | None:
    return next((row["losses"] for row in read_log(folder.sequence_losses) if row["step"] == step), None)


def _find(manifest: Manifest, windows: Windows, document: str) -> tuple[int, int]:
    """``PATH:LINE`` → file and position."""
    path, _, line = document.rpartition(":")
    if not path or not line.isdigit():
        raise InputError("names no line", where=document, fix="write PATH:LINE, as trace --step prints it")
    urls = [file.url for file in manifest.files]
    named = [i for i, url in enumerate(urls) if url == path] or [
        i for i, url in enumerate(urls) if url.endswith("/" + path.lstrip("/"))
    ]
    if len(named) != 1:
        what = (
            "is no file of the run's corpus"
            if not named
            else f"is the end of {len(named)} files of the corpus"
        )
        raise InputError(what, where=path, fix="write it as trace --step prints it")
    return named[0], manifest.open(named[0], windows.corpus).position(int(line))


def _fragment_of(windows: Windows, file: int, position: int) -> tuple[int, Document]:
    """The fragment that holds a document, and the document."""
    manifest = windows.manifest
    indices = np.flatnonzero(manifest.file == file).tolist()
    # Bytes of a file of lines say it at once; otherwise it is looked for.
    by_bytes = [i for i in indices if manifest.start[i] <= position < manifest.stop[i]]
    for index in dict.fromkeys([*by_bytes, *indices]):
        for document in read_documents(manifest, manifest.fragment(index), windows.corpus, bad=[]):
            if document.position == position:
                return index, document
    where = manifest.open(file, windows.corpus).place(position)
    raise InputError("holds no document", where=where, fix="an empty text, or a line in quarantine, is none")
