"""The logs of a run: what is written, that nothing else is, and how they are read."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Command

from raypretrain.errors import RunError
from raypretrain.local import open_local
from raypretrain.training import logs
from raypretrain.training.logreading import Line, Wanted, read_lines
from raypretrain.training.logs import logged
from raypretrain.training.runfolder import RunFolder, locked

OURS = logging.getLogger("raypretrain.training.somewhere")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("{}")
    return folder


@pytest.fixture
def kept_apart() -> Iterator[logging.Logger]:
    """A library's logger that gives the root logger nothing."""
    logger = logging.getLogger("somebodys.library")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    yield logger
    logger.handlers.clear()
    logger.propagate = True


def rows(run: Path, who: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "logs" / f"{who}.jsonl").read_text().splitlines()]


# ----------------------------------------------------------------------------------------------------- writing


def test_a_line_says_when_who_at_which_step_and_where(run: Path) -> None:
    begun = time.time()
    with logged(run, 3) as log:
        log.step = lambda: 12
        OURS.info("goes on from %s", "step-00000010")
    [row] = rows(run, "rank-3")
    assert begun - 0.01 <= row.pop("time") <= time.time()
    assert row == {
        "level": "info",
        "run": "small",
        "rank": 3,
        "step": 12,
        "where": OURS.name,
        "message": "goes on from step-00000010",
    }


def test_libraries_are_heard_from_warnings_on_those_that_keep_to_themselves_too(
    run: Path, kept_apart: logging.Logger
) -> None:
    with logged(run, None):
        logging.getLogger("another.library").warning("runs out of shared memory")
        logging.getLogger("another.library").info("all is well")
        kept_apart.error("a collective failed")
    assert [(row["where"], row["level"]) for row in rows(run, "driver")] == [
        ("another.library", "warning"),
        ("somebodys.library", "error"),
    ]


def test_a_library_that_gives_its_format_to_every_handler_changes_nothing(
    run: Path, kept_apart: logging.Logger
) -> None:
    with logged(run, 0):
        for handler in kept_apart.handlers:  # as Ray does to its own logger's
            handler.setFormatter(logging.Formatter("plain %(message)s"))
        OURS.info("goes on")
    assert [row["message"] for row in rows(run, "rank-0")] == ["goes on"]


def test_an_exception_has_its_traceback(run: Path) -> None:
    with logged(run, 0):
        try:
            open_local(str(run / "nothing"))
        except Exception:
            OURS.exception("this worker ends")
    [row] = rows(run, "rank-0")
    assert row["message"] == "this worker ends"
    assert "in open_local" in row["traceback"]
    assert row["traceback"].strip().endswith("No such file or directory")


