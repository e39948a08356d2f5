"""Clusters: the table that a file of them becomes, the draws, and what is refused."""

from __future__ import annotations

import gzip
import pickle
from collections import Counter
from pathlib import Path

import pytest
from proteins import proteins, write_clusters, write_fasta

from raypretrain.corpus.clusters import Clusters, Draw, Place, read_clusters
from raypretrain.corpus.documents import Document, check_columns, is_held_out, read_documents
from raypretrain.corpus.manifest import Manifest, build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError, RaypretrainError, RunError

FAMILIES = [["a1", "a2", "a3", "a4"], ["b1"], ["c1", "c2"]]
NAMES = [name for family in FAMILIES for name in family]


@pytest.fixture
def table(tmp_path: Path) -> Clusters:
    return read_clusters(str(write_clusters(tmp_path / "clusters.tsv", FAMILIES)))


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusConfig:
    """The families, and a sequence that is in none."""
    (tmp_path / "fasta").mkdir()
    names = [*NAMES, "lonely"]
    write_fasta(tmp_path / "fasta" / "a.fasta", dict(zip(names, proteins(len(names)), strict=True)))
    clusters = write_clusters(tmp_path / "clusters.tsv", FAMILIES)
    return CorpusConfig(sources=[SourceConfig(path=str(tmp_path / "fasta"), clusters=str(clusters))])


def documents(corpus: CorpusConfig, draw: Draw | None = None) -> list[Document]:
    manifest = build_manifest(corpus, fragment_bytes=100)
    fragments = [manifest.fragment(i) for i in range(len(manifest))]
    return [d for fragment in fragments for d in read_documents(manifest, fragment, corpus, [], draw)]


def drawn(table: Clusters, draw: Draw) -> list[str]:
    return [name for name in NAMES if table.takes(place(table, name), draw)]


def place(table: Clusters, name: str) -> Place:
    found = table.find(name)
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------------------ the table


def test_every_member_has_its_own_place_in_the_cluster_of_its_representative(table: Clusters) -> None:
    found = {name: place(table, name) for name in NAMES}
    for family in FAMILIES:
        assert len({found[name].cluster for name in family}) == 1
        assert sorted(found[name].rank for name in family) == list(range(len(family)))
        assert {table.group(found[name]) for name in family} == {table.group(found[family[0]])}
    assert len({found[family[0]].cluster for family in FAMILIES}) == len(FAMILIES)
    assert table.find("a") is None
    assert table.find("") is None


def test_the_order_of_the_lines_and_compression_change_nothing(tmp_path: Path, table: Clusters) -> None:
    lines = (tmp_path / "clusters.tsv").read_bytes().splitlines(keepends=True)
    (tmp_path / "other.tsv.gz").write_bytes(gzip.compress(b"".join(reversed(lines))))
    (tmp_path / "windows.tsv").write_bytes(b"".join(lines).replace(b"\n", b"\r\n"))
    for name in ("other.tsv.gz", "windows.tsv"):
        other = read_clusters(str(tmp_path / name))
        assert other.fingerprint == table.fingerprint
        assert [other.find(name) for name in NAMES] == [table.find(name) for name in NAMES]


def test_another_cluster_of_one_member_is_another_fingerprint(tmp_path: Path, table: Clusters) -> None:
    path = write_clusters(tmp_path / "other.tsv", [["a1", "a2", "a3"], ["b1", "a4"], ["c1", "c2"]])
    assert read_clusters(str(path)).fingerprint != table.fingerprint


@pytest.mark.parametrize(
    ("header", "member"),
    [
        ("P12345", "P12345"),
        ("sp|P12345|NAME_HUMAN", "P12345"),
        ("sp|P12345|NAME_HUMAN", "sp|P12345|NAME_HUMAN"),
        ("UniRef90_P12345", "UniRef90_P12345"),
        ("pdb|1ABC|A", "1ABC"),
        ("gi|123456|ref|NP_000001.1|", "NP_000001.1"),
    ],
)
def test_a_header_is_found_by_what_mmseqs_calls_its_sequence(
    tmp_path: Path, header: str, member: str
) -> None:
    table = read_clusters(str(write_clusters(tmp_path / "clusters.tsv", [[member]])))
    assert table.find(header) == Place(0, 0)
    assert table.find("sp|Q99999|NAME_HUMAN") is None


