"""Crops: one window of a long document in each epoch, anywhere in it, and the same for whoever asks."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import islice, pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proteins import protein_windows, proteins, write_fasta
from pydantic import ValidationError

from raypretrain.corpus.documents import Document
from raypretrain.tokens import dealer
from raypretrain.tokens.batching import BatchSizes
from raypretrain.tokens.cropping import draw_crops
from raypretrain.tokens.cursor import Cursor, fingerprint_rows
from raypretrain.tokens.dealer import Dealer, Supply, Turn
from raypretrain.tokens.dealing import Batches, Part
from raypretrain.tokens.objectives import Causal
from raypretrain.tokens.packing import COUNT, DOCUMENT, FIRST
from raypretrain.tokens.tokenizer_fixed import AminoAcids
from raypretrain.tokens.trace import trace_sequences
from raypretrain.tokens.window import SequencesConfig, Windows

LENGTH = 64
TEXTS = proteins(300, 20, 200)
TOKENIZER = AminoAcids()
PACKINGS = ["best-fit", "concatenate"]


@pytest.fixture(scope="module")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("proteins") / "a.fasta"
    return write_fasta(path, {f"p{i}": text for i, text in enumerate(TEXTS)})


def marked(text: str) -> list[int]:
    return [TOKENIZER.bos, *TOKENIZER.encode(text), TOKENIZER.eos]


def spans(windows: Windows, w: int) -> dict[tuple[int, int], list[tuple[str, int, int]]]:
    """By epoch and position: the pieces of each document of a window, ``(text, first, stop)`` in tokens."""
    found: dict[tuple[int, int], list[tuple[str, int, int]]] = {}
    for packed in windows.packed(w):
        for piece in packed.layout.pieces.tolist():
            document = packed.documents[piece[DOCUMENT]]
            its = found.setdefault((document.epoch, document.position), [])
            its.append((document.text, piece[FIRST], piece[FIRST] + piece[COUNT]))
    return found


def firsts(windows: Windows, epoch: int) -> dict[int, int]:
    """The first token of each long document's crop in an epoch, by its position."""
    found = {}
    for w in range(windows.plan.windows_of_an_epoch * (epoch + 1) + 1):
        for (at, position), pieces in spans(windows, w).items():
            if at == epoch and len(pieces[0][0]) + 2 > LENGTH:
                found[position] = min(first for _, first, _ in pieces)
    return found


def parts(windows: Windows, cursor: Cursor, **limits: Any) -> Iterator[Part]:
    for w in windows.windows_from(cursor.window):
        yield from windows.parts(w, cursor.part if w == cursor.window else 0)


# ------------------------------------------------------------------------------------------------------- the draw


def test_every_start_is_as_likely_and_the_marks_are_tokens_like_any_others() -> None:
    documents = [Document("", 0, position, epoch) for position in range(80) for epoch in range(100)]
    found = draw_crops(documents, 10, 1, np.full(len(documents), 24))
    counts = np.bincount(found, minlength=15)
    assert len(counts) == 15  # from the mark of begin to where the mark of end is the last token
    assert ((counts - len(documents) / 15) ** 2 / (len(documents) / 15)).sum() < 36.2  # 14 degrees of freedom


def test_a_crop_follows_from_seed_epoch_and_document_and_from_nothing_else() -> None:
    documents = [Document("", 0, 7, 3), Document("", 1, 7, 3), Document("", 0, 7, 4), Document("", 0, 8, 3)]
    lengths = np.full(4, 10_000)
    found = draw_crops(documents, 100, 5, lengths).tolist()
    assert len(set(found)) == 4
    assert draw_crops(documents[::-1], 100, 5, lengths).tolist() == found[::-1]
    assert draw_crops(documents[:1], 100, 5, lengths[:1]).tolist() == found[:1]
    assert draw_crops(documents[:1], 100, 6, lengths[:1]).tolist() != found[:1]


def test_what_fits_into_a_sequence_is_not_cropped() -> None:
    documents = [Document("", 0, position) for position in range(3)]
    assert draw_crops(documents, 10, 1, np.array([2, 9, 10])).tolist() == [0, 0, 0]


# -------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("packing", PACKINGS)
def test_of_a_long_document_exactly_a_sequence_of_tokens_is_taken_and_all_of_the_others(
    fasta: Path, packing: str
) -> None:
    windows = protein_windows(fasta, crop="random", packing=packing)
    for w in range(windows.plan.windows_of_an_epoch):
        found = spans(windows, w)
        whole = [
            pieces
            for pieces in found.values()
            if sum(stop - first for _, first, stop in pieces) == min(len(pieces[0][0]) + 2, LENGTH)
        ]
        tail = 0 if packing == "best-fit" else 1  # is dropped
        assert len(found) - tail <= len(whole)
        for pieces in whole:
            edges = sorted((first, stop) for _, first, stop in pieces)
            assert all(a[1] == b[0] for a, b in pairwise(edges))


