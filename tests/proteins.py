"""Proteins for the tests, made up: sequences, FASTA files of them, and files of clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.tokens.tokenizer_fixed import AminoAcids
from raypretrain.tokens.window import SequencesConfig, Windows

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def proteins(number: int, shortest: int = 20, longest: int = 200) -> list[str]:
    """So many sequences, always the same, all different."""
    rng = np.random.default_rng(7)
    return ["".join(rng.choice([*LETTERS], rng.integers(shortest, longest + 1))) for _ in range(number)]


def write_fasta(path: Path, named: Mapping[str, str]) -> Path:
    """A file of sequences with their names, 60 letters a line."""
    with path.open("w", encoding="utf-8") as file:
        for name, text in named.items():
            lines = [text[i : i + 60] for i in range(0, len(text), 60)]
            file.write("\n".join([f">{name} made up", *lines, ""]))
    return path


def write_clusters(path: Path, clusters: Sequence[Sequence[str]]) -> Path:
    """The first of each is the representative."""
    lines = [f"{members[0]}\t{member}\n" for members in clusters for member in members]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def protein_windows(
    path: Path, clusters: Path | None = None, *, held_out: float = 0.0, seed: int = 3, **sequences: Any
) -> Windows:
    """Of the FASTA files at ``path``; its fragments are small, so that there are many."""
    source = SourceConfig(path=str(path), clusters=str(clusters) if clusters else None)
    corpus = CorpusConfig(sources=[source], held_out=held_out)
    config = SequencesConfig.model_validate({"length": 64, "window": 8000, **sequences})
    return Windows(build_manifest(corpus, fragment_bytes=1000), corpus, config, AminoAcids(), seed)
