"""on_bad_input: quarantine leaves out exactly the bad records, the same way every time, and says where they are."""

import json
import lzma
import pickle
import time
import zlib
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import COMPRESSIONS, corpus, json_lines, packed, read, write

from raypretrain.corpus.documents import BadRecord, check_columns, read_documents, sample_documents
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError

BAD_LINES = {
    "bad JSON": (b'{"text": "x"', "is not valid JSON (Expecting ',' delimiter at column 13)"),
    "not an object": (b'["x"]', "is not a JSON object"),
    "missing key": (b'{"body": "x"}', "has no key 'text', only 'body'"),
    "null": (b'{"text": null}', "'text' is null, not text"),
    "a number": (b'{"text": 5}', "'text' is a number, not text"),
    "not UTF-8": (b'{"text": "caf\xe9"}', "is not UTF-8 (byte 0xe9)"),
    "half a character": (b'{"text": "\\ud83d"}', "'text' holds \\ud83d, half of a character"),
    "a hole of NULs": (bytes(50), "is not valid JSON (Expecting value at column 1)"),
    "a raw NUL": (b'{"text": "a\0b"}', "is not valid JSON (Invalid control character at at column 12)"),
}


@pytest.mark.row(17, "text that is none, in a record")
@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("kind", BAD_LINES)
def test_exactly_the_bad_line_is_left_out_however_the_file_is_cut(tmp_path, kind, suffix):
    line, what = BAD_LINES[kind]
    good = [f"document {i}" for i in range(60)]
    before, after = json_lines(good[:40]), json_lines(good[40:])
    path = write(tmp_path / f"a.jsonl{suffix}", before + line + b"\n" + after)
    expected = [BadRecord(what, f"{path}:41", 0, len(before))]
    for fragment_bytes in (7, 100, 1 << 20):
        documents, bad = read(corpus(path, quarantine=True), fragment_bytes)
        assert [d.text for d in documents] == good
        assert bad == expected


def test_a_bad_record_ends_the_reading_if_it_is_an_error_or_nobody_collects_it(tmp_path):
    write(tmp_path / "a.jsonl", json_lines(["a"]) + b"{\n")
    for config, bad in ((corpus(tmp_path), []), (corpus(tmp_path, quarantine=True), None)):
        manifest = build_manifest(config)
        documents = read_documents(manifest, manifest.fragment(0), config, bad)
        assert next(documents).text == "a"
        with pytest.raises(InputError, match=r"a\.jsonl:2: is not valid JSON"):
            next(documents)
        assert not bad


@settings(max_examples=60)
@given(
    kinds=st.lists(st.sampled_from(["good", "empty", *BAD_LINES]), max_size=40),
    fragment_bytes=st.integers(1, 300),
    suffix=st.sampled_from(COMPRESSIONS),
)
def test_documents_and_bad_records_together_are_all_lines(tmp_path_factory, kinds, fragment_bytes, suffix):
    lines = {**{k: v for k, (v, _) in BAD_LINES.items()}, "empty": b" ", "good": b'{"text": "good"}'}
    data = b"".join(lines[kind] + b"\n" for kind in kinds) + b'{"text": "last"}'
    path = write(tmp_path_factory.mktemp("mixed") / f"a.jsonl{suffix}", data)
    documents, bad = read(corpus(path, quarantine=True), fragment_bytes)
    assert len(documents) == kinds.count("good") + 1
    wrong = [i for i, kind in enumerate(kinds) if kind in BAD_LINES]
    assert [record.where for record in bad] == [f"{path}:{i + 1}" for i in wrong]
    begins = np.cumsum([0, *(len(lines[kind]) + 1 for kind in kinds)])
    assert [record.position for record in bad] == [begins[i] for i in wrong]


def test_a_bad_record_can_be_sent_to_another_process():
    record = BadRecord("is not UTF-8", "a.jsonl:3", 0, 5)
    assert pickle.loads(pickle.dumps(record)) == record


