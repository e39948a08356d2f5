"""The table of step.py on a GPU: tokens a second, model FLOPs utilisation, memory, and our network ÷ each peer's.

Needs torch, pydantic, PyYAML and rich, and no installation of this package: run it from a clone. Peers whose libraries
are not there are left out with a line. Each has the GPU to itself, one after the other; ours is measured again at the
end, which shows how far clocks have moved meanwhile. Everything is bf16, the weights and the optimizer's state too, for
all alike. The utilisation is of what the GPU's data sheet says for dense bf16, or, where it is not known here or with
--precision fp32, of the fastest square product measured. With --device cpu it runs anywhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

NEEDED = {"torch": "torch", "pydantic": "pydantic", "yaml": "pyyaml", "rich": "rich"}
if missing := [package for name, package in NEEDED.items() if importlib.util.find_spec(name) is None]:
    raise SystemExit(f"gpu.py needs {', '.join(missing)}: pip install {' '.join(missing)}")

sys.path.append(str(Path(__file__).parents[1]))

import torch
from peak import data_sheet_peak, matmul_peak
from peers import FORMS, taking_part
from race import Time, one_by_one, ratios, show_times
from report import Row, parser, report, write
from sizes import PRECISIONS, Precision, Work, work_of

BATCHES = {"nano": 2, "llama-10m": 64, "124m": 32, "1b": 4}
"""Sequences of a step by size, such that all peers fit into 80 GB with all their logits."""


def options_of() -> argparse.Namespace:
    """What the command line says."""
    made = parser(__doc__ or "")
    made.add_argument("--size", action="append", choices=list(BATCHES), help="only this one")
    made.add_argument("--batch", type=int, help="sequences of a step")
    made.add_argument("--length", type=int, help="tokens of a sequence")
    made.add_argument("--precision", choices=PRECISIONS, default="bf16")
    made.add_argument("--peers", metavar="NAMES", help="only these, with commas between them")
    made.add_argument("--form", action="append", choices=FORMS, help="only eager, or only compiled")
    made.add_argument("--ours", choices=FORMS, help="the form that the goals are for")
    made.add_argument("--rounds", type=int, help="of ten steps each; 5, with --quick 2")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    return made.parse_args()


def peak_of(device: str, precision: Precision, quick: bool) -> float:
    """FLOP/s at most; says where it is from."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    measured = matmul_peak(device, dtype, quick)
    name = "the CPU" if device == "cpu" else torch.cuda.get_device_name()
    known = data_sheet_peak(name, dtype)
    print(
        f"{name}, torch {torch.__version__}: products in {precision} at {measured / 1e12:.4g} TFLOP/s measured",
        end="",
    )
    print(f", {known / 1e12:.4g} by the data sheet" if known else "", flush=True)
    return known or measured


def measure(options: argparse.Namespace, work: Work, names: list[str]) -> list[Time]:
    """Everybody, and ours again."""
    forms = options.form or (["eager"] if options.quick else list(FORMS))
    rounds = options.rounds or (2 if options.quick else 5)
    steps = 2 if options.quick else 10
    times = one_by_one(names, forms, work, rounds, steps)
    if again := one_by_one(["ours"], forms[:1], work, rounds, steps):
        drift = again[0].tokens_per_second / times[0].tokens_per_second
        print(f"ours once more, at the end: {drift:.3f} of its speed at the beginning", flush=True)
    return times


def main() -> None:
    """Run it."""
    options = options_of()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU; with --device cpu it runs without one")
    peak = peak_of(options.device, options.precision, options.quick)
    names = taking_part(options.peers and options.peers.split(","))
    rows: list[Row] = []
    utilisation: list[Row] = []
    for size in options.size or (["nano"] if options.quick else [size for size in BATCHES if size != "nano"]):
        batch = options.batch or BATCHES[size]
        work = work_of(size, options.precision, options.device, batch, options.length)
        what = f"{size}, {options.precision}"
        times = measure(options, work, names)
        show_times(times, f"{what}, {work.batch} × {work.length} tokens", peak)
        utilisation += [
            Row(f"FLOP/s ÷ peak: {t.label}, {what}", t.flops_per_second, peak, None) for t in times
        ]
        rows += ratios(times, what, options.ours)
    report(f"training step on {options.device}", "tokens/s", rows, None)
    if options.json:
        write(rows + utilisation, options.json)


if __name__ == "__main__":
    main()
