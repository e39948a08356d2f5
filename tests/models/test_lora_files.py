"""Low-rank adapters as ``peft`` reads them: the same logits by it, from our files, for every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from adapters import KINDS, PAD, SHAPES, adapted, apart, random, some_ids
from safetensors.torch import load_file
from torch.nn import functional as F
from uneven import spread

from raypretrain.models.families import LanguageModel, build
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.lora import adapter_state
from raypretrain.models.lora_config import LoraConfig
from raypretrain.models.lora_files import save_peft
from raypretrain.models.shape import ModelShape

peft = pytest.importorskip("peft")


@pytest.fixture(params=SHAPES)
def family(request) -> str:
    return request.param


@pytest.fixture(params=KINDS)
def config(request) -> LoraConfig:
    return KINDS[request.param]


def saved(folder: Path, network: LanguageModel, config: LoraConfig, **options) -> None:
    """The base in ``folder/base``, its adapters in ``folder/adapters``."""
    shape = network.shape
    base = spread(build(shape)).state_dict()
    save_language_model(base, shape, folder / "base", bos=1, eos=2, pad=PAD)
    save_peft(adapter_state(network), shape, config, folder / "adapters", str(folder / "base"), **options)


def loaded_by_peft(folder: Path, kind: str, **options):
    """The base by a class of transformers, with the adapters by peft."""
    base = getattr(transformers, kind).from_pretrained(folder / "base", **options)
    return peft.PeftModel.from_pretrained(base, folder / "adapters").eval()


def auto_class(shape: ModelShape) -> str:
    return "AutoModelForCausalLM" if shape.objective == "causal" else "AutoModelForMaskedLM"


def test_peft_computes_the_same_from_our_files(family, config, tmp_path):
    network = adapted(SHAPES[family], config)
    saved(tmp_path, network, config)
    theirs = loaded_by_peft(tmp_path, auto_class(network.shape))
    with torch.no_grad():
        assert apart(network(some_ids()), theirs(some_ids()).logits) < 1e-5
    expected = "CAUSAL_LM" if network.shape.objective == "causal" else None
    assert theirs.peft_config["default"].task_type == expected


@pytest.mark.parametrize("targets", ["all", "attention", "feed_forward"])
def test_peft_would_write_the_same_tensors(family, targets, tmp_path):
    config = LoraConfig(rank=4, targets=targets, dora=True)
    saved(tmp_path, adapted(SHAPES[family], config), config)
    theirs = loaded_by_peft(tmp_path, auto_class(SHAPES[family]))
    theirs.save_pretrained(tmp_path / "again")
    ours, again = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapters", "again"))
    assert ours.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in ours.items())


def test_a_trained_head_is_loaded_with_the_adapters(tmp_path):
    config, network = KINDS["dora"], adapted(SHAPES["bert"], KINDS["dora"])
    head = {
        "bert.pooler": {"dense.weight": 0.2 * random(64, 64), "dense.bias": random(64, seed=1)},
        "classifier": {"weight": random(5, 64, seed=2), "bias": random(5, seed=3)},
    }
    saved(tmp_path, network, config, task_type="SEQ_CLS", head=head)
    theirs = loaded_by_peft(tmp_path, "AutoModelForSequenceClassification", num_labels=5)
    with torch.no_grad():
        pooled = F.linear(network.hidden(some_ids())[:, 0], *head["bert.pooler"].values()).tanh()
        scores = F.linear(pooled, *head["classifier"].values())
        assert apart(scores, theirs(some_ids()).logits) < 1e-5
