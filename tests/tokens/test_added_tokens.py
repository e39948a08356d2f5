"""Special tokens that a recipe adds to a tokenizer: new ids after all others, and nothing else changes."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from real_text import python_files, reviews
from tokenizer_kinds import KINDS, tokenizer_of

from raypretrain.errors import InputError
from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.tokens.infilling import (
    Arrangement,
    InfillConfig,
    arranged_spans,
    check_infill,
    encode_arranged,
)
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, given_tokenizer

NAMES = ["<|call|>", "<|é ▁|>"]
TEXTS = [*reviews(12), *(text[:2000] for text in python_files(6)), "x<|call|>y <PRE>a <|é ▁|> <mask>", ""]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def saved(kind: str, folder: Path) -> TokenizerConfig:
    """A recipe's settings for the file of a tokenizer of that kind."""
    tokenizer_of(kind).save(folder)
    return TokenizerConfig(path=str(folder))


def with_added(kind: str, folder: Path, infill: bool = False, mask: bool = False) -> Tokenizer:
    config = saved(kind, folder).model_copy(update={"add": NAMES})
    given = given_tokenizer(config, infill, mask)
    assert given is not None
    return given


def test_new_tokens_come_last_are_special_and_leave_every_text_its_ids(kind: str, tmp_path: Path) -> None:
    before, given = tokenizer_of(kind), with_added(kind, tmp_path)
    new = range(before.vocabulary, before.vocabulary + 2)
    assert (given.vocabulary, given.added) == (new.stop, 2)
    assert [given.token_name(token) for token in new] == NAMES
    assert all(given.is_special(token) for token in new)
    for text, ids in zip(TEXTS, given.encode_batch(TEXTS), strict=True):
        np.testing.assert_array_equal(ids, before.encode(text))
        assert given.decode(ids) == before.decode(ids)
        np.testing.assert_array_equal(given.spans(text), before.spans(text))
    assert given.decode([*given.encode("one"), new[0]]) == given.decode(given.encode("one"))
    assert [given.bos, given.eos, given.pad] == [before.bos, before.eos, before.pad]
    assert given.lossless == before.lossless
    assert given.fingerprint != before.fingerprint


def test_the_runs_copy_has_them_as_its_own(kind: str, tmp_path: Path) -> None:
    given = with_added(kind, tmp_path / "given", infill=True, mask=True)
    for again in (Tokenizer.load(given.save(tmp_path / "run")), pickle.loads(pickle.dumps(given))):
        assert again.fingerprint == given.fingerprint
        assert (again.vocabulary, again.infill, again.mask) == (given.vocabulary, given.infill, given.mask)
        assert again.added == 0
    once_more = Tokenizer.load(tmp_path / "run", add=[*NAMES, "<PRE>"])
    assert (once_more.added, once_more.fingerprint) == (0, given.fingerprint)


def test_marks_are_added_where_there_are_none(kind: str, tmp_path: Path) -> None:
    before, config = tokenizer_of(kind), saved(kind, tmp_path)
    given = given_tokenizer(config, infill=True, mask=True)
    assert given is not None
    assert before.infill is None
    assert given.infill is not None
    assert [given.token_name(token) for token in given.infill] == ["<PRE>", "<SUF>", "<MID>"]
    assert given.mask is not None
    assert given.token_name(given.mask) == ("[MASK]" if kind == "like-bert" else "<mask>")
    assert before.mask in (None, given.mask)
    assert given.added == (3 if before.mask else 4)
    own = given_tokenizer(config)
    assert own is not None
    assert (own.added, own.fingerprint) == (0, before.fingerprint)


def test_marks_of_other_names_that_the_recipe_gives_are_the_marks(tmp_path: Path) -> None:
    config = saved("like-gpt2", tmp_path).model_copy(
        update={"add": ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]}
    )
    given = given_tokenizer(config, infill=True)
    assert given is not None
    assert given.added == 3
    assert given.infill == (1500, 1502, 1501)


@pytest.mark.parametrize("kind", ["like-gpt2", "bpe"])
def test_a_new_token_may_end_documents_or_fill_sequences(kind: str, tmp_path: Path) -> None:
    tokenizer_of(kind).save(tmp_path)
    config = TokenizerConfig(path=str(tmp_path), add=["<|end|>", "<|fill|>"], eos="<|end|>", pad="<|fill|>")
    given = given_tokenizer(config)
    assert given is not None
    assert (given.eos, given.pad) == (1500, 1501)
    again = Tokenizer.load(given.save(tmp_path / "run"))
    assert (again.eos, again.pad, again.fingerprint) == (1500, 1501, given.fingerprint)


@pytest.mark.parametrize(("kind", "name"), [("like-gpt2", "the"), ("bpe", "▁the"), ("like-qwen", "<tool>")])
def test_a_name_that_stands_for_text_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    tokenizer_of(kind).save(tmp_path)
    line = re.escape(f"tokenizer.add: '{name}' is a token of it, and no special one; give another name")
    with pytest.raises(InputError, match=line):
        Tokenizer.load(tmp_path, add=[name])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"add": ["<a>", "<a>"]}, "'add' has '<a>' twice"),
        ({"add": [""]}, "at least 1 character"),
        ({"kind": "bytes", "add": ["<a>"]}, "kind 'bytes' takes no more tokens; leave 'add' out"),
    ],
)
def test_names_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TokenizerConfig.model_validate(values)


def test_a_recipe_without_new_tokens_is_written_as_before() -> None:
    assert "add" not in TokenizerConfig().model_dump(mode="json")
    assert TokenizerConfig(add=["<a>"]).model_dump(mode="json")["add"] == ["<a>"]


@pytest.mark.slow
def test_transformers_has_one_id_for_each(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    given = with_added(kind, tmp_path / "given", infill=True)
    save_huggingface_tokenizer(given, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(theirs) == given.vocabulary
    for token in range(given.vocabulary - given.added, given.vocabulary):
        name = given.token_name(token)
        assert theirs.convert_tokens_to_ids(name) == token
        asked = theirs(name, add_special_tokens=False, split_special_tokens=False).input_ids
        assert asked[-1:] == [token]
        assert len(asked) == 1 or kind == "like-llama2"  # which has a space in front
        assert token not in theirs(f"a {name} b").input_ids  # in a text it is text


@pytest.mark.parametrize(
    "kind", ["bpe", "unigram", "like-llama2", "like-gpt2", "like-llama3", "like-qwen", "bytes"]
)
@pytest.mark.parametrize("suffix_first", [False, True])
def test_documents_are_rearranged_with_new_marks_and_traced(
    kind: str, suffix_first: bool, tmp_path: Path
) -> None:
    given = with_added(kind, tmp_path, infill=True)
    check_infill(InfillConfig(rate=0.5), given)
    text = "def add(a, b):\n\treturn  a + b  # naïve\n\n"
    for first in range(0, len(text), 5):
        way = Arrangement(first, min(len(text), first + 9), suffix_first)
        (ids,) = encode_arranged([text], [way], given)
        assert [token for token in ids.tolist() if given.is_special(token)] == list(given.infill or ())
        spans = arranged_spans(text, way, given)
        assert len(spans) == len(ids)
        characters = {i for start, stop in spans.tolist() for i in range(start, stop)}
        assert characters == set(range(len(text)))


@pytest.mark.parametrize("kind", ["like-roberta", "like-bert", "like-t5", "amino-acids"])
def test_a_tokenizer_that_changes_white_space_cannot_infill(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not keep a part of a text as it is"):
        check_infill(InfillConfig(rate=0.5), with_added(kind, tmp_path, infill=True))
