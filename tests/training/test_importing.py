"""``raypretrain import``: what it finds, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import Command
from safetensors.torch import load_file
from tokenizer_kinds import tokenizer_of
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertModel

from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.loading import load_base
from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.training.importing import import_model

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A ``BertModel`` as sentence encoders are published: a pooler, and no output."""
    folder, tokenizer = tmp_path / "bert", tokenizer_of("like-bert")
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=tokenizer.vocabulary, **SIZES)).save_pretrained(folder)
    save_huggingface_tokenizer(tokenizer, folder)
    return folder


def test_an_encoder_without_an_output_is_given_one_and_its_pooler_is_left_out(
    bert: Path, tmp_path: Path
) -> None:
    to = tmp_path / "imported"
    found = import_model(bert, to)
    assert found["left_out"] == ["pooler.dense.bias", "pooler.dense.weight"]
    assert found["drawn"] == [
        "bias",
        "head.dense.bias",
        "head.dense.weight",
        "head.norm.bias",
        "head.norm.weight",
    ]
    assert (found["family"], found["layers"], found["width"], found["positions"]) == ("bert", 2, 32, 512)
    shape, state = load_base(to)
    assert sum(weight.numel() for weight in state.values()) == shape.parameters == found["parameters"]
    given = load_file(bert / "model.safetensors")
    assert torch.equal(state["blocks.1.attention.key.bias"], given["encoder.layer.1.attention.self.key.bias"])
    theirs = AutoModelForMaskedLM.from_pretrained(to).eval()
    model = build(shape).eval()
    model.load_state_dict(state)
    ids = torch.randint(10, 300, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (model(ids) - theirs(ids).logits).abs().max() < 1e-4


def test_the_tokenizer_stays_as_it_is(bert: Path, tmp_path: Path) -> None:
    import_model(bert, tmp_path / "imported")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "imported" / name).read_bytes() == (bert / name).read_bytes()
    text = "A plain sentence, twice: a plain sentence."
    ids = [AutoTokenizer.from_pretrained(folder)(text).input_ids for folder in (bert, tmp_path / "imported")]
    assert ids[0] == ids[1]


def test_what_was_drawn_is_the_same_each_time(bert: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        import_model(bert, tmp_path / name)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_the_command_says_what_it_found(bert: Path, tmp_path: Path, command: Command) -> None:
    status, out, _ = command.run("import", bert, "--to", tmp_path / "imported")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("bert, ")
    assert "2 layers of width 32, 4 heads, feed-forward 64, output tied to the embedding" in lines[0]
    assert lines[1] == "learned positions, 512; learns the tokens hidden from it"
    assert lines[2].startswith("tokenizer: wordpiece, ")
    assert "left out: pooler.dense.bias, pooler.dense.weight" in lines
    assert lines[-1] == f"written to {tmp_path / 'imported'}"
    status, out, _ = command.run("import", bert, "--to", tmp_path / "again", "--json")
    assert status == 0
    assert json.loads(out)["model"] == str(tmp_path / "again")


def test_what_is_wrong_is_one_line(bert: Path, tmp_path: Path, command: Command) -> None:
    to = tmp_path / "imported"
    assert "there is no such folder" in command.fails("import", tmp_path / "nowhere", "--to", to)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "is not empty; give --to a new folder" in command.fails("import", bert, "--to", tmp_path / "full")
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "the model lacks bias, blocks.2" in command.fails("import", bert, "--to", to)
    (bert / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    assert "is a model of type 't5'" in command.fails("import", bert, "--to", to)
    (bert / "config.json").write_text(json.dumps(config))
    (bert / "tokenizer.json").unlink()
    assert "there is no such tokenizer" in command.fails("import", bert, "--to", to)
    assert not to.exists()


def test_a_tokenizer_of_more_ids_than_rows_is_refused(tmp_path: Path, command: Command) -> None:
    tokenizer = tokenizer_of("like-bert")
    shape = ModelConfig(preset="bert-1m", width=32, layers=1, heads=2, feed_forward=32).shape(300, 64)
    model = build(shape)
    model.init_weights(0)
    folder = tmp_path / "model"
    save_language_model(model.state_dict(), shape, folder, bos=1, eos=2, pad=3)
    save_huggingface_tokenizer(tokenizer, folder)
    line = command.fails("import", folder, "--to", tmp_path / "to")
    assert f"the tokenizer has {tokenizer.vocabulary:,} tokens, the model 300 rows for them" in line
