"""Classifiers and embedders of every family: what ``transformers`` computes from the files is what was trained."""

from __future__ import annotations

import pytest
import torch
from adapters import PAD, SHAPES
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from uneven import spread

from raypretrain.errors import InputError
from raypretrain.models.families import build
from raypretrain.models.heads import (
    POOLINGS,
    SequenceClassifier,
    SequenceRegressor,
    TokenClassifier,
    mean_state,
    starts_of,
)
from raypretrain.models.releasing import Special, save_classifier, save_embedder, save_token_classifier

LENGTHS = torch.tensor([30, 1, 17])
SPECIAL = Special(PAD, 1, 2)
CASES = [(family, pooling) for family, shape in SHAPES.items() for pooling in POOLINGS[shape.objective]]


def padded(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [3, 30] padded on the right, and the mask of what is text."""
    ids = torch.randint(PAD + 1, vocabulary, (3, 30), generator=torch.Generator().manual_seed(5))
    real = torch.arange(30) < LENGTHS[:, None]
    return ids.where(real, PAD), real


def near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().max() < 1e-4 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_a_released_classifier_of_texts_scores_a_padded_batch_alike(family, pooling, tmp_path):
    classifier = spread(SequenceClassifier(build(SHAPES[family]), 3, pooling))
    before = {name: weight.clone() for name, weight in classifier.state_dict().items()}
    save_classifier(classifier, tmp_path, ["bad", "fair", "good"], SPECIAL)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    ids, real = padded(SHAPES[family].vocabulary)
    with torch.no_grad():
        ours = classifier(ids, LENGTHS)
        assert near(ours, theirs(ids, attention_mask=real.long()).logits)
        # Padding is nothing: each text by itself scores the same.
        alone = [classifier(row[None, :n], n[None]) for row, n in zip(ids, LENGTHS, strict=True)]
    assert near(ours, torch.cat(alone))
    after = classifier.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.mark.parametrize("family", SHAPES)
def test_a_released_regressor_gives_the_numbers_themselves(family, tmp_path):
    model = spread(SequenceRegressor(build(SHAPES[family]), "mean", mean=7.0, deviation=2.5))
    model.one.copy_(torch.randn(model.one.shape, generator=torch.Generator().manual_seed(3)) / 10)
    save_classifier(model, tmp_path, ["value"], SPECIAL, "regression")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.problem_type == "regression"
    ids, real = padded(SHAPES[family].vocabulary)
    with torch.no_grad():
        assert near(model(ids, LENGTHS), theirs(ids, attention_mask=real.long()).logits)


@pytest.mark.parametrize("family", SHAPES)
def test_a_released_classifier_of_tokens_scores_a_padded_batch_alike(family, tmp_path):
    classifier = spread(TokenClassifier(build(SHAPES[family]), 5))
    save_token_classifier(classifier, tmp_path, list("abcde"), SPECIAL)
    theirs = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    ids, real = padded(SHAPES[family].vocabulary)
    with torch.no_grad():
        ours = classifier(ids, starts_of(LENGTHS, 30))
        scores = theirs(ids, attention_mask=real.long()).logits
    assert near(ours[real], scores[real])


@pytest.mark.parametrize("family", SHAPES)
def test_a_released_embedder_gives_the_states_whose_mean_was_trained(family, tmp_path):
    network = spread(build(SHAPES[family]))
    save_embedder(dict(network.state_dict()), network.shape, tmp_path, SPECIAL)
    theirs = AutoModel.from_pretrained(tmp_path).eval()
    ids, real = padded(SHAPES[family].vocabulary)
    with torch.no_grad():
        states = theirs(ids, attention_mask=real.long()).last_hidden_state
        mean = (states * real[..., None]).sum(1) / LENGTHS[:, None]
        assert near(mean_state(network, ids, LENGTHS), mean)


def test_as_many_labels_as_scores_are_wanted(tmp_path):
    with pytest.raises(InputError, match="3 labels for 2 scores"):
        save_classifier(
            SequenceClassifier(build(SHAPES["llama"]), 2, "mean"), tmp_path, ["a", "b", "c"], SPECIAL
        )


def test_a_pooling_that_means_nothing_is_refused():
    with pytest.raises(ValueError, match="pooling"):
        SequenceClassifier(build(SHAPES["bert"]), 2, "last")
