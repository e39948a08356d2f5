"""What a document is in tables, sequences, source trees and Arrow files; compressed, too."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from reading import COMPRESSIONS, corpus, json_lines, packed, read, texts, write

from raypretrain.corpus.documents import BadRecord, check_columns
from raypretrain.corpus.manifest import build_manifest
from raypretrain.errors import InputError

# ------------------------------------------------------------------------------------------------- JSON and text


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL"])
def test_json_lines_are_read_from_every_compression(tmp_path, name, suffix):
    values = [f"document {i}\u2028 é" for i in range(2000)]
    write(tmp_path / f"{name}{suffix}", json_lines(values))
    assert texts(corpus(tmp_path), 5000) == values


def test_several_xz_streams_with_padding_are_one_text(tmp_path):
    one, two = packed(json_lines(["a"]), ".xz"), packed(json_lines(["b"]), ".xz")
    (tmp_path / "a.jsonl.xz").write_bytes(one + bytes(8) + two + bytes(4))
    assert texts(corpus(tmp_path)) == ["a", "b"]


def test_a_text_within_objects_is_found_by_its_way(tmp_path):
    rows = [{"a": {"b": "inner"}}, {"a.b": "by its very name", "a": {"b": "no"}}, {"a": {"b": ""}}]
    write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    assert texts(corpus(tmp_path, text="a.b")) == ["inner", "by its very name"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"a": {"c": 1}, "x": 2}, "has no key 'a.b', only 'a.c'"),
        ({"x": 2, "y": {"b": "t"}}, "has no key 'a.b', only 'x', 'y'"),
        ({"a": "text"}, "has no key 'a.b', only 'a'"),
        ({"a": {"b": None}}, "'a.b' is null, not text"),
    ],
)
def test_what_is_missing_on_the_way_to_a_text_is_said(tmp_path, row, what):
    path = write(tmp_path / "a.jsonl", json.dumps(row).encode())
    _, bad = read(corpus(path, quarantine=True, text="a.b"))
    assert [(r.what, r.where) for r in bad] == [(what, f"{path}:1")]


def test_a_nul_inside_a_text_is_a_character_like_any_other(tmp_path):
    write(tmp_path / "a.jsonl", b'{"text": "a\\u0000b"}\n')
    write(tmp_path / "b.txt", b"c\0d")
    write(tmp_path / "c.csv", b"text\ne\0f\n")
    assert texts(corpus(tmp_path)) == ["a\0b", "c\0d", "e\0f"]


@pytest.mark.row(18, "odd ends of lines")
def test_carriage_returns_are_text_except_before_the_newline_of_a_line(tmp_path):
    write(tmp_path / "a.txt", b"one\r\n\r\ntwo\rstill\r\r\n")
    assert texts(corpus(tmp_path, documents="line")) == ["one", "two\rstill\r"]
    assert texts(corpus(tmp_path, documents="block")) == ["one", "two\rstill"]
    assert texts(corpus(tmp_path, documents="file")) == ["one\r\n\r\ntwo\rstill\r\r\n"]


# -------------------------------------------------------------------------------------------------------- tables

ROWS = [
    "plain",
    'with "quotes", and commas',
    "two\nlines",
    "two\r\nlines",
    "a\u2028b",
    "tab\tinside",
    "é😀",
    "",
    "last",
]


def table(delimiter: str, end: str = "\r\n", key: str = "text") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    writer.writerow(["id", key, "label"])
    writer.writerows([i, row, "x"] for i, row in enumerate(ROWS))
    return out.getvalue().encode()


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_row_of_a_table_is_a_document_with_its_newlines_and_quotes(tmp_path, name, delimiter, end, suffix):
    write(tmp_path / f"{name}{suffix}", b"\xef\xbb\xbf" + table(delimiter, end, "body"))
    config = corpus(tmp_path, text="body")
    assert len(build_manifest(config, 10)) == 1
    assert texts(config) == [row for row in ROWS if row]


def test_the_position_in_a_table_is_the_line_at_which_the_row_begins(tmp_path):
    path = write(tmp_path / "a.csv", b'text\n"a\nb\nc"\n\nd\n"e\n"\n')
    documents, _ = read(corpus(path))
    assert [(d.text, d.position) for d in documents] == [("a\nb\nc", 2), ("d", 6), ("e\n", 7)]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (b"only one", "the row has 1 columns, the first one 2"),
        (b"1,a,b", "the row has 3 columns, the first one 2"),
        (b'1,"a"b', "is not valid CSV (',' expected after '\"')"),
        (b"1,caf\xe9", "is not UTF-8 (byte 0xe9)"),
        (b"1,\xed\xa0\xbd", "is not UTF-8 (byte 0xed)"),
    ],
)
def test_exactly_the_bad_row_of_a_table_is_left_out(tmp_path, row, what):
    path = write(tmp_path / "a.csv", b'id,text\n0,"two\nlines"\n' + row + b"\n2,good\n")
    documents, bad = read(corpus(path, quarantine=True))
    assert [d.text for d in documents] == ["two\nlines", "good"]
    assert bad == [BadRecord(what, f"{path}:4", 0, 4)]


def test_a_quote_that_never_ends_is_one_bad_record(tmp_path):
    path = write(tmp_path / "a.csv", b'text\ngood\n"never\nends\n')
    documents, bad = read(corpus(path, quarantine=True))
    assert [d.text for d in documents] == ["good"]
    assert bad == [BadRecord("is not valid CSV (unexpected end of data)", f"{path}:3", 0, 3)]


def test_a_table_that_is_cut_off_keeps_its_whole_rows(tmp_path):
    data = packed(b"text\n" + b"".join(b"%d\n" % (i * 7919) for i in range(20_000)), ".gz")
    (tmp_path / "a.csv.gz").write_bytes(data[: len(data) // 2])
    documents, bad = read(corpus(tmp_path, quarantine=True))
    assert [d.text for d in documents] == [str(i * 7919) for i in range(len(documents))]
    assert 5000 < len(documents) < 15_000
    assert [(r.where, r.position) for r in bad] == [(f"{tmp_path}/a.csv.gz", len(documents) + 2)]


def test_a_table_without_the_column_is_refused_before_the_run(tmp_path):
    write(tmp_path / "a.csv", b"id,body\n1,x\n")
    for quarantine in (False, True):
        config = corpus(tmp_path, quarantine)
        with pytest.raises(
            InputError, match=r"a\.csv: has no column 'text', only 'id', 'body'; name the one"
        ):
            check_columns(build_manifest(config), config)


def test_a_field_may_be_longer_than_the_usual_limit(tmp_path):
    write(tmp_path / "a.csv", b"text\n" + b"x" * 1_000_000 + b"\n")
    assert texts(corpus(tmp_path)) == ["x" * 1_000_000]


# --------------------------------------------------------------------------------------------------------- FASTA


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("name", ["a.fasta", "a.fa", "a.faa", "a.fna"])
def test_a_sequence_is_a_document_without_header_and_line_breaks(tmp_path, name, suffix):
    data = b">sp|P1 first > one\nMKV\nLAA\n\n>empty\n>second\r\nGG GG\r\nTT*\r\n>third\nAC"
    path = write(tmp_path / f"{name}{suffix}", data)
    for fragment_bytes in (1, 5, 17, 1000):
        documents, _ = read(corpus(path), fragment_bytes)
        assert [d.text for d in documents] == ["MKVLAA", "GGGGTT*", "AC"]
        assert [data[d.position : d.position + 3] for d in documents] == [b">sp", b">se", b">th"]


def test_what_is_no_sequence_is_a_bad_record(tmp_path):
    path = write(tmp_path / "a.fa", b"\nACGT\n>a\nAC\xe9\n>b\nGG\n")
    documents, bad = read(corpus(path, quarantine=True), 3)
    assert [d.text for d in documents] == ["GG"]
    assert [(r.what, r.where, r.position) for r in bad] == [
        ("no sequence begins here", f"{path}:2", 1),
        ("is not UTF-8 (byte 0xe9)", f"{path}:4", 6),
    ]


# -------------------------------------------------------------------------------------------------- source trees


def test_every_file_of_a_source_tree_is_a_document_with_its_language(tmp_path):
    files = {"a.py": "print()\n", "d.md": "# d\n", "deep/b.rs": "fn main() {}\n", "deep/c.H": "int x;\r\n"}
    for name, content in files.items():
        write(tmp_path / name, content.encode())
    for name in ("Makefile", "logo.png", "deep/data.bin"):
        write(tmp_path / name, b"\xff\x00")
    config = corpus(tmp_path, format="source")
    manifest = build_manifest(config, fragment_bytes=3)
    assert texts(config, 3) == list(files.values())
    found = [manifest.open(i, config) for i in range(len(manifest.files))]
    assert [f.language for f in found] == ["Python", "Markdown", "Rust", "C"]


def test_source_files_are_known_by_their_suffix_but_others_beside_them_are_an_error(tmp_path):
    write(tmp_path / "a.py", b"x = 1\n")
    write(tmp_path / "b.jl.gz", b"y = 2\n")
    assert texts(corpus(tmp_path, documents="line")) == ["x = 1\n", "y = 2\n"]
    write(tmp_path / "logo.png", b"\xff")
    with pytest.raises(InputError, match=r"logo\.png: its suffix is not known .*source code"):
        build_manifest(corpus(tmp_path))


def test_a_source_tree_without_source_code_is_refused(tmp_path):
    write(tmp_path / "logo.png", b"\xff")
    with pytest.raises(InputError, match="none of its files has a suffix that the format 'source' reads"):
        build_manifest(corpus(tmp_path, format="source"))


# --------------------------------------------------------------------------------------------- Parquet and Arrow

NESTED = [{"b": "one", "c": 1}, {"b": "two", "c": 2}, {"b": "three", "c": 3}]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_a_text_within_a_structure_is_found_by_its_way(tmp_path, name):
    save(tmp_path / name, pa.table({"id": [1, 2, 3], "a": NESTED, "text": [0, 0, 0]}))
    config = corpus(tmp_path, text="a.b")
    check_columns(build_manifest(config), config)
    assert texts(config) == ["one", "two", "three"]
    with pytest.raises(InputError, match=r"has no column 'a\.x', only 'id', 'a\.b', 'a\.c', 'text'"):
        texts(corpus(tmp_path, text="a.x"))
    with pytest.raises(InputError, match=r"the column 'a\.c' is int64, not text"):
        texts(corpus(tmp_path, text="a.c"))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_a_missing_structure_is_null_text(tmp_path, name):
    save(tmp_path / name, pa.table({"a": pa.array([NESTED[0], None, {"b": None, "c": 1}, NESTED[1]])}))
    documents, bad = read(corpus(tmp_path, quarantine=True, text="a.b"))
    assert [(d.text, d.position) for d in documents] == [("one", 0), ("two", 3)]
    assert [(r.what, r.where) for r in bad] == [
        ("'a.b' is null, not text", f"{tmp_path / name}, row {i}") for i in (1, 2)
    ]


def test_a_column_whose_name_has_a_dot_is_found_by_its_name(tmp_path):
    save(tmp_path / "a.parquet", pa.table({"a.b": ["outer"]}))
    save(tmp_path / "b.arrow", pa.table({"a.b": ["other"], "a": [{"b": "inner"}]}))
    assert texts(corpus(tmp_path, text="a.b")) == ["outer", "other"]


KINDS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("name", ["a.arrow", "a.feather"])
def test_every_kind_of_text_column_of_arrow_is_read(tmp_path, name, kind):
    column = pa.array(["a", "b", "a", "é"]).cast(kind)
    save(tmp_path / name, pa.table({"other": [b"x"] * 4, "text": column}))
    assert texts(corpus(tmp_path)) == ["a", "b", "a", "é"]


def save(path, columns: pa.Table) -> None:
    """As Parquet, as the stream that ``datasets`` writes, or as Feather, by the suffix; two rows a batch."""
    if path.suffix == ".parquet":
        pq.write_table(columns, path, row_group_size=2)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(columns, path, chunksize=2, compression="lz4")
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, columns.schema) as writer:
            writer.write_table(columns, max_chunksize=2)


def saved_to_disk(folder, rows: list[str]) -> None:
    """A folder as ``Dataset.save_to_disk`` leaves it: two shards of Arrow streams, and what is known of them."""
    folder.mkdir(parents=True)
    for i, part in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
        save(folder / f"data-0000{i}-of-00002.arrow", pa.table({"text": part}))
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text("{}")


def test_a_folder_of_hugging_face_datasets_is_read(tmp_path):
    rows = [f"row {i}" for i in range(101)]
    saved_to_disk(tmp_path / "corpus" / "train", rows)
    (tmp_path / "corpus" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / "corpus" / "README.md").write_text("# about")
    config = corpus(tmp_path / "corpus")
    check_columns(build_manifest(config), config)
    documents, _ = read(config)
    assert [d.text for d in documents] == rows
    assert [(d.file, d.position) for d in documents] == [
        (i // 50, i % 50) if i < 50 else (1, i - 50) for i in range(101)
    ]


@pytest.mark.parametrize("lost", [8, 30, 3000, 3111])
def test_an_arrow_stream_that_is_cut_off_keeps_its_whole_batches(tmp_path, lost):
    path = tmp_path / "a.arrow"
    save(path, pa.table({"text": [f"row {i}" for i in range(100)]}))
    path.write_bytes(path.read_bytes()[:-lost])
    documents, bad = read(corpus(path, quarantine=True))
    assert [d.text for d in documents] == [f"row {i}" for i in range(len(documents))]
    assert 50 < len(documents) <= 100
    assert len(documents) % 2 == 0
    assert [(r.where, r.position) for r in bad] == [(str(path), len(documents))]
    assert bad[0].what.startswith(("is damaged (", "is cut off"))
    with pytest.raises(InputError, match=r"a\.arrow: is (damaged|cut off)"):
        read(corpus(path))


@pytest.mark.parametrize("name", ["a.arrow", "a.feather"])
def test_what_is_no_arrow_at_all_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"ARROW1" + b"no Arrow at all" * 10)
    with pytest.raises(InputError, match="is damaged"):
        read(corpus(tmp_path))


def test_a_column_of_arrow_that_is_not_text_is_named_at_the_start(tmp_path):
    save(tmp_path / "a.arrow", pa.table({"text": [1, 2]}))
    config = corpus(tmp_path)
    with pytest.raises(InputError, match=r"a\.arrow: the column 'text' is int64, not text"):
        check_columns(build_manifest(config), config)


def test_a_parquet_file_without_rows_is_no_error_beside_others(tmp_path):
    save(tmp_path / "a.parquet", pa.table({"text": pa.array([], pa.string())}))
    save(tmp_path / "b.parquet", pa.table({"text": ["x"]}))
    assert texts(corpus(tmp_path)) == ["x"]
