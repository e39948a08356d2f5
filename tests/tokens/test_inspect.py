"""The figures of a corpus: exact where all of it was read, near the truth where it was not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from real_text import python_files, reviews

from raypretrain.corpus.documents import is_held_out
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.tokens.inspect import inspect, tokens_drawn, uncovered
from raypretrain.tokens.plan import Plan
from raypretrain.tokens.survey import survey
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from raypretrain.tokens.tokenizer_fixed import AminoAcids, Bytes
from raypretrain.tokens.window import SequencesConfig

TEXTS = reviews(1500)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer(iter(TEXTS[:300]), TokenizerConfig(vocabulary=512), path, 1)


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def shards(folder: Path, texts: list[str], number: int = 4) -> Path:
    folder.mkdir()
    for i in range(number):
        (folder / f"{i}.jsonl").write_bytes(lines(texts[i::number]))
    return folder


def figures(
    tokenizer: Tokenizer, *sources: SourceConfig, sample: int = 10**9, budget: int = 10**6, **settings: Any
) -> dict[str, Any]:
    sequences = SequencesConfig(length=settings.pop("length", 512), window=settings.pop("window", 4_000_000))
    corpus = CorpusConfig(sources=list(sources), **settings)
    patient = corpus.model_copy(update={"on_bad_input": "quarantine"})
    manifest = build_manifest(patient, fragment_bytes=20_000)
    samples = survey(manifest, corpus, sample, seed=1)
    return inspect(samples, manifest, corpus, sequences, tokenizer, budget)


# ----------------------------------------------------------------------------------------- what there is


def test_all_figures_are_exact_where_all_was_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = shards(tmp_path / "a", TEXTS)
    found = figures(tokenizer, SourceConfig(path=str(folder)), held_out=0.1)
    sizes = [len(text.encode()) for text in TEXTS]
    lengths = [len(tokenizer.encode(text)) for text in TEXTS]
    assert found["exact"]
    assert found["files"] == 4
    assert found["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert found["documents"] == len(TEXTS)
    assert found["text_bytes"] == sum(sizes)
    assert found["tokens"] == sum(lengths) + 2 * len(TEXTS)
    assert found["bytes_per_token"] == pytest.approx(sum(sizes) / sum(lengths))
    held_out = [is_held_out(text, 0.1) for text in TEXTS]
    assert found["held_out"] == pytest.approx(sum(held_out) / len(TEXTS))
    assert found["available_tokens"] == sum(
        n + 2 for n, out in zip(lengths, held_out, strict=True) if not out
    )
    (source,) = found["sources"]
    assert source["lengths"]["longest"] == max(lengths) + 2
    assert len(source["examples"]) == 3
    assert all(any(text.lstrip().startswith(line[:40]) for text in TEXTS) for line in source["examples"])


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_estimates_from_a_tenth_are_within_a_tenth(tmp_path: Path, tokenizer: Tokenizer, packed: str) -> None:
    data = lines(TEXTS)
    compressors = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    (tmp_path / f"all.jsonl{packed}").write_bytes(compressors[packed](data))
    found = figures(tokenizer, SourceConfig(path=str(tmp_path)), sample=len(data) // 10)
    assert not found["exact"]
    assert found["sample"]["bytes"] < len(data) / 5
    assert found["documents"] == pytest.approx(len(TEXTS), rel=0.1)
    assert found["text_bytes"] == pytest.approx(sum(len(text.encode()) for text in TEXTS), rel=0.1)


def test_where_each_file_is_one_document_their_number_is_exact(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = python_files(60)
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8")
    found = figures(tokenizer, SourceConfig(path=str(tmp_path)), sample=sum(map(len, texts)) // 4)
    assert not found["exact"]
    assert found["documents"] == len(texts)


def test_a_small_source_is_sampled_as_well(tmp_path: Path, tokenizer: Tokenizer) -> None:
    large, small = shards(tmp_path / "large", TEXTS[:1400]), shards(tmp_path / "small", TEXTS[1400:])
    sources = [SourceConfig(path=str(large)), SourceConfig(path=str(small), name="few")]
    found = figures(tokenizer, *sources, sample=1_200_000)
    assert [row["exact"] for row in found["sources"]] == [False, True]
    assert found["sources"][1]["name"] == "few"
    assert found["sources"][1]["documents"] == 100


def test_the_histogram_has_every_document_and_token_in_its_place(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    found = figures(tokenizer, SourceConfig(path=str(shards(tmp_path / "a", TEXTS))))
    lengths = [len(tokenizer.encode(text)) + 2 for text in TEXTS]
    for row in found["lengths"]:
        here = [n for n in lengths if row["from"] <= n <= row["to"]]
        assert (row["documents"], row["tokens"]) == (len(here), sum(here))
    assert sum(row["documents"] for row in found["lengths"]) == len(TEXTS)


def test_exact_copies_are_found_in_and_across_sources(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = list(dict.fromkeys(TEXTS))[:100]
    first = shards(tmp_path / "a", [*texts[:50], *texts[:10]])
    second = shards(tmp_path / "b", [*texts[50:], *texts[:40]])
    found = figures(tokenizer, SourceConfig(path=str(first)), SourceConfig(path=str(second)))
    assert found["duplicates"]["documents"] == pytest.approx(50 / 150)
    assert [row["duplicates"] for row in found["sources"]] == [pytest.approx(10 / 60), pytest.approx(40 / 90)]
    assert any("copies of others" in line for line in found["warnings"])


def test_bad_records_are_listed_and_not_the_end(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines(TEXTS[:10]) + b'{"text": 3}\n[]\n' + lines(TEXTS[10:20]))
    found = figures(tokenizer, SourceConfig(path=str(path)))
    assert found["documents"] == 20
    assert [record["where"] for record in found["bad"]] == [f"{path}:11", f"{path}:12"]
    assert any("bad records in the sample: 2" in line for line in found["warnings"])
    patient = figures(tokenizer, SourceConfig(path=str(path)), on_bad_input="quarantine")
    assert patient["bad_records"] == 2
    assert not any("bad records" in line for line in patient["warnings"])


# ------------------------------------------------------------------------------------------ the tokenizer


def test_characters_without_a_piece_are_counted(tokenizer: Tokenizer) -> None:
    found = uncovered(["plain text ☃☃ 漢", "☃ and more"], tokenizer)
    assert [(row["character"], row["code"], row["count"]) for row in found["most_frequent"]] == [
        ("☃", "U+2603", 3),
        ("漢", "U+6F22", 1),
    ]
    assert found["share"] == pytest.approx(4 / 25)


def test_what_is_unknown_to_a_tokenizer_is_uncovered_and_bytes_cover_all() -> None:
    assert uncovered(["MKV1LA", "B☃"], AminoAcids())["share"] == pytest.approx(2 / 8)
    assert uncovered(["any ☃"], Bytes()) == {"share": 0.0, "most_frequent": []}


# -------------------------------------------------------------------------------------------- the mixture


def test_shares_and_epochs_of_a_weighted_mixture(tmp_path: Path, tokenizer: Tokenizer) -> None:
    a, b = shards(tmp_path / "a", TEXTS[:1000]), shards(tmp_path / "b", TEXTS[1000:1200])
    found = figures(
        tokenizer, SourceConfig(path=str(a), weight=1), SourceConfig(path=str(b), weight=3), budget=800_000
    )
    large, small = found["sources"]
    assert (large["share"], small["share"]) == (pytest.approx(0.25), pytest.approx(0.75))
    assert large["share_by_size"] + small["share_by_size"] == pytest.approx(1)
    assert large["share_by_size"] > 0.75
    assert small["epochs"] == pytest.approx(600_000 / small["training_tokens"], rel=1e-3)
    assert any("source-1 would be repeated" in line for line in found["warnings"])
    assert not any("source-0" in line for line in found["warnings"])


def test_when_a_source_has_had_its_epochs_the_others_take_its_share() -> None:
    assert tokens_drawn([100, 100], [3, 1], [None, None], 80) == pytest.approx([60, 20])
    assert tokens_drawn([100, 100], [3, 1], [0.3, None], 80) == pytest.approx([30, 50])
    assert tokens_drawn([100, 100], [None, None], [1, 2], 400) == pytest.approx([100, 200])
    assert tokens_drawn([100, 0], [1, 1], [None, None], 50) == pytest.approx([50, 0])


def test_the_tokens_drawn_are_those_of_the_plan() -> None:
    import numpy as np

    sizes = np.full(300, 1000, np.int64)
    sources = np.repeat([0, 1, 2], [200, 60, 40])
    weights, epochs = [2.0, 1.0, 1.0], [None, 1.5, 2.0]
    plan = Plan(sizes, sources, weights, 20_000, seed=0, epochs=epochs)
    drawn, total = np.zeros(3), 0
    for w in plan.windows_from(0):
        for fragment in plan.window(w):
            drawn[sources[fragment]] += 1000
            total += 1000
        if total >= 600_000:
            break
    expected = tokens_drawn([200_000, 60_000, 40_000], weights, epochs, total)
    assert drawn == pytest.approx(expected, abs=20_000)


# ---------------------------------------------------------------------------------------------- warnings


def warned(words: str, found: dict[str, Any]) -> bool:
    return any(words in line for line in found["warnings"])


@pytest.mark.slow
def test_warnings_say_what_would_cost_money(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = shards(tmp_path / "a", TEXTS)
    source = SourceConfig(path=str(folder))
    quiet = figures(tokenizer, source, held_out=0.1, budget=1000)
    assert quiet["warnings"] == []
    assert warned("text would be repeated", figures(tokenizer, source, budget=10**6))
    capped = SourceConfig(path=str(folder), epochs=1)
    assert warned("it would end before", figures(tokenizer, capped, budget=10**7))
    assert warned("documents of more than 8 sequences", figures(tokenizer, source, length=16))
    assert warned("no document of the sample is held out", figures(tokenizer, source, held_out=1e-9))
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("漢字かな交じり文。" * 300, encoding="utf-8")
    assert warned("it suits other text", figures(tokenizer, SourceConfig(path=str(foreign))))


def test_a_compressed_shard_larger_than_two_windows_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "big.jsonl.gz"
    path.write_bytes(gzip.compress(lines(TEXTS)))
    found = figures(tokenizer, SourceConfig(path=str(path)), window=100_000)
    assert warned(f"({path})", found)
    assert not warned(f"({path})", figures(tokenizer, SourceConfig(path=str(path)), window=10_000_000))
