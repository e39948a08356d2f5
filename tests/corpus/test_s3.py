"""A corpus in a bucket of a real S3 server, and what is said where the bucket cannot be used."""

import gzip
import json
import socket
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import S3Server, use_keys

from raypretrain import storage
from raypretrain.corpus.documents import check_columns, read_documents, sample_documents
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError, StorageError

GLOBBED = ["1.jsonl", "2.jsonl", "x/3.jsonl", "x/y/4.jsonl", ".hidden.jsonl"]


@pytest.fixture(autouse=True, scope="module")
def globbed(s3: S3Server) -> None:
    for name in GLOBBED:
        s3.put(f"globs/{name}", b"data")


@pytest.fixture
def keys(s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    """The environment of a user whose keys are right."""
    use_keys(monkeypatch, s3)
    return monkeypatch


def json_lines(name, count):
    return b"".join(
        json.dumps({"text": f"{name} {i} é\u2028"}, ensure_ascii=False).encode() + b"\n" for i in range(count)
    )


def read_all(config, fragment_bytes=10_000):
    manifest = build_manifest(config, fragment_bytes)
    return [
        d.text for i in range(len(manifest)) for d in read_documents(manifest, manifest.fragment(i), config)
    ]


def fill(s3, folder, tmp_path):
    """The same files in the bucket and in a local folder."""
    table = pa.table({"id": range(3000), "text": [f"row {i}" for i in range(3000)]})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=500)
    files = {
        "a.jsonl": json_lines("a", 3000),
        "deep/b.jsonl.gz": gzip.compress(json_lines("b", 2000)),
        "deep/c.txt": b"whole\r\nfile",
        "d.parquet": (tmp_path / "d.parquet").read_bytes(),
        "_SUCCESS": b"",
    }
    (tmp_path / folder / "deep").mkdir(parents=True)
    for name, data in files.items():
        s3.put(f"{folder}/{name}", data)
        (tmp_path / folder / name).write_bytes(data)


