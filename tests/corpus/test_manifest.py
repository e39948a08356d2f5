"""The listing of the corpus, its fragments and its fingerprint."""

import itertools
import json
import os
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from raypretrain.corpus.listing import list_corpus
from raypretrain.corpus.manifest import Manifest, build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError, RunError


def corpus(*paths, **source):
    return CorpusConfig(sources=[SourceConfig(path=str(path), **source) for path in paths])


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": f"{path.name} {i}"}) + "\n" for i in range(lines)))


@pytest.fixture
def folder(tmp_path):
    for name, lines in (("a/2.jsonl", 100), ("a/1.jsonl", 50), ("b/x/3.jsonl", 10)):
        write(tmp_path / "corpus" / name, lines)
    return tmp_path / "corpus"


def test_fragments_cover_every_file_once_in_order(folder):
    manifest = build_manifest(corpus(folder / "a", folder / "b"), fragment_bytes=300)
    assert [f.url.removeprefix(str(folder)) for f in manifest.files] == [
        "/a/1.jsonl",
        "/a/2.jsonl",
        "/b/x/3.jsonl",
    ]
    assert [f.source for f in manifest.files] == [0, 0, 1]
    for i, file in enumerate(manifest.files):
        mine = [manifest.fragment(k) for k in range(len(manifest)) if manifest.file[k] == i]
        assert [mine[0].start, mine[-1].stop] == [0, file.size]
        assert all(a.stop == b.start for a, b in itertools.pairwise(mine))
        assert all(0 < f.bytes <= 300 and f.bytes == f.stop - f.start for f in mine)
        assert set(manifest.source[manifest.file == i]) == {file.source}
    assert (np.diff(manifest.file) >= 0).all()


def test_a_manifest_is_the_same_after_saving_and_loading(folder, tmp_path):
    manifest = build_manifest(corpus(folder / "a", folder / "b"), fragment_bytes=300)
    manifest.save(tmp_path / "run" / "manifest.parquet")
    loaded = Manifest.load(tmp_path / "run" / "manifest.parquet")
    assert loaded.files == manifest.files
    assert loaded.fingerprint == manifest.fingerprint
    for name in ("file", "start", "stop", "bytes", "source"):
        assert np.array_equal(getattr(loaded, name), getattr(manifest, name))
        assert getattr(loaded, name).dtype == getattr(manifest, name).dtype


def test_a_copy_in_another_folder_has_the_same_fingerprint(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    here = build_manifest(corpus(folder / "a", folder / "b"), 300)
    there = build_manifest(corpus(tmp_path / "elsewhere/copy/a", tmp_path / "elsewhere/copy/b"), 300)
    assert here.files[0].tag != there.files[0].tag or here.files[0].url != there.files[0].url
    assert here.fingerprint == there.fingerprint


def test_what_changes_the_order_changes_the_fingerprint(folder):
    first = build_manifest(corpus(folder / "a", folder / "b"), 300).fingerprint
    seen = {first}
    seen.add(build_manifest(corpus(folder / "b", folder / "a"), 300).fingerprint)
    seen.add(build_manifest(corpus(folder), 300).fingerprint)
    seen.add(build_manifest(corpus(folder / "a", folder / "b"), 400).fingerprint)
    (folder / "a/1.jsonl").rename(folder / "a/9.jsonl")
    seen.add(build_manifest(corpus(folder / "a", folder / "b"), 300).fingerprint)
    write(folder / "a/9.jsonl", 51)
    seen.add(build_manifest(corpus(folder / "a", folder / "b"), 300).fingerprint)
    assert len(seen) == 6


def test_no_file_matches(tmp_path):
    with pytest.raises(InputError, match=r"none\*\.jsonl: no file matches"):
        build_manifest(corpus(tmp_path / "none*.jsonl"))


def test_an_unknown_suffix_is_named_with_the_known_ones(folder):
    (folder / "a" / "notes.docx").write_text("x")
    with pytest.raises(InputError, match=r"notes\.docx: its suffix is not known .*\.jsonl,.* \.zst.*glob"):
        build_manifest(corpus(folder))


def test_markers_and_hidden_files_of_a_folder_are_left_out(folder):
    before = build_manifest(corpus(folder)).fingerprint
    (folder / "_SUCCESS").write_text("")
    (folder / ".1.jsonl.crc").write_text("x")
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "part.jsonl").write_text("{")
    assert build_manifest(corpus(folder)).fingerprint == before


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "dataset_info.json", "state.json", "SHA256SUMS"])
def test_what_lies_beside_data_is_passed_over(folder, name):
    before = build_manifest(corpus(folder)).fingerprint
    (folder / "a" / name).write_text("x")
    assert build_manifest(corpus(folder)).fingerprint == before


