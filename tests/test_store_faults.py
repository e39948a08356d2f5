"""A real S3 server behind a proxy that is slow, refuses, resets, cuts short and hangs: the same bytes, counted."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import random
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_proxy import FaultProxy, Rules, fault_proxy
from s3_server import S3Server, use_keys

from raypretrain import storage
from raypretrain.buckets import retries
from raypretrain.corpus.documents import read_documents
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import StorageError

BYTES = random.Random(0).randbytes(24 << 20)


@pytest.fixture
def store(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    use_keys(monkeypatch, s3)
    return s3


@pytest.fixture(scope="module")
def large(s3: S3Server) -> str:
    """An object of 24 MiB."""
    return s3.put("faults/large", BYTES)


@pytest.fixture
def proxy(store: S3Server):
    """In front of the server, and without a fault so far."""
    with fault_proxy(store.endpoint_url) as running:
        storage.list_files(f"s3://{store.bucket}/nothing", {"endpoint_url": running.endpoint_url})
        running.seen.clear()
        storage.take_counts()
        yield running


def options(proxy: FaultProxy) -> dict[str, str]:
    return {"endpoint_url": proxy.endpoint_url}


def fill(store: S3Server) -> str:
    texts = [f"document {i} " + "words and more words " * 40 for i in range(1500)]
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    table = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), table, row_group_size=100)
    store.put("faults/corpus/a.jsonl", lines)
    store.put("faults/corpus/b.jsonl.gz", gzip.compress(lines, 1))
    store.put("faults/corpus/c.parquet", table.getvalue())
    return f"s3://{store.bucket}/faults/corpus"


def documents(path: str, endpoint_url: str) -> list[tuple[str, int, int]]:
    config = CorpusConfig(sources=[SourceConfig(path=path, endpoint_url=endpoint_url)])
    manifest = build_manifest(config, 1 << 16)
    readers = (read_documents(manifest, manifest.fragment(i), config) for i in range(len(manifest)))
    return [(d.text, d.file, d.position) for reader in storage.read_ahead(readers) for d in reader]


@pytest.mark.row(13, "object storage fails while reading")
@pytest.mark.faults
@pytest.mark.slow
def test_a_store_that_refuses_resets_and_cuts_short_gives_the_same_documents(store, proxy):
    path = fill(store)
    expected = documents(path, store.endpoint_url)
    assert len(expected) == 4500
    storage.take_counts()
    proxy.rules = Rules(latency=0.01, bandwidth=50e6, busy=0.3, reset=0.05, cut=0.05, seed=5)
    assert documents(path, proxy.endpoint_url) == expected
    counts = storage.take_counts()
    failed = proxy.seen["busy"] + proxy.seen["reset"] + proxy.seen["cut"]
    assert min(proxy.seen["busy"], proxy.seen["reset"], proxy.seen["cut"]) > 0
    # The HTTP library itself asks again where a connection that it had kept is reset.
    assert 0 <= proxy.seen["requests"] - counts["requests"] <= proxy.seen["reset"]
    assert 0 <= failed - counts["retries"] <= proxy.seen["reset"]


@pytest.mark.faults
@pytest.mark.slow
def test_a_listing_of_many_pages_comes_through_a_busy_store(store, proxy, monkeypatch):
    from raypretrain.buckets import s3 as module

    for i in range(30):
        store.put(f"pages/{i:02}", b"x")
    monkeypatch.setattr(module, "_PAGE", 2)
    monkeypatch.setattr(retries, "_LONGEST_PAUSE", 0.1)
    proxy.rules = Rules(busy=0.3, seed=1)
    listed = storage.list_files(f"s3://{store.bucket}/pages", options(proxy))
    assert [info.url[-2:] for info in listed] == [f"{i:02}" for i in range(30)]
    assert proxy.seen["busy"] >= 3


def test_a_store_that_stays_busy_is_given_up_and_says_why(large, proxy, monkeypatch):
    monkeypatch.setattr(retries, "_LONGEST_PAUSE", 0.01)
    proxy.rules = Rules(busy=1)
    with pytest.raises(StorageError) as caught:
        storage.read_range(large, 0, 10, options(proxy))
    assert str(caught.value) == (
        f"{large}: the object store at {proxy.endpoint_url} failed "
        "(503 SlowDown: Please reduce your request rate.)"
    )
    assert storage.take_counts()["retries"] == proxy.seen["busy"] - 1 == 14


def test_an_object_that_is_shorter_than_it_was_is_not_asked_for_again(large, proxy):
    with pytest.raises(StorageError, match=r"the object has become shorter; start a new run"):
        storage.read_range(large, len(BYTES) - 5, len(BYTES) + 5, options(proxy))
    with pytest.raises(StorageError, match=r"the object has become shorter; start a new run"):
        storage.read_range(large, len(BYTES) + 5, len(BYTES) + 15, options(proxy))
    assert proxy.seen["requests"] == 2


# ------------------------------------------------------------------------------------------------------ hedging


@pytest.mark.faults
@pytest.mark.slow
def test_a_request_that_hangs_is_asked_a_second_time_and_the_first_to_answer_wins(large, proxy):
    for i in range(12):
        storage.read_range(large, i * 1000, i * 1000 + 1000, options(proxy))
    proxy.rules = Rules(hang=0.05, hang_seconds=20, seed=6)
    begin = time.monotonic()
    for i in range(50):
        data = storage.read_range(large, i * 1000, i * 1000 + 1000, options(proxy))
        assert data == BYTES[i * 1000 : i * 1000 + 1000]
    assert time.monotonic() - begin < 20
    counts = storage.take_counts()
    assert proxy.seen["hang"] >= 2
    assert counts["hedges_won"] >= proxy.seen["hang"]
    assert counts["requests"] == 62 + counts["hedges"]


@pytest.mark.slow
def test_a_store_that_is_slow_as_a_whole_is_not_asked_twice(large, proxy):
    proxy.rules.latency = 0.02
    for i in range(12):
        storage.read_range(large, i * 1000, i * 1000 + 1000, options(proxy))
    proxy.rules.latency = 0.5
    for i in range(4):
        storage.read_range(large, i * 1000, i * 1000 + 1000, options(proxy))
    assert storage.take_counts()["hedges"] == 0


def test_second_requests_are_bounded_by_the_number_of_requests():
    link = retries.Link(asked=1000, hedged=107)
    assert link.may_hedge()
    link.hedged += 1
    assert not link.may_hedge()


def test_late_is_measured_by_requests_of_the_same_size():
    link = retries.Link()
    for _ in range(10):
        link.took(1000, 0.5)
        link.took(1 << 20, 2.0)
        link.took(10, 0.001)
    assert (link.late_after(1000), link.late_after(1 << 20), link.late_after(10)) == (1.5, 6.0, 1.0)
    assert link.late_after(1 << 24) > 6


# ------------------------------------------------------------------------------------------- counting, read ahead


def test_what_is_counted_is_what_the_store_was_asked(large, proxy, tmp_path):
    before = storage.counters()
    for i in range(5):
        storage.read_range(large, i, i + 100, options(proxy))
    (tmp_path / "local").write_bytes(b"local")
    storage.read_range(str(tmp_path / "local"), 0, 5)
    counts = storage.take_counts()
    assert (counts["requests"], counts["bytes"]) == (proxy.seen["requests"], 500) == (5, 500)
    assert counts["retries"] == counts["hedges"] == counts["hedges_won"] == 0
    assert counts["seconds"] > 0
    assert storage.take_counts() == {}
    assert storage.counters()["requests"] == before["requests"] + 5


def test_who_reads_on_has_the_next_bytes_fetched_meanwhile(large, proxy):
    proxy.rules.latency = 0.1
    with storage.open_read(large, options(proxy), len(BYTES)) as file:
        parts = []
        while part := file.read(1 << 16):
            parts.append(part)
            if len(parts) % 64 == 0:
                time.sleep(0.1)
    assert b"".join(parts) == BYTES
    assert proxy.most_at_once >= 2
    assert proxy.seen["requests"] <= 8


def test_who_jumps_about_fetches_no_more_than_a_little_beside(large, proxy):
    with storage.open_read(large, options(proxy), len(BYTES)) as file:
        for at in (20 << 20, 3 << 20, 11 << 20, 1 << 20):
            file.seek(at)
            assert file.read(1000) == BYTES[at : at + 1000]
    assert storage.take_counts()["bytes"] <= 4 * (1 << 16)


@pytest.mark.parametrize("seed", range(3))
def test_any_pattern_of_seeks_and_reads_gives_the_bytes_of_the_object(store, seed, monkeypatch):
    from raypretrain.buckets import reading

    monkeypatch.setattr(reading, "_FIRST", 1 << 10)
    monkeypatch.setattr(reading, "_BLOCK", 1 << 12)
    data = BYTES[: 1 << 17]
    url, draw = store.put("faults/small", data), random.Random(seed)
    with storage.open_read(url, None, len(data)) as file:
        raw, at = file.raw, 0  # type: ignore[attr-defined]
        for _ in range(60):
            if draw.random() < 0.3:
                at = draw.choice([0, at // 2, draw.randrange(len(data)), len(data) - draw.randrange(5000)])
                raw.seek(at)
            part = raw.read(draw.choice([1, 100, 3000, 9000]))
            assert part == data[at : at + len(part)]
            assert part or at >= len(data)
            at += len(part)


def test_iterables_are_begun_ahead_and_read_in_order(large, proxy):
    proxy.rules.latency = 0.2

    def read(i):
        yield storage.read_range(large, i * 10, i * 10 + 10, options(proxy))
        yield b"-"

    begin = time.monotonic()
    found = list(itertools.chain.from_iterable(storage.read_ahead((read(i) for i in range(10)), 4)))
    assert found == [part for i in range(10) for part in (BYTES[i * 10 : i * 10 + 10], b"-")]
    assert time.monotonic() - begin < 10 * 0.2
    assert proxy.most_at_once >= 4


def test_an_error_in_what_was_begun_ahead_comes_up_in_its_place():
    def fails():
        raise StorageError("broken")
        yield

    begun = []

    def counted(i):
        begun.append(i)
        yield i

    found = storage.read_ahead(iter([[1], [], fails(), [2]]), 2)
    assert [list(next(found)), list(next(found))] == [[1], []]
    with pytest.raises(StorageError, match="broken"):
        next(next(found))
    assert list(next(found)) == [2]
    next(storage.read_ahead((counted(i) for i in itertools.count()), 2))
    time.sleep(0.1)
    assert sorted(begun) == [0, 1, 2]
