"""SentencePiece: nothing is lost, the fast way gives SentencePiece's ids, and training says what it lacks."""

import pickle

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from real_text import python_files, reviews
from tokenizer_kinds import like_llama2, sentencepiece_model

from raypretrain.config import validate
from raypretrain.errors import InputError, RecipeError
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from raypretrain.tokens.tokenizer_sentencepiece import SPACE, SentencePieceTokenizer

KINDS = ["bpe", "unigram"]


def texts():
    """About 300 KB: half prose, half source."""
    return [*reviews(120), *(text[:8000] for text in python_files(20))]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        kind: train_tokenizer(
            iter(texts()), TokenizerConfig(kind=kind, vocabulary=2000), folder / f"{kind}.model", 1
        )
        for kind in KINDS
    }


@pytest.fixture(params=KINDS)
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


def loses_nothing(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.byte_lengths[ids].sum()) == len(text.encode())
    batch = tokenizer.encode_batch([text, "other", text])
    assert [list(b) for b in batch] == [ids, tokenizer.encode("other"), ids]
    specials = {tokenizer.unk, tokenizer.bos, tokenizer.eos, tokenizer.pad}
    assert not specials & set(ids)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_any_text_comes_back_as_it_was(kind, tokenizers):
    @settings(max_examples=150)
    @given(st.one_of(st.text(), st.text(alphabet=" \n\t\r\0\u2581\u2028aZ.,0é漢😀<>xs/", max_size=80)))
    @example(f"{SPACE} {SPACE}{SPACE}a{SPACE}\n")
    @example("  leading,    inside, trailing   ")
    @example("<s></s><pad><unk><0x0A>\n")
    @example("\r\n\r\n\t\t\n \n")
    @example("\0\x01\x1f\x7f\u0085\ufeff\ufffd\U0010ffff")
    @example("e\u0301 ﬁ ① Å")
    @example(" " * 5000 + "x" * 5000)
    def check(text):
        loses_nothing(tokenizers[kind], text)

    check()


@pytest.mark.slow
def test_real_text_comes_back_as_it_was(tokenizer):
    for text in [*reviews(300)[150:], *python_files(40)]:
        loses_nothing(tokenizer, text)


def test_bpe_pieces_are_those_of_sentencepiece_for_the_whole_text(tokenizers):
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizers["bpe"].model)
    docs = [*reviews(400)[100:], *python_files(60), "naïve—“quoted”, x\x01y 3.14é 漢字,漢 don't \r\n\tif"]
    for ours, theirs in zip(tokenizers["bpe"].encode_batch(docs), processor.encode(docs), strict=True):
        assert ours.dtype == np.int32
        assert ours.tolist() == theirs


def test_unigram_pieces_are_those_of_sentencepiece_for_a_text_that_its_sums_are_exact_for(tokenizers):
    ours = tokenizers["unigram"]
    processor = sentencepiece.SentencePieceProcessor(model_proto=ours.model)
    docs = [*reviews(400)[100:], *python_files(60), "x" * 5000, " " * 5000, "a " * 5000, "漢字 " * 2000]
    assert max(map(len, docs)) > 50_000
    for text, batch in zip(docs, ours.encode_batch(docs), strict=True):
        assert batch.dtype == np.int32
        assert batch.tolist() == ours.encode(text)
        if len(text) < 2000:
            assert batch.tolist() == processor.encode(text)


def test_newlines_tabs_digits_and_runs_of_spaces_are_cut_as_meant(tokenizer):
    pieces = lambda text: [tokenizer.pieces[i][0] for i in tokenizer.encode(text)]  # noqa: E731
    assert pieces("\n\n\t") == ["\n", "\n", "\t"]
    assert pieces("1984")[-4:] == [*"1984"][-4:] or pieces("1984")[-4:] == [f"{SPACE}1", *"984"]
    assert len(pieces(" " * 8 + "return")) <= 3


def test_special_ids_are_where_they_are_expected(tokenizer):
    assert (tokenizer.unk, tokenizer.bos, tokenizer.eos, tokenizer.pad) == (0, 1, 2, 3)
    assert tokenizer.vocabulary == len(tokenizer.byte_lengths) == 2000
    assert tokenizer.byte_lengths[:4].tolist() == [0, 0, 0, 0]
    assert tokenizer.decode([1, *tokenizer.encode("x"), 2, 3]) == "x"


@pytest.mark.parametrize("kind", KINDS)
def test_training_again_gives_the_same_model(kind, tokenizers, tmp_path):
    config = TokenizerConfig(kind=kind, vocabulary=2000)
    again = train_tokenizer(iter(texts()), config, tmp_path / "again.model", 1)
    assert again.fingerprint == tokenizers[kind].fingerprint


def test_bpe_does_not_depend_on_the_number_of_threads(tokenizers, tmp_path):
    config = TokenizerConfig(vocabulary=2000)
    assert (
        train_tokenizer(iter(texts()), config, tmp_path / "a.model", 2).fingerprint
        == tokenizers["bpe"].fingerprint
    )


