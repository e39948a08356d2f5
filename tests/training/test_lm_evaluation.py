"""``raypretrain evaluate`` with lm-eval: its scores are what the model's own logits say, and bad tasks are one line."""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Command
from real_text import reviews
from small_base import base
from tokenizers import Tokenizer

from raypretrain.models.families import build
from raypretrain.models.loading import load_base

__all__ = ["base"]  # a fixture
INSTALLED = importlib.util.find_spec("lm_eval") is not None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="the extra 'evaluate' is not installed"),
]

DATA = "dataset_path: json\ndataset_kwargs: {data_files: {test: DATA}}\ntest_split: test\n"
CHOICE = """\
task: choice
output_type: multiple_choice
doc_to_text: start
doc_to_choice: ends
doc_to_target: answer
"""
CLOZE = """\
task: cloze
output_type: loglikelihood
doc_to_text: "{{start}}"
doc_to_target: " {{ends[answer]}}"
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}]
"""
ROLLING = """\
task: rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
"""
ESCAPE = "{{ cycler.__init__.__globals__.os.mkdir('MADE') or start }}"


@pytest.fixture
def documents() -> list[dict[str, Any]]:
    """Beginnings of reviews with three ends each, of which one is right; and the whole text of some length."""
    texts = [text.split() for text in reviews(40)]
    ends = [[" ".join(texts[(i + j) % 40][6 : 7 + j]) for j in range(3)] for i in range(40)]
    return [
        {"start": " ".join(words[:6]), "ends": three, "answer": i % 3, "text": " ".join(words[: 10 + 3 * i])}
        for i, (words, three) in enumerate(zip(texts, ends, strict=True))
    ]


