"""Back from the stream to the files: which documents a batch is made of, and where in the order a document comes.

Nothing of this is recorded: the windows are made again, and remember this time what they were made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.infilling import arranged_spans
from raypretrain.tokens.packing import COLUMN, COUNT, DOCUMENT, FIRST, ROW
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.window import Packed, Windows


@dataclass(frozen=True)
class Piece:
    """A run of tokens of one document in one sequence.

    Args:
        document: file URL with the line or row, as ``PATH:LINE``.
        source: name of its source.
        start, stop: the characters of the document's text that it stands for.
        column: where in the sequence it begins.
        first: its first token within the document, whose mark of begin is token 0.
        tokens: how many, marks of begin and end among them.
        text: these characters.
        infilled: whether the document was rearranged: ``text`` is then in the order of its tokens, with the names of
            the marks in it.
    """

    document: str
    source: str
    start: int
    stop: int
    column: int
    first: int
    tokens: int
    text: str
    infilled: bool = False


@dataclass(frozen=True)
class TracedSequence:
    """A sequence: where it stands in the order of the stream, its ids (int32 [length]) and its pieces."""

    window: int
    part: int
    index: int
    ids: np.ndarray
    pieces: list[Piece]


def trace_sequences(windows: Windows, cursor: Cursor, number: int) -> list[TracedSequence]:
    """The ``number`` sequences from ``cursor`` on.

    Raises:
        RaypretrainError: the corpus cannot be read any more.
    """
    found: list[TracedSequence] = []
    for w, packed in _packed_from(windows, cursor):
        here = (w, packed.part) == (cursor.window, cursor.part)
        first = cursor.index if here else 0
        rows = range(first, min(len(packed.sequences), first + number - len(found)))
        found += _trace_rows(windows, w, packed, rows)
        if len(found) == number:
            break
    return found


def places_of(windows: Windows, file: int, position: int, fragment: int) -> Iterator[list[Cursor] | None]:
    """The sequences that hold any of a document, in epoch 0, 1, …; an empty list where all of it was dropped.

    None where another member of its cluster is taken.
    """
    for epoch, w in enumerate(windows.plan.windows_of(fragment)):
        found, drawn = [], False
        for packed in windows.packed(w):
            named = [(d.file, d.position, d.epoch) == (file, position, epoch) for d in packed.documents]
            drawn |= any(named)
            pieces = packed.layout.pieces
            rows = pieces[np.isin(pieces[:, DOCUMENT], np.flatnonzero(named)), ROW]
            found += [Cursor(w, packed.part, row) for row in np.unique(rows).tolist()]
        yield found if drawn else None


def _packed_from(windows: Windows, cursor: Cursor) -> Iterator[tuple[int, Packed]]:
    for w in windows.windows_from(cursor.window):
        for packed in windows.packed(w, cursor.part if w == cursor.window else 0):
            yield w, packed


def _trace_rows(windows: Windows, w: int, packed: Packed, rows: range) -> list[TracedSequence]:
    pieces = packed.layout.pieces
    low, high = np.searchsorted(pieces[:, ROW], [rows.start, rows.stop])
    spans: dict[int, np.ndarray] = {}
    by_row: dict[int, list[Piece]] = {row: [] for row in rows}
    for piece in pieces[low:high].tolist():
        number = piece[DOCUMENT]
        if number not in spans:
            spans[number] = _spans(windows, packed, number)
        by_row[piece[ROW]].append(_piece(windows, packed, piece, spans[number]))
    tokens = packed.sequences.tokens
    return [TracedSequence(w, packed.part, row, tokens[row], by_row[row]) for row in rows]


def _spans(windows: Windows, packed: Packed, number: int) -> np.ndarray:
    """The characters of each token of a document, but its marks of begin and end: int64 [tokens, 2]."""
    text, way = packed.documents[number].text, packed.arrangements[number]
    return windows.tokenizer.spans(text) if way is None else arranged_spans(text, way, windows.tokenizer)


def _piece(windows: Windows, packed: Packed, piece: list[int], spans: np.ndarray) -> Piece:
    """``piece`` as of :class:`~raypretrain.tokens.packing.Layout`; ``spans`` of its document."""
    manifest, corpus = windows.manifest, windows.corpus
    document = packed.documents[piece[DOCUMENT]]
    infilled = packed.arrangements[piece[DOCUMENT]] is not None
    # The mark of begin is the document's first token.
    first = max(0, piece[FIRST] - 1)
    own = spans[first : piece[FIRST] - 1 + piece[COUNT]]
    end = int(spans[: piece[FIRST] - 1, 1].max(initial=0)) if piece[FIRST] else 0
    start, stop = (int(own[:, 0].min()), int(own[:, 1].max())) if len(own) else (end, end)
    text = document.text[start:stop]
    if infilled:
        column = piece[COLUMN] + (piece[FIRST] == 0)
        ids = packed.sequences.tokens[piece[ROW], column : column + len(own)]
        text = "".join(_in_order(document.text, own, ids, windows.tokenizer))
    return Piece(
        document=manifest.open(document.file, corpus).place(document.position),
        source=corpus.source_name(manifest.files[document.file].source),
        start=start,
        stop=stop,
        column=piece[COLUMN],
        first=piece[FIRST],
        tokens=piece[COUNT],
        text=text,
        infilled=infilled,
    )


def _in_order(text: str, spans: np.ndarray, ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[str]:
    """The characters of each token, and the names of marks; a character of several tokens comes once."""
    before = (-1, -1)
    for token, (start, stop) in zip(ids.tolist(), spans.tolist(), strict=True):
        if tokenizer.is_special(token):
            yield tokenizer.token_name(token)
        elif (start, stop) != before:
            yield text[start:stop]
        before = (start, stop)