def test_a_tokenizer_is_the_same_after_saving_loading_and_pickling(tokenizer, tmp_path):
    saved = tokenizer.save(tmp_path / "folder")
    for again in (
        Tokenizer.load(saved),
        Tokenizer.load(tmp_path / "folder"),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert again.fingerprint == tokenizer.fingerprint
        assert again.encode("Some text\n") == tokenizer.encode("Some text\n")


def test_long_words_are_not_kept(tokenizers):
    again = SentencePieceTokenizer(tokenizers["bpe"].model)
    before = len(again.encode("x" * 100_000))
    assert before == len(again.encode("x" * 100_000))
    assert sum(map(len, again._words)) < 1000


@pytest.mark.parametrize("kind", KINDS)
def test_more_pieces_than_the_text_supports_says_how_many_are_possible(kind, tmp_path):
    with pytest.raises(
        InputError, match=r"tokenizer\.vocabulary: 16384 pieces are more than .* (\d+) or less"
    ) as caught:
        train_tokenizer(iter(reviews(3)), TokenizerConfig(kind=kind), tmp_path / "x.model", 1)
    possible = int(str(caught.value).split("set it to ")[1].split()[0])
    config = TokenizerConfig(kind=kind, vocabulary=possible)
    assert train_tokenizer(iter(reviews(3)), config, tmp_path / "x.model", 1).vocabulary == possible


def test_fewer_pieces_than_the_text_needs_says_how_many(tmp_path):
    with pytest.raises(
        InputError, match=r"tokenizer\.vocabulary: 200 pieces are too few .*set it to \d+ or more"
    ):
        train_tokenizer(iter(reviews(3)), TokenizerConfig(vocabulary=200), tmp_path / "x.model", 1)


def test_no_text_at_all_is_said(tmp_path):
    with pytest.raises(InputError, match="there is no text to train the tokenizer on"):
        train_tokenizer(iter(["", "\n"]), TokenizerConfig(), tmp_path / "x.model", 1)


def test_a_line_longer_than_sentencepiece_takes_is_trained_on(tmp_path):
    long = " ".join(reviews(200))
    assert "\n" not in long
    trained = train_tokenizer(iter([long]), TokenizerConfig(vocabulary=1500), tmp_path / "x.model", 1)
    assert len(trained.encode("The movie was")) <= 4


def test_what_is_no_tokenizer_is_named(tmp_path):
    (tmp_path / "bad.model").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"bad\.model: is no SentencePiece model"):
        Tokenizer.load(tmp_path / "bad.model")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "none.json"):
        with pytest.raises(InputError, match=rf"{path}: there is no such tokenizer; name a \.model"):
            Tokenizer.load(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "settings"),
    [
        ("normalises characters", {}),
        ("leaves out spaces", {"normalization_rule_name": "identity"}),
        (
            "has no bytes",
            {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        ),
        (
            "symbols of its own",
            {
                "normalization_rule_name": "identity",
                "remove_extra_whitespaces": False,
                "byte_fallback": True,
                "user_defined_symbols": ["<tool>"],
            },
        ),
        ("neither of kind bpe nor unigram", {"model_type": "char"}),
    ],
)
def test_a_model_that_loses_text_is_refused_and_says_why(reason, settings, tmp_path):
    (tmp_path / "m.model").write_bytes(sentencepiece_model(**settings))
    with pytest.raises(
        InputError, match=rf"m\.model: this tokenizer loses text: it .*{reason}.*tokenizer\.json"
    ):
        Tokenizer.load(tmp_path / "m.model")


def test_a_space_that_a_model_wants_in_front_is_no_text():
    ours = like_llama2()
    theirs = sentencepiece.SentencePieceProcessor(model_proto=ours.model)
    docs = [*reviews(150)[100:], *python_files(30), " two  spaces", "\n", "x", "naïve 漢字"]
    for text, ids in zip(docs, ours.encode_batch(docs), strict=True):
        assert ids.tolist() == theirs.encode(text)
        assert ours.decode(ids) == text
    assert ours.spans("1x").tolist()[-2:] == [[0, 1], [1, 2]]
    assert int(ours.token_bytes("one two").sum()) == 7


def test_pieces_can_be_named_as_the_marks_of_a_model(tmp_path):
    settings = {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
    }
    model = sentencepiece_model(**settings, bos_id=-1, eos_id=-1, control_symbols=["<end>", "<fill>"])
    (tmp_path / "m.model").write_bytes(model)
    with pytest.raises(InputError, match=r"m\.model: has no 'bos' piece.*tokenizer\.bos"):
        Tokenizer.load(tmp_path / "m.model")
    names = {"bos": "<end>", "eos": "<end>", "pad": "<fill>"}
    named = Tokenizer.load(tmp_path / "m.model", names)
    for tokenizer in (named, Tokenizer.load(named.save(tmp_path / "run")), pickle.loads(pickle.dumps(named))):
        assert [tokenizer.token_name(i) for i in (tokenizer.bos, tokenizer.eos, tokenizer.pad)] == [
            *names.values()
        ]
        assert tokenizer.fingerprint == named.fingerprint
        assert tokenizer.eos not in tokenizer.encode("text <end> text")
    with pytest.raises(InputError, match=r"tokenizer\.eos: the model has no piece '<stop>'"):
        Tokenizer.load(tmp_path / "m.model", {"eos": "<stop>"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_trained_on_text_without_spaces_keeps_spaces(kind, tmp_path):
    config = TokenizerConfig(kind=kind, vocabulary=400)
    unspaced = iter(["".join(text.split()) for text in reviews(10)])
    trained = train_tokenizer(unspaced, config, tmp_path / "x.model", 1)
    loses_nothing(trained, "a b  c \u2581 d")


def test_bytes_and_amino_acids_are_not_trained(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer\.kind: .* not trained; set tokenizer\.kind: bytes"):
        train_tokenizer(iter(["text"]), TokenizerConfig(kind="bytes"), tmp_path / "x.model", 1)


def test_a_recipe_names_tokens_of_a_file_only(tmp_path):
    for values, message in (
        ({"eos": "<end>"}, "'eos' names a token of a tokenizer.path"),
        ({"path": "x.model", "kind": "bytes"}, "kind 'bytes' needs no path"),
    ):
        with pytest.raises(RecipeError, match=message):
            validate(values, TokenizerConfig, folder=tmp_path, where="recipe.yaml")