# ------------------------------------------------------------------------------------------------------ the draws


def test_one_member_of_each_cluster_is_drawn_in_every_epoch(table: Clusters) -> None:
    for epoch in range(50):
        assert [name[0] for name in drawn(table, Draw(1, epoch))] == ["a", "b", "c"]


def test_over_many_epochs_the_members_are_drawn_evenly_and_independently(table: Clusters) -> None:
    rounds = [drawn(table, Draw(1, epoch)) for epoch in range(4000)]
    counts = Counter(name for names in rounds for name in names)
    assert counts["b1"] == 4000
    for family in (FAMILIES[0], FAMILIES[2]):
        chi2 = sum((counts[name] - 4000 / len(family)) ** 2 / (4000 / len(family)) for name in family)
        assert chi2 < 16.3  # 3 degrees of freedom at most: one in a thousand
    together = Counter((names[0], names[2]) for names in rounds)
    assert sum((n - 500) ** 2 / 500 for n in together.values()) < 24.3  # 7 degrees of freedom
    assert len({tuple(names) for names in rounds[:20]}) > 3  # it is not the same in every epoch


def test_another_seed_draws_others_and_the_same_seed_the_same(table: Clusters) -> None:
    rounds = [[drawn(table, Draw(seed, epoch)) for epoch in range(20)] for seed in (1, 1, 2)]
    assert rounds[0] == rounds[1] != rounds[2]
    again = pickle.loads(pickle.dumps(table))
    assert [drawn(again, Draw(1, epoch)) for epoch in range(20)] == rounds[0]


# -------------------------------------------------------------------------------------------------- the documents


def test_a_draw_reads_one_document_of_each_cluster_and_all_that_are_in_none(corpus: CorpusConfig) -> None:
    everything = documents(corpus)
    assert len(everything) == 8
    assert len({d.group for d in everything}) == 4
    by_text = {d.text: d for d in everything}
    for epoch in range(10):
        found = documents(corpus, Draw(5, epoch))
        assert len(found) == len({d.group for d in found}) == 4
        assert [d.group for d in found].count("") == 1
        assert {d.epoch for d in found} == {epoch}
        assert all((d.file, d.position) == (by_text[d.text].file, by_text[d.text].position) for d in found)


def test_a_cluster_is_held_out_as_a_whole(corpus: CorpusConfig, tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(2000)]
    write_fasta(tmp_path / "fasta" / "a.fasta", dict(zip(names, proteins(2000, 20, 40), strict=True)))
    write_clusters(tmp_path / "clusters.tsv", [names[i : i + 4] for i in range(0, 1900, 4)])
    split: dict[str, set[bool]] = {}
    for document in documents(corpus):
        split.setdefault(document.group or document.text, set()).add(is_held_out(document.split_by, 0.1))
    assert all(len(sides) == 1 for sides in split.values())
    assert 0.06 < sum(True in sides for sides in split.values()) / len(split) < 0.14


def test_a_bad_record_is_reported_whichever_member_is_drawn(corpus: CorpusConfig, tmp_path: Path) -> None:
    path = tmp_path / "fasta" / "a.fasta"
    path.write_bytes(path.read_bytes().replace(b">a2 ", b">a2 \xe9"))
    manifest = build_manifest(corpus)
    for epoch in range(8):
        with pytest.raises(InputError, match="is not UTF-8"):
            list(read_documents(manifest, manifest.fragment(0), corpus, [], Draw(5, epoch)))


# --------------------------------------------------------------------------------------------------- the manifest


