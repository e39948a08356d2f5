"""WARC and WET: the records of plain text are documents; written by warcio, as crawlers do."""

import io

import pytest
from reading import COMPRESSIONS, corpus, packed, read, texts
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from raypretrain.corpus.manifest import build_manifest
from raypretrain.errors import InputError

PLAIN, PAGE = "text/plain; charset=iso-8859-1", "text/html"


class Crawl:
    """An archive in memory, uncompressed or with each record a gzip member, as the standard asks."""

    def __init__(self, gzip: bool = False) -> None:
        self.out = io.BytesIO()
        self.writer = WARCWriter(self.out, gzip=gzip)
        self.writer.write_record(self.writer.create_warcinfo_record("crawl", {"software": "test"}))

    def add(
        self, kind: str, content: bytes, fetched_as: str | None = None, stored_as: str = "text/plain"
    ) -> None:
        headers = (
            StatusAndHeaders("200 OK", [("Content-Type", fetched_as)], "HTTP/1.1") if fetched_as else None
        )
        record = self.writer.create_warc_record(
            "https://example.org/", kind, io.BytesIO(content), http_headers=headers,
            warc_content_type="" if headers else stored_as,
        )  # fmt: skip
        self.writer.write_record(record)

    def bytes(self) -> bytes:
        return self.out.getvalue()


def converted(*contents: bytes, gzip: bool = False) -> bytes:
    crawl = Crawl(gzip)
    for content in contents:
        crawl.add("conversion", content)
    return crawl.bytes()


def test_the_conversions_of_a_wet_file_are_documents(tmp_path):
    contents = ["first\n\nlines", "é日本\r\n", "", "last"]
    encoded = [content.encode() for content in contents]
    (tmp_path / "a.wet").write_bytes(converted(*encoded))
    (tmp_path / "b.warc.wet.gz").write_bytes(converted(*encoded, gzip=True))
    documents, _ = read(corpus(tmp_path))
    assert [d.text for d in documents] == [c for c in contents if c] * 2
    assert [d.position for d in documents] == [1, 2, 4] * 2


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_archives_are_read_from_every_compression(tmp_path, suffix):
    (tmp_path / f"a.warc{suffix}").write_bytes(packed(converted(b"one", b"two"), suffix))
    assert texts(corpus(tmp_path)) == ["one", "two"]


def test_of_what_was_fetched_only_plain_text_is_a_document(tmp_path):
    crawl = Crawl()
    crawl.add("request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", None, "application/http; msgtype=request")
    crawl.add("response", b"<p>page</p>", PAGE)
    crawl.add("response", "naïve".encode("latin-1"), PLAIN)
    crawl.add("resource", b"stored", None, "text/plain")
    crawl.add("resource", b"\x89PNG", None, "image/png")
    crawl.add("metadata", b"about", None, "text/plain")
    (tmp_path / "a.warc").write_bytes(crawl.bytes())
    assert texts(corpus(tmp_path)) == ["naïve", "stored"]


def test_a_record_that_is_not_in_its_character_set_is_left_out(tmp_path):
    crawl = Crawl()
    crawl.add("conversion", b"good")
    crawl.add("conversion", b"caf\xe9")
    crawl.add("response", b"x", "text/plain; charset=klingon")
    crawl.add("conversion", b"good, too")
    path = tmp_path / "a.warc"
    path.write_bytes(crawl.bytes())
    documents, bad = read(corpus(path, quarantine=True))
    assert [d.text for d in documents] == ["good", "good, too"]
    assert [(r.what, r.where) for r in bad] == [
        ("is not UTF-8 (byte 0xe9)", f"{path}, row 2"),
        ("there is no character set 'klingon'", f"{path}, row 3"),
    ]


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("lost", [10, 300, 450, 2000])
def test_an_archive_that_is_cut_off_keeps_its_whole_records(tmp_path, gzip, lost, capfd):
    contents = [f"document {i} ".encode() * 20 for i in range(50)]
    path = tmp_path / f"a.wet{'.gz' if gzip else ''}"
    path.write_bytes(converted(*contents, gzip=gzip)[:-lost])
    documents, bad = read(corpus(path, quarantine=True))
    assert [d.text.encode() for d in documents] == contents[: len(documents)]
    assert 20 < len(documents) <= 50
    assert [r.where for r in bad] == [str(path)]
    assert capfd.readouterr() == ("", "")


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "a.warc").write_bytes(b"no archive at all\n" * 10)
    with pytest.raises(InputError, match=r"a\.warc: is damaged"):
        read(corpus(tmp_path))
    assert len(build_manifest(corpus(tmp_path), 10)) == 1
