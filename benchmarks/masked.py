"""Masked language modelling: ours on packed text ÷ transformers' BERT on padded batches, in real tokens a second.

The same film reviews by the same tokenizer, 15 % hidden, eager, one thread. Ours: modernbert and bert of about 10
million parameters without their embedding, on rows without padding, of documents laid end to end; and with attention
that stops at the edges of documents. The peer: BertForMaskedLM of the very shape of our bert, a document a row, cut at
the row's length and padded to the longest of its batch by DataCollatorForLanguageModeling. Padding does not count.
Nobody's time has tokenizing, packing or masking in it: batches are made beforehand.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import Step, bare_loop
from report import Row, parser, report, say_load
from sizes import PRECISIONS
from torch import Tensor, nn

from raypretrain.demo.reviews import read_reviews
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.shape import ModelShape
from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.tokens.objectives import MaskConfig, make_objective
from raypretrain.tokens.packing import pack
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from raypretrain.tokens.tokenizer_specials import MASK

GOAL = 2.0
PRESETS = {"modernbert": "modernbert-10m", "bert": "bert-10m"}


@dataclass(frozen=True)
class Batch:
    """What a step is given.

    Args:
        values: the network's arguments, by name.
        real: tokens that are no padding.
    """

    values: dict[str, Tensor]
    real: int


@dataclass(frozen=True)
class Trained:
    """A step, and the tokens of the batches that it goes through again and again."""

    step: Step
    real: list[int]
    parameters: int


def packed_batches(
    documents: list[Any], tokenizer: Tokenizer, length: int, rows: int, alone: bool
) -> list[Batch]:
    """As the stream of a run makes them.

    Args:
        alone: attention and positions stop at the edges of documents.
    """
    bos, eos, pad = tokenizer.bos, tokenizer.eos, tokenizer.pad
    _, sequences = pack(documents, length, "concatenate", bos=bos, eos=eos, pad=pad)
    objective = make_objective("masked", MaskConfig(), tokenizer, seed=0)
    batches = []
    for first in range(0, len(sequences) - rows + 1, rows):
        part = sequences[slice(first, first + rows)]
        places = np.array([[0, 0, first + row] for row in range(rows)])
        inputs, targets = map(torch.from_numpy, objective.examples(part, places))
        values = {"ids": inputs, "targets": targets}
        if alone:
            values["starts"] = torch.from_numpy(part.starts())
        batches.append(Batch(values, int(part.filled.sum())))
    return batches


def padded_batches(texts: list[str], folder: Path, length: int, rows: int) -> list[Batch]:
    """As ``transformers`` shows it for texts of one row each, by the tokenizer in ``folder``."""
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MaskConfig().rate)
    encoded = tokenizer(texts, truncation=True, max_length=length, return_special_tokens_mask=True)
    examples = [{name: values[i] for name, values in encoded.items()} for i in range(len(texts))]
    batches = [collate(examples[first : first + rows]) for first in range(0, len(texts) - rows + 1, rows)]
    wanted = ("input_ids", "attention_mask", "labels")
    return [Batch({n: b[n] for n in wanted}, int(b["attention_mask"].sum())) for b in batches]


def training(model: Any, batches: list[Batch], dtype: torch.dtype) -> Trained:
    """A bare loop over the batches."""
    model.to(dtype)
    following: Iterator[Batch] = cycle(batches)

    def compute_loss() -> Tensor:
        out = model(**next(following).values)
        loss: Tensor = out if isinstance(out, Tensor) else out.loss
        return loss

    parameters = sum(weight.numel() for weight in model.parameters())
    return Trained(bare_loop(model, compute_loss), [batch.real for batch in batches], parameters)


def our_network(shape: ModelShape) -> nn.Module:
    """With its first weights."""
    model = build(shape)
    model.init_weights(0)
    return model


def transformers_bert(shape: ModelShape) -> nn.Module:
    """``BertForMaskedLM`` of our bert's shape; without dropout, as ours."""
    from transformers import BertConfig, BertForMaskedLM

    values = {key: value for key, value in shape.to_huggingface_config().items() if key != "model_type"}
    return BertForMaskedLM(BertConfig(**values)).train()


