"""Tokenizers of every kind in a run: made or copied at its start, measured by, released, sampled and tuned with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from real_text import reviews
from runs import write_recipe
from tokenizer_kinds import KINDS, like_llama3, sentencepiece_model, tokenizer_of

from raypretrain.config import load_recipe
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError
from raypretrain.finetuning.base import BaseConfig, open_base
from raypretrain.finetuning.encode import Encoder
from raypretrain.models.config import ModelConfig
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.llama import Llama
from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.window import SequencesConfig, Windows
from raypretrain.training.dryrun import dry_run
from raypretrain.training.evaluation import held_out_sequences
from raypretrain.training.prepare import list_corpus, make_tokenizer
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.sampling import sample

SOME = ["bpe", "like-llama2", "like-gpt2", "like-bert", "bytes", "amino-acids"]


@pytest.fixture(params=SOME, scope="module")
def released(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Path]:
    """A tokenizer, and a folder of a released model with random weights that has it."""
    tokenizer, folder = tokenizer_of(request.param), tmp_path_factory.mktemp(request.param)
    shape = ModelConfig(preset="llama-1m", width=32, layers=2, heads=2, feed_forward=64).shape(
        tokenizer.vocabulary, 64
    )
    model = Llama(shape)
    model.init_weights(seed=3)
    marks = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    save_language_model(model.state_dict(), shape, folder, **marks)
    save_huggingface_tokenizer(tokenizer, folder, max_length=64)
    return tokenizer, folder


def test_a_released_model_can_be_sampled(released: tuple[Tokenizer, Path]) -> None:
    _, folder = released
    first, again = sample(folder, "MKT", 4, 1.0, 0.9, seeds=[1, 1])
    assert first == again
    assert sample(folder, "", 1, 1.0, 0.9, seeds=[1])


def test_a_released_model_is_a_base_whose_texts_have_the_ids_of_pretraining(
    released: tuple[Tokenizer, Path],
) -> None:
    tokenizer, folder = released
    base = open_base(BaseConfig(path=str(folder)))
    assert (base.bos, base.eos, base.pad) == (tokenizer.bos, tokenizer.eos, tokenizer.pad)
    texts = ["MKTLLE", "A film — it's <s> fine</s>.\n", "[CLS] x", *reviews(3)]
    encoded = Encoder(base.tokenizer, 10_000).encode(texts)
    for i, text in enumerate(texts):
        assert encoded[i] == [tokenizer.bos, *tokenizer.encode(text)]


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_bytes_are_those_of_the_text_for_every_kind(kind: str, tmp_path: Path) -> None:
    texts = ["mktllé 漢字 \n" * 9, *reviews(40)]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    corpus = CorpusConfig(sources=[SourceConfig(path=f"{tmp_path}/*.jsonl")], held_out=0.4)
    tokenizer = tokenizer_of(kind)
    windows = Windows(build_manifest(corpus), corpus, SequencesConfig(length=16), tokenizer, seed=1)
    held_out = held_out_sequences(windows, most=10**6)
    ids = held_out.tokens[:, 1:]
    if tokenizer.lossless and kind != "like-llama2":
        assert held_out.bytes == int(tokenizer.byte_lengths[ids].sum())
    # All predicted tokens of a sequence are the marks and about 15/16 of the text.
    whole = sum(int(tokenizer.token_bytes(text).sum()) for text in texts)
    assert 0.2 * whole < held_out.bytes < 0.6 * whole


def recipe_with(tmp_path: Path, corpus: Path, *overrides: str) -> tuple[PretrainRecipe, RunFolder]:
    settings = [f"run.folder={tmp_path}/run", "tokenizer={}", *overrides]
    recipe = load_recipe(write_recipe(tmp_path, corpus), PretrainRecipe, settings)
    return recipe, RunFolder(recipe.run.folder)


def made(recipe: PretrainRecipe, folder: RunFolder) -> tuple[Tokenizer, list[str]]:
    said: list[str] = []
    return make_tokenizer(recipe, list_corpus(recipe), folder, said.append), said


@pytest.mark.parametrize("kind", ["bytes", "amino-acids"])
def test_a_kind_without_training_is_made_at_once_and_kept_with_the_run(
    kind: str, tmp_path: Path, corpus: Path
) -> None:
    recipe, folder = recipe_with(tmp_path, corpus, f"tokenizer.kind={kind}")
    assert dry_run(recipe)["model"]["vocabulary"] == tokenizer_of(kind).vocabulary
    folder.open(recipe)
    tokenizer, said = made(recipe, folder)
    assert tokenizer.kind == kind
    assert said == []
    assert folder.tokenizer == folder.corpus / "tokenizer.json"
    assert Tokenizer.load(folder.tokenizer).fingerprint == tokenizer.fingerprint
    assert made(recipe, folder)[0].fingerprint == tokenizer.fingerprint


def test_a_given_json_travels_with_the_run_and_a_failed_start_does_not_bind(
    tmp_path: Path, corpus: Path
) -> None:
    (tmp_path / "given").mkdir()
    like_llama3().save(str(tmp_path / "given" / "tokenizer.json"))
    recipe, folder = recipe_with(
        tmp_path, corpus, f"tokenizer.path={tmp_path}/given", "tokenizer.pad=<|tool|>"
    )
    folder.open(recipe)
    tokenizer, said = made(recipe, folder)
    assert said == []
    (tmp_path / "given" / "tokenizer.json").unlink()
    again, _ = made(recipe, folder)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.token_name(again.pad) == "<|tool|>"
    folder.open(recipe)  # nothing was trained yet: it begins anew, and holds nothing foreign
    assert not list(folder.corpus.glob("tokenizer*"))


def test_a_tokenizer_that_loses_text_is_noted_and_a_model_that_does_is_refused(
    tmp_path: Path, corpus: Path
) -> None:
    tokenizer_of("like-bert").save(tmp_path / "bert")
    recipe, folder = recipe_with(tmp_path, corpus, f"tokenizer.path={tmp_path}/bert")
    folder.open(recipe)
    assert ["does not keep every text" in line for line in made(recipe, folder)[1]] == [True]
    (tmp_path / "t5.model").write_bytes(sentencepiece_model())
    refused, _ = recipe_with(tmp_path, corpus, f"tokenizer.path={tmp_path}/t5.model")
    with pytest.raises(InputError, match=r"t5\.model: this tokenizer loses text.*tokenizer\.json"):
        dry_run(refused)


def test_the_tokenizer_of_a_released_model_is_that_of_its_run(
    released: tuple[Tokenizer, Path], tmp_path: Path, corpus: Path
) -> None:
    tokenizer, model = released
    recipe, folder = recipe_with(tmp_path, corpus, f"tokenizer.path={model}")
    folder.open(recipe)
    again, _ = made(recipe, folder)
    assert again.fingerprint == tokenizer.fingerprint
    values: dict[str, Any] = json.loads((model / "config.json").read_text())
    assert values["vocab_size"] == again.vocabulary
