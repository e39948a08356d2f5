"""Rows of labelled files: where each stands, and what is wrong with it."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from proteins import write_fasta
from s3_server import S3Server, use_keys

from raypretrain.errors import InputError
from raypretrain.finetuning.kinds.classify import Classify
from raypretrain.finetuning.rows import LabelledFile, read_rows, token_place
from raypretrain.finetuning.tasks import read_examples

CONLL = """-DOCSTART- -X- O

# a comment
EU NNP B-ORG
rejects VBZ O

# NN O
is VBZ O
"""


def _read(path: Path, **keys: Any) -> list[tuple[str, dict[str, object]]]:
    """Rows, with places that begin at the file's name."""
    rows = read_rows(LabelledFile(path=str(path), **keys))
    return [(where.rpartition("/")[2], row) for where, row in rows]


def _fails(path: Path, message: str, **keys: Any) -> None:
    with pytest.raises(InputError) as caught:
        _read(path, **keys)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_row_has_the_line_at_which_it_begins(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"one\ntwo",x\n\nthree,y\n')
    assert _read(path) == [
        ("a.csv:2", {"text": "one\ntwo", "label": "x"}),
        ("a.csv:5", {"text": "three", "label": "y"}),
    ]
    path = tmp_path / "b.jsonl"
    path.write_text('{"a": 1}\n\n{"a": [2]}\n')
    assert _read(path) == [("b.jsonl:1", {"a": 1}), ("b.jsonl:3", {"a": [2]})]


def test_a_json_file_may_be_one_list(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"a": 1}, {"a": 2}], indent=1))
    assert _read(path) == [("a.json: row 0", {"a": 1}), ("a.json: row 1", {"a": 2})]
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert _read(path) == [("a.json:1", {"a": 1}), ("a.json:2", {"a": 2})]
    path.write_text('[{"a": 1},\n3]')
    _fails(path, "a.json: row 1: is no JSON object")
    path.write_text('[{"a": 1},\n')
    _fails(path, "a.json: is no valid JSON")


def test_packed_files_of_a_folder_are_read_and_what_lies_beside_them_is_not(tmp_path):
    (tmp_path / "b.csv.xz").write_bytes(lzma.compress(b"text,label\nb,x\n"))
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"text\tlabel\na\tx\n"))
    (tmp_path / "README.md").write_text("what this is")
    assert [row["text"] for _, row in _read(tmp_path)] == ["a", "b"]


def test_files_in_a_bucket_are_read_as_local_ones_are(s3: S3Server, monkeypatch):
    use_keys(monkeypatch, s3)
    s3.put("labelled/a.conll.gz", gzip.compress(CONLL.encode()))
    s3.put("labelled/b.jsonl", b'{"words": ["x"], "tags": ["O"]}\n')
    found = list(read_rows(LabelledFile(path=f"s3://{s3.bucket}/labelled")))
    assert [row["words"] for _, row in found] == [["EU", "rejects"], ["is"], ["x"]]
    assert [where.rpartition("/")[2] for where, _ in found] == ["a.conll.gz:4", "a.conll.gz:8", "b.jsonl:1"]


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\nfine,x\n\xff,y\n")
    _fails(path, "a.csv:3: is not UTF-8 (byte 0xff)")


def test_a_column_that_comes_twice_and_a_quote_without_end_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label,text\na,b,c\n")
    _fails(path, "a.csv:1: names the column 'text' twice")
    path.write_text('text,label\na,b\n"c,d\n')
    _fails(path, "a.csv:3: is no valid CSV")


def test_conll_columns_become_sentences(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text(CONLL)
    assert _read(path) == [
        ("a.conll:4", {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]}),
        ("a.conll:8", {"words": ["is"], "tags": ["O"]}),
    ]
    assert _read(path, tag_column=2)[0][1]["tags"] == ["NNP", "VBZ"]
    path = path.rename(tmp_path / "a.txt")
    assert _read(path, format="conll", token_column=3, tag_column=1)[0][1]["words"] == ["B-ORG", "O"]


