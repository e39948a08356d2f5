"""Every kind of task, on a decoder and an encoder, in every way: it learns, and ``transformers`` agrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_kinds import KINDS, rows_of, write_kind
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from raypretrain.config import validate
from raypretrain.errors import InputError, RecipeError
from raypretrain.finetuning.finetune import finetune
from raypretrain.finetuning.recipe import FinetuneRecipe

CAUSAL_ONLY = ("generate", "prefer")
CASES = [(kind, "base") for kind in KINDS] + [(k, "encoder_base") for k in KINDS if k not in CAUSAL_ONLY]


@pytest.fixture
def tuned(tmp_path: Path, request: pytest.FixtureRequest):
    """Fine-tune one task; its row."""

    def run(kind: str, base: str, **adapt: Any) -> dict[str, Any]:
        values = {
            "run": {"folder": str(tmp_path / "run")},
            "base": {"path": str(request.getfixturevalue(base))},
            "tasks": [write_kind(tmp_path, kind)],
            "adapt": {"length": 64, "epochs": 1, "learning_rate": 3e-3} | adapt,
        }
        recipe = validate(values, FinetuneRecipe, folder=tmp_path, where="recipe.yaml")
        return finetune(recipe)["tasks"][kind]

    return run


def _inputs(row: dict[str, Any], texts: list[Any]) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(row["model"])
    return tokenizer, tokenizer(texts, padding=True, truncation=True, return_tensors="pt")


@pytest.mark.parametrize("way", ["full", "lora", "head"])
@pytest.mark.parametrize("on", ["base", "encoder_base"])
@pytest.mark.parametrize("kind", ["classify", "label", "regress"])
def test_what_is_said_of_a_text_is_the_same_in_transformers(kind, on, way, tuned):
    row = tuned(kind, on, way=way)
    _, inputs = _inputs(row, [r["text"] for r in rows_of(kind, 40, 1)])
    model = AutoModelForSequenceClassification.from_pretrained(row["model"])
    with torch.no_grad():
        scores = model(**inputs).logits
    if kind == "classify":
        wanted = [model.config.label2id[r["label"]] for r in rows_of(kind, 40, 1)]
        found = torch.nn.functional.cross_entropy(scores, torch.tensor(wanted))
    elif kind == "label":
        has = torch.zeros_like(scores)
        for i, r in enumerate(rows_of(kind, 40, 1)):
            has[i, [model.config.label2id[label] for label in r["label"]]] = 1
        found = torch.nn.functional.binary_cross_entropy_with_logits(scores, has) * scores.shape[1]
        assert model.config.problem_type == "multi_label_classification"
    else:
        true = torch.tensor([r["label"] for r in rows_of(kind, 40, 1)])
        assert (scores[:, 0] - true).square().mean().sqrt().item() == pytest.approx(
            row["test_rmse"], rel=1e-3
        )
        return
    assert found.item() == pytest.approx(row["test_loss"], rel=1e-3)


@pytest.mark.parametrize("way", ["full", "lora", "head"])
@pytest.mark.parametrize("on", ["base", "encoder_base"])
def test_tags_are_the_same_in_transformers(on, way, tuned):
    row = tuned("tag", on, way=way)
    rows = rows_of("tag", 40, 1)
    texts = [" ".join(r["words"]) for r in rows]
    tokenizer, inputs = _inputs(row, texts)
    model = AutoModelForTokenClassification.from_pretrained(row["model"])
    with torch.no_grad():
        scores = model(**inputs).logits
    right = total = 0
    for i, r in enumerate(rows):
        spans = tokenizer(texts[i], return_offsets_mapping=True)["offset_mapping"]
        begin = 0
        for word, tag in zip(r["words"], r["tags"], strict=True):
            # An encoder's word has its tag at its first token, a decoder's at its last.
            own = [k for k, (start, stop) in enumerate(spans) if begin < stop <= begin + len(word) > start]
            place = own[0] if on == "encoder_base" else own[-1]
            right += model.config.id2label[int(scores[i, place].argmax())] == tag
            total += 1
            begin += len(word) + 1
    assert right / total == pytest.approx(row["test_accuracy"], abs=1e-6)


def test_answers_have_the_same_loss_in_transformers_by_the_released_chat_template(tuned):
    row = tuned("generate", "base")
    model = AutoModelForCausalLM.from_pretrained(row["model"])
    tokenizer = AutoTokenizer.from_pretrained(row["model"])
    losses = []
    for r in rows_of("generate", 40, 1):
        asked = [{"role": "user", "content": r["prompt"]}]
        answered = [*asked, {"role": "assistant", "content": r["response"]}]
        before = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(answered, tokenize=False)
        assert whole.startswith(before)
        prompt = tokenizer(before, add_special_tokens=False)["input_ids"]
        answer = tokenizer(whole[len(before) :], add_special_tokens=False)["input_ids"]
        assert tokenizer.eos_token_id in answer
        ids = torch.tensor([(prompt + answer)[:64]])
        with torch.no_grad():
            logits = model(ids).logits[0]
        own = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
        losses += own[len(prompt) - 1 :].tolist()
    assert np.mean(losses) == pytest.approx(row["test_loss"], rel=1e-3)
    assert row["test_loss"] < 4


@pytest.mark.parametrize("on", ["base", "encoder_base"])
def test_embeddings_are_the_same_in_transformers(on, tuned):
    row = tuned("embed", on)
    model = AutoModel.from_pretrained(row["model"])
    rows = rows_of("embed", 40, 1)
    vectors = []
    for side in ("text", "pair"):
        _, inputs = _inputs(row, [r[side] for r in rows])
        with torch.no_grad():
            states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        vectors.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
    likeness = vectors[0] @ vectors[1].T
    right = (likeness.argmax(dim=1) == torch.arange(40)).float().mean()
    assert right.item() == pytest.approx(row["test_recall_at_1"], abs=0.03)
    assert row["test_recall_at_1"] > 0.2
    parts = json.loads((Path(row["model"]) / "modules.json").read_text())
    assert [part["type"].rpartition(".")[2] for part in parts] == ["Transformer", "Pooling", "Normalize"]


def test_preferred_answers_become_likelier_than_by_the_reference(tuned, base):
    row = tuned("prefer", "base", epochs=3)
    assert row["test_accuracy"] > 0.7
    assert row["test_margin"] > 0
    logps = []
    for folder in (row["model"], base):
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(row["model"])
        each = []
        for r in rows_of("prefer", 40, 1):
            asked = [{"role": "user", "content": r["prompt"]}]
            pair = []
            for way in ("chosen", "rejected"):
                answered = [*asked, {"role": "assistant", "content": r[way]}]
                before = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
                whole = tokenizer.apply_chat_template(answered, tokenize=False)
                prompt = tokenizer(before, add_special_tokens=False)["input_ids"]
                answer = tokenizer(whole[len(before) :], add_special_tokens=False)["input_ids"]
                ids = torch.tensor([(prompt + answer)[:64]])
                with torch.no_grad():
                    logits = model(ids).logits[0].log_softmax(-1)
                picked = logits[:-1].gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
                pair.append(picked.sum().item())
            each.append(pair)
        logps.append(np.array(each))
    gain = 0.1 * (logps[0] - logps[1])
    margin = gain[:, 0] - gain[:, 1]
    assert np.logaddexp(0, -margin).mean() == pytest.approx(row["test_loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "on"), CASES)
def test_a_task_of_each_kind_learns_what_is_in_its_examples(kind, on, tuned):
    row = tuned(kind, on, epochs=8, learning_rate=5e-3)
    first = json.loads(
        (Path(row["model"]).parent.parent / "trials" / row["trial"] / "metrics.jsonl")
        .read_text()
        .splitlines()[0]
    )
    assert row["train_loss"] < first["train_loss"]
    bounds = {
        "classify": ("accuracy", 0.7),
        "label": ("micro_f1", 0.6),
        "tag": ("f1", 0.7),
        "embed": ("recall_at_1", 0.4),
    }
    if kind in bounds:
        metric, least = bounds[kind]
        assert row[f"test_{metric}"] > least
    elif kind == "regress":
        assert row["test_rmse"] < 2.3  # of the mean alone: 2.5


@pytest.mark.parametrize(
    ("kind", "on", "adapt", "message"),
    [
        (
            "generate",
            "encoder_base",
            {},
            "generate needs a decoder, which predicts the next token, and the base",
        ),
        ("embed", "base", {"way": "head"}, "there is no head to solve for in embed; take way: full or lora"),
        (
            "classify",
            "base",
            {"pooling": "cls"},
            "adapt.pooling: cls means nothing in a llama; set it to mean or",
        ),
        ("classify", "encoder_base", {"pooling": "last"}, "set it to mean or cls"),
        ("classify", "base", {"lora": {"rank": 64}, "way": "lora"}, "rank 64 is larger than a side of"),
        ("classify", "base", {"top_layers": 3}, "3 top layers of a model that has 2"),
    ],
)
def test_what_does_not_fit_is_one_line(kind, on, adapt, message, tuned):
    with pytest.raises((RecipeError, InputError, Exception), match=message.replace(".", r"\.")):
        tuned(kind, on, **adapt)


def test_the_card_says_what_it_was_made_of_and_no_place(tuned, tmp_path):
    row = tuned("classify", "base", way="lora")
    card = (Path(row["model"]) / "README.md").read_text(encoding="utf-8")
    assert f"| accuracy (decides) | {row['validation_accuracy']:.4f} | {row['test_accuracy']:.4f} |" in card
    assert "| way | lora |" in card
    assert "AutoModelForSequenceClassification" in card
    assert "forgot of the base model's task was not measured" in card
    assert str(tmp_path.parent) not in card
    assert json.loads((Path(row["model"]) / "adapter" / "adapter_config.json").read_text())["r"] == 8
