"""What a corpus holds, reckoned from a sample of it: ``raypretrain corpus inspect``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypretrain.corpus.manifest import Manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.tokens.cautions import warnings
from raypretrain.tokens.survey import SourceSample
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.window import SequencesConfig

_NAMED = 20  # bad records and characters that are listed
_EXAMPLES = 3
_EXAMPLE_LENGTH = 300
_MARKS = 2  # of begin and end


@dataclass(frozen=True)
class _Measured:
    """A source's sample, counted.

    Args:
        lengths: int64 [documents], tokens of each, marks of begin and end among them.
        sizes: int64 [documents], bytes of each.
        held_out: bool [documents].
        copies: bool [documents], whether the same text was in the sample before.
        longest: tokens that an epoch takes of a document at most; None for all.
        scale: how much more the source holds than the sample.
        documents: how many documents it holds.
    """

    sample: SourceSample
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    copies: NDArray[np.bool_]
    longest: int | None
    scale: float
    documents: float

    @property
    def training_tokens(self) -> float:
        """Tokens of the source that an epoch takes and that are not held out, estimated."""
        lengths = np.minimum(self.lengths, self.longest) if self.longest else self.lengths
        return float(lengths[~self.held_out].sum()) * self.scale


def inspect(
    samples: Sequence[SourceSample],
    manifest: Manifest,
    corpus: CorpusConfig,
    sequences: SequencesConfig,
    tokenizer: Tokenizer,
    budget: int,
) -> dict[str, Any]:
    """The figures of a corpus.

    Args:
        samples: of every source, as of :func:`~raypretrain.tokens.survey.survey`.
        budget: tokens that the run trains on.

    Returns:
        ``files``, ``bytes``, ``documents``, ``text_bytes``, ``tokens`` (with marks of begin and end), ``exact``,
        ``bytes_per_token``, ``sample``, ``held_out``, ``duplicates``, ``uncovered``, ``lengths``, ``sources``,
        ``training_tokens``, ``bad_records``, ``bad``, ``warnings``. Shares are between 0 and 1. Figures are exact
        where all of a source was read, and estimates where it was not.
    """
    seen: set[bytes] = set()
    measured = [_measure(sample, manifest, tokenizer, seen, sequences.longest) for sample in samples]
    drawn = tokens_drawn(
        [m.training_tokens for m in measured],
        [source.weight for source in corpus.sources],
        [source.epochs for source in corpus.sources],
        budget,
    )
    sources = [_source_row(m, manifest, corpus, drawn[i]) for i, m in enumerate(measured)]
    available = sum(row["training_tokens"] for row in sources)
    for row in sources:
        row["share_by_size"] = _ratio(row["training_tokens"], available)
        row["share"] = _ratio(row["drawn"], sum(drawn))
    bad = [record for m in measured for record in m.sample.bad]
    totals = {key: sum(row[key] for row in sources) for key in ("documents", "text_bytes", "tokens")}
    texts = [text for m in measured for text in m.sample.texts]
    figures = {
        "files": len(manifest.files),
        "bytes": sum(file.size for file in manifest.files),
        **totals,
        "exact": all(row["exact"] for row in sources),
        "bytes_per_token": _ratio(totals["text_bytes"], sum(_inner_tokens(m) for m in measured)),
        "sample": {"documents": len(texts), "bytes": int(sum(m.sizes.sum() for m in measured))},
        "held_out": _ratio(sum(row["documents"] * row["held_out"] for row in sources), totals["documents"]),
        "duplicates": _duplicates(measured),
        "uncovered": uncovered(texts, tokenizer),
        "lengths": _histogram(measured),
        "sources": sources,
        "training_tokens": budget,
        "available_tokens": available,
        "drawn_tokens": round(sum(drawn)),
        "bad_records": len(bad),
        "bad": [asdict(record) for record in bad[:_NAMED]],
    }
    return {**figures, "warnings": list(warnings(figures, manifest, corpus, sequences))}


def tokens_drawn(
    available: Sequence[float],
    weights: Sequence[float | None],
    epochs: Sequence[float | None],
    budget: float,
) -> list[float]:
    """The tokens of each source in a run of ``budget`` tokens; all may be used up before.

    As in :class:`~raypretrain.tokens.plan.Plan`: a source without a weight counts as much as its share of all tokens,
    and when one has been repeated as often as it may, the others take its share.
    """
    whole = sum(available)
    wanted = [t / whole if w is None and whole else w or 0.0 for w, t in zip(weights, available, strict=True)]
    most = [float("inf") if e is None else e * t for e, t in zip(epochs, available, strict=True)]
    drawn, left = [0.0] * len(available), float(budget)
    while True:
        going = [i for i, w in enumerate(wanted) if w and available[i] and drawn[i] < most[i] * (1 - 1e-9)]
        if not going or left <= 0:
            return drawn
        rates = {i: wanted[i] / sum(wanted[j] for j in going) for i in going}
        step = min(left, *((most[i] - drawn[i]) / rate for i, rate in rates.items()))
        for i, rate in rates.items():
            drawn[i] += rate * step
        left -= step


def uncovered(texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, Any]:
    """Characters that the tokenizer has no piece for: they are unknown to it, or written byte by byte.

    Of a tokenizer of bytes, which has no others, there are none.

    Returns:
        ``share`` of all characters, and the ``most_frequent``, each with ``character``, ``code`` and ``count``.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    known = tokenizer.kind == "bytes"
    missing = [(c, n) for c, n in counts.most_common() if not known and not _covers(tokenizer, c)]
    return {
        "share": _ratio(sum(n for _, n in missing), counts.total()),
        "most_frequent": [
            {"character": c, "code": f"U+{ord(c):04X}", "count": n} for c, n in missing[:_NAMED]
        ],
    }


