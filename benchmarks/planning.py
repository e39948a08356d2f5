"""How far off the planner is on runs whose truth is public: throughput, whether it fits, GPU-hours.

Its efficiencies are fitted to every other model size of the table of ``planning_rows.py`` and tried on the others; then
the other way round, and from the small sizes to the large. The runs of ``public_runs.py`` are predicted by what the
package has, which is fitted to the whole table. These are the tables of docs/planning.md.
"""

from __future__ import annotations

from statistics import median

from planning_fit import errors, fit
from planning_rows import SIZES, Measured, halves, read_rows
from public_runs import (
    GPT_3,
    GPT_3_FLOPS,
    GPT_3_PRICE,
    GPT_3_RATE,
    RUNS,
    TORCHTITAN,
    TORCHTITAN_COMPILED,
)
from report import Row, parser, report, show

from raypretrain.planning.calibration import CALIBRATIONS, Calibration
from raypretrain.planning.compute import operations


def splits(rows: list[Measured]) -> dict[str, tuple[list[Measured], list[Measured]]]:
    """What it is fitted to, and what it is tried on."""
    some, others = halves(rows)
    sizes = list(SIZES)
    small = [row for row in rows if sizes.index(row.model) < 4]
    large = [row for row in rows if sizes.index(row.model) >= 4]
    return {
        "every other size → the rest": (some, others),
        "the rest → every other size": (others, some),
        "125m to 1b → 3b to 70b": (small, large),
        "3b to 70b → 125m to 1b": (large, small),
    }


def throughput(rows: list[Measured]) -> list[Row]:
    """Print the errors of each split; the first is the one that the goals are for."""
    lines: list[list[object]] = []
    for name, (known, unknown) in splits(rows).items():
        off = [abs(error) for error in errors(unknown, fit(known))]
        lines.append([name, len(known), len(unknown), f"{median(off):.1%}", f"{max(off):.1%}"])
    show(
        "throughput, predicted ÷ measured − 1", ["fitted → tried", "rows", "tried", "median", "worst"], lines
    )
    known, unknown = splits(rows)["every other size → the rest"]
    off = [abs(error) for error in errors(unknown, fit(known))]
    return [
        Row("median error of throughput", 100 * median(off), 8.0, 1.0, less=True),
        Row("worst error of throughput", 100 * max(off), 25.0, 1.0, less=True),
    ]


def worst(rows: list[Measured], number: int = 6) -> None:
    """Print the rows that the package is furthest off on."""
    off = errors(rows, CALIBRATIONS)
    order = sorted(range(len(rows)), key=lambda i: -abs(off[i]))[:number]
    lines: list[list[object]] = [
        [
            rows[i].model,
            f"{rows[i].layout.workers} × {rows[i].gpu.name}",
            rows[i].layout.length,
            rows[i].layout.micro_batch,
            rows[i].tokens_per_second,
            f"{off[i]:+.1%}",
        ]
        for i in order
    ]
    columns = ["model", "GPUs", "length", "micro-batch", "tokens/s a GPU", "error"]
    show("the rows furthest off (fitted to all)", columns, lines)


def fitted(found: dict[str, Calibration]) -> None:
    """Print the efficiencies that a fit to all rows finds, beside the package's."""
    names = [name for name in vars(found["ampere"]) if name != "source"]
    lines: list[list[object]] = [
        [
            name,
            *(
                f"{getattr(by[kind], name):.3g}"
                for kind in ("ampere", "hopper")
                for by in (found, CALIBRATIONS)
            ),
        ]
        for name in names
    ]
    show("efficiencies", ["", "ampere, fitted", "in the package", "hopper, fitted", "in the package"], lines)


def memory(rows: list[Measured]) -> list[Row]:
    """How many rows are said not to fit, and of how many settings twice the largest known micro-batch is."""
    alarms = sum(not row.fits() for row in rows)
    largest: dict[object, Measured] = {}
    for row in rows:
        known = largest.setdefault(row.setting, row)
        if known.layout.micro_batch < row.layout.micro_batch:
            largest[row.setting] = row
    refused = sum(not row.fits(2) for row in largest.values())
    lines: list[list[object]] = [
        ["micro-batches that ran and are said not to fit", alarms, len(rows)],
        ["twice the largest known, said not to fit", refused, len(largest)],
    ]
    show("memory", ["", "", "of"], lines)
    return [Row("twice the largest micro-batch refused", refused / len(largest), 0.5, 1.0)]


def public() -> list[Row]:
    """Print the public runs; returns the median error."""
    lines: list[list[object]] = []
    for run in RUNS:
        true = run.tokens / run.hours / 3600
        lines.append(
            [run.name, run.checkpointing, "whole" if run.whole else "in the run", round(true),
             round(run.tokens_per_second), round(run.hours), round(run.predicted), f"{run.error:+.1%}"]
        )  # fmt: skip
    columns = [
        "run",
        "checkpointing",
        "hours",
        "tokens/s a GPU",
        "predicted in the run",
        "GPU-hours",
        "predicted",
        "error",
    ]
    show("public runs, none of them fitted", columns, lines)
    cost = operations(GPT_3.network, GPT_3.length)
    without = GPT_3.tokens * (cost.training - 3 * cost.attention)
    hours = GPT_3.tokens * cost.training / GPT_3_RATE / 3600
    print(f"GPT-3 175B: {without:.3e} operations without attention, {without / GPT_3_FLOPS - 1:+.1%};")
    million = hours * GPT_3_PRICE / 1e6
    print(f"  at {GPT_3_RATE / 1e12:g} TFLOP/s of a V100 and ${GPT_3_PRICE:g} an hour ${million:.2f} million")
    rate, eager = TORCHTITAN.tokens_per_second, TORCHTITAN.tokens / TORCHTITAN.hours / 3600
    print(
        f"{TORCHTITAN.name} on 8 H100: {rate:,.0f} tokens/s a GPU; {eager:,.0f} as it comes, {rate / eager - 1:+.1%};"
    )
    print(f"  {TORCHTITAN_COMPILED:,} compiled, {rate / TORCHTITAN_COMPILED - 1:+.1%}")
    llama = [abs(run.error) for run in RUNS if run.name.startswith("Llama 1")]
    off = [abs(run.error) for run in RUNS]
    return [
        Row("median error of public GPU-hours", 100 * median(off), 10.0, 1.0, less=True),
        Row("worst error of Llama 1's GPU-hours", 100 * max(llama), 5.0, 1.0, less=True),
    ]


def main() -> None:
    """Run it."""
    options = parser(__doc__ or "").parse_args()
    rows = read_rows()
    goals = throughput(rows)
    fitted(fit(rows))
    worst(rows)
    goals += memory(rows)
    goals += public()
    report("the planner", "% or share", goals, options.json)


if __name__ == "__main__":
    main()
