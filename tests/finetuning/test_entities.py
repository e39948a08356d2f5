"""Tags of words: IOB2, entities and their scores, as conlleval has them."""

from __future__ import annotations

import random

import pytest

from raypretrain.errors import InputError
from raypretrain.finetuning.conll import as_tagged
from raypretrain.finetuning.entities import check_iob2, entities, entity_scores, repair_iob2


@pytest.mark.parametrize(
    ("tags", "token", "what"),
    [
        ("O I-PER", 1, "the tag 'I-PER' goes on with an entity that has not begun (after 'O')"),
        ("I-PER", 0, "at the beginning of a sentence"),
        ("B-PER I-LOC", 1, "after 'B-PER'"),
        ("B-PER I-PER I-LOC", 2, "after 'I-PER'"),
        ("O B-PER S-PER", 2, "the tag 'S-PER' is neither O nor B-TYPE nor I-TYPE"),
        ("B", 0, "the tag 'B' is neither"),
        ("B- I-", 0, "the tag 'B-' is neither"),
        ("o", 0, "the tag 'o' is neither"),
    ],
)
def test_the_word_whose_tag_is_wrong_is_named(tags, token, what):
    flaw = check_iob2(tags.split())
    assert flaw is not None
    assert flaw.token == token
    assert what in flaw.what


@pytest.mark.parametrize("tags", ["", "O", "B-PER", "B-PER B-PER I-PER O B-LOC I-LOC", "B-x-y I-x-y"])
def test_well_formed_tags_have_no_flaw_and_stay_as_they_are(tags):
    assert check_iob2(tags.split()) is None
    assert repair_iob2(tags.split()) == tags.split()


def test_repaired_tags_are_well_formed_and_hold_the_same_entities():
    tags = ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-PER"]
    repaired = repair_iob2(tags)
    assert repaired == ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "B-PER"]
    assert check_iob2(repaired) is None
    assert entities(tags) == entities(repaired)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("O I-PER I-PER", [("PER", 1, 3)]),
        ("B-PER I-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("I-PER O I-PER", [("PER", 0, 1), ("PER", 2, 3)]),
        ("X-PER I-PER", [("PER", 1, 2)]),
        ("O O", []),
    ],
)
def test_entities_are_read_as_conlleval_reads_them(tags, found):
    assert entities(tags.split()) == found


def test_an_entity_counts_only_with_its_type_and_both_ends():
    truth = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"], ["B-LOC"]]
    guess = [["B-PER", "O", "O", "B-LOC"], ["B-PER", "O"], ["I-LOC"]]
    scores = entity_scores(truth, guess)
    assert scores["precision"] == scores["recall"] == scores["f1"] == pytest.approx(2 / 4)
    assert scores["per_type"] == [
        {"name": "LOC", "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2},
        {"name": "ORG", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
        {"name": "PER", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
    ]


def test_precision_and_recall_differ_where_too_much_is_found():
    scores = entity_scores([["B-PER", "O", "O", "O"]], [["B-PER", "B-PER", "O", "B-LOC"]])
    assert (scores["precision"], scores["recall"]) == (pytest.approx(1 / 3), 1.0)
    assert scores["f1"] == pytest.approx(0.5)
    nothing = entity_scores([["O"]], [["O"]])
    assert (nothing["f1"], nothing["per_type"]) == (0.0, [])


def test_sentences_of_different_lengths_are_no_pair():
    with pytest.raises(ValueError, match="2 words, but 1"):
        entity_scores([["O", "O"]], [["O"]])


def test_scores_are_those_of_seqeval():
    metrics = pytest.importorskip("seqeval.metrics")
    chance = random.Random(1)
    kinds = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    guess = [[chance.choice(kinds) for _ in range(12)] for _ in range(60)]
    truth = [
        repair_iob2([tag if chance.random() < 0.7 else chance.choice(kinds) for tag in tags])
        for tags in guess
    ]
    ours, report = entity_scores(truth, guess), metrics.classification_report(truth, guess, output_dict=True)
    for name in ("precision", "recall", "f1"):
        assert ours[name] == pytest.approx(getattr(metrics, f"{name}_score")(truth, guess), abs=1e-12)
    for row in ours["per_type"]:
        theirs = report[row["name"]]
        assert row["f1"] == pytest.approx(theirs["f1-score"], abs=1e-12)
        assert row["support"] == theirs["support"]


def test_rows_of_words_and_tags_are_checked():
    assert as_tagged({"words": ["a", "b"], "tags": ["x", 3]}, "f:1") == (["a", "b"], ["x", "3"])
    assert as_tagged({"t": ["a"], "ner": ["O"]}, "f:1", "t", "ner") == (["a"], ["O"])
    for row, message in (
        ({"tags": ["x"]}, "f:1: there is no column 'words' (columns: 'tags')"),
        ({"words": "a b", "tags": ["x"]}, "f:1: there is no list of texts in the column 'words'"),
        ({"words": [], "tags": []}, "f:1: there is no list of texts in the column 'words'"),
        ({"words": ["a", "b"], "tags": ["x"]}, "f:1: has 2 words, but 1 tags"),
        ({"words": ["a", ""], "tags": ["x", "y"]}, "f:1: column 'words': entry 2 is '', not a text"),
        ({"words": ["a"], "tags": [None]}, "f:1: column 'tags': entry 1 is None, not a text"),
    ):
        with pytest.raises(InputError) as caught:
            as_tagged(row, "f:1")
        assert str(caught.value).startswith(message)