def test_a_crop_is_one_sequence_and_has_a_mark_only_where_its_protein_ends(fasta: Path) -> None:
    windows = protein_windows(fasta, crop="random", packing="best-fit")
    seen = {"begin": 0, "end": 0, "crops": 0}
    for w in range(3 * windows.plan.windows_of_an_epoch):
        for packed in windows.packed(w):
            for row, _, number, first, count in packed.layout.pieces.tolist():
                whole = marked(packed.documents[number].text)
                if len(whole) <= LENGTH:
                    continue
                assert count == LENGTH
                assert packed.sequences.tokens[row].tolist() == whole[first : first + count]
                seen["crops"] += 1
                seen["begin"] += first == 0
                seen["end"] += first + count == len(whole)
    assert seen["crops"] > 300
    assert 0 < seen["begin"] < seen["crops"] / 5
    assert 0 < seen["end"] < seen["crops"] / 5


def test_each_epoch_sees_another_crop(fasta: Path) -> None:
    windows = protein_windows(fasta, crop="random", packing="best-fit")
    first, second = firsts(windows, 0), firsts(windows, 1)
    assert first.keys() == second.keys()
    assert len(first) > 150
    assert sum(first[p] != second[p] for p in first) > 0.9 * len(first)


def test_neither_the_windows_nor_the_packing_nor_the_order_change_a_crop(fasta: Path) -> None:
    wanted = firsts(protein_windows(fasta, crop="random", packing="best-fit"), 0)
    other: list[dict[str, Any]] = [{"window": 3000}, {"shuffle": False}, {"window": 10**6}]
    for change in other:
        assert firsts(protein_windows(fasta, crop="random", packing="best-fit", **change), 0) == wanted
    assert firsts(protein_windows(fasta, crop="random", packing="best-fit", seed=4), 0) != wanted


@pytest.mark.parametrize("packing", PACKINGS)
def test_without_the_setting_the_windows_hold_all_of_every_document(fasta: Path, packing: str) -> None:
    windows = protein_windows(fasta, packing=packing, window=10**6)
    pieces = spans(windows, 0).values()
    tokens = sum(stop - first for its in pieces for _, first, stop in its)
    assert sum(len(text) + 2 for text in TEXTS) - tokens < LENGTH


# ------------------------------------------------------------------------------------------- steps, for any workers


@pytest.mark.parametrize("packing", PACKINGS)
def test_any_number_of_workers_and_a_start_in_between_have_the_same_steps(
    fasta: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealer, "stream_parts", parts)
    windows = protein_windows(fasta, crop="random", packing=packing)
    batches = list(islice(Batches(parts(windows, Cursor()), Cursor(), repeat(8)), 60))
    assert batches[-1].cursor.window > windows.plan.windows_of_an_epoch  # a second epoch is in them
    wanted = [fingerprint_rows(batch.sequences.tokens, first=0) for batch in batches]
    begin = 23
    for workers in (1, 2, 4):
        supply = Supply(
            [pickle.loads(pickle.dumps(windows))], BatchSizes.all_alike(8), Causal(TOKENIZER.bos), 1.0, 1
        )  # type: ignore[list-item]
        deals = Dealer()
        deals.begin(Turn(1, batches[begin - 1].cursor, workers, supply))
        for step in range(begin, 60):
            shares = [deals.take(1, step - begin, 1, rank)[0] for rank in range(workers)]
            found = [
                fingerprint_rows(share.sequences.tokens, first=rank * 8 // workers)
                for rank, share in enumerate(shares)
            ]
            assert sum(found) % 2**64 == wanted[step]


@pytest.mark.parametrize("packing", PACKINGS)
def test_trace_names_the_characters_of_a_crop(fasta: Path, packing: str) -> None:
    windows = protein_windows(fasta, crop="random", packing=packing)
    lines = fasta.read_text(encoding="utf-8").split("\n")
    crops = 0
    for row in trace_sequences(windows, Cursor(), 200):
        for piece in row.pieces:
            header = lines[int(piece.document.rpartition(":")[2]) - 1]
            whole = TEXTS[int(header.removeprefix(">p").split()[0])]
            ids = row.ids[piece.column : piece.column + piece.tokens].tolist()
            assert piece.text == whole[piece.start : piece.stop] == TOKENIZER.decode(ids)
            assert ids == marked(whole)[piece.first : piece.first + piece.tokens]
            crops += piece.start > 0 and piece.stop < len(whole)
    assert crops > 50


# -------------------------------------------------------------------------------------------------------- refused


def test_crops_and_infilling_are_refused_together() -> None:
    with pytest.raises(ValidationError, match="crop would cut off what infill rearranges"):
        SequencesConfig.model_validate({"crop": "random", "infill": {"rate": 0.5}})
    with pytest.raises(ValidationError, match="random"):
        SequencesConfig.model_validate({"crop": "first"})
