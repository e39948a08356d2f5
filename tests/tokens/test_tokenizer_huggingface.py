"""A ``tokenizer.json``: which tokens are its marks, words that change nothing, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizer_kinds
from hypothesis import given, settings
from hypothesis import strategies as st
from real_text import python_files, reviews
from s3_server import S3Server
from tokenizer_kinds import like_bert, like_gpt2, like_llama3, like_qwen, of_backend, tokenizer_of
from tokenizers import normalizers, pre_tokenizers

from raypretrain.errors import InputError
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.tokenizer_cuts import CUTS, cut_of
from raypretrain.tokens.tokenizer_huggingface import HuggingFaceTokenizer

JSON_KINDS = ["like-gpt2", "like-llama3", "like-qwen", "like-roberta", "like-bert", "like-t5"]


@pytest.mark.slow
def test_these_are_the_kinds_that_are_read_from_json() -> None:
    found = [k for k in tokenizer_kinds.KINDS if isinstance(tokenizer_of(k), HuggingFaceTokenizer)]
    assert found == JSON_KINDS


def marks(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token_name(i) for i in (tokenizer.bos, tokenizer.eos, tokenizer.pad)]


def test_marks_come_from_the_config_then_the_post_processor_then_common_names() -> None:
    backend = like_llama3()
    assert marks(of_backend(backend)) == ["<|begin|>", "<|end_of_text|>", "<|end_of_text|>"]
    config = {"eos_token": {"content": "<|tool|>"}, "pad_token": "<|nowhere|>"}
    assert marks(of_backend(backend, tokenizer_config=config)) == ["<|begin|>", "<|tool|>", "<|tool|>"]
    mapped = {"bos_token": "<|tool|>", "pad_token": "<|tool|>"}
    assert marks(of_backend(backend, special_tokens_map=mapped)) == [
        "<|tool|>",
        "<|end_of_text|>",
        "<|tool|>",
    ]
    assert marks(tokenizer_of("like-gpt2")) == ["<|endoftext|>"] * 3
    bert = tokenizer_of("like-bert")
    assert marks(bert) == ["[CLS]", "[SEP]", "[PAD]"]
    assert (bert.unk, bert.mask) == (1, 4)


def test_the_recipes_names_come_first_and_travel_with_the_saved_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    like_llama3().save(str(tmp_path / "given" / "tokenizer.json"))
    named = Tokenizer.load(tmp_path / "given", {"bos": "<|tool|>", "pad": "<|tool|>"})
    again = Tokenizer.load(named.save(tmp_path / "run"))
    assert marks(again) == marks(named) == ["<|tool|>", "<|end_of_text|>", "<|tool|>"]
    assert again.fingerprint == named.fingerprint != Tokenizer.load(tmp_path / "given").fingerprint


def test_without_an_end_of_documents_or_with_a_wrong_name_it_says_what_to_do(tmp_path: Path) -> None:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    path = tmp_path / "tokenizer.json"
    tokenizer_kinds.byte_level(level, specials=("<stop>",)).save(str(path))
    with pytest.raises(InputError, match=rf"{path}: names no token that ends a document; set tokenizer\.eos"):
        Tokenizer.load(path)
    assert marks(Tokenizer.load(path, {"eos": "<stop>"})) == ["<stop>"] * 3
    with pytest.raises(InputError, match=rf"tokenizer\.pad: '<no>' is no token of {path}; it has <stop>"):
        Tokenizer.load(path, {"eos": "<stop>", "pad": "<no>"})


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "{",
        '{"model": {"vocab": 3}}',
        '{"model": {"type": "BPE", "vocab": {}, "merges": []}}',
        '{"model": {"type": "BPE", "vocab": {"</s>": 0}, "merges": [["a", "b"]]}}',
        '{"config": {}, "vocab": [{"rank": 0}]}',
    ],
)
def test_json_that_is_no_tokenizer_is_named_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError) as caught:
        Tokenizer.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/tokenizer.json: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_companions_that_are_no_json_are_named(tmp_path: Path) -> None:
    like_gpt2().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config\.json: cannot be read as JSON"):
        Tokenizer.load(tmp_path)


def whole(tokenizer: HuggingFaceTokenizer, text: str) -> list[int]:
    """The ids of the library itself for the whole text."""
    ids: list[int] = tokenizer._backend.encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("kind", JSON_KINDS)
def test_words_have_the_ids_of_the_whole_text(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    assert tokenizer._cut is not None
    docs = [
        *reviews(250)[120:],
        *python_files(30)[20:],
        "</tool> <tool>x<tool>y     z<think>\n.",
        "ab\x85c d",
    ]
    for text, ids in zip(docs, tokenizer.encode_batch(docs), strict=True):
        assert ids.tolist() == whole(tokenizer, text)
    assert len(tokenizer._words) > 1000


@pytest.mark.parametrize("kind", JSON_KINDS)
def test_words_have_the_ids_of_the_whole_for_any_text(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    assert isinstance(tokenizer, HuggingFaceTokenizer)

    @settings(max_examples=100)
    @given(st.one_of(st.text(), st.text(alphabet=" \n\t\r\x85\u2028aZ5.,'/é\u0301漢😀<>tol=_-", max_size=80)))
    def check(text: str) -> None:
        assert tokenizer.encode(text) == whole(tokenizer, text)

    check()


@pytest.mark.slow
def test_the_finest_cut_that_changes_nothing_is_found() -> None:
    level = pre_tokenizers.ByteLevel
    llama3, qwen, bert = like_llama3(), like_qwen(), like_bert()
    cases: list[tuple[Any, Any, int]] = [
        (None, level(add_prefix_space=False), 0),
        (normalizers.NFC(), level(add_prefix_space=False), 0),
        (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(), level(add_prefix_space=False)]), 0),
        (None, llama3.pre_tokenizer, 1),
        (qwen.normalizer, qwen.pre_tokenizer, 1),
        (None, pre_tokenizers.Whitespace(), 2),
        (None, level(add_prefix_space=True), 3),
        (bert.normalizer, bert.pre_tokenizer, 2),
        (None, pre_tokenizers.Metaspace(), 3),
    ]
    for normalizer, pre_tokenizer, expected in cases:
        assert cut_of(normalizer, pre_tokenizer) is CUTS[expected], pre_tokenizer
    assert cut_of(None, None) is None
    assert cut_of(normalizers.Prepend("_"), level(add_prefix_space=False)) is None
    assert cut_of(None, level(add_prefix_space=False, use_regex=False)) is None


@pytest.mark.parametrize(
    "token",
    [{"content": "to morrow"}, {"content": "<x>", "rstrip": True}, {"content": "<x>", "single_word": True}],
    ids=str,
)
def test_tokens_of_its_own_that_look_beyond_a_word_are_not_cut_around(token: dict[str, Any]) -> None:
    values = json.loads(like_gpt2().to_str())
    flags = {"id": 1500, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    values["added_tokens"].append(flags | {"special": False} | token)
    tokenizer = HuggingFaceTokenizer(json.dumps(values).encode(), {})
    text = "see <x> you to morrow <x>  a<x>b"
    assert tokenizer._cut is None
    assert tokenizer.encode(text) == whole(tokenizer, text)
    assert 1500 in tokenizer.encode(text)


def test_its_own_tokens_in_a_text_stay_tokens() -> None:
    tokenizer = tokenizer_of("like-qwen")
    ids = tokenizer.encode("a <tool>b\n    c")
    assert [tokenizer.token_name(i) for i in ids if tokenizer.token_name(i) in ("<tool>", "    ")] == [
        "<tool>",
        "    ",
    ]
    assert not tokenizer.lossless


def test_a_byte_level_tokenizer_without_all_bytes_is_known_to_lose_text() -> None:
    values = json.loads(like_gpt2().to_str())
    vocabulary = values["model"]["vocab"]
    del vocabulary["ł"]  # stands for a byte that only rare characters hold
    values["model"]["vocab"] = vocabulary
    values["model"]["merges"] = [pair for pair in values["model"]["merges"] if "ł" not in "".join(pair)]
    tokenizer = HuggingFaceTokenizer(json.dumps(values).encode(), {})
    assert not tokenizer.lossless
    text = "one \U000c0000 two"
    assert int(tokenizer.token_bytes(text).sum()) == len(text.encode())


def test_what_draws_at_random_draws_no_more() -> None:
    values = json.loads(like_gpt2().to_str())
    values["model"]["dropout"] = 0.5
    tokenizer = HuggingFaceTokenizer(json.dumps(values).encode(), {})
    text = " ".join(reviews(2))
    assert tokenizer.encode(text) == tokenizer_of("like-gpt2").encode(text)


def test_tokens_are_made_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    of_backend(like_gpt2())
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


def test_a_folder_with_a_model_that_loses_text_is_read_by_its_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_kinds.sentencepiece_model())
    like_gpt2().save(str(tmp_path / "tokenizer.json"))
    assert isinstance(Tokenizer.load(tmp_path), HuggingFaceTokenizer)


def test_it_is_read_from_a_bucket_with_its_companions(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    backend = like_llama3()
    config = {"bos_token": "<|tool|>"}
    s3.put("tokenizers/one/tokenizer.json", backend.to_str().encode())
    s3.put("tokenizers/one/tokenizer_config.json", json.dumps(config).encode())
    expected = of_backend(backend, tokenizer_config=config)
    folder = f"s3://{s3.bucket}/tokenizers/one"
    for url in (folder, f"{folder}/tokenizer.json"):
        loaded = Tokenizer.load(url)
        assert loaded.fingerprint == expected.fingerprint
        assert marks(loaded)[0] == "<|tool|>"
    with pytest.raises(InputError, match="there is no such tokenizer"):
        Tokenizer.load(f"s3://{s3.bucket}/tokenizers/two")


def test_a_public_tokenizer_beside_its_own_library_gives_equal_arrays() -> None:
    for kind in JSON_KINDS:
        tokenizer = tokenizer_of(kind)
        assert isinstance(tokenizer, HuggingFaceTokenizer)
        theirs = tokenizer._backend.encode_batch_fast(reviews(40), add_special_tokens=False)
        for ids, one in zip(tokenizer.encode_batch(reviews(40)), theirs, strict=True):
            assert np.array_equal(ids, one.ids)
