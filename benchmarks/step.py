"""The training step against what others would write: our network ÷ each peer's, and the whole stack ÷ a bare loop.

All take turns, a step each in one thread, and each is in a process of its own. The peers are transformers'
LlamaForCausalLM in a bare loop and in its Trainer, litgpt, and a GPT-2 in nanoGPT's style; each as it comes and again
compiled. Parts: the stack, and networks of 10 and 30 million parameters in all. What torch.compile has made is kept
where torch keeps it, so that a second run compiles in less time; --cold compiles anew.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator

import torch
from peers import FORMS, taking_part
from race import in_turn, ratios, show_times
from report import Row, parser, report, say_load
from sizes import PRECISIONS, work_of

STACK, PARTS = "stack", ("stack", "10m", "30m", "llama-10m", "nano")


def options_of() -> argparse.Namespace:
    """What the command line says."""
    made = parser(__doc__ or "")
    made.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    made.add_argument("--peers", metavar="NAMES", help="only these, with commas between them")
    made.add_argument("--precision", action="append", choices=PRECISIONS, help="only this one")
    made.add_argument("--form", action="append", choices=FORMS, help="only eager, or only compiled")
    made.add_argument("--ours", choices=FORMS, help="the form that the goals are for")
    made.add_argument("--rounds", type=int, help="steps of each that count; 5, with --quick 2")
    made.add_argument("--cold", action="store_true", help="with nothing compiled before")
    return made.parse_args()


def against_peers(options: argparse.Namespace, sizes: list[str]) -> Iterator[Row]:
    """Ours ÷ each peer, by size and precision."""
    torch.set_num_threads(1)
    names = taking_part(options.peers and options.peers.split(","))
    forms = options.form or (["eager"] if options.quick else FORMS)
    for size in sizes:
        for precision in options.precision or PRECISIONS:
            times = in_turn(
                names, forms, work_of(size, precision), options.rounds or (2 if options.quick else 5)
            )
            show_times(times, f"{size}, {precision}, one thread")
            yield from ratios(times, f"{size}, {precision}", options.ours)


def main() -> None:
    """Run it."""
    options = options_of()
    parts = options.only or (["stack", "nano"] if options.quick else ["stack", "10m", "30m"])
    rows = []
    say_load()
    if STACK in parts:
        from stack import stack_and_bare

        preset, steps, sample = ("llama-1m", 3, 500_000) if options.quick else ("llama-10m", 16, 4_000_000)
        stack, bare = stack_and_bare(preset, steps, sample)
        rows.append(Row(f"the whole stack ÷ a bare loop: {preset}, fp32", stack, bare, 0.97))
    with tempfile.TemporaryDirectory() as empty:
        if options.cold:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        rows += against_peers(options, [part for part in parts if part != STACK])
    say_load()
    report("training step, one thread", "tokens/s", rows, options.json)


if __name__ == "__main__":
    main()
