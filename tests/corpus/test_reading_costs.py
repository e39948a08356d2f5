"""What reading costs: bytes read for an epoch, copies of a huge document in memory, and the listing of many files."""

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import corpus, json_lines, write
from s3_server import use_keys

from raypretrain import storage
from raypretrain.corpus import listing
from raypretrain.corpus.documents import read_documents
from raypretrain.corpus.manifest import Manifest, build_manifest

FRAGMENT = 500_000
HUGE = 24_000_000


def bytes_read() -> int:
    """By this process, from anywhere, so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def random_texts(count: int, length: int) -> list[str]:
    random = np.random.default_rng(0)
    return [random.bytes(length // 2).hex() for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.jsonl.xz", "a.csv.zst", "a.parquet"]
)
def test_an_epoch_reads_each_byte_of_a_file_about_once(tmp_path, name):
    texts = random_texts(4000, 2000)
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=250, compression="zstd")
    else:
        write(path, "\n".join(["text", *texts]).encode() if ".csv" in name else json_lines(texts))
    config = corpus(path)
    manifest = build_manifest(config, FRAGMENT)
    before = bytes_read()
    order = np.random.default_rng(1).permutation(len(manifest))
    found = sum(1 for i in order for _ in read_documents(manifest, manifest.fragment(int(i)), config))
    assert found == 4000
    assert len(manifest) >= 8 or name not in ("a.jsonl", "a.parquet")
    assert bytes_read() - before < 1.25 * path.stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "copies"),
    [("a.jsonl", 3), ("a.jsonl.gz", 3), ("a.jsonl.zst", 3), ("a.txt", 2), ("a.csv", 15), ("a.fa", 5)],
)
def test_a_huge_document_is_copied_only_a_few_times(tmp_path, name, copies):
    huge = random_texts(1, HUGE)[0]
    small = random_texts(100, 100)
    if ".jsonl" in name:
        data = json_lines([*small, huge, *small])
    elif name == "a.csv":
        data = "\n".join(["text", *small, huge, *small]).encode()
    elif name == "a.fa":
        data = "".join(f">x\n{text}\n" for text in [*small, huge, *small]).encode()
    else:
        data = huge.encode()
    write(tmp_path / name, data)
    del data
    config = corpus(tmp_path)
    manifest = build_manifest(config, FRAGMENT)
    tracemalloc.start()
    try:
        lengths = [
            len(document.text)
            for i in range(len(manifest))
            for document in read_documents(manifest, manifest.fragment(i), config)
        ]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lengths.count(HUGE) == 1
    assert len(lengths) in (1, 201)
    assert peak < copies * HUGE + 5_000_000


def test_a_huge_row_group_is_read_a_few_rows_at_a_time(tmp_path):
    texts = pa.array(random_texts(800, 100_000))
    pages = {"use_dictionary": False, "write_batch_size": 8}  # of 1 MB
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", compression="zstd", **pages)
    del texts
    config = corpus(tmp_path)
    manifest = build_manifest(config, FRAGMENT)
    assert len(manifest) == 1
    tracemalloc.start()
    before, most, count = pa.total_allocated_bytes(), 0, 0
    try:
        for _ in read_documents(manifest, manifest.fragment(0), config):
            most, count = max(most, pa.total_allocated_bytes() - before), count + 1
        strings = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 800
    assert strings < 15e6
    assert most < 40e6


def test_a_row_group_in_a_bucket_is_one_request_and_the_end_of_the_file_is_read_once(
    s3, tmp_path, monkeypatch
):
    use_keys(monkeypatch, s3)
    pq.write_table(pa.table({"text": random_texts(1000, 2000)}), tmp_path / "a.parquet", row_group_size=100)
    url = s3.put("costs/a.parquet", (tmp_path / "a.parquet").read_bytes())
    asked = []

    def counting(url, start, stop, *others):
        asked.append(stop - start)
        return read_range(url, start, stop, *others)

    read_range = storage.read_range
    monkeypatch.setattr(storage, "read_range", counting)
    config = corpus(url)
    manifest = build_manifest(config, 100_000)
    assert (len(manifest), len(asked)) == (10, 1)
    assert sum(1 for i in range(10) for _ in read_documents(manifest, manifest.fragment(i), config)) == 1000
    assert len(asked) == 11
    assert sum(asked) < 1.25 * manifest.files[0].size


def listed(count: int) -> list[storage.FileInfo]:
    """What a bucket of ``count`` objects lists."""
    return [
        storage.FileInfo(
            f"s3://bucket/corpus/part-{i % 100:02d}/shard-{i:06d}.jsonl.zst", 10_000_000, f"{i:032x}"
        )
        for i in range(count)
    ]


@pytest.mark.slow
def test_a_hundred_thousand_files_are_cut_saved_loaded_and_compared_quickly(tmp_path, monkeypatch):
    infos = listed(100_000)
    monkeypatch.setattr(listing.storage, "list_files", lambda *_: infos)
    config = corpus("s3://bucket/corpus")
    begin = time.process_time()
    manifest = build_manifest(config, FRAGMENT)
    manifest.save(tmp_path / "manifest.parquet")
    loaded = Manifest.load(tmp_path / "manifest.parquet")
    assert loaded.files[-1] == manifest.files[-1]
    assert loaded.compare(listing.list_corpus(config)) == []
    assert time.process_time() - begin < 10
    assert len(manifest) == 100_000
    assert (tmp_path / "manifest.parquet").stat().st_size < 5e6


def test_a_file_of_a_manifest_takes_less_than_a_kilobyte_of_memory(monkeypatch):
    infos = listed(10_000)
    monkeypatch.setattr(listing.storage, "list_files", lambda *_: infos)
    tracemalloc.start()
    try:
        manifest = build_manifest(corpus("s3://bucket/corpus"), FRAGMENT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(manifest) == 10_000
    assert peak < 1000 * 10_000