@pytest.mark.parametrize("documents", ["line", "block", "file"])
def test_text_that_is_not_utf8_is_left_out_by_line_block_or_file(tmp_path, documents):
    path = write(tmp_path / "a.txt", b"one\n\ntwo\nna\xefve\n\nthree\n")
    found, bad = read(corpus(path, quarantine=True, documents=documents), 4)
    expected = {"line": ["one", "two", "three"], "block": ["one", "three"], "file": []}
    assert [d.text for d in found] == expected[documents]
    assert bad == [
        BadRecord("is not UTF-8 (byte 0xef)", f"{path}:4", 0, {"line": 9, "block": 5, "file": 0}[documents])
    ]


def decoded(data: bytes, suffix: str) -> bytes:
    """What a decoder makes of ``data``, fed byte by byte, until it fails or the bytes end."""
    kinds = {
        ".gz": lambda: zlib.decompressobj(wbits=31),
        ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
        ".xz": lambda: lzma.LZMADecompressor(),
    }
    decoder, text = kinds[suffix](), []
    try:
        for i in range(len(data)):
            if decoder.eof:
                break
            text.append(decoder.decompress(data[i : i + 1]))
    except (zlib.error, zstandard.ZstdError, lzma.LZMAError):
        pass
    return b"".join(text)


def is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.decode()), dict)
    except ValueError:
        return False


def long_lines(count: int) -> bytes:
    random = np.random.default_rng(0)
    return json_lines([f"line {i} " + random.bytes(20).hex() for i in range(count)])


@pytest.mark.row(14, "a truncated or damaged file")
@pytest.mark.parametrize("suffix", COMPRESSIONS[1:])
@pytest.mark.parametrize("damage", ["cut off", "middle", "at the start", "garbage behind"])
def test_what_is_whole_before_the_damage_of_a_compressed_file_is_kept(tmp_path, suffix, damage):
    data = bytearray(packed(long_lines(8000), suffix))
    if damage == "cut off":
        del data[len(data) * 2 // 3 :]
    elif damage == "middle":
        data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    elif damage == "at the start":
        data[:6] = b"{{{{{{"
    else:
        data += b"garbage that is no member"
    path = tmp_path / f"b.jsonl{suffix}"
    path.write_bytes(data)
    write(tmp_path / "a.jsonl", json_lines(["before"]))
    write(tmp_path / "c.jsonl", json_lines(["after"]))
    text = decoded(bytes(data), suffix)
    # What is damaged may still be decoded, to something else.
    lines = text.split(b"\n")[:-1]
    whole = [json.loads(line)["text"] for line in lines if is_json(line)]
    assert len(whole) > 1000 or damage == "at the start"
    found, bad = read(corpus(tmp_path, quarantine=True))
    assert [d.text for d in found] == ["before", *whole, "after"]
    assert len(bad) == len(lines) - len(whole) + 1
    assert (bad[-1].where, bad[-1].position) == (str(path), text.rfind(b"\n") + 1)
    assert bad[-1].what.startswith("is cut off" if damage == "cut off" else "is damaged (")
    assert read(corpus(tmp_path, quarantine=True)) == (found, bad)


@pytest.mark.parametrize("suffix", COMPRESSIONS[1:])
def test_the_documents_before_the_damage_come_before_the_error(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed(long_lines(5000), suffix)[:-2000])
    config = corpus(path)
    manifest = build_manifest(config)
    documents = read_documents(manifest, manifest.fragment(0), config)
    assert len(list(islice(documents, 3000))) == 3000
    with pytest.raises(InputError, match="is cut off"):
        list(documents)


def test_a_whole_text_file_that_is_damaged_is_one_bad_record(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(packed(long_lines(100), ".gz")[:-100])
    documents, bad = read(corpus(path, quarantine=True))
    assert documents == []
    assert [(r.where, r.position) for r in bad] == [(str(path), 0)]


@pytest.mark.row(17, "text that is none, in a record")
def test_null_and_undecodable_cells_of_parquet_are_left_out(tmp_path):
    column = pa.array([b"fine", None, b"caf\xe9", b"good", None] * 300).view(pa.string())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), path, row_group_size=400)
    for fragment_bytes in (1, 1 << 20):
        documents, bad = read(corpus(path, quarantine=True), fragment_bytes)
        assert [d.position for d in documents] == [i for i in range(1500) if i % 5 in (0, 3)]
        assert [r.position for r in bad] == [i for i in range(1500) if i % 5 in (1, 2, 4)]
        assert bad[0] == BadRecord("'text' is null, not text", f"{path}, row 1", 0, 1)
        assert bad[1] == BadRecord("'text' is not UTF-8", f"{path}, row 2", 0, 2)


