"""Object stores, on a real S3 server and on fsspec's own store in memory: tags, writing, releases, what is said."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fault_proxy import Rules, fault_proxy
from s3_server import S3Server, use_keys

from raypretrain import storage
from raypretrain.buckets import retries
from raypretrain.buckets import s3 as s3_module
from raypretrain.buckets.refusals import without_secrets
from raypretrain.errors import StorageError


@pytest.fixture
def store(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    use_keys(monkeypatch, s3)
    return s3


def name_of(request: pytest.FixtureRequest) -> str:
    return request.node.name.partition("[")[0]


@pytest.fixture
def memory(request):
    """A place of its own in fsspec's store in memory, which stands for any store but S3."""
    import fsspec

    place = f"memory://{name_of(request)}"
    yield place
    fsspec.filesystem("memory").rm(place, recursive=True)


def put(url: str, data: bytes) -> str:
    storage.write(url, data)
    return url


def place(kind: str, request: pytest.FixtureRequest) -> str:
    """Where to write, in a real S3 server or in memory."""
    if kind == "memory":
        return str(request.getfixturevalue("memory"))
    return f"s3://{request.getfixturevalue('store').bucket}/{name_of(request)}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "memory"])
def test_an_object_that_was_replaced_after_it_was_listed_is_refused(kind, request):
    url = put(f"{place(kind, request)}/a.txt", b"first" * 10)
    tag = storage.list_files(url)[0].tag
    assert storage.read_range(url, 0, 5, tag=tag) == b"first"
    with storage.open_read(url, size=50, tag=tag) as file:
        assert file.read() == b"first" * 10
    put(url, b"other" * 10)
    for read in (
        lambda: storage.read_range(url, 0, 5, tag=tag),
        lambda: storage.open_read(url, size=50, tag=tag).read(),
    ):
        with pytest.raises(StorageError) as caught:
            read()
        assert str(caught.value) == (
            f"{url}: has changed since the corpus was listed; "
            "start a new run on the changed corpus, or put the old file back"
        )
    assert storage.read_range(url, 0, 5, tag=storage.list_files(url)[0].tag) == b"other"


def test_ranges_are_read_by_signed_urls_unless_the_store_takes_none(monkeypatch):
    """One server takes the signature in the URL, one wants it in a header, which is asked for at once after it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")
    for takes in (True, False):
        lines: list[str] = []
        with _answering(lines, takes) as options:
            for _ in range(6):
                assert storage.read_range("s3://corpus/a b+ü", 0, 5, options) == b"bytes"
        signed = ["X-Amz-Signature=" in line for line in lines]
        assert signed == [True] * 6 if takes else [True, False] * 3 + [False] * 3
        assert all(line.startswith("GET /corpus/a%20b%2B%C3%BC") for line in lines)


@contextlib.contextmanager
def _answering(lines: list[str], takes: bool):
    """A server that has five bytes; the request lines that it gets."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            lines.append(self.requestline)
            given = takes or "Authorization" in self.headers
            self.send_response(206 if given else 403)
            self.send_header("Content-Length", "5" if given else "0")
            self.end_headers()
            if given:
                self.wfile.write(b"bytes")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"endpoint_url": f"http://127.0.0.1:{server.server_port}"}
        server.shutdown()


