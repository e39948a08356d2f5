"""The demo: raw shards → tokenizer → pretraining → a released model → a search of classifiers → one table."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from raypretrain.config import validate
from raypretrain.console import PretrainView, out, progress_out
from raypretrain.demo.reviews import DemoData, write_demo_data
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.finetuning.search import SearchResult, search
from raypretrain.storage import write_atomic
from raypretrain.training.cluster import connect
from raypretrain.training.pretrain import Outcome, pretrain
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.tuneview import SearchView

SEEDS = [0, 1, 2]
PROMPTS = ("This film is", "The acting was")


def demo(folder: Path, quick: bool = False) -> dict[str, Any]:
    """Run the whole arc in ``folder`` and print what came out; the same call again goes on where it stopped.

    Args:
        quick: a tenth of the pretraining and one seed.

    Returns:
        ``pretraining``, ``samples``, ``transfer`` (rows of the table), ``rival``, ``seconds`` and ``paths``.
    """
    begun = time.perf_counter()
    folder = folder.resolve()
    seconds: dict[str, float] = {}
    _title("raw shards: film reviews without their labels")
    data = write_demo_data(folder / "data")
    _say(
        f"{data.documents:,} reviews, {data.bytes / 1e6:.1f} MB, in {data.shards}; none of the test split among them"
    )
    seconds["shards"] = time.perf_counter() - begun

    _title("pretraining")
    outcome = _pretrain(folder, data, quick)
    seconds["pretraining"] = time.perf_counter() - begun - sum(seconds.values())

    _title("the released model writes")
    samples = _samples(Path(outcome.result["model"]))
    for text in samples:
        out.print(f"  {text}", soft_wrap=True)
    seconds["samples"] = time.perf_counter() - begun - sum(seconds.values())

    _title("fine-tuning: a search of sentiment classifiers from the one base model, and from scratch")
    recipe = finetune_recipe(folder, data, quick)
    with SearchView() as view:
        found = search(recipe, view.watch, connect=lambda: connect(None))
    seconds["fine-tuning"] = time.perf_counter() - begun - sum(seconds.values())

    result = _result(folder, outcome, samples, found, seconds)
    write_atomic(folder / "result.json", json.dumps(result, indent=1, default=str))
    _print(result)
    return result


def pretrain_recipe(folder: Path, data: DemoData, quick: bool) -> PretrainRecipe:
    """The demo's recipe of pretraining; the run's folder keeps it."""
    values = {
        "run": {"folder": str(folder / "pretraining"), "seed": 1},
        "corpus": {"sources": [{"path": data.shards, "name": "reviews"}], "held_out": 0.01},
        "tokenizer": {"vocabulary": 4096, "sample": 5_000_000},
        "sequences": {"length": 128, "window": 8_000_000},
        "model": {"preset": "llama-1m", "layers": 3},
        "training": {
            "tokens": 400_000 if quick else 4_200_000,
            "global_batch": 32,
            "learning_rate": 6e-3,
            "schedule": {"kind": "linear", "final": 0.0},
            "batch_warmup": {"first": 8, "steps": 120},
            "evaluation": {"sequences": 256},
            "checkpoint": {"keep": 1},
        },
        "compute": {"workers": 2, "zero": 1, "precision": "bf16" if _computes_bf16() else "fp32"},
    }
    return validate(values, PretrainRecipe, folder=folder, where="demo")


def finetune_recipe(folder: Path, data: DemoData, quick: bool) -> FinetuneRecipe:
    """The demo's recipe of the search."""
    seeds = SEEDS[:1] if quick else SEEDS
    values = {
        "run": {"folder": str(folder / "fine-tuning")},
        "base": {
            "path": str(folder / "pretraining" / "model"),
            "text": {"run": str(folder / "pretraining")},
        },
        "tasks": [
            {
                "name": "sentiment",
                "train": {"path": str(data.train)},
                "test": {"path": str(data.test)},
                "examples": 200 if quick else 1000,
                "validation_examples": 400,
            }
        ],
        "adapt": {"epochs": 3, "batch": 16, "length": 128, "warm_head": False},
        "search": {
            "metric": "validation_accuracy",
            "space": {
                "way": {"grid": ["head", "full"]},
                "init": {"grid": ["base", "scratch"]},
                "learning_rate": {"grid": [1e-3] if quick else [1e-3, 2e-3]},
                "seed": {"grid": seeds},
            },
        },
    }
    return validate(values, FinetuneRecipe, folder=folder, where="demo")


