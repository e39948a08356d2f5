"""Listing: which files a corpus has at the moment, and how two listings differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raypretrain import storage
from raypretrain.corpus.formats import class_of, format_of, known_suffixes, passes_over_others
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError

COMPANIONS = {
    "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json",
    "readme.md", "readme", "license", "license.md", "license.txt", "sha256sums", "md5sums",
}  # fmt: skip
"""Files that lie beside data, in lower case. They are passed over, unless there is nothing else."""

_NAMED = 5


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A file of the corpus: where, how many bytes, its tag when it was listed, its source and format."""

    url: str
    size: int
    tag: str
    source: int
    format: str


def list_corpus(config: CorpusConfig) -> list[ManifestFile]:
    """The files of every source that hold anything, as they are now; reads none of them.

    Raises:
        InputError: no file matches, all of a source are empty, a suffix or format is not known, or a format has no
            names for the source's clusters.
        StorageError: a source cannot be listed.
    """
    return [file for index, source in enumerate(config.sources) for file in _files_of(index, source)]


def differences(before: Iterable[ManifestFile], now: Iterable[ManifestFile]) -> list[str]:
    """What differs between two listings, one line for each kind of difference; a few files are named."""
    old = {(file.source, file.url): file for file in before}
    new = {(file.source, file.url): file for file in now}
    kinds = {
        "added": [key for key in new if key not in old],
        "removed": [key for key in old if key not in new],
        "changed": [k for k, f in old.items() if k in new and (f.size, f.tag) != (new[k].size, new[k].tag)],
    }
    return [_line(kind, [url for _, url in keys]) for kind, keys in kinds.items() if keys]


def _line(kind: str, urls: list[str]) -> str:
    named = ", ".join(urls[:_NAMED])
    more = f" and {len(urls) - _NAMED} more" if len(urls) > _NAMED else ""
    return f"{len(urls)} {kind}: {named}{more}"


def _files_of(index: int, source: SourceConfig) -> list[ManifestFile]:
    listed = storage.list_files(source.path, source.storage_options)
    if not listed:
        raise InputError("no file matches", where=source.path, fix="check corpus.sources, a path or a glob")
    if source.format is None:
        beside = [info for info in listed if info.url.rpartition("/")[2].lower() not in COMPANIONS]
        listed = beside or listed
    skip = passes_over_others(source)
    files = []
    for info in listed:
        name = format_of(info.url, source)
        if name is None and not skip:
            fix = "name the files by a glob, e.g. *.jsonl, or the source's 'format'"
            raise InputError(f"its suffix is not known (known: {known_suffixes()})", where=info.url, fix=fix)
        if name and source.clusters and not class_of(name).has_names:
            fix = "leave out the source's 'clusters', or put these files into a source of their own"
            raise InputError(
                "its documents have no names that 'clusters' could name", where=info.url, fix=fix
            )
        if name and info.size:
            files.append(ManifestFile(info.url, info.size, info.tag, index, name))
    if not files and skip:
        what = f"none of its files has a suffix that the format '{source.format}' reads"
        raise InputError(what, where=source.path)
    if not files:
        raise InputError("all of its files are empty", where=source.path)
    return files
