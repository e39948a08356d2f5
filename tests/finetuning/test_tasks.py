"""Tasks: their splits, their labels, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_task import sentences, write_csv

from raypretrain.errors import InputError
from raypretrain.finetuning.rival import rival
from raypretrain.finetuning.tasks import TaskConfig, load_task, stratified


@pytest.fixture
def config(data: Path):
    def make(**keys: Any) -> TaskConfig:
        files = {"train": {"path": str(data / "train.csv")}, "test": {"path": str(data / "test.csv")}}
        return TaskConfig.model_validate({"name": "mood"} | files | keys)

    return make


def _fails(config: TaskConfig, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_task(config)
    assert message in str(caught.value)


def test_the_validation_split_is_stable_and_disjoint(config, data, tmp_path):
    task = load_task(config())
    assert len(task.train) + len(task.validation) == 240
    assert 10 <= len(task.validation) <= 40
    aside = {example.text for example in task.validation}
    assert not aside & {example.text for example in task.train}
    # A third of the examples, in reverse: most are on the side where they were.
    third = write_csv(tmp_path / "third.csv", sentences(240, seed=0)[::-3])
    again = {example.text for example in load_task(config(train={"path": str(third)})).validation}
    before = aside & {text for text, _ in sentences(240, seed=0)[::-3]}
    assert len(again & before) >= 0.6 * len(before)
    labels = [example.label for example in task.validation]
    assert abs(labels.count("pos") - labels.count("neg")) <= 1


def test_a_validation_file_is_taken_whole_and_validation_examples_limits_it(config, tmp_path):
    path = write_csv(tmp_path / "validation.csv", sentences(40, seed=2))
    task = load_task(config(validation={"path": str(path)}))
    assert (len(task.train), len(task.validation)) == (240, 40)
    fewer = load_task(config(validation={"path": str(path)}, validation_examples=10))
    assert np.bincount(fewer.kind.strata(fewer.validation)).tolist() == [5, 5]


def test_draws_are_stratified_and_differ_by_seed():
    classes = np.array([0] * 90 + [1] * 9 + [2])
    first, second = stratified(classes, 20, seed=0), stratified(classes, 20, seed=1)
    assert np.bincount(classes[first]).tolist() == [18, 1, 1]
    assert first.tolist() == stratified(classes, 20, seed=0).tolist()
    assert first.tolist() != second.tolist()
    assert len(set(first.tolist())) == 20
    assert stratified(classes, 100, seed=3).tolist() == list(range(100))


def test_labels_keep_the_recipes_order(config):
    assert load_task(config()).kind.labels == ("neg", "pos")
    task = load_task(config(labels=["pos", "neg"]))
    assert task.kind.labels == ("pos", "neg")
    example = task.train[0]
    assert task.kind.targets([example]).tolist() == [task.kind.labels.index(example.label)]


def test_what_is_wrong_with_labels_is_said(config, data, tmp_path):
    one = write_csv(tmp_path / "one.csv", [(text, "pos") for text, _ in sentences(30, seed=4)])
    _fails(
        config(train={"path": str(one)}), "all examples have the label 'pos'; a classifier needs at least two"
    )
    other = write_csv(tmp_path / "other.csv", [("some text", "pos"), ("more text", "negg")])
    _fails(
        config(test={"path": str(other)}),
        f"{other}:3: the label 'negg' is not among those to learn ('neg', 'pos'); did you mean 'neg'?",
    )
    _fails(config(labels=["pos", "neg", "mixed"]), "no example has the label 'mixed'")
    _fails(config(labels=["pos", "mixed"]), "the label 'neg' is not among those to learn ('pos', 'mixed')")


def test_texts_in_training_and_test_set_are_refused_or_dropped(config, tmp_path):
    rows = sentences(240, seed=0)
    path = write_csv(tmp_path / "test.csv", [*sentences(20, seed=1), (f"{rows[7][0]} ", rows[7][1]), rows[9]])
    _fails(config(test={"path": str(path)}), f"2 of its texts are also in {path}, e.g. '{rows[7][0][:20]}")
    task = load_task(config(test={"path": str(path)}, overlap="drop"))
    assert len(task.train) + len(task.validation) == 238
    assert len(task.test) == 22


def test_more_examples_than_there_are_is_refused(config):
    _fails(config(examples=1000), "examples: 1000, but there are 2")


def test_too_few_examples_for_a_validation_split_is_refused(config, tmp_path):
    path = write_csv(tmp_path / "few.csv", sentences(4, seed=5))
    _fails(config(train={"path": str(path)}, validation_share=0.001), "sets aside none of them of 4 examples")


def test_the_fingerprint_changes_with_any_text_label_or_draw(config, tmp_path):
    rows = sentences(240, seed=0)
    prints = {load_task(config()).fingerprint, load_task(config(examples=100)).fingerprint}
    for i, changed in enumerate([(rows[3][0] + "!", rows[3][1]), (rows[3][0], "pos"), (rows[3][0], "neg")]):
        path = write_csv(tmp_path / f"{i}.csv", [*rows[:3], changed, *rows[4:]])
        prints.add(load_task(config(train={"path": str(path)})).fingerprint)
    assert len(prints) == 4  # one of the two labels is the one that it had


def test_the_rival_learns_from_the_same_examples(config):
    task = load_task(config(examples=150))
    found = rival(task, seed=1)
    assert found["accuracy"] > 0.8
    assert found["examples"] == 150
    assert rival(task, seed=1)["accuracy"] == found["accuracy"]
    assert set(found) == {"accuracy", "macro_f1", "loss", "seconds", "examples"}


def test_near_duplicates_of_the_test_set_are_not_trained_on(config, tmp_path):
    rows = sentences(240, seed=0)
    near = (rows[7][0].upper() + " !!", rows[7][1])
    path = write_csv(tmp_path / "test.csv", [*sentences(20, seed=1), near])
    task = load_task(config(test={"path": str(path)}))
    assert task.dropped == 1
    assert rows[7][0] not in {example.text for example in [*task.train, *task.validation]}


def test_a_test_share_is_set_aside_before_the_validation_share(config):
    task = load_task(config(test=None, test_share=0.25))
    assert (len(task.test), len(task.validation), len(task.train)) == (60, 18, 162)
    texts = [{example.text for example in part} for part in (task.train, task.validation, task.test)]
    assert len(texts[0] | texts[1] | texts[2]) == 240
