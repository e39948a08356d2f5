"""Where a document is, as a person finds it: PATH:LINE or row, and back from the line to the document."""

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import COMPRESSIONS, corpus, json_lines, packed, read, write

from raypretrain.corpus.manifest import build_manifest
from raypretrain.errors import InputError

TEXTS = [f"document {i}" for i in range(40)]
TABLES = {
    "a.parquet": lambda table, path: pq.write_table(table, path, row_group_size=7),
    "a.feather": lambda table, path: pyarrow.feather.write_feather(table, path, chunksize=7),
}


def opened(config):
    manifest = build_manifest(config)
    assert len(manifest.files) == 1
    return manifest.open(0, config)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_the_place_of_a_line_is_its_number_and_the_line_leads_back(tmp_path, suffix):
    data = b"\xef\xbb\xbf" + json_lines(TEXTS[:20]) + b"\n\n" + json_lines(TEXTS[20:])
    path = write(tmp_path / f"a.jsonl{suffix}", data)
    config = corpus(path)
    documents, _ = read(config, 100)
    source = opened(config)
    lines = [*range(1, 21), *range(23, 43)]
    assert [source.place(d.position) for d in documents] == [f"{path}:{line}" for line in lines]
    assert [source.position(line) for line in lines] == [d.position for d in documents]


@pytest.mark.parametrize("documents", ["line", "block", "file"])
@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_every_line_of_a_text_leads_to_the_document_that_it_is_part_of(tmp_path, documents, suffix):
    data = b"\n\none\ntwo\r\n\r\n\nthree\nfour\n\nfive"
    path = write(tmp_path / f"a.txt{suffix}", data)
    config = corpus(path, documents=documents)
    found, _ = read(config, 3)
    source = opened(config)
    words = {3: "one", 4: "two", 7: "three", 8: "four", 10: "five"}
    for line, word in words.items():
        at = source.position(line)
        assert [word in d.text for d in found if d.position == at] == [True]
    begins = {"line": [3, 4, 7, 8, 10], "block": [3, 7, 10], "file": [1]}[documents]
    assert [source.place(d.position) for d in found] == [f"{path}:{line}" for line in begins]


@settings(max_examples=50)
@given(text=st.text(alphabet="ab\n\r", min_size=1, max_size=40), documents=st.sampled_from(["line", "block"]))
def test_place_and_position_are_inverse_for_any_text(tmp_path_factory, text, documents):
    path = write(tmp_path_factory.mktemp("places") / "a.txt", text.encode())
    config = corpus(path, documents=documents)
    source = opened(config)
    for document in read(config, 5)[0]:
        line = text.encode()[: document.position].count(b"\n") + 1
        assert source.place(document.position) == f"{path}:{line}"
        assert source.position(line) == document.position


def test_the_lines_of_a_sequence_lead_to_its_header(tmp_path):
    path = write(tmp_path / "a.fa", b">a\nAC\nGT\n>b\nGG\n")
    source = opened(corpus(path))
    assert [source.position(line) for line in (1, 2, 3, 4, 5)] == [0, 0, 0, 9, 9]
    assert source.place(9) == f"{path}:4"


def test_the_lines_of_a_row_lead_to_its_first_one(tmp_path):
    path = write(tmp_path / "a.csv.gz", b'text\n"a\nb"\nc\n')
    source = opened(corpus(path))
    assert [source.position(line) for line in (2, 3, 4)] == [2, 2, 4]
    assert source.place(2) == f"{path}:2"


@pytest.mark.parametrize("name", TABLES)
def test_the_place_of_a_row_is_its_number_from_0(tmp_path, name):
    TABLES[name](pa.table({"text": TEXTS}), tmp_path / name)
    config = corpus(tmp_path)
    source = opened(config)
    documents, _ = read(config)
    assert [source.place(d.position) for d in documents] == [f"{tmp_path / name}, row {i}" for i in range(40)]
    assert [source.position(i) for i in range(40)] == [d.position for d in documents]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "a.csv"])
@pytest.mark.parametrize("line", [0, -1, 9, 1000])
def test_a_line_that_is_not_there_is_refused(tmp_path, name, line):
    write(tmp_path / name, b'{"text": "x"}\n' * 8)
    with pytest.raises(InputError, match=rf"{name}: there is no line {line}"):
        opened(corpus(tmp_path)).position(line)


def test_places_before_the_damage_of_a_file_are_found(tmp_path):
    data = packed(json_lines([f"{i * 7919}" for i in range(20_000)]), ".gz")
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    config = corpus(tmp_path, quarantine=True)
    documents, _ = read(config)
    assert opened(config).place(documents[-1].position).endswith(f":{len(documents)}")
