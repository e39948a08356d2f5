"""Labelled files, whole and broken."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from raypretrain.errors import InputError
from raypretrain.finetuning.kinds.classify import Classify
from raypretrain.finetuning.rows import LabelledFile
from raypretrain.finetuning.tasks import read_examples

TEXTS = ['a "quoted", text\nof two lines', "NA", "tabs\tand \u2028 separators", "  spaces  "]
LABELS = ["yes", "no", "no", "yes"]


def _csv(mark: str = ",") -> bytes:
    quoted = [f'"{text.replace(chr(34), chr(34) * 2)}"' for text in TEXTS]
    rows = [f"{text}{mark}{label}" for text, label in zip(quoted, LABELS, strict=True)]
    return "\n".join([f"text{mark}label", *rows, ""]).encode()


def _jsonl() -> bytes:
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _parquet(path: Path, **columns: list[object]) -> Path:
    pq.write_table(pa.table(columns or {"text": TEXTS, "label": LABELS}), path)
    return path


def _read(path: Path, **keys: str) -> list[tuple[str, str]]:
    return [(e.text, e.label) for e in read_examples(Classify, LabelledFile(path=str(path), **keys))]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.jsonl.zst", "a.parquet"])
def test_every_kind_gives_the_same_examples(tmp_path, name):
    path = tmp_path / name
    data = _jsonl() if "jsonl" in name else _csv("\t" if "tsv" in name else ",")
    if name.endswith(".gz"):
        data = gzip.compress(data)
    if name.endswith(".zst"):
        data = zstandard.compress(data)
    path.write_bytes(data)
    if name.endswith(".parquet"):
        _parquet(path)
    assert _read(path) == list(zip(TEXTS, LABELS, strict=True))


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,label\r\nfine,yes\r\nbad,no\r\n")
    assert _read(tmp_path / "a.csv") == [("fine", "yes"), ("bad", "no")]


def test_whole_numbers_and_truth_values_are_labels(tmp_path):
    path = _parquet(tmp_path / "a.parquet", text=["x", "y"], label=[0, 1])
    assert [label for _, label in _read(path)] == ["0", "1"]
    path = _parquet(tmp_path / "b.parquet", text=["x", "y"], label=[True, False])
    assert [label for _, label in _read(path)] == ["true", "false"]


def test_files_of_a_glob_are_read_in_the_order_of_their_names(tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},x\n")
    assert _read(tmp_path / "*.csv") == [("a", "x"), ("b", "x")]


def _fails(path: Path, message: str, **keys: str) -> None:
    with pytest.raises(InputError) as caught:
        _read(path, **keys)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    (tmp_path / "a.csv").write_text("review,label\nfine,yes\n")
    _fails(tmp_path / "a.csv", "there is no column 'text', there are: 'review', 'label'")
    assert _read(tmp_path / "a.csv", text="review") == [("fine", "yes")]
    (tmp_path / "b.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "lable": "x"}\n')
    _fails(tmp_path / "b.jsonl", "b.jsonl:2: there is no column 'label'")
    _fails(tmp_path / "b.jsonl", "did you mean 'lable'?")


def test_an_empty_text_or_label_is_named_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\nfine,yes\n" ",no\n')
    _fails(tmp_path / "a.csv", "a.csv:3: column 'text': the text is empty")
    (tmp_path / "b.csv").write_text("text,label\nfine,\n")
    _fails(tmp_path / "b.csv", "b.csv:2: column 'label': '' is no label")
    path = _parquet(tmp_path / "c.parquet", text=["x", None], label=["a", "b"])
    _fails(path, "row 1: column 'text': the text is empty")
    path = _parquet(tmp_path / "d.parquet", text=["x"], label=[0.5])
    _fails(path, "0.5 is no label; give a word or a whole number")


def test_broken_files_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nfine,yes,more\n")
    _fails(tmp_path / "a.csv", "a.csv:2: the row has more columns than the head")
    (tmp_path / "a2.csv").write_text("text,label\nfine\n")
    _fails(tmp_path / "a2.csv", "a2.csv:2: the row has fewer columns than the head")
    (tmp_path / "b.jsonl").write_text('{"text": "a", "label": "x"}\n{"text"\n')
    _fails(tmp_path / "b.jsonl", "b.jsonl:2: is no valid JSON")
    (tmp_path / "c.csv").write_bytes(b"text,label\n\xff\xfe,x\n")
    _fails(tmp_path / "c.csv", "is not UTF-8")
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(_csv())[:-9])
    _fails(tmp_path / "d.csv.gz", "is cut off: its last .gz member has no end")
    (tmp_path / "e.jsonl.zst").write_bytes(b"no zstandard at all")
    _fails(tmp_path / "e.jsonl.zst", "is damaged")
    (tmp_path / "f.parquet").write_bytes(b"PAR1 and nothing")
    _fails(tmp_path / "f.parquet", "is damaged")
    (tmp_path / "g.csv").write_text("text,label\n")
    _fails(tmp_path / "g.csv", "holds no example")
    (tmp_path / "h.doc").write_text("text")
    _fails(tmp_path / "h.doc", "is of an unknown kind; known: .csv")
    _fails(tmp_path / "nothing.csv", "no file matches")
