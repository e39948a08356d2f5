"""Cropping: of a document longer than a sequence one window is trained on, another one in each epoch.

As ESM-2 does with proteins. The marks of begin and end are tokens like any others there, so that a crop has them only
where it holds the real end of its protein: Lin et al., Evolutionary-scale prediction of atomic-level protein structure
with a language model, 2023, supplement, training data; Hayes et al., ESM3, 2024, appendix A.1.3, says the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raypretrain.corpus.documents import Document

_CROP = 7  # keeps these draws apart from those of the windows and of the objectives


def draw_crops(
    documents: Sequence[Document], length: int, seed: int, lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The first token of each document's crop, each as likely: int64 [documents]; 0 where it needs none.

    It follows from the seed, the epoch and the document's place alone.

    Args:
        length: tokens of a sequence.
        lengths: int64 [documents], tokens of each with the marks of begin and end.
    """
    firsts = np.zeros(len(documents), np.int64)
    for i in np.flatnonzero(lengths > length).tolist():
        document = documents[i]
        rng = np.random.default_rng([seed, _CROP, document.epoch, document.file, document.position])
        firsts[i] = rng.integers(lengths[i] - length + 1)
    return firsts
