"""The recipe for proteins: as it is and with its clusters, from FASTA to what an ESM-2 is to predict."""

from __future__ import annotations

from itertools import islice, repeat
from pathlib import Path

import numpy as np
import pytest
from proteins import proteins, write_clusters, write_fasta

from raypretrain.config import load_recipe
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealing import Batches
from raypretrain.tokens.objectives import IGNORED
from raypretrain.tokens.tokenizer_fixed import AminoAcids
from raypretrain.tokens.window import Windows
from raypretrain.training.copies import data_settings
from raypretrain.training.dryrun import dry_run
from raypretrain.training.prepare import Prepared, objective_of, prepare, read_windows
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.tracing import trace_document, trace_step

JOB = Path(__file__).parents[2] / "jobs" / "pretrain-proteins.yaml"
TEXTS = proteins(400, 50, 1500)
FAMILY = 4
SMALL = [
    "training.global_batch=8",
    "training.tokens=300K",
    "sequences.window=200_000",
    "corpus.held_out=0.05",
]


@pytest.fixture(params=[False, True], ids=["plain", "clusters"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The recipe beside its data, with the line that names clusters as it is, or no longer a comment."""
    for folder in ("jobs", "data"):
        (tmp_path / folder).mkdir()
    names = [f"P{i:03d}" for i in range(len(TEXTS))]
    plain = write_fasta(tmp_path / "plain", {f"sp|{n}|X": t for n, t in zip(names, TEXTS, strict=True)})
    text = JOB.read_text(encoding="utf-8").replace("*.fasta.gz", "*.fasta")
    plain.rename(tmp_path / "data" / "a.fasta")
    if request.param:
        families = [names[i : i + FAMILY] for i in range(0, len(names), FAMILY)]
        write_clusters(tmp_path / "data" / "out_cluster.tsv", families)
        assert text.count("# clusters: ") == 1
        text = text.replace("# clusters: ", "clusters: ")
    recipe = tmp_path / "jobs" / "proteins.yaml"
    recipe.write_text(text, encoding="utf-8")
    return recipe


def load(job: Path) -> PretrainRecipe:
    return load_recipe(job, PretrainRecipe, SMALL)


def prepared(recipe: PretrainRecipe) -> tuple[RunFolder, Prepared]:
    folder = RunFolder(recipe.run.folder)
    folder.open(recipe)
    return folder, prepare(recipe, folder, lambda line: None)


def test_it_is_an_esm2_of_eight_million_parameters(job: Path) -> None:
    found = dry_run(load_recipe(job, PretrainRecipe))
    assert found["model"]["vocabulary"] == AminoAcids.vocabulary
    assert 7e6 < found["model"]["parameters"] < 8e6
    assert found["training"]["tokens_per_step"] == 64 * 1024


def test_each_sequence_is_a_crop_or_whole_proteins_and_only_residues_are_predicted(job: Path) -> None:
    recipe = load(job)
    _, made = prepared(recipe)
    assert isinstance(made.windows, Windows)
    tokenizer, objective = made.windows.tokenizer, objective_of(recipe, made.windows.tokenizer)
    parts = (part for w in made.windows.windows_from(0) for part in made.windows.parts(w))
    crops = 0
    for batch in islice(Batches(parts, Cursor(), repeat(8)), 10):
        inputs, targets = objective.examples(batch.sequences, batch.places)
        predicted = targets[targets != IGNORED]
        assert len(predicted) == pytest.approx(0.15 * inputs.size, rel=0.05)
        assert not any(tokenizer.is_special(token) for token in np.unique(predicted).tolist())
        crops += int((batch.sequences.starts() == 0).all(axis=1).sum())
    assert crops > 10


def test_a_run_that_goes_on_reads_the_same_and_traces_it(job: Path) -> None:
    recipe = load(job)
    folder, made = prepared(recipe)
    again = read_windows(recipe, folder)
    for w in range(3):
        (one,), (other,) = made.windows.parts(w), again.parts(w)
        np.testing.assert_array_equal(one.sequences.tokens, other.sequences.tokens)
    piece = trace_step(folder.path, 3)["sequences"][0]["pieces"][0]
    found = trace_document(folder.path, piece["document"], epochs=4)
    taken = [occurrence["drawn"] for occurrence in found["occurrences"]]
    assert any(3 in occurrence["steps"] for occurrence in found["occurrences"])
    assert all(taken) == (recipe.corpus.sources[0].clusters is None)


def test_a_tokenized_copy_is_one_with_clusters_or_without_wherever_they_lie(job: Path) -> None:
    source = "corpus.sources.0.clusters"
    settings = data_settings(load(job))
    assert settings[source] is (True if load(job).corpus.sources[0].clusters else None)
    elsewhere = load_recipe(job, PretrainRecipe, [*SMALL, f"{source}=elsewhere.tsv"])
    assert data_settings(elsewhere) == {**settings, source: True}
