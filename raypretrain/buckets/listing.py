"""Which objects a prefix or a glob names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

from raypretrain.buckets.reading import Remote
from raypretrain.buckets.refusals import Options
from raypretrain.buckets.stores import Entry
from raypretrain.errors import StorageError

MAGIC = re.compile(r"[*?\[]")


def list_remote(pattern: str, options: Options | None) -> list[Entry]:
    """``(url, size, tag)`` of the objects that ``pattern`` names; its prefix is listed once."""
    scheme, _, path = pattern.partition("://")
    place, _, below = path.partition("/")
    if not place or MAGIC.search(place):
        raise StorageError("no bucket is named", where=pattern, fix=f"write {scheme}://BUCKET/PATH")
    magic = MAGIC.search(below)
    root, _, begin = below[: magic.start()].rpartition("/") if magic else (below.rstrip("/"), "", "")
    found = Remote(f"{scheme}://{place}/{root}", options).call(lambda store, path: store.find(path, begin))
    accept = _glob_filter(below) if magic else _below(root)
    # The place as the user wrote it: az:// may name the account there, which the store leaves out.
    keys = ((path.partition("/")[2], size, tag) for path, size, tag in found)
    return [(f"{scheme}://{place}/{key}", size, tag) for key, size, tag in keys if accept(key)]


def _below(root: str) -> Callable[[str], bool]:
    def accept(key: str) -> bool:
        below = key.removeprefix(root).strip("/")
        return not any(part.startswith((".", "_")) for part in below.split("/"))

    return accept


def _glob_filter(pattern: str) -> Callable[[str], bool]:
    """As in :func:`glob.glob`: ``*`` stays within a folder, ``**`` crosses folders, no leading dot."""
    parts = pattern.split("/")

    def matches(names: list[str], wanted: list[str]) -> bool:
        if not wanted:
            return not names
        if wanted[0] == "**":
            skip = bool(names) and not names[0].startswith(".") and matches(names[1:], wanted)
            return matches(names, wanted[1:]) or skip
        if not names or (names[0].startswith(".") and not wanted[0].startswith(".")):
            return False
        return fnmatch.fnmatchcase(names[0], wanted[0]) and matches(names[1:], wanted[1:])

    return lambda key: matches(key.split("/"), parts)
