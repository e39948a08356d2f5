"""Batch inference with Ray Data: any number of files in, rows with what the model says out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray

from raypretrain.errors import InputError
from raypretrain.finetuning.predict import Predictor, Row, architecture_of, as_line, texts_of
from raypretrain.finetuning.rows import LabelledFile
from raypretrain.storage import list_files

ROWS = 256
"""Rows that a process gets at once: of them, those of like length go together."""

Said = Callable[[str], None]


class _Model:
    """In a process of Ray Data: rows with their texts in, rows with the model's words out."""

    def __init__(self, folder: str, length: int, threads: int) -> None:
        from raypretrain.models.cpu import use_cpus

        use_cpus(threads)
        self._predictor = Predictor(folder, length)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = list(batch["row"])
        texts = [json.loads(text) for text in batch["text"]]
        texts = [tuple(text["pair"]) if isinstance(text, dict) else text for text in texts]
        said = self._predictor(texts)
        return {"line": [as_line(row | {"predicted": each}) for row, each in zip(rows, said, strict=True)]}


def predict_files(
    model: str,
    file: LabelledFile,
    to: str,
    *,
    processes: int | None = None,
    length: int = 200,
    say: Said = print,
) -> int:
    """Write ``to``, a JSON line for each row of the files, in their order: the row, and as ``predicted`` what the
    model says of it.

    Args:
        model: the folder of a released model.
        file: a file, a folder or a glob.
        to: a local file, which is written beside and moved into its place.
        processes: that the model is loaded in; None: as many as the cluster has GPUs, or else CPUs.
        length: new tokens of an answer, at most.

    Returns:
        The number of rows.

    Raises:
        InputError: no file, or a row without a text; no model that answers; ``to`` is a folder.
    """
    architecture_of(model)
    files = list_files(file.path)
    if not files:
        raise InputError("no file matches", where=file.path)
    if Path(to).is_dir():
        raise InputError("is a folder", where=to, fix="give --to the file that is to be written")
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
    many = min(processes or gpus or max(1, cpus - 1), len(files) if len(files) > 1 else cpus)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    data: ray.data.Dataset = ray.data.from_items(
        [{"url": info.url} for info in files], override_num_blocks=len(files)
    )
    data = data.flat_map(_Read(file)).map_batches(
        _Model,
        fn_constructor_args=(str(Path(model).resolve()), length, 1),
        batch_size=ROWS,
        concurrency=many,
        num_gpus=1 if gpus else 0,
    )
    count = 0
    unfinished = f"{to}.unfinished"
    Path(to).resolve().parent.mkdir(parents=True, exist_ok=True)
    with open(unfinished, "w", encoding="utf-8") as out:
        for batch in data.iter_batches(batch_size=ROWS):
            out.writelines(f"{line}\n" for line in batch["line"])
            count += len(batch["line"])
            say(f"{count:,} rows")
    os.replace(unfinished, to)
    return count


class _Read:
    """In a process of Ray Data: a file in, its rows with their texts out."""

    def __init__(self, file: LabelledFile) -> None:
        self._file = file

    def __call__(self, item: Row) -> Iterator[Row]:
        one = self._file.model_copy(update={"path": item["url"]})
        for row, text in texts_of(one):
            yield {"row": row, "text": json.dumps({"pair": text} if isinstance(text, tuple) else text)}
