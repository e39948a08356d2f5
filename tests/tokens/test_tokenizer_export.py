"""The exported tokenizer gives our ids in transformers."""

import json
import sys

import pytest
from real_text import python_files, reviews

from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from raypretrain.tokens.tokenizer_sentencepiece import SPACE

ODD = [
    "",
    " ",
    "\n\n\t\t  x",
    "a\0b \x01a\x01!",
    f"{SPACE} {SPACE}{SPACE}x",
    "a\r\nb\u2028c\u0085",
    "<s> x</s><0x0A><unk><pad>",
    "日本語 emoji 😀 👩\u200d👩\u200d👧",
    "  " * 200,
    "\ufeffx\ufffd",
    "é e\u0301 ﬁ Å",
    "café,bar—,x' don't 3.14é",
    "=" * 100 + " " * 99 + "aaaaaaa",
    "a" * 10_000,
]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def pair(request, tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp(request.param)
    texts = [*reviews(120), *(text[:8000] for text in python_files(20))]
    config = TokenizerConfig(kind=request.param, vocabulary=2000)
    ours = train_tokenizer(iter(texts), config, folder / "trained.model", 1)
    save_huggingface_tokenizer(ours, folder / "model", max_length=512)
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return ours, AutoTokenizer.from_pretrained(folder / "model"), folder / "model"


@pytest.mark.slow
@pytest.mark.parametrize("texts", ["odd", "reviews", "source"])
def test_ids_are_ours_with_the_mark_of_begin_and_the_text_comes_back(pair, texts):
    ours, theirs, _ = pair
    chosen = {"odd": lambda: ODD, "reviews": lambda: reviews(500), "source": lambda: python_files(50)}[
        texts
    ]()
    assert len(chosen) in (len(ODD), 500, 50)
    for text in chosen:
        ids = theirs(text)["input_ids"]
        assert ids == [ours.bos, *ours.encode(text)]
        assert theirs.decode(ids, skip_special_tokens=True) == text


def test_special_tokens_and_settings_arrive(pair):
    ours, theirs, _ = pair
    ids = (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id, theirs.pad_token_id)
    assert ids == (ours.bos, ours.eos, ours.unk, ours.pad)
    assert len(theirs) == theirs.vocab_size == ours.vocabulary
    assert theirs.model_max_length == 512
    batch = theirs(["one", "one two three four"], padding=True)
    assert batch["input_ids"][0][-1] == ours.pad
    assert batch["attention_mask"][0][0] == 1


def test_two_texts_each_begin_with_the_mark(pair):
    ours, theirs, _ = pair
    expected = [ours.bos, *ours.encode("one"), ours.bos, *ours.encode("two")]
    assert theirs("one", "two")["input_ids"] == expected


def test_saved_by_transformers_and_loaded_again_it_is_the_same(pair, tmp_path):
    from transformers import AutoTokenizer

    _, theirs, _ = pair
    theirs.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert [again(text)["input_ids"] for text in ODD] == [theirs(text)["input_ids"] for text in ODD]


def test_the_folder_holds_our_tokenizer_too(pair):
    ours, _, folder = pair
    assert Tokenizer.load(folder).fingerprint == ours.fingerprint


def test_it_loads_where_sentencepiece_is_not_installed(pair, monkeypatch):
    from transformers import AutoTokenizer

    _, theirs, folder = pair
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    again = AutoTokenizer.from_pretrained(folder)
    assert again("def f(x):\n\treturn  x") == theirs("def f(x):\n\treturn  x")