def _covers(tokenizer: Tokenizer, character: str) -> bool:
    """Whether a character is one token, or part of one; after a letter, so that nothing is put in front of it."""
    text = "a" + character
    spans = tokenizer.spans(text)
    ids = np.asarray(tokenizer.encode(text))
    its = (spans[:, 0] <= 1) & (spans[:, 1] > 1)
    return int(its.sum()) <= 1 and not bool((ids[its] == tokenizer.unk).any())


def _measure(
    sample: SourceSample, manifest: Manifest, tokenizer: Tokenizer, seen: set[bytes], longest: int | None
) -> _Measured:
    lengths = [len(ids) + _MARKS for ids in tokenizer.encode_batch(sample.texts)]
    sizes, copies = [], []
    for text in sample.texts:
        data = text.encode()
        digest = hashlib.blake2b(data, digest_size=16).digest()
        sizes.append(len(data))
        copies.append(digest in seen)
        seen.add(digest)
    ours = manifest.source == sample.source
    read = sample.read / float(np.maximum(manifest.bytes[ours], 1).sum())
    scale = 1.0 if sample.whole else 1.0 / max(read, 1e-12)
    documents = len(lengths) * scale
    if max(sample.counts, default=0) <= 1:  # a document a file: files are known exactly
        documents = float(np.mean(sample.counts or [0]) * ours.sum())
    return _Measured(
        sample=sample,
        lengths=np.array(lengths, np.int64),
        sizes=np.array(sizes, np.int64),
        held_out=np.array(sample.held_out, bool),
        copies=np.array(copies, bool),
        longest=longest,
        scale=scale,
        documents=documents,
    )


def _source_row(m: _Measured, manifest: Manifest, corpus: CorpusConfig, drawn: float) -> dict[str, Any]:
    source = m.sample.source
    files = [file for file in manifest.files if file.source == source]
    lengths = m.lengths if len(m.lengths) else np.zeros(1, np.int64)
    middle, long, longer = np.quantile(lengths, [0.5, 0.9, 0.99])
    return {
        "name": corpus.source_name(source),
        "path": corpus.sources[source].path,
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "documents": round(m.documents),
        "text_bytes": round(int(m.sizes.sum()) * m.scale),
        "tokens": round(int(m.lengths.sum()) * m.scale),
        "exact": m.sample.whole,
        "bytes_per_token": _ratio(int(m.sizes.sum()), _inner_tokens(m) / m.scale),
        "held_out": _ratio(int(m.held_out.sum()), len(m.held_out)),
        "duplicates": _ratio(int(m.copies.sum()), len(m.copies)),
        "lengths": {
            "median": int(middle),
            "p90": int(long),
            "p99": int(longer),
            "longest": int(lengths.max()),
        },
        "weight": corpus.sources[source].weight,
        "training_tokens": round(m.training_tokens),
        "drawn": round(drawn),
        "epochs": _ratio(drawn, m.training_tokens),
        "bad_records": len(m.sample.bad),
        "alone": _ratio(m.sample.alone, len(m.lengths)) if corpus.sources[source].clusters else None,
        "examples": [_first_line(text) for text in m.sample.texts[:_EXAMPLES]],
    }


def _inner_tokens(m: _Measured) -> float:
    """Tokens without the marks of begin and end."""
    return (float(m.lengths.sum()) - _MARKS * len(m.lengths)) * m.scale


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:_EXAMPLE_LENGTH]


def _duplicates(measured: Sequence[_Measured]) -> dict[str, float]:
    """Exact copies in the sample, as shares of its documents and of its bytes."""
    copies = np.concatenate([m.copies for m in measured])
    sizes = np.concatenate([m.sizes for m in measured])
    return {
        "documents": _ratio(int(copies.sum()), len(copies)),
        "bytes": _ratio(int(sizes[copies].sum()), int(sizes.sum())),
    }


def _histogram(measured: Sequence[_Measured]) -> list[dict[str, Any]]:
    """Documents and tokens by the documents' length in tokens: from 1, 2, 4, 8, … on."""
    lengths = np.concatenate([m.lengths for m in measured])
    scales = np.concatenate([np.full(len(m.lengths), m.scale) for m in measured])
    if not len(lengths):
        return []
    bins = np.floor(np.log2(lengths)).astype(int)
    each = [np.full(len(m.lengths), _ratio(m.documents, len(m.lengths))) for m in measured]
    documents = np.bincount(bins, weights=np.concatenate(each))
    tokens = np.bincount(bins, weights=scales * lengths)
    first = int(np.flatnonzero(documents)[0])
    return [
        {"from": 1 << b, "to": (2 << b) - 1, "documents": round(documents[b]), "tokens": round(tokens[b])}
        for b in range(first, len(documents))
    ]


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