def test_the_clusters_count_in_the_corpus_fingerprint_and_come_back_with_the_manifest(
    corpus: CorpusConfig, tmp_path: Path
) -> None:
    with_them = build_manifest(corpus)
    plain = CorpusConfig(sources=[SourceConfig(path=corpus.sources[0].path)])
    assert build_manifest(plain).fingerprint != with_them.fingerprint
    with_them.save(tmp_path / "manifest.parquet")
    for loaded in (
        Manifest.load(tmp_path / "manifest.parquet"),
        Manifest.load(tmp_path / "manifest.parquet", corpus),
    ):
        assert loaded.fingerprint == with_them.fingerprint
    assert loaded.tables[0].fingerprint == with_them.tables[0].fingerprint


def test_clusters_that_changed_under_a_run_are_refused(corpus: CorpusConfig, tmp_path: Path) -> None:
    build_manifest(corpus).save(tmp_path / "manifest.parquet")
    write_clusters(tmp_path / "clusters.tsv", [["a1", "a2", "a3"], ["b1", "a4"], ["c1", "c2"]])
    with pytest.raises(RunError, match=r"clusters\.tsv: holds other clusters than when the run was started"):
        Manifest.load(tmp_path / "manifest.parquet", corpus)


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        ("a\ta\na\tb\nc\n", ":3", "is not two names with a tab between them"),
        ("a\ta\n\na\tb\n", ":2", "is not two names with a tab between them"),
        ("a\ta\tx\n", ":1", "is not two names with a tab between them"),
        ("a\t\n", ":1", "is not two names with a tab between them"),
        ("a b\n", ":1", "is not two names with a tab between them"),
        ("a\ta\na\tb\nc\tc\nc\tb\n", ":4", "names a member that line 2 names already"),
        ("a\tb\na\tb\n", ":2", "names a member that line 1 names already"),
        ("", "", "names no member"),
    ],
)
def test_a_file_that_is_no_table_of_clusters_is_refused_with_its_line(
    tmp_path: Path, content: str, where: str, message: str
) -> None:
    path = tmp_path / "clusters.tsv"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_clusters(str(path))
    assert (caught.value.where, caught.value.what) == (f"{path}{where}", message)
    assert caught.value.fix


def test_lines_are_counted_through_all_chunks_of_a_large_file(tmp_path: Path) -> None:
    path = write_clusters(tmp_path / "clusters.tsv", [[f"member-{i:020d}"] for i in range(40_000)])
    assert path.stat().st_size > 2 << 20
    with path.open("a") as file:
        file.write("no tab\n")
    with pytest.raises(InputError, match=r"clusters\.tsv:40001: is not two names"):
        read_clusters(str(path))


def test_a_file_that_is_not_there_is_refused_by_name_before_anything_starts(
    corpus: CorpusConfig, tmp_path: Path
) -> None:
    (tmp_path / "clusters.tsv").unlink()
    with pytest.raises(
        InputError, match=r"clusters\.tsv: there is no such file; check the source's 'clusters'"
    ):
        build_manifest(corpus)


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "clusters.tsv.gz"
    path.write_bytes(gzip.compress(b"a\ta\n" * 1000)[:-9])
    with pytest.raises(RaypretrainError, match=r"clusters\.tsv\.gz: is cut off"):
        read_clusters(str(path))


def test_clusters_with_other_names_than_the_sequences_have_are_refused(
    corpus: CorpusConfig, tmp_path: Path
) -> None:
    check_columns(build_manifest(corpus), corpus)
    write_clusters(tmp_path / "clusters.tsv", [["x1", "x2"]])
    with pytest.raises(InputError, match=r"names none of the first 8 sequences of .*a\.fasta, e\.g\. 'a1'"):
        check_columns(build_manifest(corpus), corpus)


def test_clusters_of_documents_without_names_are_refused(corpus: CorpusConfig, tmp_path: Path) -> None:
    (tmp_path / "fasta" / "b.txt").write_text("text")
    with pytest.raises(InputError, match=r"b\.txt: its documents have no names that 'clusters' could name"):
        build_manifest(corpus)