def race(trained: dict[str, Trained], rounds: int) -> dict[str, float]:
    """Real tokens a second: each goes once through all its batches a round, a step each in turn; medians of rounds."""
    speeds: dict[str, list[float]] = {name: [] for name in trained}
    for each in trained.values():  # what is made at the first use does not count
        each.step()
    for _ in range(rounds):
        seconds = dict.fromkeys(trained, 0.0)
        for turn in range(max(len(each.real) for each in trained.values())):
            for name, each in trained.items():
                if turn < len(each.real):
                    begun = time.perf_counter()
                    each.step()
                    seconds[name] += time.perf_counter() - begun
        for name, each in trained.items():
            speeds[name].append(sum(each.real) / seconds[name])
    return {name: statistics.median(found) for name, found in speeds.items()}


def contestants(
    options: argparse.Namespace, texts: list[str], folder: Path, dtype: torch.dtype
) -> dict[str, Trained]:
    """Ours, and the peer as ``transformers``, each with its first batches."""
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    rows, length, most = options.batch, options.length, options.batches
    documents = tokenizer.encode_batch(texts)
    presets = {"modernbert": "modernbert-1m", "bert": "bert-1m"} if options.quick else PRESETS
    shapes = {name: ModelConfig(preset=p).shape(tokenizer.vocabulary, length) for name, p in presets.items()}
    found = {}
    for alone in (False, True):
        batches = packed_batches(documents, tokenizer, length, rows, alone)[:most]
        for name, shape in shapes.items():
            label = f"{name}, documents apart" if alone else name
            found[label] = training(our_network(shape), batches, dtype)
    padded = padded_batches(texts, folder, length, rows)[:most]
    found["transformers"] = training(transformers_bert(shapes["bert"]), padded, dtype)
    shown = sum(batch.real for batch in padded) / sum(b.values["input_ids"].numel() for b in padded)
    print(f"padded batches: {shown:.1%} of the tokens are real", flush=True)
    for name, each in found.items():
        print(f"  {name}: {each.parameters:,} parameters", flush=True)
    return found


def prepare(folder: Path, vocabulary: int, sample: int) -> list[str]:
    """Reviews in an order of their own; their tokenizer is put into ``folder``, in both layouts."""
    texts = [review.text for review in read_reviews()]
    random.Random(0).shuffle(texts)
    settings = TokenizerConfig.model_validate({"kind": "bpe", "vocabulary": vocabulary, "sample": sample})
    path = folder / "tokenizer.model"
    size, some = 0, []
    for text in texts:
        some.append(text)
        size += len(text)
        if size > sample:
            break
    tokenizer = train_tokenizer(iter(some), settings, path, threads=2, controls=(MASK,))
    save_huggingface_tokenizer(tokenizer, folder)
    return texts


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "")
    made.add_argument("--batch", type=int, default=8, help="rows of a batch")
    made.add_argument("--length", type=int, default=512)
    made.add_argument("--batches", type=int, help="of each; 12, with --quick 2")
    made.add_argument("--rounds", type=int, help="times through them; 3, with --quick 1")
    options = made.parse_args()
    options.batches = options.batches or (2 if options.quick else 12)
    rounds = options.rounds or (1 if options.quick else 3)
    torch.set_num_threads(1)
    say_load()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        vocabulary, sample = (2048, 300_000) if options.quick else (16384, 3_000_000)
        texts = prepare(Path(place), vocabulary, sample)[: 2 * options.batches * options.batch * 8]
        for precision in PRECISIONS:
            dtype = torch.float32 if precision == "fp32" else torch.bfloat16
            speeds = race(contestants(options, texts, Path(place), dtype), rounds)
            for name, speed in speeds.items():
                if name != "transformers":
                    label = f"{name} ÷ transformers' BERT: {precision}"
                    rows.append(Row(label, speed, speeds["transformers"], GOAL))
    say_load()
    report("masked language modelling, one thread", "real tokens/s", rows, options.json)


if __name__ == "__main__":
    main()
