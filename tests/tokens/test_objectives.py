"""What is to be predicted: which tokens, of which the model is given what, and that only the place decides."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import ValidationError
from real_text import reviews

from raypretrain.errors import InputError
from raypretrain.tokens.objectives import (
    IGNORED,
    Causal,
    MaskConfig,
    Masked,
    make_objective,
    whole_sequences,
)
from raypretrain.tokens.packing import Sequences, pack
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from raypretrain.tokens.tokenizer_fixed import AminoAcids, Bytes
from raypretrain.tokens.tokenizer_specials import MASK

TEXTS = reviews(60)
LENGTH = 64


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer(iter(TEXTS), TokenizerConfig(vocabulary=500), path, 1, controls=[MASK])


@pytest.fixture(scope="module")
def sequences(tokenizer: Tokenizer) -> Sequences:
    ids = tokenizer.encode_batch(TEXTS)
    marks = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    return pack(ids, LENGTH, "best-fit", **marks)[1]  # type: ignore[arg-type]


def places(number: int, window: int = 3) -> np.ndarray:
    return np.stack([np.full(number, window), np.ones(number, int), np.arange(number)], axis=1)


def masked(tokenizer: Tokenizer, seed: int = 0, **settings: Any) -> Masked:
    made = make_objective("masked", MaskConfig(**settings), tokenizer, seed)
    assert isinstance(made, Masked)
    return made


def test_causal_targets_are_the_next_tokens_that_have_something_before_them(
    tokenizer: Tokenizer, sequences: Sequences
) -> None:
    objective = make_objective("causal", MaskConfig(), tokenizer, 0)
    inputs, targets = objective.examples(sequences, places(len(sequences)))
    np.testing.assert_array_equal(inputs, sequences.tokens)
    predicted = sequences.predicted(tokenizer.bos)
    np.testing.assert_array_equal(targets[:, :-1] != IGNORED, predicted[:, 1:])
    assert (targets[:, -1] == IGNORED).all()
    here = targets[:, :-1] != IGNORED
    np.testing.assert_array_equal(targets[:, :-1][here], sequences.tokens[:, 1:][here])
    np.testing.assert_array_equal((targets != IGNORED).sum(axis=1), objective.counts(sequences))


def test_rows_of_held_out_text_predict_all_but_their_first_token() -> None:
    tokens = np.array([[5, 6, 7, 8], [1, 2, 3, 4]], np.int32)
    objective = Causal(bos=1).held_out()
    _, targets = objective.examples(whole_sequences(tokens), places(2))
    assert targets.tolist() == [[6, 7, 8, IGNORED], [2, 3, 4, IGNORED]]
    assert targets.dtype == np.int64


@pytest.mark.parametrize("unit", ["token", "word", "span"])
@pytest.mark.parametrize("rate", [0.15, 0.3, 0.9])
def test_of_every_sequence_the_same_share_is_hidden_and_nothing_special(
    tokenizer: Tokenizer, sequences: Sequences, unit: Literal["token", "word", "span"], rate: float
) -> None:
    objective = masked(tokenizer, rate=rate, unit=unit)
    inputs, targets = objective.examples(sequences, places(len(sequences)))
    special = np.array([tokenizer.is_special(t) for t in range(tokenizer.vocabulary)])
    candidates = ~special[sequences.tokens] & (np.arange(LENGTH) < sequences.filled[:, None])
    hidden = targets != IGNORED
    np.testing.assert_array_equal(hidden.sum(axis=1), np.rint(rate * candidates.sum(axis=1)))
    np.testing.assert_array_equal(hidden.sum(axis=1), objective.counts(sequences))
    assert not (hidden & ~candidates).any()
    np.testing.assert_array_equal(targets[hidden], sequences.tokens[hidden])
    np.testing.assert_array_equal(inputs[~hidden], sequences.tokens[~hidden])


def test_eight_of_ten_are_masked_one_is_random_and_one_stays(
    tokenizer: Tokenizer, sequences: Sequences
) -> None:
    inputs, targets = masked(tokenizer, rate=0.5).examples(sequences, places(len(sequences)))
    hidden = targets != IGNORED
    given, wanted = inputs[hidden], targets[hidden]
    assert len(given) > 3000
    assert (given == tokenizer.mask).mean() == pytest.approx(0.8, abs=0.03)
    assert (given == wanted).mean() == pytest.approx(0.1, abs=0.02)
    drawn = given[(given != tokenizer.mask) & (given != wanted)]
    assert len(np.unique(drawn)) > 100
    assert not any(tokenizer.is_special(int(token)) for token in drawn)
    whole, _ = masked(tokenizer, rate=0.5, masked=1.0, random=0.0).examples(sequences, places(len(sequences)))
    assert (whole[hidden] == tokenizer.mask).all()


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_only_the_seed_and_the_place_decide(
    tokenizer: Tokenizer, sequences: Sequences, unit: Literal["token", "word", "span"]
) -> None:
    objective, where = masked(tokenizer, unit=unit), places(len(sequences))
    together = objective.examples(sequences, where)
    for start in range(0, len(sequences), 7):
        part = slice(start, start + 7)
        for alone, whole in zip(objective.examples(sequences[part], where[part]), together, strict=True):
            np.testing.assert_array_equal(alone, whole[part])
    others = [
        masked(tokenizer, seed=1, unit=unit).examples(sequences, where),
        objective.examples(sequences, places(len(sequences), window=4)),
        objective.held_out().examples(sequences, where),
    ]
    for other in others:
        assert ((other[1] != IGNORED) != (together[1] != IGNORED)).any(axis=1).mean() > 0.9


def test_words_are_hidden_whole_but_for_one(tokenizer: Tokenizer) -> None:
    text = "unbelievable understanding of misinterpretation, notwithstanding 1234567 — naïveté!"
    ids = np.array([tokenizer.encode(text)], np.int32)
    words = np.cumsum([0, *(1 - _same_word(tokenizer, text)).tolist()])
    assert len(set(words)) < ids.shape[1] - 10
    sequences = whole_sequences(ids)
    for index in range(20):
        _, targets = masked(tokenizer, rate=0.4, unit="word").examples(sequences, np.array([[0, 0, index]]))
        hidden = targets[0] != IGNORED
        cut = [w for w in set(words) if 0 < hidden[words == w].sum() < (words == w).sum()]
        assert len(cut) <= 1


def _same_word(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Whether each token but the first goes on with the word of the one before it: reckoned from the characters."""
    spans = tokenizer.spans(text)
    letters = [text[start:stop][:1].isalnum() for start, stop in spans]
    ends = [text[start:stop][-1:].isalnum() for start, stop in spans]
    return np.array([a and b for a, b in zip(letters[1:], ends[:-1], strict=True)], int)


