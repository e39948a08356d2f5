"""Clusters of alike sequences: an epoch takes one member of each, drawn anew, so that large families do not rule.

ESM-2 was trained so, on the clusters of UniRef50 with members of UniRef90: Lin et al., Evolutionary-scale prediction of
atomic-level protein structure with a language model, 2023 (doi:10.1126/science.ade2574), supplement, training data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raypretrain import storage
from raypretrain.corpus.compression import SUFFIXES, decompress
from raypretrain.corpus.records import LINES, in_stream
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.errors import InputError

_CHUNK = 1 << 20


class Draw(NamedTuple):
    """What decides which member of a cluster is taken."""

    seed: int
    epoch: int


class Place(NamedTuple):
    """A member: the cluster that it is of, and its number among the members of that."""

    cluster: int
    rank: int


@dataclass(frozen=True, eq=False)
class Clusters:
    """The clusters of a source, by 64-bit hashes of the names: 16 bytes a member, 12 a cluster.

    Args:
        members: uint64 [members], rising.
        cluster: uint32 [members], the cluster of each.
        rank: uint32 [members], its number within the cluster, by its hash.
        sizes: uint32 [clusters], members of each.
        representatives: uint64 [clusters], rising.
    """

    members: NDArray[np.uint64]
    cluster: NDArray[np.uint32]
    rank: NDArray[np.uint32]
    sizes: NDArray[np.uint32]
    representatives: NDArray[np.uint64]

    @classmethod
    def of(cls, representatives: NDArray[np.uint64], members: NDArray[np.uint64]) -> Clusters:
        """The clusters of pairs, in any order; no member comes twice."""
        order = np.argsort(members)
        named, cluster = np.unique(representatives[order], return_inverse=True)
        sizes = np.bincount(cluster, minlength=len(named))
        by_cluster = np.argsort(cluster, kind="stable")
        rank = np.empty(len(members), np.uint32)
        rank[by_cluster] = np.arange(len(members)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return cls(members[order], cluster.astype(np.uint32), rank, sizes.astype(np.uint32), named)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of which name is of which cluster; the order of the lines does not count."""
        digest = hashlib.sha256()
        for values in (self.members, self.representatives[self.cluster]):
            digest.update(values.astype("<u8").tobytes())
        return digest.hexdigest()

    def find(self, name: str) -> Place | None:
        """The member that a header's first word names, by all of it or by what stands between its bars.

        MMseqs2 calls the sequence of ``>sp|P12345|NAME`` ``P12345``.
        """
        for part in (name, *name.split("|")[1:]):
            wanted = np.uint64(_number(_hash(part.encode())))
            at = int(self.members.searchsorted(wanted))
            if at < len(self.members) and self.members[at] == wanted:
                return Place(int(self.cluster[at]), int(self.rank[at]))
        return None

    def takes(self, place: Place, draw: Draw) -> bool:
        """Whether a member is the one that is drawn: each as likely, and one in each epoch."""
        what = f"{draw.seed} {draw.epoch} {self.representatives[place.cluster]}".encode()
        return _number(_hash(what)) % int(self.sizes[place.cluster]) == place.rank

    def group(self, place: Place) -> str:
        """What a cluster is called: the same for the same representative, in every file."""
        return f"{self.representatives[place.cluster]:016x}"


def read_tables(config: CorpusConfig) -> dict[int, Clusters]:
    """The clusters of each source that names some.

    Raises:
        InputError: as of :func:`read_clusters`.
    """
    named = {i: source for i, source in enumerate(config.sources) if source.clusters}
    return {i: read_clusters(s.clusters or "", s.storage_options) for i, s in named.items()}


def read_clusters(url: str, options: storage.Options | None = None) -> Clusters:
    """Read lines of a representative, a tab and a member: what MMseqs2's ``easy-cluster`` and ``createtsv`` write.

    Raises:
        InputError: it is not there, is damaged or empty, a line is not two names, or a member is named twice.
        StorageError: it cannot be read.
    """
    if not storage.exists(url, options):
        raise InputError("there is no such file", where=url, fix="check the source's 'clusters'")
    pairs = bytearray()
    line = 0
    for _, data in in_stream(_chunks(url, options), LINES):
        for names in (row.removesuffix(b"\r").split(b"\t") for row in data.split(b"\n")):
            line += 1
            if len(names) != 2 or not all(names):
                fix = "write a representative, a tab and a member on each line, as MMseqs2's createtsv does"
                raise InputError("is not two names with a tab between them", where=f"{url}:{line}", fix=fix)
            pairs += _hash(names[0]) + _hash(names[1])
    if not pairs:
        raise InputError("names no member", where=url, fix="check the source's 'clusters'")
    representatives, members = np.frombuffer(pairs, "<u8").astype(np.uint64).reshape(-1, 2).T
    _refuse_repeated(members, url)
    return Clusters.of(representatives, members)


def _chunks(url: str, options: storage.Options | None) -> Iterator[bytes]:
    suffix = next((s for s in SUFFIXES if url.lower().endswith(s)), "")
    with storage.open_read(url, options) as file:
        yield from decompress(file, suffix, url) if suffix else iter(lambda: file.read(_CHUNK), b"")


def _refuse_repeated(members: NDArray[np.uint64], url: str) -> None:
    order = np.argsort(members, kind="stable")
    again = np.flatnonzero(np.diff(members[order]) == 0)
    if len(again):
        first, second = min((int(order[i]) + 1, int(order[i + 1]) + 1) for i in again)
        raise InputError(
            f"names a member that line {first} names already",
            where=f"{url}:{second}",
            fix="name each member once: it is of one cluster",
        )


def _hash(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=8).digest()


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "little")
