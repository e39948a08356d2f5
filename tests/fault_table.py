"""The fault schedule as a table: what was broken, how, what it cost, whether the run was exact, whether it passed.

A test of the schedule carries ``@pytest.mark.row(N, "what is broken")``. The fixture ``account`` takes the rest of its
line; a test without it has a line all the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

FAULTS = Path(__file__).parent / "faults"

SCHEDULE = {
    1: "a worker is killed in mid-step",
    2: "a worker is killed while a checkpoint is written",
    3: "a node is lost",
    4: "the driver dies",
    5: "a node is to be reclaimed",
    6: "SIGTERM, or ray job stop",
    7: "a hang",
    8: "other numbers of workers",
    9: "a flipped bit in a checkpoint",
    10: "a checkpoint's file missing or cut short",
    11: "Ray's own snapshot torn",
    12: "the disk full while saving",
    13: "object storage that fails",
    14: "truncated files",
    15: "a shard swapped under its name",
    16: "files added or removed before a resume",
    17: "text that is none",
    18: "odd ends of lines",
    19: "nothing, too little, one huge document",
    20: "NaN or a loss spike",
    21: "a stale lock of the extension builder",
    22: "a base model that does not fit",
    23: "a base model that would run code",
    24: "a secret in a recipe or the environment",
    25: "trials of a search die and diverge",
    26: "a worker is killed every 20 s",
}

Account = Callable[..., None]


@pytest.fixture
def account(request: pytest.FixtureRequest) -> Account:
    """Takes what a line of the table says of this test; may be called several times.

    ``how``: by which signal and when, which change of a file; ``lost``: steps repeated, records left out;
    ``seconds``: to recover; ``exact``: whether all batches, and the losses, were those of an undisturbed run;
    ``note``: whatever has to be said below the table.
    """
    values: dict[str, Any] = {}
    request.node.user_properties.append(("account", values))

    def take(**said: Any) -> None:
        unknown = said.keys() - {"how", "lost", "seconds", "exact", "note"}
        assert not unknown, f"the table of faults has no {unknown}"
        values.update(said)

    return take


@dataclass
class Line:
    """The tests of a row that say the same of how it was broken."""

    row: int
    what: str
    how: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    exact: list[bool] = field(default_factory=list)

    def add(self, outcome: str, said: dict[str, Any]) -> None:
        """Count a test, and take what it said."""
        setattr(self, outcome, getattr(self, outcome) + 1)
        if said.get("lost") and str(said["lost"]) not in self.lost:
            self.lost.append(str(said["lost"]))
        if said.get("seconds") is not None:
            self.seconds.append(said["seconds"])
        if said.get("exact") is not None:
            self.exact.append(said["exact"])

    @property
    def cells(self) -> list[str]:
        """As in the table."""
        tests = self.passed + self.failed + self.skipped
        of = f" ({self.passed} of {tests} tests)" if tests > 1 else ""
        verdict = "NO" if self.failed else "skipped" if self.skipped == tests else "yes"
        slowest = f"{max(self.seconds):.1f} s" if self.seconds else ""
        exact = ("yes" if all(self.exact) else "NO") if self.exact else ""
        return [str(self.row), self.what, self.how, "; ".join(self.lost), slowest, exact, verdict + of]


def pytest_configure(config: pytest.Config) -> None:
    """The mark."""
    config.addinivalue_line("markers", "row(number, what): a row of the fault schedule, for its table")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have every report of a marked test say which row it is."""
    for item in items:
        for mark in item.iter_markers("row"):
            number, *what = mark.args
            item.user_properties.append(("row", (number, *what)))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A schedule with a row of which no test ran has not passed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    lines, _ = gather(reporter.stats) if reporter else ([], [])
    if exitstatus == pytest.ExitCode.OK and lines and missing_of(lines, session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def missing_of(lines: list[Line], config: pytest.Config) -> list[int]:
    """The rows of which no test ran, where all were asked for."""
    return sorted(SCHEDULE.keys() - {line.row for line in lines}) if ran_all(config) else []


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table, if a test of the schedule ran."""
    lines, notes = gather(terminalreporter.stats)
    if not lines:
        return
    terminalreporter.section("the fault schedule")
    terminalreporter.write(draw(lines, missing_of(lines, config)))
    for row, note in notes:
        terminalreporter.write_line(f"row {row}: {note}")


def gather(stats: dict[str, list[Any]]) -> tuple[list[Line], list[tuple[int, str]]]:
    """The lines of the table in order, and the notes below it, of pytest's reports by outcome."""
    told = [(outcome, said, row) for outcome, report in _outcomes(stats) for said, row in _told(report)]
    lines: dict[tuple[int, str, str], Line] = {}
    hows: dict[tuple[int, str], str] = {}
    # Those that say how come first: the others of their row count with them.
    for outcome, said, (number, what) in sorted(told, key=lambda one: "how" not in one[1]):
        how = said.get("how") or hows.get((number, what), "")
        hows.setdefault((number, what), how)
        lines.setdefault((number, what, how), Line(number, what, how)).add(outcome, said)
    notes = {(row[0], said["note"]) for _, said, row in told if "note" in said}
    return [lines[key] for key in sorted(lines)], sorted(notes)


def draw(lines: list[Line], missing: list[int]) -> str:
    """The table as text."""
    table = Table("row", "what broke", "how", "lost", "recovered in", "exact", "passed", show_lines=False)
    rows = [line.cells for line in lines]
    rows += [[str(row), SCHEDULE[row], "", "", "", "", "MISSING: no test of it ran"] for row in missing]
    for cells in sorted(rows, key=lambda cells: int(cells[0])):
        table.add_row(*cells)
    text = io.StringIO()
    Console(file=text, width=170).print(table)
    return text.getvalue()


def ran_all(config: pytest.Config) -> bool:
    """Whether all of tests/faults was asked for, the long tests too."""
    chosen = (Path(str(argument).partition("::")[0]).resolve() for argument in config.args)
    everything = any(path == FAULTS or path in FAULTS.parents for path in chosen)
    return everything and not config.option.markexpr and not config.option.keyword


def _outcomes(stats: dict[str, list[Any]]) -> Iterator[tuple[str, Any]]:
    outcomes = {"passed": "passed", "skipped": "skipped", "failed": "failed", "error": "failed"}
    return ((outcome, report) for stat, outcome in outcomes.items() for report in stats.get(stat, []))


def _told(report: Any) -> Iterator[tuple[dict[str, Any], tuple[int, str]]]:
    """What a test said of itself, for each row that it is of."""
    said: dict[str, Any] = {}
    for name, value in getattr(report, "user_properties", []):
        said |= value if name == "account" else {}
    for name, value in getattr(report, "user_properties", []):
        if name == "row":
            number, *what = value
            yield said, (number, what[0] if what else SCHEDULE[number])