def test_spans_are_runs_of_about_four_tokens() -> None:
    sequences = whole_sequences(np.full((200, 512), 7, np.int32))
    _, targets = masked(Bytes(), rate=0.15, unit="span").examples(sequences, places(200))
    hidden = np.pad(targets != IGNORED, [(0, 0), (1, 0)])
    runs = (hidden[:, 1:] & ~hidden[:, :-1]).sum()
    assert 3.7 < hidden.sum() / runs < 4.6  # a run may be two spans, each of 3.8 on average


def test_at_least_one_token_is_hidden_where_there_is_one() -> None:
    tokenizer = Bytes()
    rows = np.full((2, 8), tokenizer.pad, np.int32)
    rows[0, :3] = tokenizer.bos, 65, tokenizer.eos
    sequences = Sequences(
        rows, np.zeros((2, 1), np.uint8), np.array([3, 0], np.int32), np.array([[3], [0]], np.int32)
    )
    objective = masked(tokenizer)
    assert objective.counts(sequences).tolist() == [1, 0]
    _, targets = objective.examples(sequences, places(2))
    assert np.argwhere(targets != IGNORED).tolist() == [[0, 1]]


def test_words_of_other_tokenizers() -> None:
    own = AminoAcids()
    assert not own.joins().any()
    found = Bytes()
    begins, ends = found.joins()
    text = "a bé_9".encode()
    joined = [bool(begins[b] and ends[a]) for a, b in itertools.pairwise(text)]
    assert joined == [False, False, True, True, False, False]
    assert not begins[256:].any()


def test_a_word_piece_says_itself_that_a_word_goes_on(tmp_path: Path) -> None:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "the", "##s", ","]
    content = {
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {name: i for i, name in enumerate(names)},
        },
        "added_tokens": [],
        "pre_tokenizer": {"type": "BertPreTokenizer"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.load(tmp_path)
    begins, ends = tokenizer.joins()
    ids = tokenizer.encode("the playing, plays")
    assert [tokenizer.token_name(i) for i in ids] == ["the", "play", "##ing", ",", "play", "##s"]
    joined = [bool(begins[b] and ends[a]) for a, b in itertools.pairwise(ids)]
    assert joined == [False, True, False, False, True]
    assert tokenizer.mask == 4


def test_without_a_mask_it_is_refused_in_one_line(tmp_path: Path) -> None:
    plain = train_tokenizer(iter(TEXTS), TokenizerConfig(vocabulary=400), tmp_path / "t.model", 1)
    assert plain.mask is None
    with pytest.raises(
        InputError, match=r"training\.objective: the tokenizer has no token that stands for a"
    ):
        masked(plain)


@pytest.mark.parametrize(
    "settings", [{"masked": 0.8, "random": 0.3}, {"rate": 0}, {"rate": 1}, {"unit": "line"}]
)
def test_shares_that_are_none_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MaskConfig(**settings)
