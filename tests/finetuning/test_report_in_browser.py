"""The report in a real browser: all pictures are drawn, nothing complains, a phone need not scroll sideways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import NAMES, Browser, browser, chromium
from report_folder import write_folder

from raypretrain.finetuning.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason=f"none of {', '.join(NAMES)} is installed"),
]

UNDRAWN = """[...document.querySelectorAll("svg, svg .mark, svg polyline, svg text")].filter(one => {
  const box = one.getBoundingClientRect();
  return one.tagName === "polyline" ? box.width + box.height === 0 && one.points.length > 1
                                    : box.width === 0 || box.height === 0;
}).map(one => one.outerHTML)"""

TOO_WIDE = """[...document.body.querySelectorAll("*")].filter(one =>
  one.getBoundingClientRect().right > document.documentElement.clientWidth + 1 &&
  !one.parentElement.closest(".scroll")).map(one => one.outerHTML.slice(0, 200))"""

FIRST_TRIALS = """[...document.querySelectorAll("#task1-leaderboard ~ .scroll tbody")].slice(0, 1)
  .flatMap(body => [...body.rows].map(row => row.cells[7].dataset.value))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return write_report(write_folder(folder, ("topics", "names", "stability"), counts=(100, 400)))


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
def test_every_picture_is_drawn_nothing_is_too_wide_and_the_console_is_empty(
    chrome: Browser, page: Path, width: int, dark: bool
):
    chrome.messages.clear()
    chrome.open(page, width, dark)
    assert chrome.value("document.querySelectorAll('svg:not(.swatch)').length") == 18
    assert chrome.value(UNDRAWN) == []
    assert chrome.value(TOO_WIDE) == []
    assert chrome.value("document.documentElement.scrollWidth <= window.innerWidth")
    assert chrome.messages == []


def test_text_and_page_differ_in_both_schemes(chrome: Browser, page: Path):
    colours = []
    for dark in (False, True):
        chrome.open(page, dark=dark)
        style = "getComputedStyle(document.body)"
        colours.append((chrome.value(f"{style}.color"), chrome.value(f"{style}.backgroundColor")))
    (text, ground), (dark_text, dark_ground) = colours
    assert len({text, ground, dark_text, dark_ground}) == 4


def test_a_head_of_the_leaderboard_sorts_it_both_ways_and_what_is_missing_stays_last(
    chrome: Browser, page: Path
):
    chrome.open(page)
    for largest_first in (True, False):
        chrome.value("document.querySelectorAll('#task1-leaderboard ~ .scroll th button')[7].click()")
        values = chrome.value(FIRST_TRIALS)
        there = [float(value) for value in values if value]
        assert len(there) > 20
        assert there == sorted(there, reverse=largest_first)
        assert values[len(there) :] == [""] * (len(values) - len(there))
    assert chrome.messages == []


def test_the_console_is_heard_here(chrome: Browser, tmp_path: Path):
    bad = tmp_path / "bad.html"
    bad.write_text("<!doctype html><title>bad</title><script>nothing.there()</script>")
    chrome.messages.clear()
    chrome.open(bad)
    assert any("nothing is not defined" in message for message in chrome.messages)
    chrome.messages.clear()
