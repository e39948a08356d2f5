"""Which examples are set aside: by a hash of what they are, so that the same ones stay aside when more come."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def hash_split(
    keys: Sequence[str],
    groups: NDArray[np.int64],
    strata: Sequence[Hashable],
    share: float,
    salt: str = "validation",
) -> NDArray[np.bool_]:
    """Which examples are set aside. bool [examples].

    The examples of a group go together: by the hash of its first example's key, in its first example's stratum. In each
    stratum the groups are taken in the order of their hashes, until its part of ``share`` is full; a group that
    is larger than what is still wanted is passed over. So strata keep their shares, no group is on two sides, and when
    examples are added only those near the end of a stratum's part change sides.

    Args:
        keys: what decides for ever, as the text of each example.
        groups: int64 [examples], the same for those that must not be on two sides.
        strata: as the label of each example.
        share: of the examples, between 0 and 1. A stratum keeps at least one group that is not set aside.
        salt: another one makes another split.
    """
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(place)
    by_stratum: dict[Hashable, list[list[int]]] = {}
    for each in members.values():
        by_stratum.setdefault(strata[each[0]], []).append(each)
    aside = np.zeros(len(keys), bool)
    quotas = _quotas([sum(map(len, found)) for found in by_stratum.values()], share)
    for found, quota in zip(by_stratum.values(), quotas, strict=True):
        left = quota
        ordered = sorted(found, key=lambda each: (_hash(keys[each[0]], salt), each[0]))
        for each in ordered[:-1]:
            if len(each) <= left:
                aside[each] = True
                left -= len(each)
    return aside


def _quotas(sizes: list[int], share: float) -> list[int]:
    """Examples to set aside of each stratum, ``share`` of all together: by the largest remainders."""
    exact = np.array(sizes) * share
    quotas = np.floor(exact).astype(np.int64)
    more = round(float(exact.sum())) - int(quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:more]] += 1
    found: list[int] = quotas.tolist()
    return found


def _hash(key: str, salt: str) -> bytes:
    return hashlib.blake2b(f"{salt}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