@pytest.fixture
def tasks(tmp_path: Path, documents: list[dict[str, Any]]) -> Path:
    """A folder with three tasks over the documents."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = tmp_path / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    for name, text in (("choice", CHOICE), ("cloze", CLOZE), ("rolling", ROLLING)):
        (folder / f"{name}.yaml").write_text(text + DATA.replace("DATA", str(data)))
    return folder


class ByHand:
    """Log-likelihoods by our own network, from its logits."""

    def __init__(self, folder: Path) -> None:
        shape, state = load_base(folder)
        self._model: Any = build(shape)
        self._model.load_state_dict(state)
        self._model.eval()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._positions = shape.max_length

    def of_last(self, ids: Sequence[int], number: int) -> float:
        """Of the last ``number`` of ``ids``, given those before them."""
        with torch.inference_mode():
            each = self._model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
        return sum(float(each[i, ids[i + 1]]) for i in range(len(ids) - 1 - number, len(ids) - 1))

    def of_end(self, start: str, end: str) -> float:
        """Of what follows ``start`` and a space."""
        whole = self._tokenizer.encode(f"{start} {end}").ids
        return self.of_last(whole, len(whole) - len(self._tokenizer.encode(start).ids))

    def of_text(self, text: str) -> float:
        """Of a text in windows, each with all the positions; lm-eval has the beginning token before what the
        tokenizer gives, and so predicts that which the tokenizer puts first."""
        ids = [1, *self._tokenizer.encode(text).ids]
        total = 0.0
        for start in range(1, len(ids), self._positions):
            end = min(start + self._positions, len(ids))
            total += self.of_last(ids[max(0, end - 1 - self._positions) : end], end - start)
        return total


def scores(out: str) -> dict[str, dict[str, Any]]:
    """The rows of a result, by metric."""
    return {row["metric"]: row for row in json.loads(out)["scores"]}


def test_its_scores_are_those_of_the_models_own_logits(
    command: Command, base: Path, tasks: Path, documents: list[dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "scores.json"
    names = "choice,cloze,rolling"
    status, out, _ = command.run(
        "evaluate", base, "--tasks", names, "--task-folder", tasks, "--json", "--output", output
    )
    assert status == 0
    assert json.loads(output.read_text()) == json.loads(out)
    found = scores(out)

    hand = ByHand(base)
    each = [[hand.of_end(doc["start"], end) for end in doc["ends"]] for doc in documents]
    right = [_best(three) == doc["answer"] for three, doc in zip(each, documents, strict=True)]
    by_length = [
        _best([value / len(end) for value, end in zip(three, doc["ends"], strict=True)]) == doc["answer"]
        for three, doc in zip(each, documents, strict=True)
    ]
    assert 0 < statistics.mean(right) != statistics.mean(by_length) < 1
    assert found["acc"]["value"] == statistics.mean(right)
    assert found["acc_norm"]["value"] == statistics.mean(by_length)
    error = statistics.stdev(map(float, right)) / math.sqrt(len(right))
    assert found["acc"]["stderr"] == pytest.approx(error)

    ends = [three[doc["answer"]] for three, doc in zip(each, documents, strict=True)]
    assert found["perplexity"]["value"] == pytest.approx(math.exp(-statistics.mean(ends)), rel=1e-4)
    size = sum(len(doc["text"].encode()) for doc in documents)
    bits = -sum(hand.of_text(doc["text"]) for doc in documents) / size / math.log(2)
    assert found["bits_per_byte"]["value"] == pytest.approx(bits, rel=1e-4)
    assert {row["n"] for row in found.values()} == {40}
    assert json.loads(out)["truncated"] == 0


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def test_a_limit_and_examples_are_kept_to_and_what_was_cut_is_counted(
    command: Command, base: Path, tasks: Path
) -> None:
    arguments = ["--tasks", "choice", "--task-folder", tasks, "--limit", 5, "--few-shot", 6]
    status, out, _ = command.run("evaluate", base, *arguments, "--json")
    assert status == 0
    row = scores(out)["acc"]
    assert (row["n"], row["of"], row["few_shot"]) == (5, 40, 6)
    assert (
        0 < json.loads(out)["truncated"] <= 15
    )  # six beginnings of six words with their ends: over 64 tokens


def test_a_function_of_the_folder_runs_where_that_is_allowed(
    command: Command, base: Path, tasks: Path
) -> None:
    (tasks / "fewer.py").write_text("def only_three(documents):\n    return documents.select(range(3))\n")
    with (tasks / "choice.yaml").open("a") as file:
        file.write("process_docs: !function fewer.only_three\n")
    arguments = ["evaluate", base, "--tasks", "choice", "--task-folder", tasks, "--json"]
    assert "choice.yaml:9: '!function fewer.only_three'" in command.fails(*arguments)
    _, out, _ = command.run(*arguments, "--allow-code")
    assert scores(out)["acc"]["n"] == 3


def test_a_template_cannot_reach_what_python_has(
    command: Command, base: Path, tasks: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    template = ESCAPE.replace("MADE", str(made))
    text = (tasks / "choice.yaml").read_text().replace("doc_to_text: start", f'doc_to_text: "{template}"')
    (tasks / "choice.yaml").write_text(text)
    line = command.fails("evaluate", base, "--tasks", "choice", "--task-folder", tasks)
    assert line.startswith(f"{tasks}/choice.yaml: cannot be used (access to attribute '__init__'")
    assert not made.exists()

    import jinja2

    jinja2.Environment().from_string(template).render(start="x")  # as lm-eval has it by itself
    assert made.exists()


@pytest.mark.parametrize(
    ("tasks_wanted", "change", "said"),
    [
        ("chioce", {}, "--tasks: there is no task 'chioce'; did you mean 'choice'?"),
        ("choice", {"doc_to_text:": "doc_to_txt:"}, "unknown key 'doc_to_txt'; did you mean 'doc_to_text'?"),
        (
            "cloze",
            {"{metric: perplexity": "{metric: perplex"},
            "unknown metric_list.metric 'perplex'; did you",
        ),
        ("choice", {"test_split: test": "test_split: tset"}, "choice.yaml: cannot be used ("),
        ("choice", {"documents.jsonl": "gone.jsonl"}, "choice.yaml: cannot be used (Unable to find "),
        (
            "choice",
            {"doc_to_text: start": "doc_to_text: '{{begin}}'"},
            "cannot be used ('begin' is undefined)",
        ),
        (
            "choice",
            {"path: json": "path: someone/data"},
            "choice.yaml: its data are on the Hugging Face hub, which",
        ),
        (
            "choice",
            {"task: choice": "task: choice\nunsafe_code: true"},
            "task 'choice': would run what the model",
        ),
    ],
)
def test_a_task_that_cannot_be_used_is_one_line(
    command: Command, base: Path, tasks: Path, tasks_wanted: str, change: dict[str, str], said: str
) -> None:
    for path in tasks.glob("*.yaml"):
        text = path.read_text()
        for old, new in change.items():
            text = text.replace(old, new)
        path.write_text(text)
    assert said in command.fails("evaluate", base, "--tasks", tasks_wanted, "--task-folder", tasks)


def test_a_model_that_lacks_weights_is_not_scored(
    command: Command, base: Path, tasks: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    model.mkdir()
    for path in base.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    weights = load_file(model / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    line = command.fails("evaluate", model, "--tasks", "choice", "--task-folder", tasks)
    assert line == f"{model}: has no weights, or none that fit, for model.norm.weight"
