"""Tagged sentences: CoNLL's columns, and words with slashes and tags as in the Brown corpus."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from raypretrain.errors import InputError

_SPACE = re.compile(r"[ \t]+")  # words may be other kinds of space
_DOCUMENT = "-DOCSTART-"


def conll_rows(
    lines: Iterable[str], url: str, token: int = 1, tag: int | None = None
) -> Iterator[tuple[str, dict[str, object]]]:
    """A row for each sentence, at the line of its first word: ``{"words": […], "tags": […]}``.

    A line is a word's columns, with tabs between them where there is one and else with spaces; an empty line
    ends a sentence. ``-DOCSTART-`` is no word, and before a sentence a line that begins with ``# `` is none.

    Args:
        token, tag: the columns, from 1; the tag is in the last one unless given.

    Raises:
        InputError: a line lacks a column, or its word or tag is empty.
    """
    words: list[object] = []
    tags: list[object] = []
    first = 0
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        if not line.strip(" \t") or line.startswith(_DOCUMENT):
            if words:
                yield f"{url}:{first}", {"words": words, "tags": tags}
            words, tags = [], []
            continue
        if not words:
            if line.startswith("# "):
                continue
            first = number
        word, label = _columns(line, f"{url}:{number}", token, tag)
        words.append(word)
        tags.append(label)
    if words:
        yield f"{url}:{first}", {"words": words, "tags": tags}


def slashed_rows(lines: Iterable[str], url: str) -> Iterator[tuple[str, dict[str, object]]]:
    """A row for each line with ``word/tag`` between spaces: ``{"words": […], "tags": […]}``.

    The last slash counts: ``1/2/cd`` is ``1/2``. Empty lines are none.

    Raises:
        InputError: a word has no tag.
    """
    for number, line in enumerate(lines, start=1):
        pairs = [part.rpartition("/") for part in _SPACE.split(line.strip(" \t\r\n")) if part]
        bad = next((last for word, _, last in pairs if not word or not last), None)
        if bad is not None:
            raise InputError(f"the word {bad!r} has no tag", where=f"{url}:{number}", fix="write word/tag")
        if pairs:
            yield (
                f"{url}:{number}",
                {"words": [word for word, _, _ in pairs], "tags": [label for _, _, label in pairs]},
            )


def as_tagged(
    row: dict[str, object], where: str, words: str = "words", tags: str = "tags"
) -> tuple[list[str], list[str]]:
    """The words and the tags of a row; whole numbers are tags by their digits.

    Raises:
        InputError: a column is missing, is no list of texts, or the two are not equally long, or empty.
    """
    for column in (words, tags):
        if not isinstance(row.get(column), list) or not row[column]:
            there = ", ".join(f"'{name}'" for name in row) or "none"
            what = "there is no column" if column not in row else "there is no list of texts in the column"
            raise InputError(f"{what} '{column}' (columns: {there})", where=where)
    each = _texts(row[words], words, where)
    labels = _texts(row[tags], tags, where, numbers=True)
    if len(each) != len(labels):
        raise InputError(f"has {len(each)} words, but {len(labels)} tags", where=where)
    return each, labels


def _texts(values: object, column: str, where: str, numbers: bool = False) -> list[str]:
    assert isinstance(values, list)
    if numbers:
        values = [str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]
    for i, value in enumerate(values):
        if not isinstance(value, str) or not value:
            raise InputError(f"column '{column}': entry {i + 1} is {value!r}, not a text", where=where)
    return values


def _columns(line: str, where: str, token: int, tag: int | None) -> tuple[str, str]:
    columns = line.split("\t") if "\t" in line else _SPACE.split(line.strip(" "))
    needed = max(2, token, tag or 0)
    if len(columns) < needed:
        raise InputError(
            f"has {len(columns)} {'column' if len(columns) == 1 else 'columns'}, not {needed}",
            where=where,
            fix="write a word and its tag on each line, and an empty line between sentences",
        )
    word, label = columns[token - 1], columns[tag - 1 if tag else -1].strip()
    if not word or not label:
        raise InputError(f"the {'tag' if word else 'word'} is empty", where=where)
    return word, label
