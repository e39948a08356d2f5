"""Local files: listing, atomic writing, checks before a run."""

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from raypretrain import storage
from raypretrain.errors import StorageError


def test_a_file_a_folder_and_a_glob_are_listed_sorted_with_sizes(tmp_path):
    for name in ("b.txt", "a.txt", "x/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"123")

    def names(pattern):
        return [os.path.relpath(info.url, tmp_path) for info in storage.list_files(str(pattern))]

    assert names(tmp_path) == names(f"file://{tmp_path}") == ["a.txt", "b.txt", "x/c.txt"]
    assert names(tmp_path / "*.txt") == ["a.txt", "b.txt"]
    assert names(tmp_path / "**" / "*.txt") == ["a.txt", "b.txt", "x/c.txt"]
    assert names(tmp_path / "x/c.txt") == ["x/c.txt"]
    assert names(tmp_path / "nothing") == names(tmp_path / "nothing*") == []
    info = storage.list_files(str(tmp_path / "a.txt"))[0]
    assert (info.size, info.tag) == (3, str((tmp_path / "a.txt").stat().st_mtime_ns))


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path):
    (tmp_path / "a[1].txt").write_bytes(b"x")
    assert len(storage.list_files(str(tmp_path / "a[1].txt"))) == 1


def test_a_link_that_leads_back_up_is_followed_once(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_bytes(b"x")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    assert [Path(i.url).name for i in storage.list_files(str(tmp_path))] == ["a.txt"]


def test_ranges_stop_at_the_end_of_the_file(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    assert storage.read_range(str(tmp_path / "a"), 2, 5) == b"234"
    assert storage.read_range(str(tmp_path / "a"), 8, 50) == b"89"
    assert storage.read_range(str(tmp_path / "a"), 5, 5) == b""


def test_a_file_that_was_written_again_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"first")
    info = storage.list_files(str(path))[0]
    assert storage.read_range(info.url, 0, 5, tag=info.tag) == b"first"
    with storage.open_read(info.url, size=info.size, tag=info.tag) as file:
        assert file.read() == b"first"
    path.write_bytes(b"longer")
    os.utime(path, ns=(int(info.tag), int(info.tag)))
    with pytest.raises(
        StorageError, match=r"a\.txt: has changed since the corpus was listed; start a new run"
    ):
        storage.open_read(info.url, size=info.size, tag=info.tag)
    os.utime(path, ns=(int(info.tag), int(info.tag) + 1))
    for read in (
        lambda: storage.read_range(info.url, 0, 5, tag=info.tag),
        lambda: storage.open_read(info.url, tag=info.tag),
    ):
        with pytest.raises(StorageError, match="has changed"):
            read()


def test_a_local_file_is_copied_and_asked_for_as_an_object_is(tmp_path):
    storage.write(f"file://{tmp_path}/from/a.txt", b"a")
    storage.write(str(tmp_path / "from" / "b" / "c.txt"), b"c")
    assert storage.exists(f"file://{tmp_path}/from/a.txt")
    assert not storage.exists(str(tmp_path / "from"))
    names = storage.upload_folder(tmp_path / "from", str(tmp_path / "to"), last="a.txt")
    assert names == [f"{tmp_path}/to/b/c.txt", f"{tmp_path}/to/a.txt"]
    assert (tmp_path / "to" / "b" / "c.txt").read_bytes() == b"c"


def test_a_file_that_is_not_there_is_named(tmp_path):
    for action in (storage.open_read, storage.sha256_file):
        with pytest.raises(StorageError, match="nothing: No such file"):
            action(str(tmp_path / "nothing"))


def test_writing_replaces_the_file_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "file.json"
    storage.write_atomic(path, "first")
    storage.write_atomic(path, "zweite \u2028".encode())
    assert path.read_text(encoding="utf-8") == "zweite \u2028"
    assert os.listdir(path.parent) == ["file.json"]
    reference = tmp_path / "reference"
    reference.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(reference.stat().st_mode)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "file"
    storage.write_atomic(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="file: no space left"):
        storage.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    storage.write_atomic(path, "old")
    code = (
        "import os, signal, sys\n"
        "from raypretrain import storage\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage.write_atomic(sys.argv[1], 'new' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"


def test_a_hash_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"content" * 10_000)
    assert storage.sha256_file(tmp_path / "a") == hashlib.sha256(b"content" * 10_000).hexdigest()


def test_a_folder_is_checked_without_being_made(tmp_path):
    storage.check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []


def test_too_little_space_says_how_much_there_is_and_how_much_is_needed(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    storage.check_writable(tmp_path, 1000)
    with pytest.raises(StorageError, match=r"not enough space: [0-9.]+ [KMGT]B free, 1e\+03 TB|needed"):
        storage.check_writable(tmp_path, free + 10**15)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file: is a file, not a folder"):
        storage.check_writable(tmp_path / "file" / "run")


def test_a_folder_that_takes_no_files_is_named(tmp_path):
    if os.geteuid() == 0:
        folder = Path("/proc/self/run")  # not even root may write there
    else:
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o500)
    with pytest.raises(StorageError, match=f"{folder}: "):
        storage.check_writable(folder)


def test_no_permission_is_called_by_its_name(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(StorageError, match="no permission; change its permissions"):
        storage.check_writable(tmp_path)
