"""Bad input: one line that names the file, and the line or row."""

import gzip
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from s3_server import use_keys

from raypretrain.corpus.documents import check_columns, read_documents
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError, StorageError

GOOD = b'{"text": "good"}\n'


def corpus(path, **source):
    return CorpusConfig(sources=[SourceConfig(path=str(path), **source)])


def read_all(config, fragment_bytes=1 << 20):
    manifest = build_manifest(config, fragment_bytes)
    return [
        d.text for i in range(len(manifest)) for d in read_documents(manifest, manifest.fragment(i), config)
    ]


def message(config, fragment_bytes=1 << 20):
    with pytest.raises(InputError) as caught:
        read_all(config, fragment_bytes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def packed(name, data):
    return gzip.compress(data) if name.endswith("gz") else zstandard.ZstdCompressor().compress(data)


def many_lines(count=20_000):
    return b"".join(json.dumps({"text": f"line {i * 7919 % 10007}"}).encode() + b"\n" for i in range(count))


@pytest.mark.row(14, "a truncated or damaged file")
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.txt.gz", "a.txt.zst"])
@pytest.mark.parametrize("lost", [1, 9, 5000])
def test_a_truncated_compressed_file_is_named(tmp_path, name, lost):
    (tmp_path / name).write_bytes(packed(name, many_lines())[:-lost])
    assert message(corpus(tmp_path)).startswith(f"{tmp_path / name}: is cut off")


@pytest.mark.row(14, "a truncated or damaged file")
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_cut_off_between_two_members_goes_on_and_in_the_second_is_named(tmp_path, name):
    one = packed(name, GOOD)
    (tmp_path / name).write_bytes(one + one[:6])
    assert "is cut off" in message(corpus(tmp_path))


@pytest.mark.row(14, "a truncated or damaged file")
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("damage", ["middle", "start", "garbage behind"])
def test_a_damaged_compressed_file_is_named(tmp_path, name, damage):
    data = bytearray(packed(name, many_lines()))
    if damage == "middle":
        data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    elif damage == "start":
        data[:4] = b"{{{{"
    else:
        data += b"garbage that is no member"
    (tmp_path / name).write_bytes(data)
    said = message(corpus(tmp_path))
    assert said.startswith(str(tmp_path / name))


@pytest.mark.row(17, "text that is none, in a record")
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "caf\xe9"}', "is not UTF-8 (byte 0xe9); convert the file to UTF-8"),
        (b'{"text": "x"', "is not valid JSON (Expecting ',' delimiter at column 13)"),
        (b'{"text": "tab\tinside"}', "is not valid JSON (Invalid control character at at column 14)"),
        (b"[" * 100_000, "is not valid JSON (maximum recursion depth"),
        (b'{"text": null}', "'text' is null, not text"),
        (b'{"text": 5}', "'text' is a number, not text"),
        (b'{"text": true}', "'text' is true or false, not text"),
        (b'{"text": ["x"]}', "'text' is a list, not text"),
        (b'{"text": "\\ud83d"}', "'text' holds \\ud83d, half of a character"),
        (b'{"body": "x", "id": 5}', "has no key 'text', only 'body', 'id'; name the one with the text"),
        (b'"just a string"', "is not a JSON object"),
        (b"5", "is not a JSON object"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_bad_line_is_named_with_its_number(tmp_path, name, line, reason):
    data = GOOD * 500 + line + b"\n" + GOOD * 20
    (tmp_path / name).write_bytes(packed(name, data) if name.endswith("gz") else data)
    assert f"{tmp_path / name}:501: {reason}" in message(corpus(tmp_path), fragment_bytes=1000)


@pytest.mark.row(17, "text that is none, in a record")
@pytest.mark.parametrize("documents", ["file", "line", "block"])
def test_a_txt_file_that_is_not_utf8_is_named_with_the_line(tmp_path, documents):
    (tmp_path / "a.txt").write_bytes("naïve\n\nfine\n\nb\xe4d".encode("latin-1"))
    assert "a.txt:1: is not UTF-8 (byte 0xef)" in message(corpus(tmp_path, documents=documents))
    (tmp_path / "a.txt").write_bytes("naïve\n\nfine\n\nb".encode() + b"\xe4d")
    assert "a.txt:5: is not UTF-8 (byte 0xe4)" in message(corpus(tmp_path, documents=documents))


def parquet(path, column, values, **options):
    pq.write_table(pa.table({"id": range(len(values)), column: values}), path, **options)


@pytest.mark.row(14, "a truncated or damaged file")
@pytest.mark.parametrize("lost", [1, 100, 20_000])
def test_a_truncated_parquet_file_is_named(tmp_path, lost):
    parquet(tmp_path / "a.parquet", "text", [f"{i * 7919 % 10007}" for i in range(20_000)])
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:-lost])
    assert message(corpus(tmp_path)).startswith(f"{tmp_path / 'a.parquet'}: is damaged")


@pytest.mark.row(14, "a truncated or damaged file")
def test_a_parquet_file_damaged_inside_is_named(tmp_path):
    parquet(
        tmp_path / "a.parquet", "text", [f"{i * 7919 % 10007}" for i in range(20_000)], compression="zstd"
    )
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    (tmp_path / "a.parquet").write_bytes(data)
    assert message(corpus(tmp_path)).startswith(f"{tmp_path / 'a.parquet'}: is damaged")


