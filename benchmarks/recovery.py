"""What a lost worker costs: from its SIGKILL to the next step that is new, against stock Ray Train.

Ours and the peer, a training function in plain PyTorch as Ray's guide has it, take turns, each in a process and on a
cluster of its own; both train the same network with two workers, on the same cadence of checkpoints, and are struck
after the same step. The peer has Ray's defaults, and no data to read.
"""

from __future__ import annotations

import statistics

from recovery_runs import EVERY, KILL_AFTER, measure
from report import Row, parser, report, say_load, show

OURS = ("imports", "verify", "engine", "restore", "first batch")
GOAL_SECONDS, GOAL_RATIO = 3.0, 1.5


def split(at: dict[str, float]) -> dict[str, float]:
    """Seconds by part, which together are the whole; of the peer's own function we see only its beginning and end."""
    parts = {
        "detection": at["others_gone"] - at["killed"],
        "group": at["imports"] - at["others_gone"],
        "imports": at["function"] - at["imports"],
    }
    named = ("verify", "engine", "restore", "first batch")
    spans = {name: at.get(f"span_{name.replace(' ', '_')}", 0.0) for name in named}
    rest = at["first_step"] - at["function"] - sum(spans.values())
    parts |= spans
    parts["first step, and the rest"] = rest
    parts["the other steps"] = at["new_step"] - at["first_step"]
    parts["in all"] = at["new_step"] - at["killed"]
    parts["(steps done again)"] = at["again"]
    parts["(a step before)"] = at["step"]
    return parts


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "")
    made.add_argument("--rounds", type=int, default=3, help="medians of so many")
    made.add_argument("--preset", default=None, help="of the network; llama-30m, with --quick llama-1m")
    options = made.parse_args()
    preset = options.preset or ("llama-1m" if options.quick else "llama-30m")
    found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    say_load()
    for number in range(1 if options.quick else options.rounds):
        for kind, rows in found.items():
            rows.append(split(measure(kind, preset, rank=number % 2)))
            print(kind, ", ".join(f"{name} {seconds:.2f}" for name, seconds in rows[-1].items()), flush=True)
    say_load()
    middle = {
        kind: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for kind, rows in found.items()
    }
    lines: list[list[object]] = [[name, *(rows[name] for rows in middle.values())] for name in middle["ours"]]
    print(f"{preset}: killed after step {KILL_AFTER}, a checkpoint every {EVERY} steps")
    show("", ["seconds", "ours", "stock Ray Train"], lines)
    own = statistics.median(sum(row[name] for name in OURS) for row in found["ours"])
    rows = [
        Row(f"what is ours: {', '.join(OURS)}, within {GOAL_SECONDS:g} s", own, GOAL_SECONDS, 1.0, less=True),
        Row(
            "kill of a worker to the next new step",
            middle["ours"]["in all"],
            middle["peer"]["in all"],
            GOAL_RATIO,
            less=True,
        ),
    ]
    report(f"a lost worker, {preset}", "s", rows, options.json)


if __name__ == "__main__":
    main()
