"""A format of the user's own: the examples of docs/formats.md, as they stand there, and what can be wrong with one."""

import re
import zipfile
from pathlib import Path

import pytest
from reading import corpus, read, texts, write

from raypretrain.corpus.documents import BadRecord, check_columns
from raypretrain.corpus.manifest import Manifest, build_manifest
from raypretrain.errors import InputError

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """A module with the examples of the documents, which can be imported."""
    found = re.findall(
        r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(found) == 2
    for name, text in zip(("archives", "sayings"), found, strict=True):
        assert len(text.strip().splitlines()) <= 20
        (tmp_path / "modules").mkdir(exist_ok=True)
        (tmp_path / "modules" / f"{name}_of_the_documents.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "modules")


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_the_example_of_the_documents_reads_archives(examples, tmp_path):
    path = tmp_path / "corpus" / "a.zip"
    path.parent.mkdir()
    zipped(path, one=b"first", two=b"caf\xe9", three=b"third")
    config = corpus(path.parent, quarantine=True, format="archives_of_the_documents:ZippedTexts")
    documents, bad = read(config)
    assert [(d.text, d.position) for d in documents] == [("first", 0), ("third", 2)]
    assert [(r.where, r.position) for r in bad] == [(f"{path}, row 1", 1)]
    assert bad[0].what.startswith("two cannot be read")
    check_columns(build_manifest(config), config)


def test_the_manifest_remembers_a_format_of_ones_own(examples, tmp_path):
    path = tmp_path / "a.zip"
    zipped(path, one=b"first")
    config = corpus(path, format="archives_of_the_documents:ZippedTexts")
    build_manifest(config).save(tmp_path / "manifest.parquet")
    manifest = Manifest.load(tmp_path / "manifest.parquet")
    assert [text for _, text in manifest.open(0, config).texts(0, 0)] == ["first"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_the_second_example_has_ranges_compression_places_and_quarantine_for_nothing(
    examples, tmp_path, suffix
):
    data = b"one\nline\n%\ntwo % three\n%\n\n%\nbad \xff\n%\nfour"
    path = write(tmp_path / f"sayings{suffix}", data)
    config = corpus(path, quarantine=True, format="sayings_of_the_documents:Sayings")
    for fragment_bytes in (1, 3, 10, 1000):
        documents, bad = read(config, fragment_bytes)
        assert [d.text for d in documents] == ["one\nline", "two % three", "four"]
        assert bad == [BadRecord("is not UTF-8 (byte 0xff)", f"{path}:8", 0, 28)]
    source = build_manifest(config).open(0, config)
    assert [source.place(d.position) for d in documents] == [f"{path}:{line}" for line in (1, 4, 10)]


def test_a_built_in_format_may_be_named_where_the_suffix_does_not_say_it(tmp_path):
    write(tmp_path / "part-00000", b'{"text": "a"}\n')
    write(tmp_path / "part-00001.gz", b'{"text": "b"}\n')
    assert texts(corpus(tmp_path, format="jsonl")) == ["a", "b"]
    assert texts(corpus(tmp_path, format="txt", documents="line")) == ['{"text": "a"}', '{"text": "b"}']


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "josnl",
            "there is no such format; known: arrow, csv, fasta, jsonl, parquet, source, tsv, txt, warc; or",
        ),
        (
            "no_such_module:Format",
            "cannot be imported (ModuleNotFoundError: No module named 'no_such_module')",
        ),
        (
            "json:NoSuchClass",
            "cannot be imported (AttributeError: module 'json' has no attribute 'NoSuchClass')",
        ),
        ("json:JSONDecoder", "is no subclass of raypretrain.corpus.format_base.Format"),
        ("json:loads", "is no subclass of raypretrain.corpus.format_base.Format"),
        (":Format", "cannot be imported (ValueError"),
    ],
)
def test_a_format_that_cannot_be_used_is_named_in_one_line(tmp_path, name, said):
    write(tmp_path / "a.x", b"x")
    with pytest.raises(InputError) as caught:
        build_manifest(corpus(tmp_path, format=name))
    assert str(caught.value).startswith(f"corpus.sources: format: {name}: {said}")
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_when_it_is_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_format.py").write_text("raise RuntimeError('two\\nlines')")
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "a.x", b"x")
    with pytest.raises(
        InputError, match=r"cannot be imported \(RuntimeError: two lines\); install it on every"
    ):
        build_manifest(corpus(tmp_path / "a.x", format="broken_format:Format"))
