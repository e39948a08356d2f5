"""Whatever the corpus, the mixture, the kills and the number of workers: every step has the same batch."""

from __future__ import annotations

import gzip
import json
import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from real_text import reviews

from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.tokens import dealer
from raypretrain.tokens.batching import BatchSizes
from raypretrain.tokens.cursor import Cursor, fingerprint_rows
from raypretrain.tokens.dealer import Dealer, StepRows, Supply, Turn, steps_of_a_deal
from raypretrain.tokens.dealing import Batch, Batches, Part
from raypretrain.tokens.objectives import IGNORED, MaskConfig, Objective, make_objective
from raypretrain.tokens.stream import from_table, to_table
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from raypretrain.tokens.tokenizer_specials import INFILL, MASK
from raypretrain.tokens.window import SequencesConfig, Windows

STEPS = 12
TEXTS = reviews(120)


@dataclass
class Case:
    """What is drawn: a corpus, how it is mixed and packed, and the lives of a run."""

    shards: list[tuple[str, list[list[str]]]]  # of each source: its format, and the texts of its files
    weights: list[float | None]
    packing: str
    infill: float
    crop: str | None
    mask: MaskConfig | None  # without one, the next token is learned
    length: int
    window: int
    batches: BatchSizes
    seed: int
    lives: list[tuple[int, int, int]]  # workers, steps until it is killed, steps since its last checkpoint


@st.composite
def cases(draw: st.DrawFn) -> Case:
    texts = st.one_of(st.sampled_from(TEXTS), st.text(min_size=1, max_size=40, alphabet="ab é\n€😀."))
    files = st.lists(st.lists(texts, min_size=1, max_size=12), min_size=1, max_size=4)
    formats = st.sampled_from(["jsonl", "jsonl.gz", "txt", "parquet"])
    sources = draw(st.lists(st.tuples(formats, files), min_size=1, max_size=3))
    full, doublings = draw(st.sampled_from([(4, 0), (6, 0), (12, 0), (8, 1), (12, 1), (12, 2)]))
    batches = BatchSizes(full, full >> doublings, draw(st.integers(1, 9)) if doublings else 0)
    workers = [w for w in (1, 2, 3, 4, 6, 12) if batches.first % w == 0]
    units = st.sampled_from(["token", "word", "span"])
    infill = draw(st.sampled_from([0.0, 0.0, 0.5, 1.0]))
    life = st.tuples(st.sampled_from(workers), st.integers(1, 6), st.integers(0, 3))
    return Case(
        shards=sources,
        weights=draw(st.lists(st.one_of(st.none(), st.floats(0.2, 4)), min_size=3, max_size=3)),
        packing=draw(st.sampled_from(["concatenate", "best-fit"])),
        infill=infill,
        crop=None if infill else draw(st.sampled_from([None, "random"])),
        mask=draw(st.none() | st.builds(MaskConfig, rate=st.floats(0.05, 0.9), unit=units)),
        length=draw(st.sampled_from([8, 13, 32])),
        window=draw(st.sampled_from([1024, 3000, 20_000])),
        batches=batches,
        seed=draw(st.integers(0, 1000)),
        lives=draw(st.lists(life, min_size=2, max_size=4)),
    )


def write(folder: Path, kind: str, files: list[list[str]]) -> None:
    folder.mkdir()
    for i, texts in enumerate(files):
        path = folder / f"{i}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"text": texts}), path, row_group_size=3)
        elif kind == "txt":
            path.write_text("\n".join(texts), encoding="utf-8")
        else:
            data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
            path.write_bytes(gzip.compress(data, mtime=0) if kind.endswith("gz") else data)


def windows_of(case: Case, folder: Path, tokenizer: Tokenizer) -> Windows:
    sources = []
    for i, (kind, files) in enumerate(case.shards):
        write(folder / str(i), kind, files)
        sources.append(SourceConfig(path=str(folder / str(i)), weight=case.weights[i], documents="line"))
    corpus = CorpusConfig(sources=sources, held_out=0.05)
    values = {
        "length": case.length,
        "packing": case.packing,
        "window": case.window,
        "infill": {"rate": case.infill},
        "crop": case.crop,
    }
    config = SequencesConfig.model_validate(values)
    return Windows(build_manifest(corpus, 500), corpus, config, tokenizer, case.seed)


def parts(windows: Windows, cursor: Cursor, **limits: Any) -> Iterator[Part]:
    """As the stream gives them, through Arrow; without Ray."""
    for w in windows.windows_from(cursor.window):
        for part in windows.parts(w, cursor.part if w == cursor.window else 0):
            yield from from_table(to_table(part))


def objective_of(case: Case, tokenizer: Tokenizer) -> Objective:
    name = "masked" if case.mask else "causal"
    return make_objective(name, case.mask or MaskConfig(), tokenizer, case.seed)


def learned(objective: Objective, rows: Batch | StepRows, first: int) -> int:
    """The fingerprint of what the model is given, and of what it is to predict."""
    inputs, targets = objective.examples(rows.sequences, rows.places)
    assert ((targets != IGNORED).sum(axis=1) == objective.counts(rows.sequences)).all()
    seen = np.concatenate([rows.sequences.tokens, inputs, targets], axis=1).astype(np.int32)
    return fingerprint_rows(seen, first=first)


def undisturbed(windows: Windows, case: Case) -> list[int]:
    """The fingerprints of the first steps."""
    objective = objective_of(case, windows.tokenizer)
    batches = Batches(parts(windows, Cursor()), Cursor(), case.batches.after(0))
    return [learned(objective, batch, first=0) for batch in islice(batches, STEPS)]


def disturbed(windows: Windows, case: Case) -> list[int]:
    """The same steps, of a run that lives several lives, each from the last checkpoint of the one before."""
    found: list[int] = []
    cursors = [Cursor()]
    lives = [*case.lives, (1, STEPS, 0)]
    found_by: Dealer | None = None
    for group, (workers, steps, since_checkpoint) in enumerate(lives, 1):
        if found_by is None or group % 2:  # every second group finds the dealer of the one before it
            again = pickle.loads(pickle.dumps(windows))  # another process
            objective = objective_of(case, again.tokenizer)
            supply = Supply([again], case.batches, objective, 1.0, 1)  # type: ignore[list-item]
            found_by = Dealer()
        found_by.begin(Turn(group, cursors[-1], workers, supply, len(found)))
        steps = min(steps, STEPS - len(found))
        deal = steps_of_a_deal(case.batches.full, case.length)
        first = 0
        while first < steps:
            number = min(deal, steps - first)
            shares = [found_by.take(group, first, number, rank) for rank in range(workers)]
            for i in range(number):
                share = len(shares[0][i].sequences)
                own = [learned(objective, s[i], first=rank * share) for rank, s in enumerate(shares)]
                found.append(sum(own) % 2**64)
                cursors.append(shares[0][i].cursor)
            first += number
        lost = min(since_checkpoint, steps)
        if lost:
            del found[-lost:], cursors[-lost:]
    return found


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer(iter(TEXTS), TokenizerConfig(vocabulary=400), path, 1, controls=[*INFILL, MASK])


@pytest.mark.slow
@settings(
    max_examples=200,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(case=cases())
def test_kills_and_numbers_of_workers_change_no_batch(
    case: Case, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealer, "stream_parts", lambda windows, cursor, **limits: parts(windows, cursor))
    with tempfile.TemporaryDirectory() as folder:
        windows = windows_of(case, Path(folder), tokenizer)
        assume(windows.fills(case.batches.full))
        wanted = undisturbed(windows, case)
        assert len(wanted) == STEPS
        assert disturbed(windows, case) == wanted
