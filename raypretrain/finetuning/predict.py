"""What a released model says of any number of files, streamed by Ray Data, or of one text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raypretrain.errors import InputError
from raypretrain.finetuning.rows import LabelledFile, read_rows, text_of
from raypretrain.models.config import read_json_object

Row = dict[str, Any]

Text = str | tuple[str, str] | list[str]
"""What is asked: a text, a pair of texts, or the words of a sentence."""

BATCH = 32
"""Texts at once."""


class Predictor:
    """A released model of any kind, by the class of ``transformers`` that its config names.

    Args:
        folder: of the model.
        length: new tokens of an answer, at most.

    Raises:
        InputError: it is no model that answers, or has pickled weights only.
    """

    def __init__(self, folder: str, length: int = 200) -> None:
        import torch
        import transformers
        from transformers.utils import logging

        from raypretrain.models.loading import weight_paths

        logging.disable_progress_bar()
        self._torch, self._length = torch, length
        name = architecture_of(folder)
        found = next((found for end, found in _ANSWERS.items() if name.endswith(end)), None)
        if found is None:
            known = ", ".join(_ANSWERS)
            raise InputError(f"is a {name}", where=folder, fix=f"give a model that ends in {known}")
        kind, self._answer = found
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        weight_paths(Path(folder))  # pickled ones alone are refused, unread
        auto = getattr(transformers, kind)
        loaded = auto.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
        self.model = loaded.to(self._device).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def __call__(self, texts: Sequence[Text]) -> list[Row]:
        """A row for each text, pair of texts or sentence, in their order; those of like length go together."""
        if self._answer is not _of_tokens:
            texts = [" ".join(text) if isinstance(text, list) else text for text in texts]
        order = np.argsort([len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts])
        rows: list[Row] = [{} for _ in texts]
        with self._torch.inference_mode():
            for start in range(0, len(order), BATCH):
                places = order[start : start + BATCH].tolist()
                made = self._answer(self, [texts[i] for i in places])
                for place, row in zip(places, made, strict=True):
                    rows[place] = row
        return rows

    def inputs(self, texts: Sequence[Any], **options: Any) -> Any:
        """What the model takes, on its device."""
        firsts, seconds = texts, None
        if texts and isinstance(texts[0], tuple):
            firsts, seconds = zip(*texts, strict=True)
            if not any(
                self.tokenizer("a", "b", return_special_tokens_mask=True)["special_tokens_mask"][1:-1]
            ):
                firsts, seconds = [f"{a}\n{b}" for a, b in texts], None  # as in training: nothing parts them
        made = self.tokenizer(
            list(firsts),
            None if seconds is None else list(seconds),
            padding=True,
            truncation=True,
            return_tensors="pt",
            **options,
        )
        return made.to(self._device)


def architecture_of(folder: str) -> str:
    """The class of ``transformers`` that a model's config names.

    Raises:
        InputError: there is no config, or it names none.
    """
    values = read_json_object(Path(folder) / "config.json", "give the folder of a released model")
    names = values.get("architectures")
    if not isinstance(names, list) or not names:
        raise InputError("names no architecture", where=f"{folder}/config.json")
    return str(names[0])


def _of_text(predictor: Predictor, texts: Sequence[Any]) -> list[Row]:
    config = predictor.model.config
    scores = predictor.model(**predictor.inputs(texts)).logits.float().cpu()
    if config.problem_type == "regression":
        return [{"value": float(score[0])} for score in scores]
    names = [config.id2label[i] for i in range(scores.shape[1])]
    if config.problem_type == "multi_label_classification":
        shares = scores.sigmoid().tolist()
        return [
            {
                "labels": [name for name, share in zip(names, row, strict=True) if share > 0.5],
                "scores": dict(zip(names, row, strict=True)),
            }
            for row in shares
        ]
    shares = scores.softmax(dim=-1)
    best = shares.argmax(dim=-1).tolist()
    return [{"label": names[i], "score": float(row[i])} for i, row in zip(best, shares, strict=True)]


def _of_tokens(predictor: Predictor, texts: Sequence[Any]) -> list[Row]:
    """The tag of each word, None of those that the length cut off.

    A sentence that comes as a text is parted as the words were that the model learned from. Where nothing parted them,
    each token stands for a word.
    """
    from raypretrain.finetuning.kinds.tag import token_of_words
    from raypretrain.models.releasing import WORDS_PARTED_BY

    config = predictor.model.config
    between = getattr(config, WORDS_PARTED_BY, " ")
    whole = [text if isinstance(text, str) else between.join(text) for text in texts]
    inputs = predictor.inputs(whole, return_offsets_mapping=True)
    offsets = [[tuple(pair) for pair in row] for row in inputs.pop("offset_mapping").tolist()]
    tags = predictor.model(**inputs).logits.argmax(dim=-1).tolist()
    causal = not any(word in architecture_of(config.name_or_path) for word in ("Bert", "Esm"))
    rows = []
    for asked, text, own, found in zip(texts, whole, offsets, tags, strict=True):
        parted = text.split(between) if between else _pieces(text, own)
        words = asked if isinstance(asked, list) else parted
        places = token_of_words(own, words, len(between), causal)
        names = [None if place is None else config.id2label[found[place]] for place in places]
        rows.append({"words": words, "tags": names})
    return rows


def _pieces(text: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """The text in parts, a token each; what is cut off is one more."""
    spans = [(start, stop) for start, stop in offsets if stop > start]
    places = sorted(
        {0, len(text), max((stop for _, stop in spans), default=0), *(start for start, _ in spans)}
    )
    return [text[start:stop] for start, stop in itertools.pairwise(places)]


def _of_answers(predictor: Predictor, texts: Sequence[Any]) -> list[Row]:
    """The answer to each text, by the model's chat template; of a base model without one, how the text goes on."""
    tokenizer = predictor.tokenizer
    tokenizer.padding_side = "left"
    asked = list(texts)
    if tokenizer.chat_template:
        asked = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
            )
            for text in texts
        ]
    inputs = predictor.inputs(asked, add_special_tokens=not tokenizer.chat_template)
    made = predictor.model.generate(
        **inputs, max_new_tokens=predictor._length, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )
    new = made[:, inputs["input_ids"].shape[1] :]
    return [{"answer": text} for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def _of_embedding(predictor: Predictor, texts: Sequence[Any]) -> list[Row]:
    inputs = predictor.inputs(texts)
    states = predictor.model(**inputs).last_hidden_state.float()
    real = inputs["attention_mask"][..., None]
    mean = (states * real).sum(dim=1) / real.sum(dim=1)
    vectors = predictor._torch.nn.functional.normalize(mean, dim=-1).cpu().tolist()
    return [{"embedding": vector} for vector in vectors]


Answer = Callable[[Predictor, Sequence[Any]], list[Row]]
_ANSWERS: dict[str, tuple[str, Answer]] = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", _of_text),
    "ForTokenClassification": ("AutoModelForTokenClassification", _of_tokens),
    "ForCausalLM": ("AutoModelForCausalLM", _of_answers),
    "LMHeadModel": ("AutoModelForCausalLM", _of_answers),
    "Model": ("AutoModel", _of_embedding),
}
"""By the end of the architecture's name, in this order."""


def texts_of(file: LabelledFile) -> Iterator[tuple[Row, Text]]:
    """Each row of a file with its text, pair of texts, or words.

    Raises:
        InputError: a row has none.
    """
    for where, row in read_rows(file):
        if "words" in row and file.text not in row:
            words = [str(word) for word in row["words"]]  # type: ignore[attr-defined]
            yield row | {"text": " ".join(words)}, words
            continue
        text = text_of(row, file.text, where)
        yield row, text if file.pair is None else (text, text_of(row, file.pair, where))


def as_line(row: Row) -> str:
    """A row as JSON."""
    return json.dumps(row, ensure_ascii=False, default=str)
