"""A sample of every source of a corpus, taken so that the whole can be reckoned from it. For ``corpus inspect``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from raypretrain.corpus.clusters import Draw
from raypretrain.corpus.compression import Damaged, decompress
from raypretrain.corpus.documents import BadRecord, Document, is_held_out, read_documents
from raypretrain.corpus.format_base import Format
from raypretrain.corpus.manifest import Fragment, Manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.corpus.text_formats import TextFormat

_LEAST_OF_A_FRAGMENT = 1 << 16
_PARTS = 8  # a source's sample comes from so many fragments, at least
_MEASURED = 1 << 20  # bytes of a compressed file from which its ratio is known


@dataclass
class SourceSample:
    """What was read of a source.

    Args:
        source: its place in the recipe.
        texts: of its documents, held-out ones among them.
        held_out: whether each is held out.
        bad: records without text.
        counts: documents of each fragment that was read.
        read: how much was read, in the bytes that the manifest reckons with.
        whole: whether everything was read, so that nothing is an estimate.
        alone: how many of the texts are in no cluster.
    """

    source: int
    texts: list[str] = field(default_factory=list)
    held_out: list[bool] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    read: float = 0.0
    whole: bool = True
    alone: int = 0

    @property
    def training_texts(self) -> list[str]:
        """Those that are not held out."""
        return [text for text, out in zip(self.texts, self.held_out, strict=True) if not out]


def survey(manifest: Manifest, corpus: CorpusConfig, sample: int, seed: int) -> list[SourceSample]:
    """Read about ``sample`` bytes of text, from every source; bad records are noted, whatever the recipe says.

    Of clusters, the members that the first epoch takes.

    A source gets its share by size, but none less than a quarter of an equal share. Within a source, fragments are
    read in a seeded order, of very large ones only the beginning.

    Raises:
        InputError: a file that cannot be used at all.
        StorageError: a file that cannot be read.
    """
    patient = corpus.model_copy(update={"on_bad_input": "quarantine"})
    number = len(corpus.sources)
    sizes = np.bincount(manifest.source, weights=manifest.bytes, minlength=number)
    budgets = np.maximum(sample * sizes / max(1.0, sizes.sum()), sample / number / 4)
    return [_sample(source, budgets[source], manifest, patient, seed) for source in range(number)]


def _sample(source: int, budget: float, manifest: Manifest, corpus: CorpusConfig, seed: int) -> SourceSample:
    sample = SourceSample(source)
    fragments: NDArray[np.int64] = np.flatnonzero(manifest.source == source)
    most = max(_LEAST_OF_A_FRAGMENT, int(budget / _PARTS))
    taken = 0
    for index in np.random.default_rng([seed, 5, source]).permutation(fragments).tolist():
        if taken >= budget:
            sample.whole = False
            break
        before = len(sample.texts)
        taken += _read(manifest.fragment(index), most, manifest, corpus, sample, Draw(seed, 0))
        sample.counts.append(len(sample.texts) - before)
    return sample


def _read(
    fragment: Fragment,
    most: int,
    manifest: Manifest,
    corpus: CorpusConfig,
    sample: SourceSample,
    draw: Draw,
) -> int:
    """Read a fragment into ``sample``, or about ``most`` bytes of a much larger one; returns bytes of text."""
    limit = most if fragment.bytes > 2 * most else None
    size = 0
    for document in read_documents(manifest, fragment, corpus, sample.bad, draw):
        if limit and size >= limit:
            sample.whole = False
            share = _share_read(fragment, document, size, manifest.open(fragment.file, corpus))
            sample.read += max(1, fragment.bytes) * share
            return size
        sample.texts.append(document.text)
        sample.held_out.append(is_held_out(document.split_by, corpus.held_out))
        sample.alone += not document.group
        size += len(document.text.encode())
    sample.read += max(1, fragment.bytes)
    return size


def _share_read(fragment: Fragment, upto: Document, size: int, file: Format) -> float:
    """How much of a fragment stands before the document ``upto``: ``size`` bytes of text."""
    if not isinstance(file, TextFormat):
        return min(1.0, size / max(1, fragment.bytes))
    if file.compression:
        return min(1.0, upto.position / (file.size * _expansion(file)))
    return min(1.0, (upto.position - fragment.start) / max(1, fragment.stop - fragment.start))


def _expansion(file: Format) -> float:
    """How much larger a compressed file's text is than the file, by its beginning."""
    text = 0
    with file.open() as opened:
        counting = _Counting(opened)
        try:
            for chunk in decompress(cast(BinaryIO, counting), file.compression, file.url):
                text += len(chunk)
                if counting.given >= _MEASURED:
                    break
        except Damaged:
            pass
    return max(1, text) / max(1, counting.given)


class _Counting:
    """A file that counts the bytes that were read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.given = 0

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self.given += len(data)
        return data

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)
