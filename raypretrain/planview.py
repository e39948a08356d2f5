"""What ``raypretrain plan`` shows."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from raypretrain.console import out
from raypretrain.statusview import duration

_GB = 1e9
_HOUR = 3600


def print_plan(found: dict[str, Any]) -> None:
    """The answer first, then where it comes from, then what of it is a guess."""
    out.print(_answer(found))
    for name, option in (found["choice"] or {}).items():
        out.print(Text(f" {name} within the limits: {option}"))
    out.print()
    out.print(_memory(found["memory"]))
    if found["step"]:
        out.print()
        out.print(_step(found))
    out.print()
    for line in law_lines(found):
        out.print(Text(line))
    for line in probe_lines(found["probe"]) + fit_lines(found.get("fit")):
        out.print(Text(line))
    out.print()
    out.print("guesses and where figures are from")
    for line in found["guesses"]:
        out.print(Text(f"  {line}"))


def headline(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The answer in lines: name and text."""
    gpu, model, cost = found["gpu"], found["model"], found["compute"]
    nodes = f" in {gpu['nodes']} nodes" if gpu["nodes"] > 1 else ""
    lines = [
        ("recipe", found["recipe"]),
        ("on", f"{gpu['number']:,} × {gpu['name']}{nodes}"),
        ("model", f"{model['parameters']:,} parameters, {flops(cost['flops_per_token'])} a token"),
        ("fits", fits_line(found)),
    ]
    return lines + (_run_lines(found) + _trial_lines(found) if found["run"] else [])


def _run_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    run, dollars, data = found["run"], found["money"], found["data"]
    each, budget = run["tokens_per_second_per_gpu"], run["gpu_hours_to_budget"]
    total = flops(found["compute"]["flops"])
    rent = f"${dollars['total']:,.2f} at ${dollars['price']:,.2f} a GPU-hour"
    power = f"{_amount(dollars['kilowatt_hours'])} kWh"
    return [
        ("run", f"{run['tokens']:,} tokens in {run['steps']:,} steps, {total}"),
        ("pace", f"{run['tokens_per_second']:,.0f} tokens/s, {each:,.0f} a GPU, MFU {run['mfu']:.1%}"),
        (
            "time",
            f"{duration(run['hours'] * _HOUR)}; {_amount(run['gpu_hours'])} GPU-hours, {_amount(budget)} to budget",
        ),
        ("money", f"{rent}, storage ${dollars['storage']:,.2f} of it"),
        ("energy", f"{power} (${dollars['electricity']:,.2f} where you pay for it)"),
        ("data", f"{data['stream_cores']} CPU core(s) to read and tokenize; {_epochs(data)}"),
    ]


def _amount(number: float) -> str:
    """Of small ones two digits that say something."""
    return f"{number:,.1f}" if number >= 1 else f"{number:.2g}"


def _trial_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Of a search over pretraining, or of fine-tuning."""
    if trials := found.get("trials"):
        each, longest = (duration(trials[key] * _HOUR) for key in ("mean_hours", "longest_hours"))
        on = "a GPU" if trials["workers"] == 1 else f"on {trials['workers']} GPUs"
        return [("trials", f"{trials['number']:,}, one {on} at a time: {each} each, the longest {longest}")]
    if not (search := found.get("search")):
        return []
    most, expected = search["at_most"], search["expected"]
    tried, fewer = most["trials_gpu_hours"], expected["trials_gpu_hours"]
    early = f", {search['share']:.0%} of it expected with {search['scheduler']}: {fewer:,.2f}"
    together = [
        f"{duration(one['hours'] * _HOUR)}, {one['gpu_hours']:,.2f} GPU-hours, ${one['dollars']:,.2f}"
        for one in (most, expected)
    ]
    return [
        (
            "trials",
            f"{search['trials']} of {search['tokens']:,} tokens: at most {tried:,.2f} GPU-hours{early}",
        ),
        ("in all", f"trials and the run above: at most {together[0]}; expected {together[1]}"),
    ]


def fits_line(found: dict[str, Any]) -> str:
    """Whether it fits, and what to change first where it does not."""
    memory = found["memory"]
    total, capacity = memory["total"] / _GB, memory["capacity"] / _GB
    need = f"{total:.1f} of {capacity:.1f} GB a GPU, micro-batches of {memory['micro_batch']}"
    if memory["fits"]:
        return f"yes: {need}; the largest that fits: {memory['largest_micro_batch']}"
    said = f"NO: {need}; change first: {memory['change_first']}"
    return f"{said}. What follows is with that" if found["run"] else said


def fit_lines(fit: dict[str, Any] | None) -> list[str]:
    """What runs of one's own say of the loss."""
    if not fit:
        return []
    loss, law = fit["predicted"], fit["law"]
    lines = [
        "",
        f"held-out loss by {len(fit['runs'])} runs of your own: {loss['loss']:.3f} nats a token, "
        f"{loss['low']:.3f} to {loss['high']:.3f} in nine of ten cases; {fit['beyond']:,.0f} times the largest run",
        f"  {law['floor']:.3f} + {law['a']:.4g} / parameters^{law['alpha']:.3f} "
        f"+ {law['b']:.4g} / tokens^{law['beta']:.3f}, at most {fit['largest_error']:.1%} off on one of them",
    ]
    if fit["learning_rate"]:
        lines.append(f"  learning rate, by the best ones of the sizes: {fit['learning_rate']:.2g}")
    return lines


