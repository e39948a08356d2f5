"""Documents out of fragments, the held-out split, and samples of the corpus."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from raypretrain.corpus.clusters import Draw
from raypretrain.corpus.compression import Damaged
from raypretrain.corpus.manifest import Fragment, Manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.errors import InputError

_LEAST_OF_A_FRAGMENT = 1 << 16
_NAMES_TRIED = 1000


@dataclass(frozen=True, slots=True)
class Document:
    """A text, and where it came from.

    ``position`` says where in file ``file`` of the manifest: for text files the byte (of the decompressed
    text) at which the document, or its JSON line, begins; for Parquet the row, from 0. ``(file, position)``
    names a document. ``epoch`` is the one of its source that it was read in; ``group`` its cluster, where its source
    names clusters and it is in one.
    """

    text: str
    file: int
    position: int
    epoch: int = 0
    group: str = ""

    @property
    def split_by(self) -> str:
        """What decides whether it is held out: its cluster, so that it is held out as a whole, or else its text."""
        return self.group or self.text


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that was left out, because it holds no text or cannot be read.

    Args:
        what: what is wrong with it.
        where: ``PATH:LINE``; ``PATH, row N``; or ``PATH`` for the rest of a damaged file.
        file: the file's place in the manifest.
        position: where it begins in the file, as of a :class:`Document`.
    """

    what: str
    where: str
    file: int
    position: int


def read_documents(
    manifest: Manifest,
    fragment: Fragment,
    config: CorpusConfig,
    bad: list[BadRecord] | None = None,
    draw: Draw | None = None,
) -> Iterator[Document]:
    """The documents that begin in ``fragment``, in order, held-out ones among them; empty texts are none.

    With a ``draw``, of clusters only the members that it takes; a document in no cluster is always taken.

    With ``on_bad_input: quarantine``, and a list ``bad`` to put them into, bad records are left out: each is
    reported by the one fragment that it begins in, always in the same way.

    Raises:
        InputError: a damaged file, named; a line or row that holds no text, named with its number; or a file
            that is not the one that was listed.
        StorageError: it cannot be read.
    """
    source = manifest.open(fragment.file, config)
    number = manifest.files[fragment.file].source
    table = manifest.tables[number] if config.sources[number].clusters else None
    epoch = draw.epoch if draw else 0
    given = source.named if table else source.texts
    for position, found in given(fragment.start, fragment.stop):
        if isinstance(found, InputError):
            where = found.where or source.place(position)
            if bad is None or config.on_bad_input == "error":
                raise InputError(found.what, where=where, fix=found.fix)
            bad.append(BadRecord(found.what, where, fragment.file, position))
        elif isinstance(found, str):
            if found:
                yield Document(found, fragment.file, position, epoch)
        elif table:
            name, text = found
            place = table.find(name)
            if place is None:
                yield Document(text, fragment.file, position, epoch)
            elif draw is None or table.takes(place, draw):
                yield Document(text, fragment.file, position, epoch, table.group(place))


def is_held_out(text: str, share: float) -> bool:
    """Whether a document is held out: by the hash of its text (:attr:`Document.split_by`) alone, so for ever.

    The same text is held out in every file, at every place, and with every larger ``share``.
    """
    if share <= 0:
        return False
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2.0**64


def check_columns(manifest: Manifest, config: CorpusConfig) -> None:
    """Look into the first file of each source, cheaply, whether its text is where the recipe says.

    Where bad input is put into quarantine, it is the first file that is not damaged.

    Raises:
        InputError: the key or column is not there; names the file and those that are there. Or none of the first
            names in it is in the source's clusters.
    """
    patient = config.on_bad_input == "quarantine"
    seen: set[int] = set()
    for index, file in enumerate(manifest.files):
        if file.source not in seen:
            try:
                manifest.open(index, config).check(patient)
            except Damaged:
                if not patient:
                    raise
                continue
            _check_names(manifest, index, config)
            seen.add(file.source)


def _check_names(manifest: Manifest, index: int, config: CorpusConfig) -> None:
    """Refuse a file of clusters with other names than the sequences have: nothing would be clustered."""
    source = manifest.files[index].source
    table = manifest.tables.get(source)
    if table is None:
        return
    fragment = manifest.fragment(int(np.flatnonzero(manifest.file == index)[0]))
    found = manifest.open(index, config).named(fragment.start, fragment.stop)
    names = [each[0] for _, each in islice(found, _NAMES_TRIED) if not isinstance(each, InputError)]
    if names and not any(table.find(name) for name in names):
        raise InputError(
            f"names none of the first {len(names):,} sequences of {manifest.files[index].url}, e.g. '{names[0]}'",
            where=config.sources[source].clusters,
            fix="name them as their headers do: the first word, or what stands between bars in it",
        )


def sample_documents(
    manifest: Manifest, config: CorpusConfig, max_bytes: int, seed: int
) -> Iterator[Document]:
    """Training documents of about ``max_bytes`` of UTF-8 in all, spread over all sources and fragments.

    Every source gets its weight's share where all sources have one, its size's share otherwise. Within a
    source, each fragment gives the same number of bytes from its beginning; of a document that is larger than all
    that is asked for, as much as is still wanted. Deterministic.
    """
    for source, budget in _budgets(manifest, config, max_bytes).items():
        yield from _sample_source(manifest, config, source, budget, seed)


def _beginning(document: Document, size: int) -> Document:
    """The document's first ``size`` bytes of UTF-8, but no half of a character."""
    text = document.text[:size].encode("utf-8")[:size].decode("utf-8", errors="ignore")
    return replace(document, text=text)


def _budgets(manifest: Manifest, config: CorpusConfig, max_bytes: int) -> dict[int, float]:
    """Bytes to sample from each source."""
    present = sorted({file.source for file in manifest.files})
    sizes = [float(manifest.bytes[manifest.source == source].sum()) for source in present]
    weights = [config.sources[source].weight for source in present]
    shares = sizes if None in weights else [float(weight or 0) for weight in weights]
    return {source: max_bytes * share / sum(shares) for source, share in zip(present, shares, strict=True)}


def _sample_source(
    manifest: Manifest, config: CorpusConfig, source: int, budget: float, seed: int
) -> Iterator[Document]:
    fragments = np.flatnonzero(manifest.source == source)
    order = np.random.default_rng([seed, source]).permutation(fragments)
    quota = max(_LEAST_OF_A_FRAGMENT, int(budget / len(order)))
    taken = dict.fromkeys((int(i) for i in order), 0)  # documents of each fragment that still has some
    total = 0
    while taken and total < budget:
        for index in list(taken):
            size, skip = 0, taken.pop(index)
            fragment = manifest.fragment(index)
            for number, document in enumerate(read_documents(manifest, fragment, config, bad=[])):
                if number < skip:
                    continue
                if size >= quota:
                    taken[index] = number
                    break
                if is_held_out(document.split_by, config.held_out):
                    continue
                length = len(document.text.encode("utf-8"))
                if length > budget:
                    length = math.ceil(budget - total)
                    document = _beginning(document, length)
                size += length
                total += length
                yield document
                if total >= budget:
                    return
