"""The stream through Ray Data itself: the windows, in their order, as they are read without Ray."""

from __future__ import annotations

import gzip
import os
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from real_text import reviews

from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError, user_error
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.tokenizer import TokenizerConfig, train_tokenizer
from raypretrain.tokens.window import SequencesConfig, Windows

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LIMITS = {"cpus": 2.0, "window_bytes": 4 << 20}


def windows(corpus: Path, folder: Path, length: int = 64) -> Windows:
    """The reviews in windows of few documents."""
    config = CorpusConfig(sources=[SourceConfig(path=str(corpus))])
    tokenizer = train_tokenizer(iter(reviews(60)), TokenizerConfig(vocabulary=400), folder / "t.model", 1)
    sequences = SequencesConfig(length=length, window=12_000)
    return Windows(build_manifest(config, fragment_bytes=3000), config, sequences, tokenizer, seed=2)


@pytest.mark.parametrize("first", [0, 13])
def test_the_windows_come_in_order_and_as_they_are_read_without_ray(
    cluster: str, corpus: Path, tmp_path: Path, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from raypretrain.tokens import stream
    from raypretrain.tokens.stream import stream_parts

    monkeypatch.setattr(stream, "_SEGMENT", 5)  # the first ends after 4 tasks of one window and one of 16
    made = windows(corpus, tmp_path)
    found = list(islice(stream_parts(ray.put(made), Cursor(first), **LIMITS), 80))
    wanted = [part for w in islice(made.windows_from(first), 80) for part in made.parts(w)]
    assert len({part.window for part in found}) > 70
    assert [(part.window, part.part) for part in found] == [(part.window, part.part) for part in wanted[:80]]
    for part, truth in zip(found, wanted, strict=False):
        assert part.sequences.tokens.dtype == np.int32
        for name in ("tokens", "begins", "filled", "sources"):
            np.testing.assert_array_equal(getattr(part.sequences, name), getattr(truth.sequences, name))


def test_the_parts_of_a_large_window_come_one_by_one_and_from_any_of_them(
    cluster: str, corpus: Path, tmp_path: Path
) -> None:
    import ray

    from raypretrain.tokens.stream import stream_parts

    shards = tmp_path / "shards"
    shards.mkdir()
    text = b"".join(shard.read_bytes() for shard in sorted(corpus.iterdir()))
    (shards / "all.jsonl.gz").write_bytes(gzip.compress(text[: text.rindex(b"\n", 0, 400_000) + 1]))
    made = windows(shards, tmp_path)
    first = next(made.windows_from(0))
    wanted = list(made.parts(first))
    assert len(wanted) > 10
    for start in (0, 7):
        stream = stream_parts(ray.put(made), Cursor(first, start), **LIMITS)
        found = list(islice(stream, len(wanted) - start))
        assert [part.part for part in found] == list(range(start, len(wanted)))
        for part, truth in zip(found, wanted[start:], strict=True):
            np.testing.assert_array_equal(part.sequences.tokens, truth.sequences.tokens)


def test_a_corpus_that_fills_no_sequence_is_an_error_and_no_endless_search(
    cluster: str, corpus: Path, tmp_path: Path
) -> None:
    import ray

    from raypretrain.tokens.stream import stream_parts

    with pytest.raises(InputError, match=r"\d\d\d windows in a row gave not one sequence"):
        _ = list(stream_parts(ray.put(windows(corpus, tmp_path, length=100_000)), Cursor(), **LIMITS))


def test_a_damaged_file_is_named(cluster: str, corpus: Path, tmp_path: Path) -> None:
    import ray

    from raypretrain.tokens.stream import stream_parts

    shards = tmp_path / "shards"
    shards.mkdir()
    for shard in corpus.iterdir():
        (shards / shard.name).write_bytes(shard.read_bytes())
    made = windows(shards, tmp_path)
    data = bytearray((shards / "shard-2.jsonl").read_bytes())
    data[1000:] = b"\xff" * (len(data) - 1000)
    status = (shards / "shard-2.jsonl").stat()
    (shards / "shard-2.jsonl").write_bytes(data)
    os.utime(
        shards / "shard-2.jsonl", ns=(status.st_atime_ns, status.st_mtime_ns)
    )  # as a disk would damage it
    with pytest.raises(Exception) as caught:  # noqa: PT011
        list(islice(stream_parts(ray.put(made), Cursor(), **LIMITS), 80))
    found = user_error(caught.value)
    assert isinstance(found, InputError)
    assert f"{shards}/shard-2.jsonl" in str(found)


def test_a_stream_that_nobody_takes_from_does_not_keep_a_core_busy(
    cluster: str, corpus: Path, tmp_path: Path
) -> None:
    import ray

    class Taker:  # here, so that Ray takes its code along
        def take_one(self, ref: list) -> None:  # in a list, or Ray would hand over the object itself
            from raypretrain.tokens.stream import stream_parts

            self.blocks = stream_parts(ref[0], Cursor(), cpus=1.0, window_bytes=1 << 17)
            next(self.blocks)

        def busy(self, seconds: float) -> float:
            begun = time.process_time()
            time.sleep(seconds)
            return time.process_time() - begun

    taker = ray.remote(Taker).options(num_cpus=0).remote()
    ray.get(taker.take_one.remote([ray.put(windows(corpus, tmp_path))]))
    time.sleep(3)  # until the read-ahead is full
    # Without the rests it was 1.4 of 2 seconds.
    assert ray.get(taker.busy.remote(2.0)) < 0.7
    ray.kill(taker)
