"""Packing: documents of any length into sequences of one length.

``concatenate`` lays documents end to end and cuts the whole into rows: no padding, and documents are cut wherever
a row ends. ``best-fit`` cuts documents that are longer than a row, and puts what is left of them, and all others
whole, where they fit best: best-fit-decreasing bin packing, as in "Fewer Truncations Improve Language Modeling"
(arXiv:2404.10830). Where that would leave more than a thousandth of padding, a few documents are cut to fill it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Packing = Literal["concatenate", "best-fit"]

ROW, COLUMN, DOCUMENT, FIRST, COUNT = range(5)
"""The columns of :attr:`Layout.pieces`."""

_PADDING = 0.001  # of all tokens; more is filled by cutting documents


@dataclass(frozen=True)
class Layout:
    """Which tokens of which document lie where.

    Args:
        rows: how many sequences.
        pieces: int64 [pieces, 5], in the order of rows and columns: row, column, document, the piece's first token
            within the document (its marks of begin and end are tokens of it), number of tokens.
    """

    rows: int
    pieces: NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """Sequences of tokens, and what must be known of them to train on them. All arrays have a row a sequence.

    Args:
        tokens: int32 [n, length].
        begins: uint8 [n, ceil(length / 8)], as of ``np.packbits``: whether a piece of a document begins at a token.
        filled: int32 [n], tokens of documents; after them there is padding.
        sources: int32 [n, sources], how many of the tokens come from each source.
    """

    tokens: NDArray[np.int32]
    begins: NDArray[np.uint8]
    filled: NDArray[np.int32]
    sources: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> Sequences:
        return Sequences(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[Sequences]) -> Sequences:
        """One after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def starts(self) -> NDArray[np.int64]:
        """The column at which the piece of a document begins that each token is of: int64 [n, length].

        Padding is a piece of its own.
        """
        length = self.tokens.shape[1]
        columns = np.arange(length)
        begins = np.unpackbits(self.begins, axis=1, count=length).view(bool) | (
            columns == self.filled[:, None]
        )
        return np.maximum.accumulate(np.where(begins, columns, 0), axis=1)

    def predicted(self, bos: int) -> NDArray[np.bool_]:
        """Whether each token is one that the model learns to predict: bool [n, length].

        Not the first of a row, which has nothing before it; not padding; not where a document goes on that another
        row begins: what stands before it there says nothing of it. A document's begin (``bos``) is.
        """
        length = self.tokens.shape[1]
        begins = np.unpackbits(self.begins, axis=1, count=length).view(bool)
        counts = ~begins | (self.tokens == bos)
        counts &= np.arange(length) < self.filled[:, None]
        counts[:, 0] = False
        return counts


def pack(
    documents: Sequence[NDArray[np.int32]],
    length: int,
    how: Packing,
    *,
    bos: int,
    eos: int,
    pad: int,
    sources: NDArray[np.integer] | None = None,
    number_of_sources: int = 1,
    rng: np.random.Generator | None = None,
    crop: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
) -> tuple[Layout, Sequences]:
    """Documents, each as ``bos … eos``, as sequences.

    Args:
        documents: token ids of each document, without special tokens.
        length: tokens of a sequence.
        how: ``concatenate`` drops what is left at the end, shorter than a row.
        sources: int [documents], the source of each; all 0 by default.
        rng: shuffles the rows of ``best-fit``, which otherwise come in the order of their longest documents.
        crop: gives the first token that is taken of each document, int64 [documents], from their lengths; a row of
            tokens follows it at most. By default all are taken.
    """
    begin, end = np.array([bos], np.int32), np.array([eos], np.int32)
    pieces = [piece for ids in documents for piece in (begin, ids, end)]
    flat = np.concatenate(pieces) if pieces else np.empty(0, np.int32)
    lengths = np.array([len(ids) + 2 for ids in documents], np.int64)
    taken = np.minimum(lengths, length) if crop else lengths
    layout = concatenated(taken, length) if how == "concatenate" else best_fit(taken, length, rng)
    if crop:
        layout.pieces[:, FIRST] += crop(lengths)[layout.pieces[:, DOCUMENT]]
    if sources is None:
        sources = np.zeros(len(documents), np.int64)
    return layout, _fill(layout, flat, lengths, length, pad, sources, number_of_sources)


