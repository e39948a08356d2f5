"""What pretraining buys: test accuracy by the number of labels, from several bases, from scratch, and by TF-IDF.

Film reviews of one sentence (Rotten Tomatoes) and long ones (IMDB), each with its own test set; mean and standard
deviation over the seeds, which draw the labels. ``--base NAME=FOLDER`` names a released model, as often as needed.
"""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import parser, say_load, show
from torch import Tensor, nn
from tuning_data import recipe

from raypretrain.demo.reviews import content_key, read_reviews
from raypretrain.finetuning import trial
from raypretrain.finetuning.encode import Encoded
from raypretrain.finetuning.head import FeatureCache
from raypretrain.finetuning.rival import rival
from raypretrain.finetuning.train import features_of
from raypretrain.finetuning.work import prepare

TEST = 2000
SETS = {"one sentence": "rotten_tomatoes", "long": "imdb"}


def main() -> None:
    """Print a table for each set."""
    options = parser(__doc__ or "")
    options.add_argument("--base", action="append", required=True, metavar="NAME=FOLDER")
    options.add_argument("--labels", default="500,2000,all")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--seeds-of-all", type=int, default=5, help="where all labels are taken")
    options.add_argument("--ways", default="head,full", help="of each base; the first only of one above 20 M")
    options.add_argument("--sets", default="one sentence,long")
    options.add_argument("--length", type=int, default=128)
    options.add_argument("--inits", default="base,scratch", help="scratch: of the first base")
    options.add_argument(
        "--once", action="store_true", help="a base reads each text once, whatever draws have it"
    )
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--precision", default="fp32", help="of all networks: fp32 or bf16")
    given = options.parse_args()
    counts = [None if count == "all" else int(count) for count in given.labels.split(",")]
    if given.quick:
        counts, given.seeds = [200], 1
    bases = [base.partition("=")[::2] for base in given.base]
    say_load()
    torch.set_num_threads(given.threads)
    for chosen in given.sets.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            _write(folder, SETS[chosen])
            rows = [_rival(folder, Path(bases[0][1]), counts, given.seeds)]
            for name, path in bases:
                for init in given.inits.split(","):
                    if init == "scratch" and (name, path) != bases[0]:
                        continue
                    _VECTORS.clear()
                    trial.features_of = remembered if given.once and init == "base" else features_of
                    for way in given.ways.split(","):
                        label = f"{name}, {way}" if init == "base" else f"{name}'s shape from scratch, {way}"
                        rows.append(_trials(folder, Path(path), label, way, init, counts, given))
        columns = ["", *(f"{count or 'all'} labels" for count in counts), "seconds a trial"]
        show(f"reviews, {chosen}: test accuracy", columns, rows)


def remembered(model: nn.Module, kind: Any, data: Encoded, pad: int) -> Tensor:
    """As ``features_of``, but what was asked of the network before is not asked again.

    Trials do not do so: a text's last bits depend on the others of its batch, and so would on what came before.
    """
    keys = [data.ids[data.starts[i] : data.starts[i + 1]].tobytes() for i in range(len(data))]
    new = np.array([i for i, key in enumerate(keys) if key not in _VECTORS], dtype=np.int64)
    if len(new):
        _VECTORS.update(
            zip((keys[i] for i in new), features_of(model, kind, data.take(new), pad), strict=True)
        )
    return torch.stack([_VECTORS[key] for key in keys])


_VECTORS: dict[bytes, Tensor] = {}
"""Of a base: a text's ids → what its network makes of it."""


def _write(folder: Path, source: str) -> None:
    reviews = {content_key(review.text): review for review in read_reviews() if review.source == source}
    ordered = [reviews[key] for key in sorted(reviews)]
    for name, part in (("test", ordered[:TEST]), ("train", ordered[TEST:])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([review.text, review.label] for review in part)


def _rival(folder: Path, base: Path, counts: list[int | None], seeds: int) -> list[object]:
    cells, begun = [], time.perf_counter()
    for count in counts:
        wanted = recipe(folder, base, "rival", task={"examples": count} if count else {})
        task = prepare(wanted, [wanted.adapt]).tasks["sentiment"]
        found = [rival(task, seed) for seed in range(seeds if count else 1)]
        cells.append(_cell([row["accuracy"] for row in found if row is not None]))
    trials = len(counts) * seeds
    return ["TF-IDF + logistic regression", *cells, (time.perf_counter() - begun) / trials]


def _trials(
    folder: Path, base: Path, label: str, way: str, init: str, counts: list[int | None], given: object
) -> list[object]:
    cells, seconds = [], []
    for count in counts:
        seeds = vars(given)["seeds"] if count else vars(given)["seeds_of_all"]
        if not count and way == "head" and init == "base":
            seeds = 1  # nothing of it is drawn
        adapt = {
            "way": way,
            "init": init,
            "length": vars(given)["length"],
            "learning_rate": 1e-3,
            "epochs": 8 if count and count <= 1000 else 3,
            "warm_head": way == "full",
            "seed": {"grid": list(range(seeds))},
        } | ({"examples": count} if count else {})
        compute, task = {"precision": vars(given)["precision"]}, {"validation_examples": 500}
        wanted = recipe(folder, base, "trials", adapt=adapt, task=task, compute=compute)
        work = prepare(wanted, wanted.trials())
        start, tokens = work.start(), work.tokens([(one.task, one.adapt) for one in work.trials])
        cache, scores = FeatureCache(), []
        for planned in work.trials:
            own = tokens[planned.task, planned.length]
            found = trial.run_trial(start, own, planned.adapt, work.trial_folder(planned), cache=cache)
            scores.append(found["test_accuracy"])
            seconds.append(found["seconds"])
        cells.append(_cell(scores))
        print(f"{label}, {count or 'all'} labels: {cells[-1]}", flush=True)
    return [label, *cells, statistics.median(seconds)]


def _cell(scores: list[float]) -> str:
    spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.3f}{spread}"


if __name__ == "__main__":
    main()