def test_what_lies_beside_data_is_read_if_it_is_all_there_is(tmp_path):
    (tmp_path / "README.md").write_text("x")
    assert [f.format for f in build_manifest(corpus(tmp_path)).files] == ["source"]
    (tmp_path / "a.py").write_text("x")
    assert len(build_manifest(corpus(tmp_path)).files) == 1
    assert len(build_manifest(corpus(tmp_path, format="source")).files) == 2


def test_a_source_of_empty_files_is_refused(folder, tmp_path):
    (tmp_path / "a.jsonl").touch()
    for paths in ([tmp_path / "*.jsonl"], [folder, tmp_path / "*.jsonl"]):
        with pytest.raises(InputError, match=r"/\*\.jsonl: all of its files are empty"):
            build_manifest(corpus(*paths))


def test_the_same_files_may_be_in_two_sources(folder):
    manifest = build_manifest(corpus(folder / "a", folder), fragment_bytes=300)
    names = [f.url.rpartition("/")[2] for f in manifest.files]
    assert names == ["1.jsonl", "2.jsonl", "1.jsonl", "2.jsonl", "3.jsonl"]
    assert manifest.compare(list_corpus(corpus(folder / "a", folder))) == []


def test_the_differences_of_two_listings_are_named(folder):
    config = corpus(folder)
    before = build_manifest(config)
    assert before.compare(build_manifest(config)) == []
    write(folder / "a/1.jsonl", 51)
    times = (folder / "a/2.jsonl").stat()
    os.utime(folder / "a/2.jsonl", ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    (folder / "b/x/3.jsonl").unlink()
    for i in range(7):
        write(folder / f"new/{i}.jsonl", 1)
    assert before.compare(list_corpus(config)) == [
        "7 added: " + ", ".join(f"{folder}/new/{i}.jsonl" for i in range(5)) + " and 2 more",
        f"1 removed: {folder}/b/x/3.jsonl",
        f"2 changed: {folder}/a/1.jsonl, {folder}/a/2.jsonl",
    ]


def test_footers_may_be_read_by_somebody_else(tmp_path):
    """As Ray tasks, for example: the function has to survive being sent to another process."""
    for i in range(3):
        pq.write_table(pa.table({"text": ["x" * 100] * 50}), tmp_path / f"{i}.parquet", row_group_size=10)
        write(tmp_path / f"{i}.jsonl", 10)
    asked = []

    def elsewhere(cut, files):
        asked.extend(files)
        return [pickle.loads(pickle.dumps(cut))(file) for file in files]

    manifest = build_manifest(corpus(tmp_path), 100, footers=elsewhere)
    assert asked == [1, 3, 5]
    assert manifest.fingerprint == build_manifest(corpus(tmp_path), 100).fingerprint
    assert (np.bincount(manifest.file)[[1, 3, 5]] == 5).all()


def test_what_is_no_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.parquet").write_text("PAR1")
    with pytest.raises(RunError, match="cannot be read as a manifest"):
        Manifest.load(tmp_path / "manifest.parquet")
    with pytest.raises(RunError, match=r"nothing\.parquet"):
        Manifest.load(tmp_path / "nothing.parquet")


@pytest.mark.parametrize(
    "values",
    [
        {"sources": []},
        {"sources": [{"path": "x", "weight": 0}]},
        {"sources": [{"path": "x"}], "held_out": 0.5},
    ],
)
def test_a_corpus_that_makes_no_sense_is_refused(values):
    with pytest.raises(ValidationError):
        CorpusConfig.model_validate(values)


def test_sources_are_called_by_their_name_or_their_place():
    config = CorpusConfig(sources=[SourceConfig(path="x"), SourceConfig(path="y", name="films")])
    assert [config.source_name(i) for i in (0, 1)] == ["source-0", "films"]
