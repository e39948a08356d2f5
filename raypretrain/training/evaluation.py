"""Held-out loss: sequences that are never trained on, chosen once for a run and kept in its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypretrain.corpus.clusters import Draw
from raypretrain.corpus.documents import is_held_out, read_documents
from raypretrain.tokens.objectives import IGNORED, Causal, Objective, whole_sequences
from raypretrain.tokens.packing import pack
from raypretrain.tokens.window import Windows


@dataclass(frozen=True)
class HeldOut:
    """Held-out text as sequences, each of one source.

    Args:
        tokens: int32 [sequences, length].
        bytes: bytes of UTF-8 that the predicted tokens (all but the first of each sequence) stand for.
        sources: int32 [sequences], where each comes from; None if there is one source only.
        bytes_of: the bytes by source.
        begins: uint8 [sequences, ceil(length / 8)], as of :class:`~raypretrain.tokens.packing.Sequences`; None where it
            is not known (files of before it was kept): then every sequence counts as one document.
    """

    tokens: NDArray[np.int32]
    bytes: int
    sources: NDArray[np.int32] | None = None
    bytes_of: tuple[int, ...] = ()
    begins: NDArray[np.uint8] | None = None

    @classmethod
    def of_sources(cls, parts: Sequence[HeldOut]) -> HeldOut:
        """That of several sources in one, in their order."""
        if len(parts) == 1:
            return parts[0]
        counts = [len(part.tokens) for part in parts]
        sources = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
        tokens = np.concatenate([part.tokens for part in parts])
        bytes_of = tuple(part.bytes for part in parts)
        known = [part.begins for part in parts if part.begins is not None]
        return cls(tokens, sum(bytes_of), sources, bytes_of, np.concatenate(known) if known else None)

    def parts(self) -> dict[int, HeldOut]:
        """By source; those without held-out text are left out."""
        if self.sources is None:
            return {0: self} if len(self.tokens) else {}
        each = {}
        for source, size in enumerate(self.bytes_of):
            own = self.sources == source
            begins = None if self.begins is None else self.begins[own]
            each[source] = HeldOut(self.tokens[own], size, begins=begins)
        return {source: part for source, part in each.items() if len(part.tokens)}

    def save(self, path: Path) -> None:
        """Write it as Parquet."""
        columns: dict[str, Any] = {"tokens": list(self.tokens)}
        metadata = {"bytes": str(self.bytes)}
        if self.sources is not None:
            columns["source"] = self.sources
            metadata["bytes_of"] = json.dumps(self.bytes_of)
        if self.begins is not None:
            columns["begins"] = list(self.begins)
        unfinished = path.with_suffix(".unfinished")
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), unfinished)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> HeldOut:
        """Read what :meth:`save` wrote."""
        table = pq.read_table(path)
        rows = [np.asarray(row, np.int32) for row in table["tokens"].to_pylist()]
        metadata = table.schema.metadata or {}
        sources = table["source"].to_numpy().astype(np.int32) if "source" in table.column_names else None
        bytes_of = tuple(json.loads(metadata.get(b"bytes_of", b"[]")))
        tokens = np.stack(rows) if rows else np.empty((0, 0), np.int32)
        begins = None
        if rows and "begins" in table.column_names:
            begins = np.stack([np.asarray(row, np.uint8) for row in table["begins"].to_pylist()])
        return cls(tokens, int(metadata[b"bytes"]), sources, bytes_of, begins)


def held_out_sequences(windows: Windows, most: int) -> HeldOut:
    """The first ``most`` sequences of held-out documents, in a seeded order of the fragments, equally of each source.

    Of a held-out cluster it is the member that the first epoch would take. Reads no more of the corpus than that
    takes. May hold fewer, also none.
    """
    order = np.random.default_rng([windows.seed, 2]).permutation(len(windows.manifest))
    sources, number = windows.manifest.source[order], len(windows.corpus.sources)
    return HeldOut.of_sources(
        [
            _of_fragments(windows, order[sources == source], most // number + (source < most % number))
            for source in range(number)
        ]
    )


def _of_fragments(windows: Windows, fragments: NDArray[np.int64], most: int) -> HeldOut:
    manifest, tokenizer, length = windows.manifest, windows.tokenizer, windows.sequences.length
    texts: list[str] = []
    budget = most * length
    for index in fragments:
        fragment = manifest.fragment(int(index))
        for document in read_documents(manifest, fragment, windows.corpus, [], Draw(windows.seed, 0)):
            if is_held_out(document.split_by, windows.corpus.held_out):
                texts.append(document.text)
                budget -= len(tokenizer.encode(document.text)) + 2
        if budget <= 0:
            break
    ids = tokenizer.encode_batch(texts)
    _, sequences = pack(ids, length, "concatenate", bos=tokenizer.bos, eos=tokenizer.eos, pad=tokenizer.pad)
    rows = sequences.tokens[:most]
    bytes_of = [tokenizer.token_bytes(text).astype(np.int32) for text in texts]
    _, sizes = pack(bytes_of, length, "concatenate", bos=0, eos=0, pad=0)
    return HeldOut(rows, int(sizes.tokens[:most, 1:].sum()), begins=sequences.begins[:most])


@dataclass(frozen=True)
class Rows:
    """A micro-batch of held-out text: what the model is given, its targets, and where each token's document begins.

    Args:
        ids, targets, starts: int64 [rows, length].
        weight: targets that count.
    """

    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    starts: NDArray[np.int64]
    weight: float


@dataclass(frozen=True)
class Share:
    """What of the held-out text one worker evaluates: all workers take part in as many micro-batches (ZeRO 3)."""

    batches: list[Rows]


def share_of(held_out: HeldOut, objective: Objective, rank: int, world: int, micro_batch: int) -> Share:
    """Worker ``rank``'s micro-batches, each with its weight: the number of its targets that count."""
    if not len(held_out.tokens):
        return Share([])
    rows, targets = examples(held_out, objective)
    starts = starts_of(held_out)
    rounds = math.ceil(len(rows) / (micro_batch * world))
    batches = []
    for i in range(rounds):
        start = (i * world + rank) * micro_batch
        counts = start < len(rows)
        # Past the end a worker computes something, because the others need it there, and counts nothing.
        own = slice(start, start + micro_batch) if counts else slice(1)
        weight = float((targets[own] != IGNORED).sum()) * counts
        batches.append(Rows(rows[own], targets[own], starts[own], weight))
    return Share(batches)