def test_a_tag_that_a_store_does_not_compare_is_compared_here(monkeypatch):
    """The server has never heard of If-Match: it answers with the object that it has."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    peer = server.accept()[0]
                except OSError:
                    return
                with peer:
                    peer.recv(65536)
                    head = (
                        b'HTTP/1.1 206 Partial\r\nContent-Length: 5\r\nETag: "b"\r\nConnection: close\r\n\r\n'
                    )
                    peer.sendall(head + b"other")

        threading.Thread(target=serve, daemon=True).start()
        options = {"endpoint_url": f"http://127.0.0.1:{server.getsockname()[1]}"}
        assert storage.read_range("s3://corpus/x", 0, 5, options, tag="b") == b"other"
        with pytest.raises(StorageError, match="has changed since the corpus was listed"):
            storage.read_range("s3://corpus/x", 0, 5, options, tag="a")
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("kind", ["s3", "memory", "local"])
def test_writing_and_asking_and_listing_are_the_same_everywhere(kind, request, tmp_path):
    at = str(tmp_path) if kind == "local" else place(kind, request)
    assert not storage.exists(f"{at}/deep/a.txt")
    put(f"{at}/deep/a.txt", b"")
    put(f"{at}/deep/a.txt", b"again")
    put(f"{at}/b.txt", b"x")
    put(f"{at}/_SUCCESS", b"x")
    assert storage.exists(f"{at}/deep/a.txt")
    assert not storage.exists(f"{at}/deep")
    listed = storage.list_files(at)
    assert [(info.url, info.size) for info in listed] == [(f"{at}/b.txt", 1), (f"{at}/deep/a.txt", 5)]
    assert all(info.tag for info in listed)
    assert [info.url for info in storage.list_files(f"{at}/*/a.*")] == [f"{at}/deep/a.txt"]
    assert [info.url for info in storage.list_files(f"{at}/b*")] == [f"{at}/b.txt"]
    assert storage.list_files(f"{at}/deep/a.txt")[0].size == 5
    assert storage.list_files(f"{at}/nothing") == []
    with storage.open_read(f"{at}/deep/a.txt") as file:
        file.seek(-3, 2)
        assert file.read() == b"ain"


def test_a_listing_of_several_pages_is_whole_and_asks_for_no_object(store, monkeypatch):
    monkeypatch.setattr(s3_module, "_PAGE", 4)
    for i in range(9):
        store.put(f"many/{i}", b"x")
    with fault_proxy(store.endpoint_url) as proxy:
        listed = storage.list_files(f"s3://{store.bucket}/many", {"endpoint_url": proxy.endpoint_url})
        assert [info.url.rpartition("/")[2] for info in listed] == [f"{i}" for i in range(9)]
        assert proxy.seen["requests"] == 3


@pytest.mark.parametrize(
    ("scheme", "package", "extra"), [("gs", "gcsfs", "gs"), ("az", "adlfs", "az"), ("abfs", "adlfs", "az")]
)
def test_a_scheme_whose_package_is_missing_names_the_extra(scheme, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StorageError) as caught:
        storage.list_files(f"{scheme}://bucket/x")
    assert str(caught.value) == (
        f"{scheme}://bucket/x: {scheme}:// needs the package {package}; pip install 'raypretrain[{extra}]'"
    )


# ------------------------------------------------------------------------------------------- folders, large files


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "zzz.json").write_bytes(b"last by name")
    (folder / "deep" / "weights").write_bytes(os.urandom(11 << 20))
    return folder


@pytest.mark.parametrize("kind", ["s3", "memory"])
def test_a_folder_is_copied_whole(kind, request, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_module, "_PART", 5 << 20)
    at, folder = place(kind, request), folder_of(tmp_path)
    names = storage.upload_folder(folder, f"{at}/", last="config.json")
    assert names == [f"{at}/deep/weights", f"{at}/zzz.json", f"{at}/config.json"]
    for url in names:
        with storage.open_read(url) as file:
            assert file.read() == (folder / url.removeprefix(f"{at}/")).read_bytes()


def test_what_makes_a_folder_valid_is_removed_first_and_written_last(store, tmp_path):
    with fault_proxy(store.endpoint_url) as proxy:
        options = {"endpoint_url": proxy.endpoint_url}
        for _ in range(2):
            storage.upload_folder(
                folder_of(tmp_path / f"{_}"), f"s3://{store.bucket}/twice", options, "config.json"
            )
    changes = [line.split("?")[0].split() for line in proxy.lines if not line.startswith(("HEAD", "GET"))]
    named = [(method, path.removeprefix(f"/{store.bucket}/twice/")) for method, path, *_ in changes]
    assert named[0] == ("PUT", "deep/weights")
    second = named.index(("DELETE", "config.json"))
    assert named[second - 1] == named[-1] == ("PUT", "config.json")
    assert ("PUT", "config.json") not in named[second:-1]


def uploads(store: S3Server) -> int:
    return len(store.client.list_multipart_uploads(Bucket=store.bucket).get("Uploads", []))


def test_an_upload_that_fails_leaves_nothing_behind(store, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_module, "_PART", 5 << 20)
    monkeypatch.setattr(retries, "_ATTEMPTS", 2)
    folder, url = folder_of(tmp_path), f"s3://{store.bucket}/torn"
    with (
        fault_proxy(store.endpoint_url, Rules(busy=1, only="partNumber=2")) as proxy,
        pytest.raises(StorageError, match=r"failed .*reduce your request rate"),
    ):
        storage.upload_folder(folder, url, {"endpoint_url": proxy.endpoint_url}, "config.json")
    assert proxy.seen["busy"] == 2
    assert uploads(store) == 0
    assert storage.list_files(f"s3://{store.bucket}/torn") == []


@pytest.mark.slow
def test_an_upload_comes_through_a_store_that_refuses_and_resets(store, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_module, "_PART", 5 << 20)
    folder = folder_of(tmp_path)
    with fault_proxy(store.endpoint_url, Rules(busy=0.2, reset=0.1, cut=0.1, seed=10)) as proxy:
        options = {"endpoint_url": proxy.endpoint_url}
        storage.upload_folder(folder, f"s3://{store.bucket}/rough", options, "config.json")
        assert min(proxy.seen["busy"], proxy.seen["reset"] + proxy.seen["cut"]) > 0
    assert (
        storage.read_range(f"s3://{store.bucket}/rough/deep/weights", 0, 11 << 20)
        == (folder / "deep" / "weights").read_bytes()
    )
    assert uploads(store) == 0


# ----------------------------------------------------------------------------------------------------- secrets


def test_no_message_holds_a_secret(store, monkeypatch):
    secret = "S3cr3t/very+long/value"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setattr(retries, "_ATTEMPTS", 1)
    with fault_proxy(store.endpoint_url, Rules(busy=1)) as proxy:
        hidden = proxy.endpoint_url.replace("//", f"//user:{secret}@")
        for options in (
            None,
            {"endpoint_url": proxy.endpoint_url},
            {"endpoint_url": hidden},
            {"secret": secret},
        ):
            with pytest.raises(StorageError) as caught:
                storage.read_range(f"s3://{store.bucket}/x", 0, 5, options)
            whole = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}".encode() + pickle.dumps(
                caught.value
            )
            assert secret.encode() not in whole


def test_a_secret_in_the_text_of_a_librarys_error_is_blotted_out(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountKey=abcdefgh")
    said = without_secrets(
        "cannot parse AccountKey=abcdefgh, and 1234567 at https://me:pw@host/x", {"token": "1234567"}
    )
    assert said == "cannot parse ***, and *** at https://host/x"
