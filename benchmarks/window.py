"""Where the time of a window's task goes, by file format: reading, the held-out split, tokenizing, packing, Arrow.

Without Ray, in this process, on the same reviews in every format. Times are of the CPU, the least of some rounds.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from report import Row, arguments, report, say_load, show
from stream import trained, windows_of
from text import write_corpus

from raypretrain.corpus.documents import Document, is_held_out, read_documents
from raypretrain.tokens.packing import pack
from raypretrain.tokens.stream import to_table
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.window import Windows

STAGES = ["read and parse", "held-out split", "tokenize", "pack", "to Arrow"]


def write_formats(folder: Path, texts: list[str]) -> list[str]:
    """The texts as eight files of each format; returns the formats."""
    for i in range(8):
        part = texts[i::8]
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in part).encode()
        one_a_line = "".join(text.replace("\n", " ") + "\n" for text in part).encode()
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": part}), sink, row_group_size=400, compression="zstd")
        found = {
            "jsonl": lines,
            "jsonl.zst": zstandard.compress(lines),
            "jsonl.gz": gzip.compress(lines, 6),
            "parquet": sink.getvalue().to_pybytes(),
            "csv": _csv(part),
            "txt": one_a_line,
        }
        for suffix, data in found.items():
            path = folder / suffix.replace(".", "-") / f"shard-{i}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return list(found)


def _csv(texts: list[str]) -> bytes:
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["text"])
    writer.writerows([text] for text in texts)
    return buffer.getvalue().encode()


def least(work: Callable[[], object], rounds: int) -> float:
    """Seconds of CPU."""
    found = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def stages(windows: Windows, rounds: int) -> tuple[list[float], int]:
    """Seconds of CPU of each stage over an epoch, and the characters of its texts."""
    every = range(windows.plan.windows_of_an_epoch)
    fragments = [windows.manifest.fragment(i) for w in every for i in windows.plan.window(w)]

    def read() -> list[Document]:
        return [d for f in fragments for d in read_documents(windows.manifest, f, windows.corpus)]

    documents = read()
    texts = [document.text for document in documents]
    parts = [part for w in every for part in windows.parts(w)]
    tokenizer, config = windows.tokenizer, windows.sequences
    marks = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    of_a_window = -(-len(texts) // len(every))
    encoded = tokenizer.encode_batch(texts)
    groups = [encoded[i : i + of_a_window] for i in range(0, len(encoded), of_a_window)]
    works: list[Callable[[], object]] = [
        read,
        lambda: [is_held_out(text, windows.corpus.held_out) for text in texts],
        lambda: tokenizer.encode_batch(texts),
        lambda: [pack(group, config.length, config.packing, **marks) for group in groups],
        lambda: [to_table(part) for part in parts],
    ]
    seconds = [least(work, rounds) for work in works]
    return seconds, sum(map(len, texts))


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "")
    rounds = 1 if options.quick else 5
    say_load()
    lines: list[list[object]] = []
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = write_corpus(folder / "corpus", 4_000_000 if options.quick else 16_000_000)
        formats = write_formats(folder, texts)
        for kind in ("bpe", "unigram"):
            tokenizer = trained(kind, texts[:2500], folder)
            for name in formats:
                seconds, characters = stages(_windows(folder, name, tokenizer), rounds)
                shown = [s / characters * 1e9 for s in seconds]
                lines.append([f"{name}, {kind}", *shown, f"{seconds[2] / sum(seconds):.3f}"])
                rows.append(Row(f"tokenizing ÷ all, {name}, {kind}", seconds[2], sum(seconds), None))
    show("CPU, ms for a million characters", ["", *STAGES, "tokenizing ÷ all"], lines)
    say_load()
    report("the work of a window", "s", rows, options.json)


def _windows(folder: Path, name: str, tokenizer: Tokenizer) -> Windows:
    extra = {"documents": "line"} if name == "txt" else {}
    return windows_of(str(folder / name.replace(".", "-")), tokenizer, **extra)


if __name__ == "__main__":
    main()