def probe_lines(probe: dict[str, Any] | None) -> list[str]:
    """How the measured efficiency differs from the assumed one."""
    if not probe:
        return []
    ratio = probe["predicted_over_measured"]
    return [
        "",
        f"probe: a step took {probe['measured_step_seconds']:.3f} s on {probe['gpu']}, assumed were "
        f"{probe['predicted_step_seconds']:.3f}: {ratio:.2f} times the assumed efficiency, and this plan goes by it",
    ]


def law_lines(found: dict[str, Any]) -> list[str]:
    """What else the same operations could buy."""
    law, data = found["law"], found["data"]
    if law is None:  # of fine-tuning
        return []
    lines = [
        f"as many operations are best spent on {law['optimal_parameters']:,.3g} parameters and "
        f"{law['optimal_tokens']:,.3g} tokens ({law['source']}); the recipe has "
        f"{law['tokens_per_parameter']:,.1f} tokens a parameter, and a loss {law['loss_above_optimal']:.3f} above that"
    ]
    lines += [
        f"  the same loss: {one['parameters']:,.3g} parameters, {one['tokens']:,.3g} tokens, "
        f"{one['training']:.2f} times the training; pays after {one['pays_from']:,.3g} tokens of inference"
        for one in law["smaller_models"]
    ]
    if (data["epochs"] or 0) > 1:
        lines.append(
            f"text is repeated: {data['epochs']:.1f} epochs are worth {law['worth_in_distinct_tokens']:,.3g} "
            f"new tokens, a token of the last one {law['worth_of_the_last_epoch']:.0%} of a new one "
            "(Muennighoff et al., 2023)"
        )
    return lines


def _epochs(data: dict[str, Any]) -> str:
    if data["epochs"] is None:
        return "its tokens were not counted"
    if data["epochs"] <= 1:
        return f"{data['epochs']:.1%} of about {data['corpus_tokens']:,} tokens"
    return f"{data['epochs']:.1f} epochs of about {data['corpus_tokens']:,} tokens"


def _answer(found: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    for name, text in headline(found):
        table.add_row(name, Text(text))
    return table


def memory_parts(memory: dict[str, Any]) -> list[tuple[str, float]]:
    """What a device holds, in bytes, and the total; parts that there are not left out."""
    others = ("capacity", "host", "fits", "micro_batch", "largest_micro_batch", "change_first")
    return [(part, size) for part, size in memory.items() if part not in others and size]


def _memory(memory: dict[str, Any]) -> Table:
    table = Table("memory of a GPU", box=None)
    table.add_column("GB", justify="right")
    for part, size in memory_parts(memory):
        table.add_row(part, f"{size / _GB:,.2f}")
    if memory["host"]:
        table.add_row("and of its node, by offload", f"{memory['host'] / _GB:,.2f}")
    return table


STEP_PARTS = {
    "products": "matrix products",
    "attention": "attention",
    "entries": "norms, activations, loss",
    "launches": "no kernel runs",
    "exposed": "communication",
    "optimizer": "optimizer",
    "seconds": "all",
}
"""Parts of a step as people read them."""


def _step(found: dict[str, Any]) -> Table:
    step, run = found["step"], found["run"]
    table = Table("a step", box=None)
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for key, name in STEP_PARTS.items():
        table.add_row(name, f"{step[key]:.4f}", f"{step[key] / step['seconds']:.1%}")
    for name, key in (("evaluation", "evaluation"), ("saving", "checkpoint"), ("failures", "failure")):
        table.add_row(f"beside the steps: {name}", "", f"{run[f'{key}_hours'] / run['hours']:.2%}")
    return table


def flops(number: float) -> str:
    """Operations with their prefix."""
    for prefix in ("M", "G", "T", "P", "E", "Z", "Y"):
        number /= 1e6 if prefix == "M" else 1e3
        if number < 1000 or prefix == "Y":
            break
    return f"{number:.3g} {prefix}FLOP"
