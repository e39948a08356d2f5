"""Rows 22 and 23: a base model that does not fit, and one that would run code."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_table import Account
from real_text import reviews

from raypretrain.errors import InputError, RaypretrainError
from raypretrain.finetuning.finetune import finetune
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.finetuning.search import search
from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.tokens.tokenizer import TokenizerConfig, train_tokenizer
from raypretrain.training.sampling import sample

pytestmark = pytest.mark.faults

Recipe = Callable[..., FinetuneRecipe]


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    """A copy of the base model, to be spoiled."""
    return Path(shutil.copytree(base, tmp_path / "model"))


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that asks for a cluster, and so for a GPU, before it refuses."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *a, **k: pytest.fail("Ray was started"))


def another_tokenizer(model: Path) -> None:
    config = TokenizerConfig(vocabulary=700)
    other = train_tokenizer(iter(reviews(200)), config, model / "other.model", threads=1)
    save_huggingface_tokenizer(other, model, max_length=64)


def another_vocabulary(model: Path) -> None:
    change(model / "config.json", lambda values: values.update(vocab_size=512))


def another_architecture(model: Path) -> None:
    change(model / "config.json", lambda values: values.update(model_type="t5"))


def another_width(model: Path) -> None:
    change(model / "config.json", lambda values: values.update(intermediate_size=96))


def change(path: Path, how: Callable[[Any], None]) -> None:
    values = json.loads(path.read_text())
    how(values)
    path.write_text(json.dumps(values))


@pytest.mark.row(22, "a base model that does not fit")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (another_tokenizer, r"tokenizer\.json: has 700 tokens, but .* a vocabulary of 600"),
        (another_vocabulary, r"tokenizer\.json: has 600 tokens, but .* a vocabulary of 512"),
        (another_architecture, r"config\.json: is a model of type 't5'"),
        (another_width, r"feed_forward|mlp"),
    ],
)
def test_another_tokenizer_vocabulary_or_architecture_is_refused_before_a_cluster_is_asked_for(
    model: Path, finetuning_recipe: Recipe, no_ray: None, account: Account, spoil: Any, said: str
) -> None:
    account(how="tokenizer, vocabulary, architecture, width changed", lost="refused before Ray starts")
    spoil(model)
    for command in (search, finetune):
        with pytest.raises(RaypretrainError, match=said) as error:
            command(finetuning_recipe(base={"path": str(model)}))
        assert str(model) in str(error.value)
        assert "\n" not in str(error.value)


class Armed:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


def alone(model: Path, bomb: bytes) -> None:
    (model / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "weights.pt", "model.pth"):
        (model / name).write_bytes(bomb)


def in_place_of_the_weights(model: Path, bomb: bytes) -> None:
    (model / "model.safetensors").write_bytes(bomb)


def through_the_index(model: Path, bomb: bytes) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(bomb)
    index = {"weight_map": {"model.norm.weight": "pytorch_model.bin"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def in_place_of_the_tokenizer(model: Path, bomb: bytes) -> None:
    (model / "tokenizer.json").write_bytes(bomb)


@pytest.mark.row(23, "a base model that would run code")
@pytest.mark.parametrize(
    "put", [alone, in_place_of_the_weights, through_the_index, in_place_of_the_tokenizer]
)
def test_a_pickle_in_a_base_model_is_refused_and_never_run(
    model: Path, finetuning_recipe: Recipe, no_ray: None, tmp_path: Path, account: Account, put: Any
) -> None:
    account(how="pickles that make a file, in four places", lost="refused, not run")
    mark = tmp_path / "it-ran"
    bomb = pickle.dumps(Armed(mark))
    put(model, bomb)
    recipe = finetuning_recipe(base={"path": str(model)})
    for use in (
        lambda: finetune(recipe),
        lambda: search(recipe),
        lambda: sample(model, "This film", 3, 1.0, 1.0, [0]),
    ):
        with pytest.raises(RaypretrainError) as error:
            use()
        assert "\n" not in str(error.value)
    assert not mark.exists(), "code from the base model was run"
    subprocess.run(
        [sys.executable, "-c", "import pickle, sys; pickle.load(sys.stdin.buffer)"], input=bomb, check=True
    )
    assert mark.exists(), "the pickle is a dud: this test proves nothing"


@pytest.mark.row(23, "a base model that would run code")
@pytest.mark.slow
def test_code_beside_whole_weights_is_left_alone(
    model: Path, finetuning_recipe: Recipe, tmp_path: Path, account: Account
) -> None:
    account(how="custom code and pickles beside whole weights", lost="not run")
    mark = tmp_path / "it-ran"
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Armed(mark)))
    (model / "modeling_evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Model: pass\n")
    maps = {"AutoConfig": "modeling_evil.Model", "AutoModelForSequenceClassification": "modeling_evil.Model"}
    change(model / "config.json", lambda values: values.update(auto_map=maps))
    change(
        model / "tokenizer_config.json",
        lambda v: v.update(auto_map={"AutoTokenizer": ["modeling_evil.Model", None]}),
    )
    result = finetune(finetuning_recipe(base={"path": str(model)}, adapt={"way": "head"}))
    released = Path(result["tasks"]["mood"]["model"])
    assert not mark.exists(), "code from the base model was run"
    assert not list(released.glob("*.py"))
    assert "auto_map" not in (released / "config.json").read_text()


@pytest.mark.row(23, "a base model that would run code")
def test_the_message_says_why_and_how_to_go_on_if_it_is_trusted(
    model: Path, finetuning_recipe: Recipe, tmp_path: Path
) -> None:
    alone(model, pickle.dumps(Armed(tmp_path / "it-ran")))
    with pytest.raises(
        InputError, match=r"holds pickled weights only.*runs what code is in them; if you trust it"
    ):
        finetune(finetuning_recipe(base={"path": str(model)}))
