"""The stream against two libraries that read a corpus which was tokenized and written in their own format before.

mosaicml-streaming and litdata tokenize the corpus by their recommended writers, with the same SentencePiece model and
both cores, and then read shuffled batches from their shards. Ours tokenizes while it reads. Each runs in a process of
its own, from its start: tokens per second into batches, what had to be done and written before, and the time from
raw text to the first batch. They are installed into .venv-bench at the first use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from report import Row, parser, report, say_load, show
from text import read_texts, write_large_corpus

ROOT = Path(__file__).parents[1]
PINNED = [
    "torch==2.13.0", "torchvision==0.28.0", "sentencepiece==0.2.3", "mosaicml-streaming==0.13.0", "litdata==0.2.76",
]  # fmt: skip
LENGTH, BATCH, WINDOW = 512, 8, 4_000_000


def peers_python() -> Path:
    """The Python of an environment that has the peers; made at the first call, in minutes."""
    folder = ROOT / ".venv-bench"
    ready = folder / "ready.txt"
    if not ready.is_file() or ready.read_text() != "\n".join(PINNED):
        print("installing the peers into .venv-bench", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *PINNED]
        subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
        ready.write_text("\n".join(PINNED))
    return folder / "bin" / "python"


def peer(python: Path, library: str, corpus: Path, model: Path, out: Path, seconds: float) -> dict[str, Any]:
    """What the library needed, and how fast it reads."""
    numbers = [str(LENGTH), str(BATCH), str(seconds), str(time.time())]
    script = Path(__file__).with_name("peer_readers.py")
    return _last_line([python, script, library, corpus, model, out, *numbers], out.parent)


def ours(corpus: Path, model: Path, seconds: float) -> dict[str, Any]:
    """The same of ours."""
    command = [sys.executable, __file__, "--ours", corpus, model, str(seconds), str(time.time())]
    return _last_line(command, corpus.parent)


def _last_line(command: list[Any], folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "HOME": str(folder), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{command[1]} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def read_ours(corpus: str, model: str, seconds: float, begun: float) -> dict[str, float]:
    """From raw text, in this process: Ray, the manifest, the dealer, its first step, and the steps after it."""
    import ray
    from stream import windows_of

    from raypretrain.tokens.batching import BatchSizes
    from raypretrain.tokens.cursor import Cursor
    from raypretrain.tokens.dealer import DealtSteps, Supply, Turn, start_dealer, steps_of_a_deal
    from raypretrain.tokens.objectives import Causal
    from raypretrain.tokens.tokenizer import Tokenizer
    from raypretrain.training.cluster import connect

    tokenizer = Tokenizer.load(model)
    windows = windows_of(corpus, tokenizer, WINDOW, LENGTH)
    connect(None, cpus=2)
    objective = Causal(tokenizer.bos)
    supply = Supply([ray.put(windows)], BatchSizes.all_alike(BATCH), objective, cpus=2.0, window_bytes=WINDOW)
    steps = iter(
        DealtSteps(start_dealer(2.0), Turn(1, Cursor(), 1, supply), 0, 10**9, steps_of_a_deal(BATCH, LENGTH))
    )
    assert next(steps).sequences.tokens.shape == (BATCH, LENGTH)
    first = time.time() - begun
    for _ in islice(steps, 4 * WINDOW // (4 * BATCH * LENGTH)):  # let it run in
        pass
    started, tokens = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        tokens += next(steps).sequences.tokens.size
    speed = tokens / (time.perf_counter() - started)
    ray.shutdown()
    return {"prepare": 0.0, "bytes": 0, "first": first, "speed": speed}


def train_model(kind: str, corpus: Path, folder: Path) -> Path:
    """A tokenizer for all three."""
    from stream import trained

    texts = list(islice(read_texts(min(corpus.iterdir())), 2500))
    trained(kind, texts, folder)
    return folder / f"{kind}.model"


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "")
    made.add_argument("--bytes", type=float, default=1e9, help="size of the corpus")
    made.add_argument("--kind", choices=("bpe", "unigram"), default="bpe")
    options = made.parse_args()
    size, seconds = (3e7, 3.0) if options.quick else (options.bytes, 20.0)
    python = peers_python()
    say_load()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        written = write_large_corpus(folder / "corpus", int(size))
        model = train_model(options.kind, folder / "corpus", folder)
        found = {"raypretrain": ours(folder / "corpus", model, seconds)}
        for library in ("mosaicml-streaming", "litdata"):
            found[library] = peer(python, library, folder / "corpus", model, folder / library, seconds)
            shutil.rmtree(folder / library)
    say_load()
    title = f"a corpus of {written / 1e6:,.0f} MB as .jsonl, {options.kind}, two cores"
    columns = ["", "beforehand, s", "written, MB", "raw text to the first batch, s", "reading, tokens/s"]
    show(
        title,
        columns,
        [[n, f["prepare"], f["bytes"] / 1e6, f["first"], f["speed"]] for n, f in found.items()],
    )
    mine = found.pop("raypretrain")
    goal = 10.0 if size >= 3e8 else None  # the others' time grows with the corpus, ours does not
    rows = [
        Row(f"raw text to the first batch, {n}, s", mine["first"], f["first"], goal, less=True)
        for n, f in found.items()
    ]
    rows += [Row(f"reading, {n}, tokens/s", mine["speed"], f["speed"], None) for n, f in found.items()]
    report(title, "see the row", rows, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ours"]:
        print(json.dumps(read_ours(*sys.argv[2:4], *map(float, sys.argv[4:6]))))
    else:
        main()
