"""Tracing: checked against the raw files, read here by other means."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from command import Command
from runs import write_recipe

from raypretrain.config import load_recipe
from raypretrain.corpus.documents import is_held_out
from raypretrain.errors import InputError, RunError
from raypretrain.tokens.cursor import Cursor, fingerprint_rows, format_fingerprint
from raypretrain.tokens.dealing import Batches
from raypretrain.training.prepare import prepare
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.tracing import trace_document, trace_step

DONE, STEPS = 30, 40


def begun(recipe: Path, run: Path, *overrides: str) -> Path:
    """The folder of a run that has done some steps: all that tracing reads of it, without training."""
    loaded = load_recipe(recipe, PretrainRecipe, [f"run.folder={run}", *overrides])
    folder = RunFolder(run)
    folder.open(loaded)
    windows = prepare(loaded, folder, lambda line: None).windows
    parts = (part for w in windows.windows_from(0) for part in windows.parts(w))
    rows = []
    for step, batch in enumerate(
        islice(Batches(parts, Cursor(), loaded.training.batches.after(0)), DONE), start=1
    ):
        fingerprint = format_fingerprint(fingerprint_rows(batch.sequences.tokens, first=0))
        at = batch.cursor
        rows.append(
            {"step": step, "batch_fingerprint": fingerprint, "cursor": [at.window, at.part, at.index]}
        )
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.fixture(scope="module", params=["concatenate", "best-fit"])
def run(request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traced")
    return begun(write_recipe(folder, corpus, STEPS), folder / "run", f"sequences.packing={request.param}")


def raw_text(place: str) -> str:
    """The text at ``PATH:LINE``, read by nothing of ours."""
    path, _, line = place.rpartition(":")
    with open(path, "rb") as file:
        row = next(islice(file, int(line) - 1, None))
    text: str = json.loads(row)["text"]
    return text


@pytest.mark.parametrize("step", [1, 2, DONE, DONE + 1, DONE + 3])
def test_a_step_is_made_of_the_characters_that_the_raw_files_have_there(run: Path, step: int) -> None:
    from raypretrain.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(RunFolder(run).tokenizer)
    traced = trace_step(run, step)
    assert len(traced["sequences"]) == 12
    assert (traced["recorded"] is not None) == (step <= DONE)
    for sequence in traced["sequences"]:
        pieces = sequence["pieces"]
        assert sum(piece["tokens"] for piece in pieces) <= 64
        assert [p["column"] for p in pieces] == sorted({p["column"] for p in pieces})
        for piece in pieces:
            whole = raw_text(piece["document"])
            assert piece["source"] == "reviews"
            assert piece["text"] == whole[piece["start"] : piece["stop"]]
            marks = piece["tokens"] - len(tokenizer.encode(piece["text"]))
            assert marks in (0, 1, 2) or piece["start"] > 0 or piece["stop"] < len(whole)


def test_the_tokens_of_a_step_are_those_of_the_raw_text(run: Path) -> None:
    """From the raw files to the fingerprint by other means: this test's own reading, SentencePiece, and a sum."""
    import numpy as np
    import sentencepiece

    folder = RunFolder(run)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder.tokenizer))
    for step in (3, 7, 19):
        traced = trace_step(run, step)
        rows = np.full((12, 64), processor.pad_id(), np.int32)
        for sequence in traced["sequences"]:
            for piece in sequence["pieces"]:
                ids = [processor.bos_id(), *processor.encode(raw_text(piece["document"])), processor.eos_id()]
                place = sequence["sequence"], slice(piece["column"], piece["column"] + piece["tokens"])
                rows[place] = ids[piece["first"] : piece["first"] + piece["tokens"]]
        assert (
            format_fingerprint(fingerprint_rows(rows, first=0))
            == traced["batch_fingerprint"]
            == traced["recorded"]
        )


def test_every_document_of_a_step_leads_back_to_it(run: Path) -> None:
    for step in (2, DONE, DONE + 2):
        traced = trace_step(run, step)
        for piece in traced["sequences"][5]["pieces"]:
            found = trace_document(run, piece["document"])
            assert found["document"] == piece["document"]
            assert found["text"] == raw_text(piece["document"])[:200]
            (occurrence,) = found["occurrences"]
            assert occurrence["exact"]
            assert step in occurrence["steps"]
            assert (step in occurrence["done"]) == (step <= DONE)


def test_a_held_out_document_is_said_to_be_one(run: Path, corpus: Path) -> None:
    shard = corpus / "shard-1.jsonl"
    texts = [json.loads(line)["text"] for line in shard.read_text(encoding="utf-8").split("\n")[:-1]]
    line = next(i for i, text in enumerate(texts, start=1) if is_held_out(text, 0.05))
    found = trace_document(run, f"shard-1.jsonl:{line}")
    assert (found["state"], found["occurrences"]) == ("held out", [])


@pytest.mark.slow
def test_documents_come_again_in_the_next_epochs_and_beyond_the_end_of_the_run(run: Path) -> None:
    document = trace_step(run, 2)["sequences"][0]["pieces"][0]["document"]
    found = trace_document(run, document, epochs=3)
    assert len(found["occurrences"]) == 3
    assert found["occurrences"][0]["steps"]
    assert found["occurrences"][2]["steps"] == []  # the run has not steps enough
    windows = [o["sequences"][0]["window"] for o in found["occurrences"] if o["sequences"]]
    assert windows == sorted(windows)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("nowhere.jsonl:3", "is no file of the run's corpus"),
        ("shard-0.jsonl", "names no line"),
        ("shard-0.jsonl:99999", "shard-0.jsonl"),
    ],
)
def test_a_document_that_is_not_there_is_one_line(run: Path, document: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trace_document(run, document)


def test_a_step_that_is_not_in_the_run_is_one_line(run: Path) -> None:
    with pytest.raises(RunError, match="there is no step 41; name one from 1 to 40"):
        trace_step(run, 41)


def test_another_batch_than_was_recorded_is_said(corpus: Path, tmp_path: Path) -> None:
    run = begun(write_recipe(tmp_path, corpus, STEPS), tmp_path / "run")
    rows = RunFolder(run).metrics.read_text().splitlines(keepends=True)
    rows[4] = rows[4].replace('"batch_fingerprint": "', '"batch_fingerprint": "0')
    RunFolder(run).metrics.write_text("".join(rows))
    with pytest.raises(RunError, match="step 5 was trained on the batch 0"):
        trace_step(run, 5)


def test_the_command_prints_both_ways(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(monkeypatch, capsys)
    status, out, _ = command.run("trace", run, "--step", 4, "--json")
    step = json.loads(out)
    assert status == 0
    assert step == json.loads(json.dumps(trace_step(run, 4)))
    _, shown, _ = command.run("trace", run, "--step", 4, "--text")
    piece = step["sequences"][3]["pieces"][0]
    assert piece["document"] in shown
    assert piece["text"].split("\n")[0] in shown
    _, back, _ = command.run("trace", run, "--document", piece["document"])
    assert "epoch 0: steps done: " in back
    assert "either --step or --document" in command.fails("trace", run)