def test_what_the_process_prints_stays_as_it_is(run: Path) -> None:
    code = (
        "import logging, pathlib\n"
        "from raypretrain.training.logs import logged\n"
        "logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        f"with logged(pathlib.Path({str(run)!r}), 0):\n"
        "    logging.getLogger('raypretrain.worker').error('ours')\n"
        "    logging.getLogger('library').info('theirs')\n"
        "logging.getLogger('raypretrain.worker').error('afterwards')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "theirs\nafterwards\n")
    assert [row["message"] for row in rows(run, "rank-0")] == ["ours"]


def test_no_secret_of_the_environment_and_none_in_a_url_is_written(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_9d8f7a6s5d4f3")
    with logged(run, 0):
        OURS.warning("asked https://user:pa55word@store.example with hf_9d8f7a6s5d4f3")
        try:
            raise ValueError("hf_9d8f7a6s5d4f3 is refused")
        except ValueError:
            OURS.exception("it ends")
    written = (run / "logs" / "rank-0.jsonl").read_text()
    assert "hf_9d8" not in written
    assert "pa55word" not in written
    assert "store.example" in written
    assert "*** is refused" in written


def test_a_restart_appends_also_where_the_last_line_was_cut_off(run: Path) -> None:
    with logged(run, 1):
        OURS.info("first")
    with (run / "logs" / "rank-1.jsonl").open("a") as file:
        file.write('{"time": 17000')
    with logged(run, 1):
        OURS.info("second")
    lines = [line.values.get("message", line.text) for line in read_lines(run, Wanted("rank-1"))]
    assert lines == ["first", '{"time": 17000', "second"]


def test_the_files_are_bounded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_MOST_BYTES", 2000)
    with logged(run, 0):
        for i in range(100):
            OURS.info("line %d of a library that repeats itself", i)
    assert sorted(path.name for path in (run / "logs").iterdir()) == ["rank-0.jsonl", "rank-0.jsonl.1"]
    assert all(path.stat().st_size <= 2000 for path in (run / "logs").iterdir())
    messages = [line.values["message"] for line in read_lines(run, Wanted())]
    assert messages[-1].startswith("line 99 ")
    assert len(messages) > 10


@pytest.mark.parametrize("message", ["two\nlines", "\udc80 half a character", "日本語", '"quoted" \\'])
def test_any_text_is_one_line_of_json(run: Path, message: str) -> None:
    with logged(run, 0):
        OURS.info("%s", message)
    assert [row["message"] for row in rows(run, "rank-0")] == [message]


def test_logs_that_cannot_be_written_end_nothing_and_say_nothing(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run / "logs").write_text("no folder")
    with logged(run, 0):
        OURS.error("lost")
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_ends_nothing(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run / "logs").mkdir()
    (run / "logs" / "rank-0.jsonl").symlink_to("/dev/full")
    with logged(run, 0):
        OURS.error("lost")
        OURS.error("lost too")
    assert capfd.readouterr() == ("", "")


def test_a_record_that_no_format_fits_harms_nobody(run: Path, kept_apart: logging.Logger) -> None:
    kept_apart.handlers.clear()  # pytest's own would raise
    with logged(run, 0):
        kept_apart.warning("%d", "not a number")
        OURS.info("goes on")
    assert [row["message"] for row in rows(run, "rank-0")] == ["goes on"]


def test_a_folder_with_logs_alone_is_still_a_new_runs(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    RunFolder(tmp_path)._refuse_foreign()


# ----------------------------------------------------------------------------------------------------- reading


def write(run: Path, who: str, *lines: dict[str, Any] | str) -> None:
    folder = run / "logs"
    folder.mkdir(exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    with (folder / f"{who}.jsonl").open("a") as file:
        file.writelines(text + "\n" for text in texts)


def line(at: float, message: str, step: int = 1, level: str = "info", **more: Any) -> dict[str, Any]:
    values = {"time": at, "level": level, "run": "small", "step": step, "where": "raypretrain.x"}
    return {**values, "message": message, **more}


def said(run: Path, wanted: Wanted) -> list[str]:
    return [found.values.get("message", found.text) for found in read_lines(run, wanted)]


@pytest.fixture
def two(run: Path) -> Path:
    write(run, "driver", line(10, "starting Ray", 0), line(40, "worker 1 was lost", 13, "warning"))
    write(run, "rank-0", line(20, "begins", 0), line(41, "a collective failed", 14, "error"))
    write(run, "rank-1", line(21, "begins too", 0), line(60, "goes on", 10))
    return run


def test_all_are_read_by_time(two: Path) -> None:
    assert said(two, Wanted()) == [
        "starting Ray", "begins", "begins too", "worker 1 was lost", "a collective failed", "goes on",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted("rank-1"), ["begins too", "goes on"]),
        (Wanted("driver"), ["starting Ray", "worker 1 was lost"]),
        (Wanted(level="warning"), ["worker 1 was lost", "a collective failed"]),
        (Wanted(level="error"), ["a collective failed"]),
        (Wanted(steps=(10, 13)), ["worker 1 was lost", "goes on"]),
        (Wanted(steps=(13, None)), ["worker 1 was lost", "a collective failed"]),
        (Wanted("rank-1", "warning"), []),
    ],
)
def test_only_what_is_asked_for(two: Path, wanted: Wanted, found: list[str]) -> None:
    assert said(two, wanted) == found


@pytest.mark.parametrize(
    "bad",
    ['{"time": 17', "Fatal Python error: Segmentation fault", "17", '{"time": "x", "step": 1}', "\x00\x00",
     '{"time": 1e300, "step": 1}', '{"time": 5}'],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_shown_in_its_place_whatever_is_asked_for(two: Path, bad: str) -> None:
    write(two, "rank-0", bad, line(70, "afterwards", 15))
    assert said(two, Wanted(level="warning")) == ["worker 1 was lost", "a collective failed", bad]
    [shown] = [str(found) for found in read_lines(two, Wanted("rank-0")) if not found.values]
    assert shown.endswith(f"rank-0  (cannot be read)  {bad}")


def test_a_line_as_people_read_it() -> None:
    values = line(0, "this worker ends", 1234, "error", traceback="Traceback:\n  File x\nValueError: no")
    text = str(Line("rank-3", 0.0, "", values))
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(0))
    assert text.splitlines() == [
        f"{clock}  rank-3  step 1,234  error  raypretrain.x: this worker ends",
        "    Traceback:",
        "      File x",
        "    ValueError: no",
    ]


def test_following_a_run_shows_what_comes_until_it_ends(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypretrain.training.logreading._LOOK_SECONDS", 0.02)
    seen: list[str] = []
    with locked(run):
        # The lock is the kernel's, of an open file: another one in this process finds it held.
        def follow() -> None:
            seen.extend(said_while_following(run))

        thread = threading.Thread(target=follow)
        thread.start()
        write(run, "rank-0", line(1, "first"))
        time.sleep(0.2)
        os.rename(run / "logs" / "rank-0.jsonl", run / "logs" / "rank-0.jsonl.1")
        write(run, "rank-0", line(2, "after the file was full"))
        with (run / "logs" / "rank-1.jsonl").open("w") as file:
            file.write('{"time": 3, "step": 1, "mess')
            file.flush()
            time.sleep(0.2)
            file.write('age": "written in two parts"}\n')
        time.sleep(0.2)
        assert thread.is_alive()
    thread.join(5)
    assert seen == ["first", "after the file was full", "written in two parts"]


def said_while_following(run: Path) -> list[str]:
    return [found.values.get("message", found.text) for found in read_lines(run, Wanted(), follow=True)]


def test_what_is_not_there_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run"):
        list(read_lines(tmp_path / "nowhere", Wanted()))
    with pytest.raises(RunError, match="has no logs"):
        list(read_lines(run, Wanted()))
    write(run, "rank-0", line(1, "x"))
    with pytest.raises(RunError, match="rank-7 has logged nothing; there are rank-0"):
        list(read_lines(run, Wanted("rank-7")))


# ------------------------------------------------------------------------------------------------- the command


def test_the_command_prints_text_or_a_json_object_a_line(two: Path, command: Command) -> None:
    status, out, _ = command.run("logs", two, "--rank", 1)
    assert status == 0
    assert out.splitlines()[1].endswith("rank-1  step 10  info  raypretrain.x: goes on")
    write(two, "rank-1", "cut o")
    status, out, _ = command.run("logs", two, "--rank", 1, "--step", "10..", "--json")
    assert [json.loads(row) for row in out.splitlines()] == [
        line(60, "goes on", 10),
        {"who": "rank-1", "cannot_be_read": "cut o"},
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rank", "0", "--driver"], "give either --rank or --driver"),
        (["--level", "loud"], "'loud' is not one of debug, info, warning, error, critical"),
        (["--step", "a..b"], "'a..b' is neither a step nor N..M"),
        (["--rank", "9"], "rank-9 has logged nothing; there are driver, rank-0, rank-1"),
    ],
)
def test_a_wrong_call_is_one_line(two: Path, command: Command, arguments: list[str], says: str) -> None:
    assert says in command.fails("logs", two, *arguments)


def test_a_reader_that_has_had_enough_gets_no_traceback(two: Path) -> None:
    write(two, "rank-0", *(line(100 + i, "x" * 100) for i in range(5000)))
    script = f"{sys.executable} -m raypretrain.cli logs {two} | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0].endswith("starting Ray")
    assert done.stderr == ""
