"""What the commands show of a corpus: what it holds, and where its documents are in a run."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from raypretrain.console import bytes_text, out, scaled

_BAR = 30
_PRINTABLE = str.maketrans(dict.fromkeys([*range(32), 127, *range(128, 160)], "�"))


def print_inspected(found: dict[str, Any]) -> None:
    """What a corpus holds."""
    about = "" if found["exact"] else "about "
    tokenizer, sample = found["tokenizer"], found["sample"]
    lines = [
        f"{found['files']:,} files of {bytes_text(found['bytes'])}; {about}{found['documents']:,} documents, "
        f"{bytes_text(found['text_bytes'])} of text, {_count(found['tokens'])} tokens, "
        f"{found['bytes_per_token']:.2f} bytes a token",
        f"sample: {sample['documents']:,} documents, {bytes_text(sample['bytes'])}; tokenizer: {tokenizer['kind']}, "
        f"{tokenizer['vocabulary']:,} pieces, from {tokenizer['from']}",
        f"exact copies in the sample: {found['duplicates']['documents']:.2%} of the documents, "
        f"{found['duplicates']['bytes']:.2%} of the bytes; held out: {found['held_out']:.2%} of the documents",
        _uncovered_line(found["uncovered"]),
        f"the run wants {_count(found['training_tokens'])} tokens; not held out are "
        f"{about}{_count(found['available_tokens'])}",
    ]
    for line in lines:
        out.print(line, soft_wrap=True)
    out.print(_sources_table(found["sources"]))
    _print_lengths(found["lengths"])
    _print_examples(found["sources"])
    for record in found["bad"]:
        out.print(f"bad record: {record['where']}: {record['what']}", soft_wrap=True)
    if found["bad_records"] > len(found["bad"]):
        out.print(f"and {found['bad_records'] - len(found['bad']):,} more in the sample")
    for line in found["warnings"]:
        out.print(f"warning: {line}", style="yellow", soft_wrap=True)


def _sources_table(sources: list[dict[str, Any]]) -> Table:
    names = ["source", "files", "size", "documents", "tokens", "bytes a token", "median length", "longest"]
    names += ["share of all", "share of the run", "epochs", "held out", "copies"]
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name == "source" else "right")
    for row in sources:
        about = "" if row["exact"] else "~"
        table.add_row(
            row["name"],
            f"{row['files']:,}",
            bytes_text(row["bytes"]),
            f"{about}{row['documents']:,}",
            f"{about}{_count(row['tokens'])}",
            f"{row['bytes_per_token']:.2f}",
            f"{row['lengths']['median']:,}",
            f"{row['lengths']['longest']:,}",
            f"{row['share_by_size']:.1%}",
            f"{row['share']:.1%}",
            f"{row['epochs']:.2f}",
            f"{row['held_out']:.2%}",
            f"{row['duplicates']:.2%}",
        )
    return table


def _print_lengths(lengths: list[dict[str, Any]]) -> None:
    """Bars of the documents, and the share of the tokens, by length."""
    documents, tokens = (sum(row[key] for row in lengths) or 1 for key in ("documents", "tokens"))
    most = max((row["documents"] for row in lengths), default=1) or 1
    table = Table("tokens of a document", "documents", "", "of the tokens", box=None, pad_edge=False)
    for row in lengths:
        bar = "█" * round(_BAR * row["documents"] / most) or "▏" * bool(row["documents"])
        share = f"{row['documents'] / documents:6.1%}"
        table.add_row(f"{row['from']:,} to {row['to']:,}", share, bar, f"{row['tokens'] / tokens:6.1%}")
    out.print(table)


def _print_examples(sources: list[dict[str, Any]]) -> None:
    for row in sources:
        for text in row["examples"]:
            line = f"{row['name']}: {text}".translate(_PRINTABLE)
            out.print(line, overflow="ellipsis", no_wrap=True)


def _uncovered_line(uncovered: dict[str, Any]) -> str:
    frequent = ", ".join(
        f"{row['character'] if row['character'].isprintable() else ''} {row['code']}".strip()
        for row in uncovered["most_frequent"][:8]
    )
    line = f"characters without a piece of their own: {uncovered['share']:.3%}"
    return f"{line}, most often {frequent}" if frequent else line


def _count(number: float) -> str:
    """``2.04 M``; as a recipe would write it, B for 10⁹."""
    return scaled(number).replace("G", "B").rstrip()


def print_traced_step(found: dict[str, Any], with_text: bool) -> None:
    """The documents of a step, sequence by sequence."""
    proof = "as in metrics.jsonl" if found["recorded"] else "the step is not done yet"
    print(f"step {found['step']:,}: batch {found['batch_fingerprint']}, {proof}")
    if found["skipped"]:
        print(f"skipped, no weights were moved: {found['skipped']}")
    for sequence in found["sequences"]:
        loss = "" if sequence["loss"] is None else f"  loss {sequence['loss']:.4f}"
        place = f"window {sequence['window']}, part {sequence['part']}, index {sequence['index']}"
        print(f"sequence {sequence['sequence']} ({place}){loss}")
        for piece in sequence["pieces"]:
            way = ", infilled" if piece["infilled"] else ""
            span = f"characters {piece['start']:,} to {piece['stop']:,}{way}"
            print(f"  {piece['tokens']:5,} tokens  {piece['document']}  {span}  [{piece['source']}]")
            if with_text:
                print("".join(f"      {line}\n" for line in piece["text"].split("\n")), end="")


def print_traced_document(found: dict[str, Any]) -> None:
    """When a document comes."""
    print(f"{found['document']}: {found['text'][:80]!r}")
    if found["state"] == "held out":
        print("held out: it is never trained on")
    for occurrence in found["occurrences"]:
        print(f"epoch {occurrence['epoch']}: {_steps_line(occurrence, found['steps_of_the_run'])}")


def _steps_line(occurrence: dict[str, Any], last: int) -> str:
    if not occurrence["drawn"]:
        return "not taken: another member of its cluster is"
    if not occurrence["sequences"]:
        return "dropped with the tail of its window"
    if not occurrence["steps"]:
        return f"after the end of the run, which has {last:,} steps"
    about = "" if occurrence["exact"] else "about "
    done = [f"{step:,}" for step in occurrence["steps"] if step in occurrence["done"]]
    coming = [f"{step:,}" for step in occurrence["steps"] if step not in occurrence["done"]]
    parts = [f"done: {', '.join(done)}"] if done else []
    parts += [f"still to come: {about}{', '.join(coming)}"] if coming else []
    return "steps " + "; ".join(parts)
