"""The recipe: its defaults, what does not go together, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypretrain.config import load_recipe
from raypretrain.errors import RecipeError
from raypretrain.training.changes import refuse_changes
from raypretrain.training.length import run_length
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder, fingerprint_of

MINIMAL = "corpus:\n  sources:\n    - path: data/*.jsonl\n"


def load(folder: Path, text: str = MINIMAL, *overrides: str) -> PretrainRecipe:
    (folder / "tiny.yaml").write_text(text, encoding="utf-8")
    return load_recipe(folder / "tiny.yaml", PretrainRecipe, overrides)


def message(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recipe_needs_no_more_than_a_source(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    assert recipe.corpus.sources[0].path == f"{tmp_path}/data/*.jsonl"
    assert recipe.run.seed == 0
    assert (recipe.tokenizer.vocabulary, recipe.sequences.length) == (16384, 512)
    assert recipe.model.source == "model.preset: llama-10m"
    assert (recipe.training.global_batch, recipe.training.learning_rate) == (64, 1e-3)
    assert recipe.training.tokens is recipe.training.steps is None
    assert (recipe.compute.workers, recipe.compute.device, recipe.compute.zero) == (None, "auto", 1)


def test_the_run_lies_beside_its_recipe_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(tmp_path / "jobs").run.folder == f"{tmp_path}/jobs/runs/tiny"
    assert load(tmp_path / "jobs", MINIMAL + "run: {seed: 3}\n").run.folder == f"{tmp_path}/jobs/runs/tiny"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("out/run-1", "{here}/out/run-1"), ("/somewhere/run", "/somewhere/run"), ("../run", "{here}/../run")],
)
def test_a_folder_counts_from_the_recipe_and_in_an_override_from_where_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, wanted: str
) -> None:
    jobs, elsewhere = tmp_path / "jobs", tmp_path / "elsewhere"
    jobs.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    in_the_recipe = load(jobs, MINIMAL + f"run: {{folder: {given}}}\n")
    assert in_the_recipe.run.folder == wanted.format(here=jobs)
    assert load(jobs, MINIMAL, f"run.folder={given}").run.folder == wanted.format(here=elsewhere)


def test_the_recipes_own_folder_may_be_the_runs(tmp_path: Path) -> None:
    assert Path(load(tmp_path, MINIMAL + "run: {folder: .}\n").run.folder) == tmp_path


def test_a_saved_recipe_is_the_same_when_the_run_is_opened_again(tmp_path: Path) -> None:
    overrides = ("training.tokens=5M", "compute.workers=2", "training.betas=[0.9, 0.99]")
    recipe = load(tmp_path, MINIMAL, f"run.folder={tmp_path}/run", *overrides)
    folder = RunFolder(tmp_path / "run")
    assert not folder.open(recipe)
    folder.metrics.write_text('{"step": 1}\n')
    assert folder.open(recipe)
    assert folder.read_recipe() == recipe


def test_tokens_and_steps_are_two_ways_to_say_one_thing(tmp_path: Path) -> None:
    said = message(tmp_path, MINIMAL + "training:\n  tokens: 5M\n  steps: 10\n")
    assert said == f"{tmp_path}/tiny.yaml:4: training: give training.tokens or training.steps, not both"
    assert "not both" in message(tmp_path, MINIMAL + "training: {tokens: 5M}\n", "training.steps=3")


@pytest.mark.parametrize("workers", [5, 7, 24])
def test_workers_that_do_not_divide_the_batch_are_refused_with_those_that_do(
    tmp_path: Path, workers: int
) -> None:
    text = MINIMAL + f"training: {{global_batch: 12}}\ncompute: {{workers: {workers}}}\n"
    said = message(tmp_path, text)
    assert (
        f"training.global_batch: 12 sequences cannot be shared equally by compute.workers: {workers}" in said
    )
    assert "take 1, 2, 3, 4, 6, 12 workers or another global_batch" in said


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("[7, 11]", "compute.workers: 7 to 11; take 1, 2"),
        ("[4, 2]", "the least (4) are more than the most (2)"),
    ],
)
def test_a_pair_of_workers_needs_a_number_that_divides_the_batch(
    tmp_path: Path, pair: str, said: str
) -> None:
    text = MINIMAL + f"training: {{global_batch: 12}}\ncompute: {{workers: {pair}}}\n"
    assert said in message(tmp_path, text)


def test_a_pair_of_workers_is_kept_as_one(tmp_path: Path) -> None:
    text = MINIMAL + "training: {global_batch: 12}\ncompute: {workers: [1, 5]}\n"
    assert load(tmp_path, text).compute.workers == (1, 5)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 6, 12])
def test_workers_that_divide_the_batch_are_accepted(tmp_path: Path, workers: int) -> None:
    text = MINIMAL + f"training: {{global_batch: 12}}\ncompute: {{workers: {workers}}}\n"
    assert load(tmp_path, text).compute.workers == workers


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        ("{offload: cpu, zero: 0}", "offload needs zero: 1, 2 or 3"),
        ("{offload: nvme}", "offload_folder"),
        ("{offload_folder: /disk}", "offload: nvme"),
    ],
)
def test_offload_without_what_it_needs(tmp_path: Path, compute: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load(tmp_path, MINIMAL + f"compute: {compute}\n")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.steps", "0"), ("training.global_batch", "-1"), ("training.learning_rate", "0"),
        ("training.clip", "-1"), ("compute.zero", "4"), ("compute.precision", "fp16"), ("compute.device", "tpu"),
        ("compute.workers", "0"), ("sequences.length", "4"), ("sequences.packing", "pad"), ("run.seed", "-1"),
        ("training.checkpoint.keep", "0"), ("training.objective", "span"), ("corpus.held_out", "0.5"),
        ("training.learning_rate", "fast"),
    ],
)  # fmt: skip
def test_a_value_out_of_bounds_is_named_by_its_key(tmp_path: Path, key: str, value: str) -> None:
    said = message(tmp_path, MINIMAL, f"{key}={value}")
    assert said.startswith(f"--set {key}: ")
    assert value in said


def test_the_steps_follow_from_the_tokens_rounded_up(tmp_path: Path) -> None:
    base = ("training.global_batch=8", "sequences.length=100")
    for tokens, steps in ((800, 1), (801, 2), (1, 1), (8000, 10)):
        length = run_length(load(tmp_path, MINIMAL, *base, f"training.tokens={tokens}"), 10**6)
        assert (length.steps, length.tokens_per_step) == (steps, 800)
    assert run_length(load(tmp_path, MINIMAL, *base, "training.steps=7"), 10**6).steps == 7


def test_without_either_a_run_is_twenty_tokens_a_parameter(tmp_path: Path) -> None:
    recipe = load(tmp_path, MINIMAL, "training.global_batch=8", "sequences.length=100")
    assert run_length(recipe, parameters=40_000).steps == 1000


@pytest.mark.parametrize(
    ("steps", "evaluate", "save"), [(1, 1, 1), (9, 1, 1), (100, 10, 10), (101, 11, 11), (50_000, 5000, 1000)]
)
def test_by_default_a_run_is_evaluated_and_saved_ten_times(
    tmp_path: Path, steps: int, evaluate: int, save: int
) -> None:
    length = run_length(load(tmp_path, MINIMAL, f"training.steps={steps}"), 1)
    assert (length.evaluate_every, length.checkpoint_every) == (evaluate, save)
    overrides = ("training.evaluation.every=3", "training.checkpoint.every=4")
    length = run_length(load(tmp_path, MINIMAL, f"training.steps={steps}", *overrides), 1)
    assert (length.evaluate_every, length.checkpoint_every) == (3, 4)


def test_a_changed_recipe_is_refused_with_the_keys_and_both_values(tmp_path: Path) -> None:
    saved = load(tmp_path)
    changed = load(tmp_path, MINIMAL, "training.learning_rate=0.5", "run.seed=4", "sequences.length=1K")
    with pytest.raises(RecipeError) as caught:
        refuse_changes(changed, saved, tmp_path / "run")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/run: the run was started with another recipe")
    for part in ("run.seed: 0 → 4", "training.learning_rate: 0.001 → 0.5", "sequences.length: 512 → 1000"):
        assert part in said
    assert "weight_decay" not in said
    assert "run.folder" in said  # what to do


def test_a_source_more_is_a_change_and_so_is_one_less(tmp_path: Path) -> None:
    one = load(tmp_path)
    two = load(tmp_path, MINIMAL + "    - path: more.txt\n")
    for now, then in ((one, two), (two, one)):
        with pytest.raises(RecipeError, match=r"corpus\.sources\.1\.path"):
            refuse_changes(now, then, tmp_path)


def test_many_changes_are_counted(tmp_path: Path) -> None:
    keys = ["learning_rate=1", "clip=2", "steps=3", "weight_decay=4", "epsilon=5", "global_batch=6"]
    keys += ["schedule.kind=wsd", "schedule.warmup=0.5", "schedule.decay=0.5", "schedule.final=0.5"]
    changed = load(tmp_path, MINIMAL, *(f"training.{key}" for key in keys))
    with pytest.raises(RecipeError, match="and 2 more"):
        refuse_changes(changed, load(tmp_path), tmp_path)


def test_where_and_beside_what_it_computes_may_change(tmp_path: Path) -> None:
    free = ("run.folder=/else", "compute.address=auto", "compute.max_failures=9", "compute.stream_cpus=0.5")
    changed = load(tmp_path, MINIMAL, *free, "compute.cpus_per_worker=2")
    refuse_changes(changed, load(tmp_path), tmp_path)
    assert fingerprint_of(changed) == fingerprint_of(load(tmp_path))


@pytest.mark.parametrize("change", ["run.seed=1", "training.learning_rate=1", "corpus.held_out=0.2"])
def test_the_fingerprint_is_that_of_what_is_learned(tmp_path: Path, change: str) -> None:
    assert fingerprint_of(load(tmp_path, MINIMAL, change)) != fingerprint_of(load(tmp_path))


ENCODER = MINIMAL + "model: {preset: modernbert-1m}\n"


def test_the_family_says_what_is_learned(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).objective == "causal"
    assert load(tmp_path, MINIMAL).marks == []
    made = load(tmp_path, ENCODER + "training: {mask: {rate: 0.3, unit: word}}\n")
    assert made.objective == "masked"
    assert made.marks == ["<mask>"]
    assert load(tmp_path, ENCODER + "training: {objective: masked}\n").training.mask.rate == 0.15


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            MINIMAL + "training: {objective: masked}\n",
            "masked is nothing for model.preset: llama-10m, which learns",
        ),
        (ENCODER + "training: {objective: causal}\n", "causal is nothing for model.preset: modernbert-1m"),
        (
            MINIMAL + "training: {mask: {rate: 0.3}}\n",
            "training.mask is for models that learn masked, not for model.preset: llama-10m",
        ),
        (ENCODER + "sequences: {infill: {rate: 0.5}}\n", "sequences.infill is for models that learn causal"),
        (
            ENCODER + "training: {mask: {random: 0.3}}\n",
            "masked (0.8) and random (0.3) are more than 1 together",
        ),
    ],
)
def test_what_does_not_go_with_the_family_is_refused(tmp_path: Path, text: str, wanted: str) -> None:
    assert wanted in message(tmp_path, text)
