"""Clusters in the stream: each once in an epoch, for ever, and traced; the figures know of them and of crops."""

from __future__ import annotations

import pickle
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from proteins import protein_windows, proteins, write_clusters, write_fasta

from raypretrain.corpus.documents import is_held_out, read_documents
from raypretrain.tokens.inspect import inspect
from raypretrain.tokens.mixture import densities
from raypretrain.tokens.survey import survey
from raypretrain.tokens.trace import places_of
from raypretrain.tokens.window import Windows
from raypretrain.training.evaluation import held_out_sequences

NUMBER, CLUSTERED = 400, 360
NAMES = [f"tr|P{i:03d}|X" for i in range(NUMBER)]
TEXTS = proteins(NUMBER, 20, 90)
SIZES = [1, 2, 3, 12]  # of the clusters, again and again; the last forty proteins are in none


@pytest.fixture(scope="module")
def families() -> list[list[int]]:
    found: list[list[int]] = []
    at = 0
    while at < CLUSTERED:
        size = SIZES[len(found) % len(SIZES)]
        found.append(list(range(at, at + size)))
        at += size
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, families: list[list[int]]) -> Path:
    """The proteins of a cluster lie in several files."""
    folder = tmp_path_factory.mktemp("proteins")
    for i in range(3):
        write_fasta(folder / f"{i}.fasta", dict(zip(NAMES[i::3], TEXTS[i::3], strict=True)))
    write_clusters(folder / "clusters.tsv", [[f"P{i:03d}" for i in family] for family in families])
    return folder


def made(folder: Path, **settings: object) -> Windows:
    return protein_windows(folder / "*.fasta", folder / "clusters.tsv", packing="best-fit", **settings)  # type: ignore[arg-type]


def by_epoch(windows: Windows, epochs: int) -> list[list[int]]:
    """The numbers of the proteins of each epoch."""
    number = {text: i for i, text in enumerate(TEXTS)}
    found: list[list[int]] = [[] for _ in range(epochs)]
    for w in range(windows.plan.windows_of_an_epoch * epochs + 1):
        for packed in windows.packed(w):
            for document in packed.documents:
                if document.epoch < epochs:
                    found[document.epoch].append(number[document.text])
    return found


def test_every_epoch_has_each_cluster_exactly_once_and_each_protein_in_none(
    folder: Path, families: list[list[int]]
) -> None:
    family_of = {i: f for f, family in enumerate(families) for i in family}
    epochs = by_epoch(made(folder), 6)
    for epoch in epochs:
        assert sorted(family_of[i] for i in epoch if i in family_of) == list(range(len(families)))
        assert sorted(i for i in epoch if i not in family_of) == list(range(max(family_of) + 1, NUMBER))
    assert all(set(a) != set(b) for a, b in pairwise(epochs))


def test_neither_windows_nor_order_nor_a_copy_of_the_task_change_what_is_drawn(folder: Path) -> None:
    wanted = [sorted(epoch) for epoch in by_epoch(made(folder), 3)]
    assert [sorted(epoch) for epoch in by_epoch(made(folder, window=3000), 3)] == wanted
    assert [sorted(epoch) for epoch in by_epoch(pickle.loads(pickle.dumps(made(folder))), 3)] == wanted
    assert [sorted(epoch) for epoch in by_epoch(made(folder, seed=4), 3)] != wanted


def test_a_held_out_cluster_is_in_no_epoch_and_one_member_of_it_is_evaluated(
    folder: Path, families: list[list[int]]
) -> None:
    windows = made(folder, held_out=0.2)
    trained = [set(epoch) for epoch in by_epoch(windows, 3)]
    table = windows.manifest.tables[0]
    out = []
    for family in families:
        place = table.find(NAMES[family[0]])
        assert place is not None
        out.append(is_held_out(table.group(place), 0.2))
        for epoch in trained:
            assert len(epoch & set(family)) == (0 if out[-1] else 1)
    assert 0.08 < np.mean(out) < 0.35
    alone = range(max(families[-1]) + 1, NUMBER)
    lonely = sum(is_held_out(TEXTS[i], 0.2) for i in alone)
    evaluated = held_out_sequences(windows, 10**6).tokens
    assert abs((evaluated == windows.tokenizer.bos).sum() - (sum(out) + lonely)) <= 1  # the last is cut off


def test_trace_says_in_which_epochs_a_member_is_taken_and_where(
    folder: Path, families: list[list[int]]
) -> None:
    windows = made(folder, length=128)
    manifest = windows.manifest
    epochs = by_epoch(windows, 6)
    where = {
        d.text: (d.file, d.position, fragment)
        for fragment in range(len(manifest))
        for d in read_documents(manifest, manifest.fragment(fragment), windows.corpus)
    }
    for number in families[2]:
        places = list(islice(places_of(windows, *where[TEXTS[number]]), 6))
        assert [found is not None for found in places] == [number in epoch for epoch in epochs]
        for cursor in (cursor for found in places for cursor in found or []):
            (part,) = windows.parts(cursor.window)
            row = windows.tokenizer.decode(part.sequences.tokens[cursor.index].tolist())
            assert TEXTS[number][:20] in row or TEXTS[number][-20:] in row


def test_the_tokens_of_a_byte_are_those_that_clusters_and_crops_leave(folder: Path) -> None:
    plain = protein_windows(folder / "*.fasta")
    clustered = made(folder)
    manifest, corpus, tokenizer = clustered.manifest, clustered.corpus, clustered.tokenizer
    size = manifest.bytes.sum()
    (first, *_) = by_epoch(clustered, 1)
    for longest in (None, 40):
        (found,) = densities(manifest, corpus, tokenizer, 3, longest)
        wanted = sum(min(len(TEXTS[i]) + 2, longest or 10**9) for i in first) / size
        assert found == pytest.approx(wanted, rel=1e-9)
        (whole,) = densities(plain.manifest, plain.corpus, tokenizer, 3, longest)
        assert whole > 2 * found


def test_inspect_reckons_with_an_epoch_and_tells_of_those_in_no_cluster(folder: Path) -> None:
    windows = made(folder, crop="random", length=32)
    samples = survey(windows.manifest, windows.corpus, 10**9, windows.seed)
    found = inspect(
        samples, windows.manifest, windows.corpus, windows.sequences, windows.tokenizer, budget=1000
    )
    (first, *_) = by_epoch(windows, 1)
    (row,) = found["sources"]
    assert row["documents"] == len(first)
    assert row["training_tokens"] == sum(min(len(TEXTS[i]) + 2, 32) for i in first)
    assert row["tokens"] == sum(len(TEXTS[i]) + 2 for i in first)
    alone = sum(i > 359 for i in first)
    assert row["alone"] == pytest.approx(alone / len(first))
    assert any("are in none of its clusters" in line for line in found["warnings"])
