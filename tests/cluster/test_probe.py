"""What is measured on a node, on this one: with commands, folders and servers that are not as they should be."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import ray

from raypretrain.cluster import doors, probe

SMI = """#!/bin/sh
printf 'NVIDIA H100 80GB HBM3, 570.86.15, 81559\\nNVIDIA H100 80GB HBM3, 570.86.15, 81559\\n'
"""
NO_DRIVER = """#!/bin/sh
echo 'Failed to initialize NVML: Driver/library version mismatch'
exit 18
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which commands are looked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def add(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


def facts(**places: str) -> dict:
    return probe.Probe().facts(["python", "no_such_package"], places, counts_gpus=False)


def test_gpus_are_as_their_driver_lists_them(commands: Path) -> None:
    add(commands, "nvidia-smi", SMI)
    found = facts()
    assert found["cards"] == [("NVIDIA H100 80GB HBM3", "570.86.15", 81559 << 20)] * 2
    assert found["cuda"] is None or found["cuda"].count(".")
    add(commands, "nvidia-smi", NO_DRIVER)
    found = facts()
    assert (found["cards"], found["cards_problem"]) == (
        [], "Failed to initialize NVML: Driver/library version mismatch",
    )  # fmt: skip


def test_without_a_compiler_the_reason_is_said_and_with_one_there_is_none(commands: Path) -> None:
    assert facts()["compiler"] == "there is no g++"
    add(commands, "g++", "#!/bin/sh\necho 'try.cpp:1:10: fatal error: Python.h: No such file' >&2\nexit 1\n")
    assert facts()["compiler"] == "try.cpp:1:10: fatal error: Python.h: No such file"


@pytest.mark.slow
def test_a_real_compiler_builds() -> None:
    assert facts()["compiler"] == ""


def test_only_old_locks_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    os.utime(tmp_path / "old" / "lock", (0, 0))
    assert facts()["locks"] == [str(tmp_path / "old" / "lock")]


def test_places_that_are_still_to_be_made_are_measured_where_they_would_be(tmp_path: Path) -> None:
    disks = facts(there=str(tmp_path), not_yet=str(tmp_path / "a" / "b"), never="/proc/a")["disks"]
    assert disks["there"].keys() == {"total", "free"}
    assert disks["not_yet"]["total"] == disks["there"]["total"]
    assert not (tmp_path / "a").exists()


def test_versions_are_found_without_importing_and_what_is_missing_is_none() -> None:
    assert facts()["versions"]["no_such_package"] is None
    assert probe.version("ray") == ray.__version__


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    assert probe.write(str(tmp_path / "no"), "x") == "there is no such folder"
    assert probe.write(str(tmp_path), "x") == ""
    assert probe.write(str(tmp_path), "x") == "File exists"


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """Answers with the status that its path says."""
    listening = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.mark.parametrize(
    ("status", "state"), [(200, "open"), (405, "open"), (401, "closed"), (403, "closed")]
)
def test_a_door_is_closed_where_a_token_is_asked_for(server: str, status: int, state: str) -> None:
    assert doors._http(server, f"/{status}") == state


def test_a_door_that_nobody_is_behind_is_silent() -> None:
    assert doors._http("127.0.0.1:9", "/") == "silent"
    assert doors._grpc("127.0.0.1:9") == "silent"


def test_what_listens_on_this_machine_is_tried_at_all_of_its_addresses() -> None:
    own = {
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family.name == "AF_INET"
    }
    assert set(doors._addresses("127.0.0.1:8265")) == {f"{each}:8265" for each in own | {"127.0.0.1"}}
    assert doors._addresses("http://192.0.2.1:8265") == ["192.0.2.1:8265"]
