"""The report of a search: every section, every picture, nothing from elsewhere, and no text that acts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from report_folder import write_folder

from raypretrain.errors import RunError
from raypretrain.finetuning.history import record
from raypretrain.finetuning.report import report_data, write_report

pytestmark = pytest.mark.unit

PARTS = "leaderboard comparison curves forgetting search counts labels hardest ended"
SVG = "{http://www.w3.org/2000/svg}"
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page, with their attributes and text; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def pictures(page: str, label: str) -> list[ElementTree.Element]:
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    return [svg for svg in found if label in svg.get("aria-label", "")]


def marks(svg: ElementTree.Element) -> int:
    return sum("mark" in (element.get("class") or "").split() for element in svg.iter(f"{SVG}path"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path, counts=(100, 400))


def test_every_task_has_every_section_and_the_contents_lead_to_each(folder: Path):
    page = Page(page_of(folder))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    wanted = [f"task{i}-{part}" for i in (1, 2) for part in PARTS.split()]
    assert len(ids) == len(set(ids))
    assert set(ids) == {"task1", "task2", "costs", *wanted}
    assert {link["href"] for link in page.all("a")} == {f"#{id}" for id in ids}


def test_every_picture_is_well_formed_and_has_a_point_for_each_trial_that_it_can_show(folder: Path):
    page = page_of(folder)
    rows = json.loads((folder / "results.json").read_text())["rows"]
    for picture, task in zip(pictures(page, "validation accuracy by epoch"), ["topics"], strict=True):
        assert marks(picture) == sum(r["task"] == task and r["status"] != "failed" for r in rows)
    for picture, task in zip(pictures(page, "against forgetting"), ["topics", "names"], strict=True):
        assert marks(picture) == sum(r["task"] == task and "forgetting" in r for r in rows)
    for picture, task in zip(pictures(page, "the settings that vary"), ["topics", "names"], strict=True):
        own = [r for r in rows if r["task"] == task and r["status"] != "failed"]
        assert len(list(picture.iter(f"{SVG}polyline"))) == len(own)
    for picture in pictures(page, "mean and spread over seeds"):
        assert marks(picture) == 6
    assert len(pictures(page, "loss by epoch")) == 2
    assert len(pictures(page, "number of labelled examples")) == 2
    for picture in pictures(page, ""):
        numbers = re.findall(r"-?\d+(?:\.\d+)?", " ".join(p.get("points", "") for p in picture.iter()))
        width, height = map(float, picture.get("viewBox", "").split()[2:])
        assert all(0 <= float(x) <= width for x in numbers[::2])
        assert all(0 <= float(y) <= height for y in numbers[1::2])


def test_the_weights_between_the_base_and_the_best_are_a_table(tmp_path: Path):
    results = json.loads((write_folder(tmp_path, ("topics",)) / "results.json").read_text())
    points = [
        {"share": share, "validation_accuracy": 0.5 + share / 4, "forgetting": share / 8}
        for share in (1, 0.25)
    ]
    best = tmp_path / "trials" / results["best"]["topics"]["trial"]
    assert "WiSE-FT" not in page_of(tmp_path)
    (best / "blend.json").write_text(json.dumps(points))
    text = " ".join(Page(page_of(tmp_path)).text.split())
    table = text[text.index("(WiSE-FT)") :]
    assert table.index("25 % of what was trained") < table.index("100 % of what was trained")
    assert "0.562 0.031" in table
    assert "0.750 0.125" in table


def test_words_that_were_cut_off_are_said(tmp_path: Path):
    results = json.loads((write_folder(tmp_path, ("names",)) / "results.json").read_text())
    assert "beyond adapt.length" not in page_of(tmp_path)
    results["best"]["names"]["test_unseen"] = 0.125
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert "12 % of the test words are beyond adapt.length and count as missed" in page_of(tmp_path)


def test_what_users_wrote_is_shown_and_does_nothing(tmp_path: Path):
    text = page_of(write_folder(tmp_path, ("topics",), labels=[EVIL, "b", "\x00 c"], error=EVIL))
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert page.text.count(EVIL) >= 4
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_a_setting_that_is_markup_does_not_act_in_a_picture_either(tmp_path: Path):
    results = json.loads((write_folder(tmp_path, ("topics",)) / "results.json").read_text())
    for i, row in enumerate(results["rows"]):
        row[f"adapt.{EVIL}"] = EVIL if i % 2 else "plain"
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = page_of(tmp_path)
    (picture,) = pictures(text, "the settings that vary")
    assert any(EVIL in "".join(element.itertext()) for element in picture.iter())
    assert len(Page(text).all("script")) == 1


def test_the_policy_lets_the_one_script_of_the_page_run_and_no_other(folder: Path):
    text = page_of(folder)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [m["content"] for m in Page(text).all("meta") if "http-equiv" in m]
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_nothing_comes_from_elsewhere_and_the_page_is_small(folder: Path):
    text = page_of(folder)
    own = text.replace('xmlns="http://www.w3.org/2000/svg"', "").replace("http-equiv", "")
    assert "http" not in own
    assert not re.search(r"url\(|@import|\bsrc=|fetch\(|XMLHttp", own)
    assert {attributes["href"] for attributes in Page(text).all("link")} == {"data:,"}
    assert len(text.encode()) < 1_000_000


def test_the_page_says_its_language_and_title_and_every_head_of_a_table_its_scope(folder: Path):
    text = page_of(folder)
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.all("html") == [{"lang": "en"}]
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    assert "prefers-color-scheme: dark" in text
    assert re.search(r"<title>.+: \d+ fine-tuning trials</title>", text)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_what_was_not_measured_is_said_in_place_of_a_picture(tmp_path: Path):
    text = page_of(write_folder(tmp_path, ("stability",), forgetting=False))
    assert "Forgetting was not measured" in text
    assert "there is no curve over label counts" in text
    assert "Nothing was counted label by label" in text
    assert "what it forgot was not measured" in text
    assert not pictures(text, "against forgetting")


def test_a_search_of_which_nothing_is_left_but_failures_still_has_a_report(tmp_path: Path):
    results = json.loads((write_folder(tmp_path, ("topics",)) / "results.json").read_text())
    kept = ("trial", "task", "kind", "adapt.way", "adapt.init", "adapt.seed")
    rows = [{k: row[k] for k in kept} | {"status": "failed", "error": "no"} for row in results["rows"]]
    results |= {"rows": rows, "best": {}, "comparison": []}
    (tmp_path / "results.json").write_text(json.dumps(results))
    for log in tmp_path.glob("trials/*/metrics.jsonl"):
        log.unlink()
    text = page_of(tmp_path)
    assert "None of 24 trials was finished" in text
    assert not pictures(text, "epoch")
    assert text.count("<td>failed</td>") == 24


def test_the_data_are_plain_and_agree_with_the_results(folder: Path):
    data = report_data(folder)
    json.dumps(data, allow_nan=False)
    rows = json.loads((folder / "results.json").read_text())["rows"]
    topics = data["tasks"][0]
    assert topics["leaderboard"][0]["trial"] == topics["best"]
    scores = [row["validation"] for row in topics["leaderboard"] if row["validation"] is not None]
    assert scores == sorted(scores, reverse=True)
    assert [(end["status"], end["reason"]) for end in topics["ended"]] == [
        ("failed", "RunError: the loss is no longer a number"),
        ("stopped", "the scheduler ended it early"),
    ]
    assert data["total"]["seconds"] == pytest.approx(sum(row.get("seconds", 0) for row in rows))
    assert sum(cost["trials"] for cost in data["costs"]) == len(rows)
    assert data["total"]["untimed"] == 2
    (best,) = [row for row in rows if row["trial"] == topics["best"]]
    assert f"{best['test_accuracy']:.3f}" in topics["headline"]
    assert "TF-IDF + logistic regression (0.800)" in topics["headline"]


def test_the_headline_counts_an_error_the_right_way_round(tmp_path: Path):
    results = json.loads((write_folder(tmp_path, ("stability",)) / "results.json").read_text())
    best = results["best"]["stability"] | {"test_rmse": 0.2, "forgetting": 0.125, "seconds": 150.0}
    best |= {"cpu_hours": 0.5, "adapt.way": "full", "adapt.init": "base"}
    group = {"task": "stability", "way": "full", "init": "scratch", "score": 0.31, "spread": 0.01, "seeds": 3}
    results |= {"best": {"stability": best}, "comparison": [group]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    headline = report_data(tmp_path)["tasks"][0]["headline"]
    assert "a test rmse of 0.200: 0.110 better than full from scratch (0.310, mean of 3 seeds)" in headline
    assert "0.210 better than TF-IDF + logistic regression (0.410)" in headline
    assert "forgot 0.125 nats a token" in headline
    assert headline.endswith("it took 2.5 min (0.5 CPU-hours).")


def test_more_than_twenty_labels_are_shown_as_the_pairs_most_often_confused(tmp_path: Path):
    folder = write_folder(tmp_path, ("topics",), many_labels=23)
    (task,) = report_data(folder)["tasks"]
    assert not task["confusion"]
    counts = [pair["count"] for pair in task["confused"]]
    assert len(counts) == 20
    assert counts == sorted(counts, reverse=True)
    assert all(pair["truth"] != pair["predicted"] for pair in task["confused"])
    assert "The pairs of labels that the best trial confused most often" in page_of(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no results.json; name the folder of a search"),
        ("{", "results.json: not JSON"),
        ('{"rows": []}', "the results of another version; run the search again"),
    ],
)
def test_a_folder_without_results_is_refused_in_one_line(tmp_path: Path, content: Any, said: str):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(RunError, match=re.escape(said)):
        write_report(tmp_path)


def test_what_the_base_has_seen_is_said_or_why_it_is_not_known(tmp_path: Path):
    results = json.loads((write_folder(tmp_path, ("topics",)) / "results.json").read_text())
    for seen, said in (
        ({"texts": 3, "of": 400, "some": ["a <b>text</b>"]}, "3 of the 400 test texts stand in the text"),
        (
            {"texts": None, "of": 400, "some": [], "why": "a file has changed"},
            "pretrained on: a file has changed.",
        ),
    ):
        results["tasks"]["topics"]["seen"] = seen
        (tmp_path / "results.json").write_text(json.dumps(results))
        page = write_report(tmp_path).read_text(encoding="utf-8")
        assert said in page
        assert "<b>text</b>" not in page


def test_trials_that_went_on_from_anothers_state_are_told(tmp_path: Path):
    folder = write_folder(tmp_path)
    [task, *_] = report_data(folder)["tasks"]
    assert task["exchanges"] == []
    assert "went on from the state of another" not in page_of(folder)
    settings = {
        key: {"learning_rate": rate} for key, rate in {"before": 1e-5, "theirs": 1e-3, "after": 8e-4}.items()
    }
    record(folder / "trials" / task["best"], {"epoch": 2, "from": EVIL} | settings)
    [change] = report_data(folder)["tasks"][0]["exchanges"]
    assert (change["trial"], change["epoch"]) == (task["best"], 2)
    page = page_of(folder)
    assert "went on from the state of another" in page
    assert EVIL not in page
