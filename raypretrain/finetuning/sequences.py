"""Sequences by their names: FASTA files beside a table of what is known of each."""

from __future__ import annotations

from raypretrain.corpus.formats import class_of, format_of, open_format
from raypretrain.corpus.sources import SourceConfig
from raypretrain.errors import InputError
from raypretrain.storage import list_files


def read_sequences(path: str) -> dict[str, str]:
    """Every sequence by its name: the first word of its header, or what stands between bars in it.

    ``>sp|P12345|NAME`` is found as all of it, as ``P12345`` and as ``NAME``; as the latter two only while one
    sequence alone has them.

    Raises:
        InputError: no file, one that is no FASTA or is damaged, or a name that comes twice.
        StorageError: it cannot be read.
    """
    infos = [info for info in list_files(path) if info.size]
    if not infos:
        raise InputError("no file with sequences matches", where=path, fix="check the key fasta")
    source = SourceConfig(path=path)
    whole: dict[str, str] = {}
    parts: dict[str, str | None] = {}
    for info in infos:
        kind = format_of(info.url, source)
        if kind is None or not class_of(kind).has_names:
            raise InputError("is no FASTA", where=info.url, fix="known: .fasta, .fa, .faa, .fna")
        file = open_format(info.url, info.size, kind, source.text, None, info.tag)
        for start, stop, _ in file.fragments(info.size):
            for position, found in file.named(start, stop):
                if isinstance(found, InputError):
                    where = found.where or file.place(position)
                    raise InputError(found.what, where=where, fix=found.fix)
                name, sequence = found
                if name in whole:
                    raise InputError(f"names '{name}' a second time", where=file.place(position))
                whole[name] = sequence
                parts |= {part: None if part in parts else sequence for part in name.split("|")[1:]}
    return {name: sequence for name, sequence in parts.items() if sequence is not None} | whole
