"""``raypretrain export``: the newest checkpoint that holds, as a Hugging Face model, finished or not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from real_text import reviews
from runs import write_recipe
from s3_server import S3Server, use_keys
from safetensors.torch import load_file

from raypretrain import cli, storage
from raypretrain.config import load_recipe
from raypretrain.models.llama import Llama
from raypretrain.models.loading import load_base
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.tokenizer import Tokenizer, train_tokenizer
from raypretrain.training.checkpoint import MANIFEST, Standing, checkpoint_folder, commit, hash_files
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.release import released
from raypretrain.training.runfolder import RunFolder

STATES = "engine/mp_rank_00_model_states.pt"


@pytest.fixture
def run(tmp_path: Path, corpus: Path) -> RunFolder:
    """The folder of a run that was interrupted before its first checkpoint."""
    recipe = load_recipe(write_recipe(tmp_path, corpus), PretrainRecipe, [f"run.folder={tmp_path}/run"])
    folder = RunFolder(tmp_path / "run")
    folder.open(recipe)
    train_tokenizer(iter(reviews(60)), recipe.tokenizer, folder.tokenizer, 1)
    return folder


def save(run: RunFolder, step: int) -> Llama:
    """A checkpoint after ``step`` as the engine writes it without ZeRO; its weights come from the step."""
    recipe = run.read_recipe()
    model = Llama(recipe.model.shape(recipe.tokenizer.vocabulary, recipe.sequences.length))
    model.init_weights(step)
    folder = checkpoint_folder(run.checkpoints, step)
    (folder / "engine").mkdir(parents=True)
    torch.save({"module": model.state_dict()}, folder / STATES)
    standing = Standing(step, Cursor(), 0, 1, 0, "", "", "")
    commit(folder, standing, hash_files(folder, 0, 1))
    return model


def export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["raypretrain", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, error = capsys.readouterr()
    return int(caught.value.code or 0), out, error


def test_the_newest_checkpoint_that_holds_is_exported_and_the_damaged_one_reported(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = save(run, 10)
    save(run, 20)
    data = bytearray((checkpoint_folder(run.checkpoints, 20) / STATES).read_bytes())
    data[len(data) // 2] ^= 1
    (checkpoint_folder(run.checkpoints, 20) / STATES).write_bytes(data)

    to = tmp_path / "model"
    status, out, error = export(monkeypatch, capsys, run.path, "--to", to, "--json")
    assert status == 0
    assert json.loads(out) == {"model": str(to), "step": 10, "averaged": [10]}
    assert error == f"checkpoint step-00000020 is not used: {STATES} is damaged (its SHA-256 differs)\n"

    ids = torch.tensor([Tokenizer.load(run.tokenizer).encode("This film was surprisingly good.")])
    loaded = AutoModelForCausalLM.from_pretrained(to, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids), rtol=0, atol=1e-4)
    text = "This film was surprisingly good."
    assert AutoTokenizer.from_pretrained(to)(text, add_special_tokens=False).input_ids == ids[0].tolist()
    assert load_file(to / "model.safetensors")["model.embed_tokens.weight"].dtype == torch.float32


def test_a_run_that_goes_on_stands_for_its_newest_checkpoint_and_a_finished_one_for_its_model(
    run: RunFolder, tmp_path: Path
) -> None:
    model, said = save(run, 10), list[str]()
    with released(run.path, said.append) as (folder, step):
        assert step == 10
        weights = load_base(folder)[1]
    assert not folder.exists()
    assert said == [f"{run.path}: the weights after step 10"]
    torch.testing.assert_close(weights, dict(model.state_dict()))

    run.model.mkdir()  # of a run that was finished, and then made longer: not its newest
    with released(run.path) as (folder, step):
        assert step == 10
    run.result.write_text(json.dumps({"steps": 7}))
    with released(run.path) as found:
        assert found == (run.model, 7)
    with released(tmp_path / "other") as found:
        assert found == (tmp_path / "other", None)


def test_a_model_exported_to_a_bucket_loads_after_it_was_fetched(
    run: RunFolder,
    tmp_path: Path,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    use_keys(monkeypatch, s3)
    model, to = save(run, 10), f"s3://{s3.bucket}/models/first"
    status, out, _ = export(monkeypatch, capsys, run.path, "--to", to, "--json")
    assert (status, json.loads(out)) == (0, {"model": to, "step": 10, "averaged": [10]})
    fetched = tmp_path / "fetched"
    for info in storage.list_files(to):
        with storage.open_read(info.url) as file:
            storage.write_atomic(fetched / info.url.rpartition("/")[2], file.read())
    ids = torch.tensor([Tokenizer.load(run.tokenizer).encode("This film was surprisingly good.")])
    loaded = AutoModelForCausalLM.from_pretrained(fetched, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids), rtol=0, atol=1e-4)
    assert AutoTokenizer.from_pretrained(fetched)("good.", add_special_tokens=False).input_ids


def test_an_export_to_a_bucket_that_refuses_says_so_in_one_line(
    run: RunFolder, s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_keys(monkeypatch, s3)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    save(run, 10)
    status, out, error = export(monkeypatch, capsys, run.path, "--to", f"s3://{s3.bucket}/models/second")
    assert (status, out) == (2, "")
    assert error.startswith(f"raypretrain: s3://{s3.bucket}/models/second/")
    assert "the secret key is wrong; check AWS_ACCESS_KEY_ID" in error
    assert error.count("\n") == 1


def test_the_mean_of_the_newest_checkpoints_that_hold_is_exported_and_the_card_says_so(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [save(run, step) for step in (10, 20, 30, 40)]
    (checkpoint_folder(run.checkpoints, 30) / STATES).write_bytes(b"damaged")
    to = tmp_path / "model"
    status, out, error = export(monkeypatch, capsys, run.path, "--to", to, "--average", 3)
    assert (status, out) == (0, f"{to}: the weights after steps 40, 20, 10, averaged\n")
    assert error.startswith("checkpoint step-00000030 is not used: ")
    saved = load_file(to / "model.safetensors")["model.embed_tokens.weight"]
    wanted = torch.stack([models[i].embedding.weight.detach() for i in (0, 1, 3)]).mean(0)
    torch.testing.assert_close(saved, wanted)
    assert "the mean of those after steps 10, 20, 40;" in (to / "README.md").read_text()
    status, out, error = export(monkeypatch, capsys, run.path, "--to", tmp_path / "all", "--average", 9)
    assert status == 0
    assert "note: the weights are the mean of 3 checkpoints, because there are no more" in error


def test_the_checkpoint_of_a_step_is_exported_or_those_that_there_are_are_named(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {step: save(run, step) for step in (10, 20, 1030)}
    status, out, _ = export(monkeypatch, capsys, run.path, "--to", tmp_path / "model", "--at", 20)
    assert (status, out) == (0, f"{tmp_path}/model: the weights after step 20\n")
    saved = load_file(tmp_path / "model" / "model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(saved, models[20].embedding.weight.detach())
    status, out, error = export(monkeypatch, capsys, run.path, "--to", tmp_path / "other", "--at", 25)
    assert (status, out) == (2, "")
    assert error == (
        f"raypretrain: {run.checkpoints}: the checkpoint of step 25 cannot be used (there is none); there are those of "
        "steps 10, 20, 1,030\n"
    )


def test_a_run_without_a_checkpoint_says_so(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(run, 10)
    (checkpoint_folder(run.checkpoints, 10) / MANIFEST).unlink()
    status, out, error = export(monkeypatch, capsys, run.path, "--to", tmp_path / "model")
    assert (status, out) == (2, "")
    assert error == f"raypretrain: {run.path}: has no checkpoint yet; train until the first one\n"
    assert not (tmp_path / "model").exists()


def test_a_place_that_cannot_be_written_to_is_named(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(run, 10)
    (tmp_path / "file").touch()
    for to in (tmp_path / "file", tmp_path / "file" / "model"):
        status, out, error = export(monkeypatch, capsys, run.path, "--to", to)
        assert (status, out) == (2, "")
        assert error == f"raypretrain: {tmp_path}/file: is a file, not a folder; give another folder\n"