def test_with_tabs_a_word_may_be_a_space_or_a_sharp_and_rows_may_differ_in_width(tmp_path):
    path = tmp_path / "a.iob2.gz"
    lines = ["年\tOTHER\t*\tB-DAT", "\u3000\tZSPACE\tI-DAT", "#\tO", "", "", "1 2\tO", ""]
    path.write_bytes(gzip.compress("\r\n".join(lines).encode()))
    assert _read(path) == [
        ("a.iob2.gz:1", {"words": ["年", "\u3000", "#"], "tags": ["B-DAT", "I-DAT", "O"]}),
        ("a.iob2.gz:6", {"words": ["1 2"], "tags": ["O"]}),
    ]


def test_the_place_of_a_word_is_its_line_in_conll_and_its_number_elsewhere(tmp_path):
    path = tmp_path / "a.bio"
    path.write_text(CONLL)
    file = LabelledFile(path=str(path))
    (where, _), _ = read_rows(file)
    assert token_place(file, where, 1) == f"{path}:5"
    other = LabelledFile(path="b.jsonl")
    assert token_place(other, "b.jsonl:4", 1) == "b.jsonl:4: word 2"
    assert token_place(other, "b.parquet: row 3", 0) == "b.parquet: row 3: word 1"


def test_a_conll_line_that_lacks_a_column_is_named(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("a O\nb\n")
    _fails(path, "a.conll:2: has 1 column, not 2")
    path.write_text("a O\n")
    _fails(path, "a.conll:1: has 2 columns, not 4", tag_column=4)
    path.write_text("a\tO\nb\t\n")
    _fails(path, "a.conll:2: the tag is empty")
    path.write_text("\n\n")
    _fails(path, "a.conll: holds no example")


def test_words_with_slashes_and_tags_are_sentences(tmp_path):
    path = tmp_path / "ca01"
    path.write_text("\n\n\tThe/at jury/nn 1-1/2/cd ``/`` ./.\n\nfine/jj\n")
    assert _read(path, format="slashes") == [
        ("ca01:3", {"words": ["The", "jury", "1-1/2", "``", "."], "tags": ["at", "nn", "cd", "``", "."]}),
        ("ca01:5", {"words": ["fine"], "tags": ["jj"]}),
    ]
    path.write_text("The/at\njury said/vbd\n")
    _fails(path, "ca01:2: the word 'jury' has no tag", format="slashes")
    _fails(path, "ca01: is of an unknown kind; known: .csv")


def test_sequences_become_the_text_of_the_rows_that_name_them(tmp_path):
    fasta = write_fasta(tmp_path / "all.fasta", {"P1": "MKV" * 30, "sp|P2|TWO": "MAA", "tr|P3|TWO": "MCC"})
    table = tmp_path / "a.tsv"
    table.write_text("id\tlabel\nP1\t1\nP2\t0\ntr|P3|TWO\t1\n")
    keys = {"fasta": str(fasta)}
    assert [row["text"] for _, row in _read(table, **keys)] == ["MKV" * 30, "MAA", "MCC"]
    examples = read_examples(Classify, LabelledFile(path=str(table), **keys))
    assert [(e.text, e.label) for e in examples][1:] == [("MAA", "0"), ("MCC", "1")]
    table.write_text("name\tlabel\nP1\t1\nTWO\t0\n")
    _fails(table, "a.tsv:2: there is no column 'id'", **keys)
    _fails(table, "a.tsv:3: column 'name': there is no sequence 'TWO'", **keys, identifier="name")


def test_broken_fasta_files_are_named(tmp_path):
    table = tmp_path / "a.tsv"
    table.write_text("id\tlabel\nP1\t1\n")
    fasta = tmp_path / "a.fasta"
    _fails(table, "a.fasta: no file with sequences matches", fasta=str(fasta))
    fasta.write_text("MKV\n>P1\nMKV\n")
    _fails(table, "a.fasta:1: no sequence begins here", fasta=str(fasta))
    fasta.write_text(">P1\nMKV\n>P2\nMA\n>P1 again\nMC\n")
    _fails(table, "a.fasta:5: names 'P1' a second time", fasta=str(fasta))
    _fails(table, "a.tsv: is no FASTA", fasta=str(table))
