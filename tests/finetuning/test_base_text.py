"""The text of a base: of its run or of files, held out and to be replayed, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from base_runs import LENGTH, make_run, text_of
from real_text import python_files, reviews

from raypretrain.corpus.documents import is_held_out
from raypretrain.errors import InputError, RaypretrainError, RecipeError, RunError
from raypretrain.finetuning import base_text
from raypretrain.finetuning.base_text import BaseText
from raypretrain.tokens.objectives import Causal, Masked
from raypretrain.tokens.packing import Sequences
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.window import Windows
from raypretrain.training.evaluation import HeldOut
from raypretrain.training.runfolder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("masked"), "bert-1m")


def test_a_run_gives_what_it_was_evaluated_on(run: Path, masked: Path) -> None:
    text = text_of(run)
    own = HeldOut.load(RunFolder(run).held_out)
    np.testing.assert_array_equal(text.held_out.tokens, own.tokens)
    assert text.held_out.bytes_of == own.bytes_of
    assert text.names == ("prose", "code")
    assert isinstance(text.objective, Causal)
    assert text.replay is None
    assert isinstance(text_of(masked).objective, Masked)


def test_its_corpus_may_be_gone_where_nothing_is_replayed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "prose.jsonl").unlink()
    assert len(text_of(run).held_out.tokens) == 13
    with pytest.raises(RaypretrainError, match=r"prose\.jsonl"):
        text_of(run, replay=10**6)


def documents(sequences: Sequences, tokenizer: Tokenizer) -> list[str]:
    """The text of every piece of a document."""
    starts = sequences.starts()
    pieces = []
    for row, begin in zip(sequences.tokens, starts, strict=True):
        pieces += [tokenizer.decode(row[begin == first].tolist()) for first in np.unique(begin)]
    return pieces


def test_no_part_of_a_held_out_document_is_replayed(run: Path) -> None:
    text = text_of(run, replay=10**6)
    assert text.replay is not None
    assert text.replay.tokens.dtype == np.int32
    assert text.replay.tokens.shape[1] == LENGTH
    everything = [*reviews(60), *(text[:4000] for text in python_files(30))]
    held_out = "\n".join(t for t in everything if is_held_out(t, 0.2))
    trained = "\n".join(t for t in everything if not is_held_out(t, 0.2))
    tokenizer = Tokenizer.load(run / "model")
    long = [piece for piece in documents(text.replay, tokenizer) if len(piece) > 60 and "�" not in piece]
    assert len(long) > 500
    assert all(piece in trained for piece in long)
    assert not any(piece in held_out for piece in long)


def test_the_seed_draws_it_and_more_of_it_begins_alike(run: Path) -> None:
    few, same, more = (text_of(run, replay=number, seed=1).replay for number in (50, 50, 150))
    other, whole = text_of(run, replay=50, seed=2).replay, text_of(run, replay=10**6, seed=1).replay
    assert few is not None and same is not None and more is not None  # noqa: PT018
    assert other is not None and whole is not None  # noqa: PT018
    np.testing.assert_array_equal(few.tokens, same.tokens)
    np.testing.assert_array_equal(few.tokens, more.tokens[:50])
    assert len(more) == 150 < len(whole) < 10**6
    assert (few.tokens != other.tokens).any()
    assert len(np.unique(whole.tokens, axis=0)) > 0.95 * len(whole)  # an epoch, and code repeats itself


def test_no_more_is_read_than_is_to_be_replayed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    parts = Windows.parts

    def counting(self: Windows, w: int) -> Any:
        read.append(w)
        return parts(self, w)

    monkeypatch.setattr(Windows, "parts", counting)
    text_of(run, replay=1)
    assert len(read) == 1
    text_of(run, replay=10**6)
    assert len(read) == len(set(read[1:])) + 1 > 5


def test_files_stand_for_the_text_of_a_base_from_elsewhere(run: Path) -> None:
    text = text_of(run, replay=20, path="prose.jsonl", held_out=0.3, sequences=9, length=16)
    assert text.held_out.tokens.shape == (9, 16)
    assert text.held_out.sources is None
    tokenizer, wanted = Tokenizer.load(run / "model"), [t for t in reviews(60) if is_held_out(t, 0.3)]
    first = tokenizer.decode(text.held_out.tokens[0].tolist())
    assert any(document.startswith(first) for document in wanted)
    assert text.replay is not None
    assert text.replay.tokens.shape == (20, 16)
    assert text_of(run, path="prose.jsonl", held_out=0.3).held_out.tokens.shape[1] == LENGTH


def test_sources_share_the_held_out_sequences_and_get_different_names(run: Path) -> None:
    files = [
        {"path": "prose.jsonl", "name": "web"},
        {"path": "code.jsonl", "name": "web"},
        {"path": "*.jsonl"},
    ]
    text = text_of(run, sources=files, held_out=0.3, sequences=10)
    assert text.names == ("web-0", "web-1", "source-2")
    assert text.held_out.sources is not None
    assert np.bincount(text.held_out.sources).tolist() == [4, 3, 3]


def test_the_fingerprint_follows_from_the_text_and_not_from_how_much_is_replayed(run: Path) -> None:
    def of(text: BaseText) -> str:
        return text.fingerprint

    assert of(text_of(run, replay=5)) == of(text_of(run, replay=50))
    others = [
        text_of(run),
        text_of(run, replay=5),
        text_of(run, replay=5, seed=1),
        text_of(run, path="prose.jsonl"),
        text_of(run, path="prose.jsonl", sequences=3),
    ]
    assert len({of(text) for text in others}) == len(others)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"run": "run", "path": "prose.jsonl"}, "give one of run, path and sources, not run and path"),
        ({"sequences": 4}, "give one of run, path and sources, not none"),
        ({"run": "run", "length": 16}, "a run has its own 'length'; take it out"),
    ],
)
def test_other_than_one_text_is_refused(run: Path, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        text_of(run, **keys)


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ({"run": "nowhere"}, RunError, r"nowhere: is no run: it has no recipe\.yaml"),
        ({"path": "nowhere.txt"}, InputError, r"nowhere\.txt: no file matches"),
        ({"path": "prose.jsonl", "length": 64}, RecipeError, "sequences of 64 tokens, .* has 32 positions"),
        ({"path": "prose.jsonl", "held_out": 1e-9}, InputError, "1e-09 of the documents .* fill no sequence"),
    ],
)
def test_text_that_cannot_be_used_is_refused_in_one_line(
    run: Path, keys: dict[str, Any], error: type[RaypretrainError], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        text_of(run, **keys)
    assert "\n" not in str(raised.value)


def test_a_run_without_held_out_text_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, held_out=0.0)
    with pytest.raises(RunError, match="the run has no held-out text"):
        text_of(run)
    RunFolder(run).held_out.unlink()
    with pytest.raises(RunError, match="the run has no held-out text"):
        text_of(run)


def test_a_run_with_another_tokenizer_or_objective_is_refused(
    run: Path, masked: Path, tmp_path: Path
) -> None:
    other = make_run(tmp_path, tokenizer={"vocabulary": 400, "sample": "100K"})
    with pytest.raises(InputError, match="the run's tokenizer is not the base model's"):
        text_of(run, base=other / "model")
    with pytest.raises(InputError, match=r"the run's model learned the causal objective, .* the masked one"):
        text_of(run, base=masked / "model")


def test_the_settings_are_read_without_torch() -> None:
    code = f"import sys, {base_text.__name__}; assert 'torch' not in sys.modules and 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