def concatenated(lengths: NDArray[np.int64], length: int) -> Layout:
    """The layout of documents of ``lengths`` laid end to end and cut into rows; the tail is dropped."""
    ends = np.cumsum(lengths)
    rows = int(ends[-1]) // length if len(ends) else 0
    edges = np.union1d(ends - lengths, np.arange(rows) * length).astype(np.int64)
    edges = edges[edges < rows * length]
    document = np.searchsorted(ends, edges, side="right")
    first = edges - (ends - lengths)[document]
    counts = np.diff(edges, append=rows * length)
    return Layout(rows, np.stack([edges // length, edges % length, document, first, counts], axis=1))


def best_fit(lengths: NDArray[np.int64], length: int, rng: np.random.Generator | None = None) -> Layout:
    """The layout in which documents are cut into whole rows and a rest, and hardly any rest is cut again."""
    whole, rest = lengths // length, lengths % length
    document = np.repeat(np.arange(len(lengths)), whole)
    number = np.arange(len(document)) - np.repeat(np.cumsum(whole) - whole, whole)
    none, full = np.zeros_like(document), np.full_like(document, length)
    cut = np.stack([np.arange(len(document)), none, document, number * length, full], axis=1)
    fitted = _fit(
        [(int(d), int(whole[d]) * length, int(rest[d])) for d in np.argsort(-rest, kind="stable")], length
    )
    kept = _fill_rooms(fitted, length)
    rows = [(len(cut) + i, *piece) for i, row in enumerate(kept) for piece in row]
    pieces = np.concatenate([cut, np.array(rows, np.int64).reshape(-1, 5)])
    number_of_rows = len(cut) + len(kept)
    if rng is not None:
        pieces[:, ROW] = rng.permutation(number_of_rows)[pieces[:, ROW]]
    return Layout(number_of_rows, pieces[np.lexsort((pieces[:, COLUMN], pieces[:, ROW]))])


_Row = list[tuple[int, int, int, int]]  # of pieces: column, document, first token, count


def _fit(rests: list[tuple[int, int, int]], length: int) -> list[_Row]:
    """Each of ``rests`` (document, first token, count; longest first) in the row with the least room that takes it."""
    rows: list[_Row] = []
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # rows by how much room they have
    rooms = 0  # bit r: some row has room r
    for d, first, need in rests:
        if not need:
            break
        fitting = rooms >> need
        if fitting:
            room = need + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append((length - room, d, first, need))
        if room > need:
            with_room[room - need].append(row)
            rooms |= 1 << (room - need)
    return rows


def _fill_rooms(rows: list[_Row], length: int) -> list[_Row]:
    """The same pieces with little padding: what the emptiest rows hold is cut to fill the rooms of others.

    Documents that are all longer than half a row, for example, leave much room that nothing fits into.
    """
    filled = [row[-1][0] + row[-1][3] for row in rows]
    room = len(rows) * length - sum(filled)
    dissolved = int(max(0.0, room - _PADDING * len(rows) * length) // length)
    order = sorted(range(len(rows)), key=lambda i: (filled[i], i))
    kept = [list(rows[i]) for i in sorted(order[dissolved:])]
    roomy = iter(sorted(kept, key=lambda row: row[-1][0] + row[-1][3]))
    row, column = [], length
    for _, d, first, count in (piece for i in order[:dissolved] for piece in rows[i]):
        while count:
            if column == length:
                row = next(roomy)
                column = row[-1][0] + row[-1][3]
            taken = min(count, length - column)
            row.append((column, d, first, taken))
            column, first, count = column + taken, first + taken, count - taken
    return kept


def _fill(
    layout: Layout,
    flat: NDArray[np.int32],
    lengths: NDArray[np.int64],
    length: int,
    pad: int,
    sources: NDArray[np.integer],
    number_of_sources: int,
) -> Sequences:
    """The sequences of a layout; ``flat`` is all documents end to end."""
    row, column, document, first, counts = layout.pieces.T
    places = row * length + column
    starts = (np.cumsum(lengths) - lengths)[document] + first
    size = layout.rows * length
    if np.array_equal(places, starts) and counts.sum() == size:  # end to end: nothing has to be moved
        tokens = flat[:size]
    else:
        tokens = np.full(size, pad, np.int32)
        for place, start, count in zip(places.tolist(), starts.tolist(), counts.tolist(), strict=True):
            tokens[place : place + count] = flat[start : start + count]
    begins = np.zeros((layout.rows, length), bool)
    begins.reshape(-1)[places] = True
    shares = np.zeros((layout.rows, number_of_sources), np.int32)
    np.add.at(shares, (row, np.asarray(sources)[document]), counts)
    return Sequences(
        tokens.reshape(layout.rows, length),
        np.packbits(begins, axis=1),
        shares.sum(axis=1, dtype=np.int32),
        shares,
    )