@pytest.mark.row(14, "a truncated or damaged file")
def test_a_truncated_parquet_file_is_one_bad_record_and_the_others_are_read(tmp_path):
    rows = [f"{i * 7919 % 10007}" for i in range(5000)]
    for name in ("a", "b", "c"):
        pq.write_table(pa.table({"text": rows}), tmp_path / f"{name}.parquet")
    bad_file = tmp_path / "a.parquet"
    bad_file.write_bytes(bad_file.read_bytes()[:-50])
    config = corpus(tmp_path, quarantine=True)
    documents, bad = read(config, 1000)
    assert [d.text for d in documents] == rows * 2
    assert [(r.where, r.position, r.file) for r in bad] == [(str(bad_file), 0, 0)]
    check_columns(build_manifest(config), config)
    with pytest.raises(InputError, match=r"a\.parquet: is damaged"):
        build_manifest(corpus(tmp_path))


def test_a_damaged_row_group_of_parquet_does_not_take_the_others_with_it(tmp_path):
    rows = [f"{i} " + np.random.default_rng(i).bytes(100).hex() for i in range(3000)]
    path = tmp_path / "a.parquet"
    options = {"row_group_size": 1000, "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pa.table({"text": rows}), path, **options)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start + 2000 : start + 3000] = bytes(1000)
    path.write_bytes(data)
    results = [read(corpus(path, quarantine=True), fragment_bytes) for fragment_bytes in (1, 1 << 24)]
    assert results[0] == results[1]
    documents, bad = results[0]
    assert [d.text for d in documents] == rows[:1000] + rows[2000:]
    assert [(r.where, r.position) for r in bad] == [(str(path), 1000)]


def test_the_columns_are_checked_behind_bad_lines_and_damaged_files(tmp_path):
    write(tmp_path / "b.jsonl", b"{\n5\n" + b'{"body": "x"}\n' * 10_000 + json_lines(["text"]))
    (tmp_path / "a.jsonl.gz").write_bytes(b"garbage")
    config = corpus(tmp_path, quarantine=True)
    check_columns(build_manifest(config), config)
    write(tmp_path / "b.jsonl", b"{\n5\n" + b'{"body": "x"}\n' * 10_000)
    with pytest.raises(InputError, match=r"b\.jsonl:3: has no key 'text', only 'body'"):
        check_columns(build_manifest(config), config)


def test_a_parquet_file_without_the_column_is_refused_at_the_start_in_any_case(tmp_path):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "b.parquet")
    for quarantine in (False, True):
        with pytest.raises(InputError, match=r"b\.parquet: has no column 'text', only 'body'"):
            build_manifest(corpus(tmp_path, quarantine))


def test_a_sample_passes_over_bad_records(tmp_path):
    write(tmp_path / "a.jsonl", (json_lines(["good"]) + b"{\n") * 100)
    config = corpus(tmp_path, quarantine=True)
    sample = list(sample_documents(build_manifest(config, 300), config, 1 << 20, seed=0))
    assert len(sample) == 100


def test_bad_records_of_several_files_name_their_file(tmp_path):
    sources = []
    for name in ("one", "two"):
        write(tmp_path / name / "a.jsonl", json_lines(["fine"]))
        write(tmp_path / name / "b.jsonl", b"{\n")
        sources.append(SourceConfig(path=str(tmp_path / name)))
    _, bad = read(CorpusConfig(sources=sources, on_bad_input="quarantine"))
    assert [(r.file, r.where) for r in bad] == [
        (1, f"{tmp_path}/one/b.jsonl:1"),
        (3, f"{tmp_path}/two/b.jsonl:1"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_places_of_many_bad_records_are_found_quickly(tmp_path, suffix):
    line = json_lines(["x" * 300])
    path = write(tmp_path / f"a.jsonl{suffix}", (line + b"{\n") * 30_000)
    begin = time.perf_counter()
    _, bad = read(corpus(path, quarantine=True), 5000)
    assert time.perf_counter() - begin < 20
    assert [r.where for r in bad] == [f"{path}:{2 * i + 2}" for i in range(30_000)]
