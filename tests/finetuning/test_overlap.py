"""Labelled texts in the text of a pretraining run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from proteins import proteins
from real_text import reviews

from raypretrain.config import to_yaml
from raypretrain.corpus.documents import is_held_out
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.errors import RunError
from raypretrain.finetuning.overlap import corpus_of_run, corpus_overlap
from raypretrain.training.recipe import PretrainRecipe


def test_texts_that_stand_in_documents_are_found_whatever_their_case():
    texts = [text for text in reviews(80) if len(text.split()) > 60]
    documents = [f"Before. {texts[i].upper()} After." for i in (3, 5)] + ["something else altogether"]
    assert corpus_overlap(texts, documents) == [3, 5]
    assert corpus_overlap(texts, []) == []
    assert corpus_overlap([], documents) == []


def test_half_of_a_text_counts_and_a_third_does_not():
    text = " ".join(f"w{i}" for i in range(112))  # 100 shingles
    words = text.split()
    assert corpus_overlap([text], [" ".join(words[:62])]) == [0]
    assert corpus_overlap([text], [" ".join(words[:61])]) == []
    assert corpus_overlap([text], [" ".join(words[:37]), " ".join(words[37 + 12 : 87])]) == [0]  # 25 and 26
    assert corpus_overlap([text], [" ".join(words[:61])], share=0.49) == [0]


def test_a_shorter_text_counts_as_a_whole_and_a_very_short_one_as_a_document():
    texts = ["one two three four five six seven eight nine", "a great film", "of the", ""]
    assert corpus_overlap(texts, [f"zero {texts[0]} ten. It is a great film."]) == [0]
    assert corpus_overlap(texts, ["one two three four five six seven eight ten nine"]) == []
    assert corpus_overlap(texts, ["A great film!", "", "on the of the"]) == [1]


def test_no_text_is_found_across_two_documents():
    words = [f"w{i}" for i in range(20)]
    assert corpus_overlap([" ".join(words)], [" ".join(words[:10]), " ".join(words[10:])]) == []


def test_proteins_are_found_by_their_letters():
    sequences = proteins(10, shortest=80)
    assert corpus_overlap(sequences, [sequences[4][:60] + sequences[5], sequences[7]]) == [
        i for i in (4, 5, 7) if i != 4 or len(sequences[4]) <= 106
    ]


def _run(folder: Path, source: Path, **corpus: object) -> Path:
    """The folder of a run that was begun, as far as its corpus goes."""
    values = {"sources": [{"path": str(source)}], **corpus}
    recipe = PretrainRecipe.model_validate({"corpus": values}, context={"folder": str(folder), "name": "run"})
    (folder / "corpus").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    build_manifest(CorpusConfig.model_validate(values), fragment_bytes=5000).save(
        folder / "corpus" / "manifest.parquet"
    )
    return folder


def test_the_documents_of_a_run_are_those_that_are_not_held_out(tmp_path):
    texts = reviews(60)
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    run = _run(tmp_path / "run", source, held_out=0.2)
    found = list(corpus_of_run(run))
    assert found == [text for text in texts if not is_held_out(text, 0.2)]
    assert 30 < len(found) < 60
    long = [text for text in texts if len(text.split()) > 30]
    assert corpus_overlap(long, corpus_of_run(run)) == [i for i, text in enumerate(long) if text in found]


def test_what_is_no_run_or_names_no_text_is_refused_at_once(tmp_path):
    with pytest.raises(RunError, match="is no run"):
        corpus_of_run(tmp_path)
    source = tmp_path / "a.txt"
    source.write_text("text")
    run = _run(tmp_path / "run", source)
    (run / "corpus" / "manifest.parquet").unlink()
    with pytest.raises(RunError, match="cannot be read as a manifest"):
        corpus_of_run(run)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["corpus"] |= {"sources": [], "tokenized": str(tmp_path)}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RunError, match="does not say where the text is"):
        corpus_of_run(run)
