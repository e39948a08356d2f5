"""Entities in tags of words: IOB2, whether it is well-formed, and scores of whole entities.

IOB2 (Tjong Kim Sang and Veenstra, Representing text chunks, EACL 1999): ``B-TYPE`` begins an entity, ``I-TYPE`` goes on
with it, ``O`` is outside. Scores are those of CoNLL-2003: an entity counts if its type and both of its ends are right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

OUTSIDE = "O"

Entity = tuple[str, int, int]
"""A type, and the words ``[start, stop)``."""


class Flaw(NamedTuple):
    """What is wrong with the tag of word ``token``, from 0."""

    token: int
    what: str


def check_iob2(tags: Sequence[str]) -> Flaw | None:
    """The first thing that is wrong with a sentence's tags, if they are not well-formed IOB2."""
    before = OUTSIDE
    for i, tag in enumerate(tags):
        prefix, dash, kind = tag.partition("-")
        if tag != OUTSIDE and (prefix not in ("B", "I") or not dash or not kind):
            return Flaw(i, f"the tag '{tag}' is neither O nor B-TYPE nor I-TYPE")
        if prefix == "I" and before[2:] != kind:
            after = f"after '{before}'" if i else "at the beginning of a sentence"
            return Flaw(i, f"the tag '{tag}' goes on with an entity that has not begun ({after})")
        before = tag
    return None


def repair_iob2(tags: Sequence[str]) -> list[str]:
    """The tags with each ``I-TYPE`` that goes on with nothing made a ``B-TYPE``, as conlleval reads it."""
    fixed: list[str] = []
    for tag in tags:
        goes_on = bool(fixed) and fixed[-1] in (tag, f"B{tag[1:]}")
        begins = tag.startswith("I-") and not goes_on
        fixed.append(f"B{tag[1:]}" if begins else tag)
    return fixed


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence. What is no well-formed IOB2 is read as :func:`repair_iob2` makes it.

    A tag that is neither ``B-TYPE`` nor ``I-TYPE`` is outside.
    """
    found: list[Entity] = []
    for i, tag in enumerate(repair_iob2(tags)):
        if tag.startswith("B-"):
            found.append((tag[2:], i, i + 1))
        elif tag.startswith("I-"):
            kind, start, _ = found[-1]
            found[-1] = (kind, start, i + 1)
    return found


def entity_scores(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Precision, recall and F1 over all entities (micro) of the sentences, and of each type.

    Args:
        truth, predicted: the tags of each sentence's words.

    Returns:
        ``f1``, ``precision``, ``recall``, each 0 where it is undefined, and ``per_type``: a row for each type, by
        name, with ``name``, ``precision``, ``recall``, ``f1`` and ``support`` (true entities of it).

    Raises:
        ValueError: the two have not the same sentences and words.
    """
    there: Counter[str] = Counter()
    given: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for true, guess in zip(truth, predicted, strict=True):
        if len(true) != len(guess):
            raise ValueError(f"a sentence has {len(true)} words, but {len(guess)} predicted tags")
        wanted, got = set(entities(true)), set(entities(guess))
        there.update(kind for kind, _, _ in wanted)
        given.update(kind for kind, _, _ in got)
        right.update(kind for kind, _, _ in wanted & got)
    rows = [
        {"name": kind, **_scores(right[kind], given[kind], there[kind]), "support": there[kind]}
        for kind in sorted(there | given)
    ]
    return {**_scores(right.total(), given.total(), there.total()), "per_type": rows}


def _scores(right: int, given: int, there: int) -> dict[str, float]:
    return {
        "precision": right / given if given else 0.0,
        "recall": right / there if there else 0.0,
        "f1": 2 * right / (given + there) if given + there else 0.0,
    }
