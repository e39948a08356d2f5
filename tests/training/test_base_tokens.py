"""New special tokens in a base model: its embedding has room for them, or grows, all the way to what is released."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bases import recipe, write_base
from tokenizer_kinds import tokenizer_of

from raypretrain.config import load_recipe
from raypretrain.models.families import build
from raypretrain.models.loading import load_base
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training.basemodel import base_weights, bring_base
from raypretrain.training.checkpoint import Standing, checkpoint_folder, commit, hash_files
from raypretrain.training.dryrun import dry_run
from raypretrain.training.prepare import list_corpus, make_tokenizer
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.release import export
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.vocabulary import given_tokenizer

ROOT = Path(__file__).parent.parent.parent
CALL = "<|call|>"


def rows_of(made: PretrainRecipe) -> tuple[int, int]:
    """The tokenizer's tokens, and the model's rows."""
    given = given_tokenizer(made)
    assert given is not None
    return given.vocabulary, made.model.shape(given.vocabulary, made.sequences.length).vocabulary


@pytest.mark.parametrize(
    ("rows", "add", "tokens", "grown"),
    [
        (1500, [], 1500, 1500),
        (1500, [CALL], 1501, 1536),
        (1502, [CALL, "<|return|>"], 1502, 1502),
        (1502, [CALL, "<|return|>", "<|stop|>"], 1503, 1536),
    ],
)
def test_rows_that_the_base_has_to_spare_come_first_then_it_grows_to_a_multiple_of_64(
    rows: int, add: list[str], tokens: int, grown: int, tmp_path: Path
) -> None:
    write_base(tmp_path / "base", rows=rows)
    made = recipe(tmp_path, model={"from": "base"}, tokenizer={"add": add})
    assert rows_of(made) == (tokens, grown)


@pytest.mark.parametrize("kind", ["like-gpt2", "bpe", "like-qwen"])
def test_infilling_brings_its_marks_to_a_base_that_has_none(kind: str, tmp_path: Path) -> None:
    write_base(tmp_path / "base", kind=kind)
    own = tokenizer_of(kind).vocabulary
    assert rows_of(recipe(tmp_path, model={"from": "base"}))[0] == own
    made = recipe(tmp_path, model={"from": "base"}, sequences={"infill": {"rate": 0.9}})
    assert rows_of(made) == (own + 3, 1536)


def test_masking_brings_a_mask_to_an_encoder_that_has_none(tmp_path: Path) -> None:
    write_base(tmp_path / "base", "modernbert-1m", "like-gpt2")
    made = recipe(tmp_path, model={"from": "base"}, sequences={"length": 64})
    given = given_tokenizer(made)
    assert given is not None
    assert (given.mask, given.token_name(1500)) == (1500, "<mask>")


def begun(tmp_path: Path, corpus: Path, said: list[str], **rooms: Any) -> tuple[RunFolder, PretrainRecipe]:
    """A run of such a recipe as it is before its first step."""
    made = recipe(
        tmp_path,
        model={"from": "base"},
        run={"folder": "run"},
        corpus={"sources": [{"path": str(corpus)}]},
        **rooms,
    )
    folder = RunFolder(made.run.folder)
    folder.open(made)
    make_tokenizer(made, list_corpus(made), folder, said.append)
    bring_base(made, folder, said.append)
    return folder, made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "kind", "sizes"),
    [("llama-1m", "like-gpt2", {"tied": False}), ("llama-1m", "bpe", {}), ("bert-1m", "like-bert", {})],
)
def test_what_is_released_has_a_row_and_one_id_for_each_new_token(
    preset: str, kind: str, sizes: dict[str, Any], tmp_path: Path, corpus: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    write_base(tmp_path / "base", preset, kind, **sizes)
    infill = {"infill": {"rate": 0.9}} if preset == "llama-1m" else {}
    said: list[str] = []
    rooms = {"tokenizer": {"add": [CALL]}, "sequences": {"length": 64, **infill}}
    folder, made = begun(tmp_path, corpus, said, **rooms)
    names = [CALL, "<PRE>", "<SUF>", "<MID>"] if infill else [CALL]
    assert said[0] == f"note: the tokenizer gets {', '.join(names)}"
    tokenizer = Tokenizer.load(folder.tokenizer)
    shape = made.model.shape(tokenizer.vocabulary, 64)
    model = build(shape).eval()
    model.load_state_dict(base_weights(folder, shape.vocabulary))
    old = load_base(tmp_path / "base")[1]["embedding.weight"]
    new = model.state_dict()["embedding.weight"][1500 : 1500 + len(names)]
    torch.testing.assert_close(new, old.mean(0).expand_as(new))
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())

    step = checkpoint_folder(folder.checkpoints, 3)
    (step / "engine").mkdir(parents=True)
    torch.save({"module": model.state_dict()}, step / "engine" / "mp_rank_00_model_states.pt")
    commit(step, Standing(3, Cursor(), 0, 1, 0, "", "", ""), hash_files(step, 0, 1))
    assert export(folder, tmp_path / "out") == [3]
    theirs = (AutoModelForCausalLM if infill else AutoModelForMaskedLM).from_pretrained(tmp_path / "out")
    assert theirs.config.vocab_size == shape.vocabulary == 1536
    auto = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert auto.convert_tokens_to_ids(names) == [*range(1500, 1500 + len(names))]
    assert auto(CALL, add_special_tokens=False, split_special_tokens=False).input_ids == [1500]
    ids = torch.tensor([[1500, *tokenizer.encode("a plain film"), *range(1500, 1500 + len(names))]])
    with torch.no_grad():
        assert (model(ids) - theirs.eval()(ids).logits).abs().max() < 1e-4
    assert load_base(tmp_path / "out")[0] == shape


def test_a_run_that_adds_nothing_takes_the_weights_as_they_are(tmp_path: Path, corpus: Path) -> None:
    write_base(tmp_path / "base", rows=1536)
    said: list[str] = []
    folder, _ = begun(tmp_path, corpus, said)
    assert said == []
    kept = json.loads(folder.base.read_text())
    assert (kept["tokens"], kept["new"]) == (1500, 0)
    expected = load_base(tmp_path / "base")[1]
    found = base_weights(folder, 1536)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_the_recipe_for_code_resolves_on_a_base_without_marks(tmp_path: Path, corpus: Path) -> None:
    write_base(tmp_path / "base", kind="like-gpt2", length=1024)
    sources = f"corpus.sources=[{{path: {corpus}, weight: 0.8}}, {{path: {corpus}, weight: 0.2}}]"
    overrides = [f"model.from={tmp_path / 'base'}", f"run.folder={tmp_path / 'run'}", sources]
    made = load_recipe(ROOT / "jobs" / "adapt-code.yaml", PretrainRecipe, overrides)
    assert (made.sequences.infill.rate, made.sequences.infill.suffix_first) == (0.9, 0.5)
    resolved = dry_run(made)
    assert resolved["model"]["vocabulary"] == 1503
    assert resolved["model"]["parameters"] == made.model.shape(1503, 1024).parameters
    assert made.model.shape(1503, 1024).vocabulary == 1536