def starts_of(held_out: HeldOut) -> NDArray[np.int64]:
    """Where the document of each token begins: int64 [sequences, length]."""
    sequences = whole_sequences(held_out.tokens)
    return (sequences if held_out.begins is None else replace(sequences, begins=held_out.begins)).starts()


def examples(held_out: HeldOut, objective: Objective) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What the model is given of the held-out text, and its targets: int64 [sequences, length], always the same."""
    number = len(held_out.tokens)
    places = np.zeros((number, 3), np.int64)
    places[:, 2] = np.arange(number)
    return objective.held_out().examples(whole_sequences(held_out.tokens), places)


def held_out_loss(
    share: Share,
    loss: Callable[[Rows], Tensor],
    total: Callable[[Tensor], Tensor],
) -> tuple[float, float]:
    """Mean loss over all workers' held-out targets, in nats, and their number.

    Args:
        share: of this worker.
        loss: mean loss of a micro-batch, a scalar tensor.
        total: sum of a tensor over all workers.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    for part in share.batches:
        sums += torch.tensor([float(loss(part)) * part.weight, part.weight], dtype=torch.float64)
    sums = total(sums)
    return float(sums[0] / sums[1]), float(sums[1])


def losses_by_source(
    held_out: HeldOut,
    objective: Objective,
    place: tuple[int, int],
    micro_batch: int,
    loss: Callable[[Rows], Tensor],
    total: Callable[[Tensor], Tensor],
) -> tuple[float, dict[int, float]]:
    """Mean loss over all held-out targets, in nats, and that of each source that has some.

    Args:
        place: rank and number of the workers.
        micro_batch: sequences at once.
        loss, total: as of :func:`held_out_loss`.
    """
    rank, world = place
    found = {
        source: held_out_loss(share_of(part, objective, rank, world, micro_batch), loss, total)
        for source, part in held_out.parts().items()
    }
    targets = sum(number for _, number in found.values())
    nats = sum(mean * number for mean, number in found.values()) / targets
    return nats, {source: mean for source, (mean, _) in found.items()}


def bits_per_byte(nats_per_token: float, held_out: HeldOut, objective: Objective) -> float | None:
    """The loss by bytes of text instead of tokens: comparable between tokenizers. None where not all are predicted."""
    if not isinstance(objective, Causal):
        return None
    predicted = held_out.tokens.shape[0] * (held_out.tokens.shape[1] - 1)
    return nats_per_token * predicted / held_out.bytes / math.log(2)