def test_a_bucket_reads_as_the_same_files_in_a_local_folder(s3, keys, tmp_path):
    fill(s3, "same", tmp_path)
    remote = CorpusConfig(sources=[SourceConfig(path=f"s3://{s3.bucket}/same")])
    local = CorpusConfig(sources=[SourceConfig(path=str(tmp_path / "same"))])
    texts = read_all(remote)
    assert len(texts) == 8001
    assert texts == read_all(local)
    assert build_manifest(remote, 10_000).fingerprint == build_manifest(local, 10_000).fingerprint
    check_columns(build_manifest(remote), remote)
    sample = list(sample_documents(build_manifest(remote), remote, 10_000, 0))
    assert sample
    assert {document.text for document in sample} <= set(texts)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("globs/*.jsonl", ["1.jsonl", "2.jsonl"]),
        ("globs/**/*.jsonl", ["1.jsonl", "2.jsonl", "x/3.jsonl", "x/y/4.jsonl"]),
        ("globs/[2-9].jsonl", ["2.jsonl"]),
        ("globs/*/?.jsonl", ["x/3.jsonl"]),
        ("globs/", ["1.jsonl", "2.jsonl", "x/3.jsonl", "x/y/4.jsonl"]),
        ("globs/x/3.jsonl", ["x/3.jsonl"]),
        ("globs/nothing*", []),
        ("glob", []),
    ],
)
def test_globs_in_a_bucket_and_in_a_folder_match_the_same(s3, keys, tmp_path, pattern, names):
    for name in GLOBBED:
        (tmp_path / "globs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "globs" / name).write_bytes(b"data")
    remote = storage.list_files(f"s3://{s3.bucket}/{pattern}")
    local = storage.list_files(str(tmp_path / pattern))
    assert [i.url.removeprefix(f"s3://{s3.bucket}/globs/") for i in remote] == names
    assert [i.url.removeprefix(f"{tmp_path}/globs/") for i in local] == names
    assert [i.size for i in remote] == [i.size for i in local] == [4] * len(names)


def test_a_changed_object_has_another_tag(s3, keys):
    url = s3.put("tag/x.txt", b"one")
    first = storage.list_files(url)[0].tag
    s3.put("tag/x.txt", b"two")
    assert first
    assert storage.list_files(url)[0].tag != first


def test_ranges_and_seeks_give_the_bytes_of_the_object(s3, keys):
    data = bytes(range(256)) * 100
    url = s3.put("ranges/x.bin", data)
    assert storage.read_range(url, 1000, 1300) == data[1000:1300]
    assert storage.read_range(url, 5, 5) == b""
    with storage.open_read(url) as file:
        assert file.read(10) == data[:10]
        file.seek(-7, 2)
        assert file.read() == data[-7:]
        file.seek(300)
        assert file.read(5) == data[300:305]


def refusal(action):
    """What the error says, and that it came within seconds."""
    begin = time.monotonic()
    with pytest.raises(StorageError) as caught:
        action()
    assert time.monotonic() - begin < 30
    assert "\n" not in str(caught.value)
    return str(caught.value)


def use(s3, bucket=None):
    return lambda: build_manifest(
        CorpusConfig(sources=[SourceConfig(path=f"s3://{bucket or s3.bucket}/any")])
    )


def test_a_wrong_secret_is_said_to_be_wrong(s3, keys):
    keys.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "s3://corpus/any: the secret key is wrong; check AWS_ACCESS_KEY_ID" in refusal(use(s3))


def test_an_unknown_key_is_said_to_be_unknown(s3, keys):
    keys.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "the access key is unknown there" in refusal(use(s3))


def test_without_credentials_they_are_asked_for(s3, keys):
    keys.delenv("AWS_ACCESS_KEY_ID")
    keys.delenv("AWS_SECRET_ACCESS_KEY")
    assert "there are no credentials for it; check AWS_ACCESS_KEY_ID" in refusal(use(s3))


def test_a_bucket_that_is_not_there_is_named(s3, keys):
    assert refusal(use(s3, "nobucket")) == "s3://nobucket/any: there is no such bucket; check the name"
    assert "no such" in refusal(lambda: storage.open_read("s3://nobucket/any"))
    assert "no such object" in refusal(lambda: storage.read_range(f"s3://{s3.bucket}/nothing", 0, 5))


def test_an_empty_prefix_matches_no_file(s3, keys):
    with pytest.raises(InputError, match="s3://corpus/any: no file matches"):
        use(s3)()


def test_an_object_that_became_shorter_is_said_to_have_changed(s3, keys):
    url = s3.put("shrunk/x.jsonl", json_lines("x", 1000))
    config = CorpusConfig(sources=[SourceConfig(path=url)])
    manifest = build_manifest(config, 1000)
    s3.put("shrunk/x.jsonl", json_lines("x", 1))
    last = manifest.fragment(len(manifest) - 1)
    assert f"{url}: has changed since the corpus was listed" in refusal(
        lambda: list(read_documents(manifest, last, config))
    )


def test_an_endpoint_where_nobody_listens_is_named_within_seconds(s3, keys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
    source = SourceConfig(path="s3://corpus/any", endpoint_url=endpoint)
    said = refusal(lambda: build_manifest(CorpusConfig(sources=[source])))
    assert f"the object store at {endpoint} cannot be reached" in said


def test_a_server_that_hangs_up_at_once_is_named_within_seconds(keys):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def hang_up():
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert endpoint in refusal(lambda: storage.list_files("s3://corpus/x", {"endpoint_url": endpoint}))
        server.shutdown(socket.SHUT_RDWR)


def test_a_body_that_is_cut_short_is_asked_for_again(keys):
    """The server promises 1000 bytes, twice sends 10 and hangs up, then sends them all."""
    asked = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve():
            while True:
                try:
                    peer = server.accept()[0]
                except OSError:
                    return
                with peer:
                    peer.recv(65536)
                    asked.append(1)
                    head = (
                        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n"
                    )
                    peer.sendall(head + b"x" * (1000 if len(asked) > 2 else 10))

        threading.Thread(target=serve, daemon=True).start()
        options = {"endpoint_url": f"http://127.0.0.1:{server.getsockname()[1]}"}
        assert storage.read_range("s3://corpus/x", 0, 1000, options) == b"x" * 1000
        assert len(asked) == 3
        server.shutdown(socket.SHUT_RDWR)


def test_other_schemes_and_missing_buckets_are_refused():
    assert "'bucket://' is not understood" in refusal(lambda: storage.list_files("bucket://bucket/x"))
    assert "no bucket is named" in refusal(lambda: storage.list_files("s3://*/x"))
