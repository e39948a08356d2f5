"""The peer of fine-tuning: ``transformers``' ``Trainer`` on the same base, data and budget.

As a script it is one trial in a process of its own, as a shell loop starts it.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any


def train(
    base: Path, data: Path, *, epochs: int, batch: int, rate: float, length: int, seed: int
) -> dict[str, float]:
    """Train and measure it; seconds of the training alone, and the test accuracy."""
    import numpy as np
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )
    from transformers.utils import logging

    disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer: Any = AutoTokenizer.from_pretrained(base)

    def read(name: str) -> Any:
        with (data / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        table = Dataset.from_dict(
            {"text": [r["text"] for r in rows], "labels": [int(r["label"] == "positive") for r in rows]}
        )
        return table.map(
            lambda part: tokenizer(part["text"], truncation=True, max_length=length),
            batched=True,
            remove_columns=["text"],
        )

    trains, tests = read("train.csv"), read("test.csv")
    torch.manual_seed(seed)
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=64,
            learning_rate=rate,
            warmup_steps=0.1,  # a share of them
            weight_decay=0.01,
            seed=seed,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=trains,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        begun = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - begun
        found = trainer.predict(tests)
    accuracy = float((np.argmax(found.predictions, axis=1) == found.label_ids).mean())
    return {"seconds": seconds, "accuracy": accuracy}


def main() -> None:
    """One trial; prints its numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("data", type=Path)
    for name, kind in (("epochs", int), ("batch", int), ("rate", float), ("length", int), ("seed", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    given = vars(parser.parse_args())
    print(json.dumps(train(given.pop("base"), given.pop("data"), **given)))


if __name__ == "__main__":
    main()
