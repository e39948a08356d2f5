"""What stream_peers.py runs in an environment of its own: a library that wants its corpus tokenized beforehand.

``python peer_readers.py mosaicml-streaming|litdata CORPUS MODEL OUT LENGTH BATCH SECONDS BEGUN`` writes the corpus in
the library's own format, both cores at work, then reads it in batches, and prints what that took as a line of JSON.
BEGUN is the clock time at which this process was asked for.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch

TEXTS_AT_ONCE = 1000
WORKERS = 2
READ_WORKERS = (0, 2)  # of the torch DataLoader; the quicker one counts


def tokenized(path: str, model: str) -> Iterator[np.ndarray]:
    """The documents of a .jsonl file as ``bos … eos``, int32."""
    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    begin, end = processor.bos_id(), processor.eos_id()
    with open(path, encoding="utf-8") as file:
        texts = (json.loads(line)["text"] for line in file)
        while batch := list(islice(texts, TEXTS_AT_ONCE)):
            for ids in processor.encode(batch, num_threads=1):
                yield np.array([begin, *ids, end], np.int32)


def write_mosaicml(corpus: list[str], model: str, out: Path, length: int) -> None:
    """Rows of ``length`` tokens as MDS, each process a folder; then one index of all."""
    import_streaming()
    from streaming.base.util import merge_index

    groups = [(i, corpus[i::WORKERS], model, str(out / str(i)), length) for i in range(WORKERS)]
    with Pool(WORKERS) as pool:
        pool.map(write_mds, groups)
    merge_index(str(out), keep_local=True)


def write_mds(group: tuple[int, list[str], str, str, int]) -> None:
    """One process's part."""
    from streaming import MDSWriter

    _, paths, model, out, length = group
    with MDSWriter(out=out, columns={"tokens": f"ndarray:int32:{length}"}) as writer:
        rest = np.empty(0, np.int32)
        for path in paths:
            for ids in tokenized(path, model):
                rest = np.concatenate([rest, ids])
                while len(rest) >= length:
                    writer.write({"tokens": rest[:length]})
                    rest = rest[length:]


def read_mosaicml(out: Path, length: int, batch: int, workers: int) -> Iterable[Any]:
    """Shuffled batches."""
    import_streaming()
    from streaming import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(local=str(out), shuffle=True, batch_size=batch)
    return (b["tokens"] for b in StreamingDataLoader(dataset, batch_size=batch, num_workers=workers))


def write_litdata(corpus: list[str], model: str, out: Path, length: int) -> None:
    """Chunks of 64 MB of tokens."""
    from litdata import TokensLoader, optimize

    optimize(
        fn=partial(tensors, model=model),
        inputs=corpus,
        output_dir=str(out),
        chunk_bytes="64MB",
        num_workers=WORKERS,
        item_loader=TokensLoader(),
        verbose=False,
    )


def tensors(path: str, model: str) -> Iterator[torch.Tensor]:
    """As litdata wants them, out of a generator."""
    for ids in tokenized(path, model):
        yield torch.from_numpy(ids)


def read_litdata(out: Path, length: int, batch: int, workers: int) -> Iterable[Any]:
    """Shuffled batches."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    loader = TokensLoader(block_size=length)
    dataset = StreamingDataset(str(out), item_loader=loader, shuffle=True, drop_last=True)
    return StreamingDataLoader(dataset, batch_size=batch, num_workers=workers)


def import_streaming() -> None:
    """Import streaming beside a torch for CPUs: it imports torchvision, whose wheel has its operators for CUDA only."""
    if "streaming" in sys.modules:
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import streaming  # noqa: F401

    sys.modules["streaming"].library = library  # type: ignore[attr-defined]  # or its definitions go


WRITERS = {"mosaicml-streaming": write_mosaicml, "litdata": write_litdata}
READERS = {"mosaicml-streaming": read_mosaicml, "litdata": read_litdata}


def speed(batches: Iterable[Any], seconds: float) -> float:
    """Tokens per second after the first batch, over about ``seconds``."""
    source = iter(batches)
    next(source)
    begun = time.perf_counter()
    tokens = 0
    for batch in source:
        tokens += batch.numel()
        if time.perf_counter() - begun > seconds:
            break
    return tokens / (time.perf_counter() - begun)


def main() -> None:
    """Run it."""
    library, corpus, model, place, *numbers = sys.argv[1:]
    length, batch, seconds, begun = int(numbers[0]), int(numbers[1]), float(numbers[2]), float(numbers[3])
    out = Path(place)
    paths = sorted(str(path) for path in Path(corpus).iterdir())
    started = time.time()
    WRITERS[library](paths, model, out, length)
    prepared = time.time() - started
    first = next(iter(READERS[library](out, length, batch, 0)))
    to_first = time.time() - begun
    assert first.shape == (batch, length), first.shape
    speeds = [speed(READERS[library](out, length, batch, workers), seconds) for workers in READ_WORKERS]
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    found = {"prepare": prepared, "bytes": written, "first": to_first, "speed": max(speeds)}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