@pytest.mark.row(14, "a truncated or damaged file")
def test_what_is_no_parquet_at_all_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(GOOD)
    assert "a.parquet: is damaged" in message(corpus(tmp_path))


@pytest.mark.row(17, "text that is none, in a record")
def test_a_null_in_parquet_is_named_with_its_row(tmp_path):
    parquet(tmp_path / "a.parquet", "text", ["x"] * 2500 + [None], row_group_size=1000)
    assert "a.parquet, row 2500: 'text' is null" in message(corpus(tmp_path))


@pytest.mark.row(17, "text that is none, in a record")
def test_bytes_in_parquet_that_are_no_utf8_are_named_with_their_row(tmp_path):
    column = pa.array([b"fine"] * 1500 + [b"caf\xe9"]).view(pa.string())
    parquet(tmp_path / "a.parquet", "text", column)
    assert "a.parquet, row 1500: 'text' is not UTF-8" in message(corpus(tmp_path))


@pytest.mark.row(17, "text that is none, in a record")
def test_a_column_that_is_not_text_is_named(tmp_path):
    parquet(tmp_path / "a.parquet", "text", [1, 2, 3])
    assert "a.parquet: the column 'text' is int64, not text" in message(corpus(tmp_path))


@pytest.mark.row(17, "text that is none, in a record")
@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.zst"])
def test_a_missing_column_is_noticed_before_the_run_and_those_there_are_named(tmp_path, name):
    if name == "a.parquet":
        parquet(tmp_path / name, "body", ["x"])
    else:
        data = b'\n{"id": 1, "body": "x"}\n' * 3
        (tmp_path / name).write_bytes(packed(name, data) if name.endswith("zst") else data)
    config = corpus(tmp_path)
    with pytest.raises(
        InputError, match=rf"{name}.* has no (key|column) 'text', only 'id', 'body'; name the one"
    ):
        check_columns(build_manifest(config), config)
    config = corpus(tmp_path, text="body")
    check_columns(build_manifest(config), config)


@pytest.mark.row(15, "a shard swapped under its name")
@pytest.mark.parametrize("quarantine", ["error", "quarantine"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "a.csv", "a.parquet", "a.arrow", "a.fa"])
def test_a_file_that_changed_under_its_name_is_refused_though_its_size_is_the_same(
    tmp_path, name, quarantine
):
    path = tmp_path / name
    if name == "a.parquet":
        parquet(path, "text", ["x"] * 10)
    elif name == "a.arrow":
        table = pa.table({"text": ["x"] * 10})
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    else:
        data = b"text\nx\n" if name == "a.csv" else GOOD * 10
        path.write_bytes(packed(name, data) if name.endswith("gz") else b">" * name.endswith("fa") + data)
    config = corpus(path).model_copy(update={"on_bad_input": quarantine})
    manifest = build_manifest(config)
    fragment = manifest.fragment(0)
    assert list(read_documents(manifest, fragment, config, []))
    times = path.stat()
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(
        StorageError, match=rf"{name}: has changed since the corpus was listed; start a new run"
    ):
        list(read_documents(manifest, fragment, config, []))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert list(read_documents(manifest, fragment, config, []))


@pytest.mark.row(15, "a shard swapped under its name")
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_an_object_that_changed_under_its_name_is_refused_though_its_size_is_the_same(
    s3, tmp_path, monkeypatch, name
):
    use_keys(monkeypatch, s3)
    contents = []
    for word in ("good", "evil"):
        if name == "a.parquet":
            parquet(tmp_path / name, "text", [word] * 10)
            contents.append((tmp_path / name).read_bytes())
        else:
            line = GOOD.replace(b"good", word.encode())
            contents.append(gzip.compress(line, mtime=0) if name.endswith("gz") else line)
    assert len({len(content) for content in contents}) == 1
    url = s3.put(f"swapped/{name}", contents[0])
    config = corpus(url).model_copy(update={"on_bad_input": "quarantine"})
    manifest = build_manifest(config)
    assert {d.text for d in read_documents(manifest, manifest.fragment(0), config, [])} == {"good"}
    s3.put(f"swapped/{name}", contents[1])
    with pytest.raises(StorageError, match=rf"{name}: has changed since the corpus was listed"):
        list(read_documents(manifest, manifest.fragment(0), config, []))


@pytest.mark.row(15, "a shard swapped under its name")
def test_a_file_that_became_shorter_or_vanished_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD * 1000)
    config = corpus(path)
    manifest = build_manifest(config, 1000)
    path.write_bytes(GOOD)
    with pytest.raises(StorageError, match="has changed since the corpus was listed"):
        list(read_documents(manifest, manifest.fragment(5), config))
    os.utime(path, ns=(0, int(manifest.files[0].tag)))
    with pytest.raises(InputError, match="has become shorter"):
        list(read_documents(manifest, manifest.fragment(5), config))
    path.unlink()
    with pytest.raises(StorageError, match=r"a\.jsonl: No such file"):
        list(read_documents(manifest, manifest.fragment(5), config))


def test_the_line_of_an_error_in_a_large_file_is_found_quickly(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD * 100_000 + b"{\n")
    begin = time.perf_counter()
    assert "a.jsonl:100001:" in message(corpus(tmp_path), 1 << 24)
    assert time.perf_counter() - begin < 10
