"""``.arrow``: Arrow's IPC streams and files, as Hugging Face ``datasets`` and Feather write them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from raypretrain.corpus.columns import named, strings, text_column
from raypretrain.corpus.compression import Damaged
from raypretrain.corpus.format_base import Format, Found

_MAGIC = b"ARROW1"  # of the file format; a stream has none
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream


@dataclass(frozen=True)
class ArrowFormat(Format):
    """``.arrow``, read batch by batch. A fragment is the whole file, a position the row, from 0."""

    name = "arrow"
    suffixes = (".arrow", ".feather")
    compressible = False

    def texts(self, start: int, stop: int) -> Iterator[Found]:
        row = 0
        try:
            with self.open() as file, named(self.url):
                schema = self._reader(file).schema
                way = text_column(schema, self.key, self.url)
                only = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(way[0])])
                for batch in _batches(self._reader(file, only)):
                    for text in strings(batch, way, self.key):
                        yield row, text
                        row += 1
                self._see_the_end(file)
        except Damaged as error:
            yield row, error

    def check(self, patient: bool = False) -> None:
        with self.open() as file, named(self.url):
            text_column(self._reader(file).schema, self.key, self.url)

    def _see_the_end(self, file: BinaryIO) -> None:
        """Arrow takes a stream that was cut off between two batches for a whole one; writers mark its end."""
        file.seek(0)
        is_file = file.read(len(_MAGIC)) == _MAGIC
        file.seek(max(0, self.size - len(_END)))
        if not is_file and file.read(len(_END)) != _END:
            raise Damaged("is cut off: the stream has no end", where=self.url)

    def _reader(self, file: BinaryIO, options: pa.ipc.IpcReadOptions | None = None) -> Any:
        file.seek(0)
        kind = pa.ipc.open_file if file.read(len(_MAGIC)) == _MAGIC else pa.ipc.open_stream
        file.seek(0)
        return kind(file, options=options)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        return (reader.get_batch(i) for i in range(reader.num_record_batches))
    return iter(reader)