def _computes_bf16() -> bool:
    """Whether this CPU multiplies matrices in bf16 by itself; elsewhere bf16 is slower than fp32."""
    flags = Path("/proc/cpuinfo")
    words = set(flags.read_text(encoding="utf-8").split()) if flags.is_file() else set()
    return bool(words & {"avx512_bf16", "amx_bf16"})


def _pretrain(folder: Path, data: DemoData, quick: bool) -> Outcome:
    with PretrainView() as view:
        outcome = pretrain(pretrain_recipe(folder, data, quick), view.watch)
    if outcome.status != "finished":
        _say(
            f"stopped after step {outcome.step} of {outcome.steps}, which is saved; the same command goes on"
        )
        raise KeyboardInterrupt
    return outcome


def _samples(model: Path) -> list[str]:
    """Two sentences by the released model, as anyone would get them: with transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from transformers.utils import logging

    logging.disable_progress_bar()
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    texts = []
    for prompt in PROMPTS:
        set_seed(0)
        ids = tokenizer(prompt, return_tensors="pt")
        new = loaded.generate(**ids, max_new_tokens=40, do_sample=True, temperature=0.7, top_p=0.95)
        texts.append(" ".join(tokenizer.decode(new[0], skip_special_tokens=True).split()))
    return texts


def _result(
    folder: Path,
    outcome: Outcome,
    samples: list[str],
    found: SearchResult,
    seconds: dict[str, float],
) -> dict[str, Any]:
    cheap = found.tasks["sentiment"]["rival"]
    return {
        "pretraining": outcome.result,
        "samples": samples,
        "transfer": found.comparison,
        "rival": {
            "score": cheap["accuracy"],
            "spread": cheap["spread"].get("accuracy"),
            "seeds": cheap["seeds"],
            "seconds": cheap["seconds"],
        },
        "trials": len(found.rows),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "paths": {
            "raw shards": folder / "data" / "shards",
            "run": outcome.folder,
            "model": outcome.result["model"],
            "trials": found.paths["table"],
            "report": found.paths["report"],
            "classifier": found.best["sentiment"]["model"],
            "this table": folder / "result.json",
        },
    }


def _print(result: dict[str, Any]) -> None:
    run = result["pretraining"]
    table = Table("pretraining", "", title="what came out", title_justify="left")
    table.add_row("parameters · tokens", f"{run['parameters']:,} · {run['tokens']:,}")
    for unit, key in (("nats a token", "held_out_loss"), ("bits a byte", "held_out_bits_per_byte")):
        table.add_row(f"held-out loss, {unit}", f"{run[f'first_{key}']:.3f} → {run[f'last_{key}']:.3f}")
    table.add_row("tokens per second", f"{run['tokens_per_second']:,.0f}")
    table.add_row("time spent waiting for data", f"{run['data_wait_share']:.2%}")
    table.add_row("seconds of training", f"{run['train_seconds']:.0f}")
    out.print(table)
    table = Table(
        "sentiment classifier", "from the base", "from scratch", "forgot", "seeds", "seconds a trial"
    )
    for way, title in (("head", "head on frozen features"), ("full", "whole model")):
        rows = {row["init"]: row for row in result["transfer"] if row["way"] == way}
        cells = [_accuracy(rows.get(init)) for init in ("base", "scratch")]
        times = " / ".join(f"{rows[i]['seconds']:.1f}" for i in ("base", "scratch") if i in rows)
        lost = rows.get("base", {}).get("forgetting")
        forgot = "" if lost is None else f"{lost:.3f}"
        table.add_row(title, *cells, forgot, str(max(row["seeds"] for row in rows.values())), times)
    cheap = result["rival"]
    table.add_row(
        "TF-IDF + logistic regression",
        _accuracy(cheap),
        "",
        "",
        str(cheap["seeds"]),
        f"{cheap['seconds']:.1f}",
    )
    out.print(table)
    out.print("test accuracy, mean ± standard deviation over seeds; the same labels and budget in each row")
    out.print("forgot: nats a token of the base's own held-out text, after less before")
    out.print("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in result["seconds"].items()))
    for name, path in result["paths"].items():
        out.print(f"{name}: {path}", soft_wrap=True)


def _accuracy(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    spread = f" ± {row['spread']:.3f}" if row.get("spread") is not None else ""
    return f"{row['score']:.3f}{spread}"


def _title(text: str) -> None:
    progress_out.print(f"\n{text}", style="bold", soft_wrap=True)


def _say(line: str) -> None:
    progress_out.print(f"          {line}", soft_wrap=True)
