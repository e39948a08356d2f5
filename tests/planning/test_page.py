"""The page of a plan stands alone, shows what the command says, and escapes what a user wrote."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command import Command

from raypretrain.planning.fitting import fit_law
from raypretrain.planning.hardware import GPUS
from raypretrain.planning.money import Prices
from raypretrain.planpage import pictures, write_page

from test_fitting import runs  # isort: skip
from test_plan_command import SMALL  # isort: skip


class Page(HTMLParser):
    """What of a page would be loaded or run, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "onclick", "onerror")]
        if tag in ("script", "iframe", "link", "img"):
            self.loads.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone_and_says_what_the_command_says(command: Command, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    status, out, _ = command.run("plan", SMALL, "--gpu", "cpu", "--html", page)
    assert status == 0
    read = Page(page.read_text(encoding="utf-8"))
    assert read.loads == []
    for line in out.splitlines()[:4]:
        assert line.split(maxsplit=1)[1].strip() in read.text
    assert read.text.count("Time of a step") == 1


def test_what_a_user_wrote_is_escaped(command: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "<img src=x>.yaml"
    recipe.write_text("corpus: {sources: [{path: '<script>alert(1)</script>/*.jsonl'}]}\n")
    page = tmp_path / "plan.html"
    status, _, error = command.run("plan", recipe, "--html", page)
    assert status == 0, error
    read = Page(page.read_text(encoding="utf-8"))
    assert read.loads == []
    assert "<script>alert(1)</script>" in read.text


def test_a_page_that_cannot_be_written_is_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file/plan.html" in command.fails("plan", SMALL, "--html", tmp_path / "file" / "plan.html")


@pytest.mark.parametrize("fitted", [False, True])
def test_every_picture_is_whole(fitted: bool) -> None:
    from raypretrain.config import load_recipe
    from raypretrain.training.forecast import forecast
    from raypretrain.training.recipe import PretrainRecipe

    found = forecast(load_recipe(SMALL, PretrainRecipe), GPUS["h100"], 8, Prices())
    if fitted:
        some = fit_law(runs(0.01))
        rows = [{**vars(run), "fitted": some.law.loss(run.parameters, run.tokens)} for run in some.runs]
        found["fit"] = {"runs": rows, "predicted": some.predict(1e8, 2e9)}
    drawn = pictures(found)
    assert len(drawn) == 3 + fitted
    for _, picture, _ in drawn:
        ElementTree.fromstring(picture)
    if fitted:
        assert drawn[-1][1].count("<circle") == len(runs(0.01)) + 1


def test_where_nothing_fits_there_is_a_page_all_the_same(tmp_path: Path) -> None:
    from raypretrain.config import load_recipe
    from raypretrain.training.forecast import forecast
    from raypretrain.training.recipe import PretrainRecipe

    recipe = load_recipe(SMALL, PretrainRecipe, ["model.preset=llama-405b"])
    found = forecast(recipe, GPUS["l4"], 8, Prices())
    write_page({"recipe": "huge.yaml", **found}, tmp_path / "plan.html")
    assert "NO: " in (tmp_path / "plan.html").read_text(encoding="utf-8")
