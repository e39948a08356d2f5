"""Scale on paper: what 8 to 4,096 GPUs would ask of every part of a run, and which part is full first.

Everything is reckoned from the numbers of scaling_constants.py, each measured here on two cores, published, or assumed;
no run had more than four workers. The tables are Markdown, and those of docs/scaling.md. ``--measure`` measures some of
the numbers again, on this machine, in about two minutes, and prints them beside those that are reckoned with.
"""

from __future__ import annotations

import argparse

import scaling_constants as known
from report import figure
from scaling_collectives import (
    EFA,
    ETHERNET,
    INFINIBAND,
    LENGTH,
    LLAMA_1B,
    LLAMA_8B,
    NETWORKS,
    Model,
    Network,
    step,
)
from scaling_head import head, of_model
from scaling_limits import LEAST_LOOK, limits
from scaling_storage import kept, restart, save

GPUS = (8, 64, 512, 1_024, 2_048, 4_096)
MODELS = (LLAMA_1B, LLAMA_8B)
WANTED = 0.9
MOST_SEQUENCES = 1_024

Row = list[str]


def table(title: str, columns: Row, rows: list[Row]) -> str:
    """As Markdown, under its title."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def steps(model: Model, network: Network) -> str:
    """A step with ZeRO 1 or 2, and with 3."""
    rows = []
    for gpus in GPUS:
        flat, sharded = (step(model, gpus, zero, network) for zero in (2, 3))
        beside = step(model, gpus, 2, network, overlap=True)
        rows.append(
            [
                f"{gpus:,}",
                f"{gpus * LENGTH / 1e6:.2f} M",
                f"{flat.compute:.2f}",
                f"{flat.exposed:.2f}",
                f"{flat.tokens / 1e6:.2f} M",
                f"{flat.efficiency:.0%}",
                f"{beside.efficiency:.0%}",
                f"{sharded.communication:.2f}",
                f"{sharded.exposed:.2f}",
                f"{sharded.efficiency:.0%}",
            ]
        )
    columns = [
        "GPUs", "tokens a step", "computing, s", "ZeRO 1, 2: exposed, s", "tokens/s", "efficiency",
        "with `overlap_comm`", "ZeRO 3: communication, s", "exposed, s", "efficiency",
    ]  # fmt: skip
    return table(f"A step of {model.name}, {network.name} a node", columns, rows)


def efficiencies(model: Model) -> str:
    """By network and stage."""
    rows = []
    for gpus in GPUS:
        cells = [
            f"{step(model, gpus, zero, network).efficiency:.0%}" for network in NETWORKS for zero in (2, 3)
        ]
        rows.append([f"{gpus:,}", *cells])
    columns = ["GPUs", *(f"{n.name}: {stage}" for n in NETWORKS for stage in ("ZeRO 1, 2", "ZeRO 3"))]
    return table(f"Efficiency of {model.name}, one sequence a GPU and step", columns, rows)


def sequences_for(model: Model, gpus: int, network: Network) -> int | None:
    """Sequences a GPU and step with which ZeRO 1 computes nine tenths of the time; None if not even 1,024 do."""
    numbers = (2**i for i in range(MOST_SEQUENCES.bit_length()))
    good = (n for n in numbers if step(model, gpus, 1, network, sequences=n).efficiency >= WANTED)
    return next(good, None)


def accumulating() -> str:
    """What accumulation makes of it."""
    rows = []
    for gpus in GPUS:
        cells = []
        for model in MODELS:
            for network in NETWORKS:
                number = sequences_for(model, gpus, network)
                tokens = (number or 0) * gpus * LENGTH
                mark = " *" if tokens > known.LARGEST_BATCH.value else ""
                cells.append("–" if number is None else f"{number} ({tokens / 1e6:.1f} M){mark}")
        rows.append([f"{gpus:,}", *cells])
    columns = ["GPUs", *(f"{m.name}, {n.name.split(',')[0]}" for m in MODELS for n in NETWORKS)]
    return table(
        "Sequences a GPU and step (tokens a step) for an efficiency of 90 % with ZeRO 1", columns, rows
    )


def streams(model: Model) -> str:
    """What feeding it takes."""
    rows = []
    for gpus in GPUS:
        asked = of_model(model, gpus)
        rows.append(
            [
                f"{gpus:,}",
                f"{asked.tokens / 1e6:.1f} M",
                f"{asked.cores:.1f}",
                f"{asked.text / 1e6:,.0f}",
                f"{asked.requests:,.0f}",
                f"{asked.windows:.1f}",
                str(asked.steps),
                f"{asked.calls:,.0f}",
                f"{asked.dealer:.2f}" + (" (too much)" if asked.dealer > 1 else ""),
                f"{asked.held / 2**30:.2f} GiB",
            ]
        )
    columns = [
        "GPUs", "tokens/s", "cores that tokenize", "from the bucket, MB/s", "requests/s", "windows/s",
        "steps of a deal", "dealer, calls/s", "dealer, cores", "dealer, memory",
    ]  # fmt: skip
    return table(f"The stream of {model.name}", columns, rows)


def heads() -> str:
    """What the head node does beside."""
    rows = []
    for gpus in GPUS:
        needs, at_once = head(gpus), gpus / LEAST_LOOK * known.POLL.value
        rows.append(
            [
                f"{gpus:,}",
                f"{needs.nodes:,}",
                f"{needs.actors:,}",
                f"{needs.controller:.2f}",
                f"{at_once:.2f}" + (" (too much)" if at_once > 1 else ""),
                f"{needs.board:.2f}",
                f"{needs.driver:.2f}",
            ]
        )
    columns = [
        "GPUs", "nodes", "actors", "controller, cores", "with a look each 0.2 s", "board, cores", "driver, cores",
    ]  # fmt: skip
    return table("The head node", columns, rows)


def saves(model: Model) -> str:
    """Checkpoints, restarts and failures, with ZeRO 1 over EFA."""
    rows = []
    for gpus in GPUS:
        saved, again = save(model, gpus), restart(model, gpus)
        left = kept(model, gpus, step(model, gpus, 1, EFA).seconds)
        rows.append(
            [
                f"{gpus:,}",
                f"{saved.first / 1e9:.1f}",
                f"{saved.stall:.2f}",
                f"{saved.write:.0f}",
                f"{left.between / 3600:,.1f}",
                f"{left.every:,} ({left.interval:,.0f} s)",
                f"{again.read / 1e12:.2f}",
                f"{again.restore:.0f}",
                f"{again.seconds:.0f}",
                f"{left.goodput:.1%}",
            ]
        )
    columns = [
        "GPUs", "worker 0 writes, GB", "stall, s", "until it counts, s", "hours between failures",
        "steps between saves (auto)", "read at a restart, TB", "which takes, s", "restart in all, s", "goodput",
    ]  # fmt: skip
    size = save(model, GPUS[0]).size / 1e9
    return table(f"Checkpoints of {model.name} ({size:.0f} GB) and failures", columns, rows)


def constants() -> str:
    """What all of it is reckoned from."""
    rows = [[k.name, f"{in_digits(k.value)} {k.unit}".strip(), k.kind, k.source] for k in known.ALL]
    return table("The numbers", ["", "value", "", "from"], rows)


def in_digits(value: float) -> str:
    """Three digits, and a power of ten where they would be lost among zeros."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return figure(value)
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{float(digits):g}·10^{int(power)}"


def tables() -> list[str]:
    """All of them, as docs/scaling.md has them."""
    return [
        steps(LLAMA_8B, EFA),
        efficiencies(LLAMA_8B),
        efficiencies(LLAMA_1B),
        accumulating(),
        *(streams(model) for model in MODELS),
        heads(),
        saves(LLAMA_8B),
        table("Limits", ["what is full", "at about", "the number behind it", "what to do"], limits()),
        constants(),
    ]


def main() -> None:
    """Run it."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--all", action="store_true", help="the steps of every model over every network, too")
    made.add_argument("--measure", action="store_true", help="measure again what can be measured here")
    options = made.parse_args()
    print("\n\n".join(tables()))
    if options.all:
        print("\n" + "\n\n".join(steps(m, n) for m in MODELS for n in (ETHERNET, INFINIBAND, EFA)))
    if options.measure:
        from scaling_measure import measure

        print("\n" + table("Measured now", ["", "reckoned with", "now", ""], measure()))


if __name__ == "__main__":
    main()
