"""Which labelled texts stand in the text that a model was pretrained on.

By shared shingles of 13 words, as in Brown et al., Language models are few-shot learners, 2020 (arXiv:2005.14165),
appendix C.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

import numpy as np

from raypretrain.corpus.documents import is_held_out, read_documents
from raypretrain.corpus.manifest import Manifest
from raypretrain.errors import RunError
from raypretrain.finetuning.shingles import Hashes, shingles, unit_hashes, units
from raypretrain.training.runfolder import RunFolder

_LENGTH = 13
_SHORTEST = 8  # what has fewer words is said by chance
_BITS = 24
_REST = np.uint64(64 - _BITS)
_BORDER = np.zeros(1, np.uint64)  # between two documents: no word's hash, so that no text reaches over it
_AT_ONCE = 1 << 16  # words


def corpus_overlap(texts: Sequence[str], documents: Iterable[str], share: float = 0.5) -> list[int]:
    """Places of the ``texts`` that stand in the ``documents``, in one pass over these; ascending.

    A text does if at least ``share`` of its different shingles of 13 words stand in any of them; one of 8 to 12
    words, if all of it stands in a row; a shorter one, if it is a whole document. Case and punctuation do not count. As
    words count the characters of scripts without spaces, and the letters of proteins.
    """
    hashes = [unit_hashes(units(text)) for text in texts]
    sets = [np.unique(_of_text(each)) for each in hashes]
    wanted = np.unique(np.concatenate([_BORDER[:0], *sets]))
    maybe = np.zeros(1 << _BITS, bool)  # by their first bits, which spares most of the searches
    maybe[wanted >> _REST] = True
    seen = np.zeros(len(wanted), bool)
    needed = {min(_LENGTH, len(each)) for each in hashes if len(each) >= _SHORTEST}
    for found in _of_documents(documents, needed):
        found = found[maybe[found >> _REST]]
        places = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
        seen[places[wanted[places] == found]] = True
    there = [seen[np.searchsorted(wanted, each)] for each in sets]
    return [place for place, each in enumerate(there) if len(each) and each.mean() >= share]


def corpus_of_run(run: str | Path) -> Iterator[str]:
    """The documents that a pretraining run learns from: those of its manifest, without the held-out ones.

    Raises:
        RunError: it is no run, has no manifest, or reads a tokenized copy and its recipe names no text.
        InputError: a file is not the one that was listed any more, or is damaged.
        StorageError: it cannot be read.
    """
    folder = RunFolder(run)
    corpus = folder.read_recipe().corpus
    if not corpus.sources:
        what = "the run reads a tokenized copy, and its recipe does not say where the text is"
        raise RunError(what, where=str(run), fix="leave corpus.sources in the recipe of such a run")
    manifest = Manifest.load(folder.manifest, corpus)
    return (
        document.text
        for index in range(len(manifest))
        for document in read_documents(manifest, manifest.fragment(index), corpus, bad=[])
        if not is_held_out(document.split_by, corpus.held_out)
    )


def _of_text(hashes: Hashes) -> Hashes:
    """Shingles of 13 units, or one of all where there are fewer."""
    return shingles(hashes, min(_LENGTH, len(hashes)))


def _of_documents(documents: Iterable[str], lengths: Set[int]) -> Iterator[Hashes]:
    """Shingles of these lengths, of many documents at once; those of one that is shorter than any are one of all."""
    some: list[Hashes] = []
    size = 0
    for document in documents:
        hashes = unit_hashes(units(document))
        if len(hashes) < _SHORTEST:
            yield _of_text(hashes)
            continue
        some += [hashes, _BORDER]
        size += len(hashes)
        if size >= _AT_ONCE:
            yield shingles(np.concatenate(some), *lengths)
            some, size = [], 0
    if some:
        yield shingles(np.concatenate(some), *lengths)
