"""Real runs on proteins, cropped and by clusters: one worker, and two that were stopped in between, read the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from proteins import proteins, write_clusters, write_fasta
from runs import fingerprints, run, write_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = 24


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """So few proteins that the run sees each cluster several times."""
    folder = tmp_path_factory.mktemp("proteins")
    names = [f"P{i:03d}" for i in range(300)]
    write_fasta(folder / "a.fasta", dict(zip(names, proteins(300), strict=True)))
    write_clusters(folder / "clusters.tsv", [names[i : i + 3] for i in range(0, 300, 3)])
    return [
        f"corpus.sources=[{{path: {folder}/a.fasta, clusters: {folder}/clusters.tsv}}]",
        "tokenizer.kind=amino-acids",
        "sequences.packing=best-fit",
        "sequences.crop=random",
        "sequences.boundaries=true",
        "model={preset: esm2-1m, width: 32, layers: 2, heads: 2, feed_forward: 64}",
        f"training.steps={STEPS}",
    ]


@pytest.mark.long
def test_two_workers_and_a_run_that_goes_on_read_what_one_worker_reads(
    cluster: str, settings: list[str], tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tmp_path)
    alone, two, longer = (tmp_path / name for name in ("alone", "two", "longer"))
    constant = "training.schedule={kind: constant, warmup: 0.0}"
    assert run(recipe, alone, *settings, constant, "compute.workers=1").status == "finished"
    assert run(recipe, two, *settings, constant).status == "finished"
    assert run(recipe, longer, *settings, constant, "training.steps=11").status == "finished"
    assert run(recipe, longer, *settings, constant, "compute.workers=1").status == "finished"
    wanted = fingerprints(alone)
    assert len(set(wanted.values())) == STEPS
    assert fingerprints(two) == wanted
    assert fingerprints(longer) == wanted
